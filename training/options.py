"""Options that several commands share: which checkpoint, and how to sample."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

BUNDLED = Path(__file__).parents[1] / "models" / "stiv_nano.safetensors"


def add_checkpoint_options(command: ArgumentParser) -> None:
    """A checkpoint and the files that it needs; see `commands.sampler_of`."""
    command.add_argument("--checkpoint", type=Path, default=BUNDLED, help="default: the nano")
    command.add_argument("--vae", type=Path, help="its file, where the checkpoint holds none")
    command.add_argument(
        "--text-encoder",
        type=Path,
        help="its file (clip_g or t5xxl as in ComfyUI's models/text_encoders), where the "
        "checkpoint holds none",
    )
    command.add_argument(
        "--tokenizer", type=Path, help="of --text-encoder; default: ComfyUI's, by COMFYUI_PATH"
    )
    command.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")


def add_sampler_options(command: ArgumentParser, guidance_scale: float) -> None:
    """A checkpoint, the files that it needs, and how to solve."""
    add_checkpoint_options(command)
    command.add_argument("--steps", type=int, default=20, help="solver steps")
    command.add_argument("--guidance-scale", type=float, default=guidance_scale)
