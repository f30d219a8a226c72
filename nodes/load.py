"""Load STIV models and checkpoints; make an image VAE take video."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import comfy.sd
import folder_paths
from comfy_api.latest import io

from ..stiv.checkpoint import read_checkpoint
from .host.model import WEIGHT_DTYPES, build_model, load_model
from .host.text import build_text_encoder
from .host.vae import fold_frames

BUNDLED = "stiv_nano (bundled)"
"""The name of the checkpoint that ships with the pack: the same on every machine."""
BUNDLED_PATH = Path(__file__).parent.parent / "models" / "stiv_nano.safetensors"


class STIVLoadModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVLoadModel",
            display_name="STIV Load Model",
            category="STIV/loaders",
            description=(
                "Load a STIV video model from models/diffusion_models. Connect the text encoder "
                "and VAE that it was trained with; STIV Model Info names them."
            ),
            search_aliases=["stiv", "load video model", "load diffusion model", "unet loader"],
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=_safetensors("diffusion_models"),
                    tooltip=(
                        "A STIV model (.safetensors) in models/diffusion_models; also PixArt-alpha "
                        "and Open-Sora 1.0."
                    ),
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip=(
                        "How the weights are kept in memory. default suits your GPU; fp8 halves "
                        "the memory of bf16 and costs a little quality."
                    ),
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The video model, for any sampler node."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model_name: str | None, **kwargs: Any) -> Any:
        return _fingerprint("diffusion_models", model_name)

    @classmethod
    def execute(cls, model_name: str, weight_dtype: str) -> io.NodeOutput:
        path = folder_paths.get_full_path_or_raise("diffusion_models", model_name)
        return io.NodeOutput(load_model(path, weight_dtype))


class STIVLoadCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVLoadCheckpoint",
            display_name="STIV Load Checkpoint",
            category="STIV/loaders",
            description=(
                "Load a STIV checkpoint that holds video model, text encoder and VAE in one file. "
                f"{BUNDLED} comes with the pack: a tiny model of moving shapes to try things with."
            ),
            search_aliases=["stiv", "checkpoint loader", "load checkpoint", "nano"],
            inputs=[
                io.Combo.Input(
                    "ckpt_name",
                    options=[BUNDLED, *_safetensors("checkpoints")],
                    tooltip=(
                        "A STIV checkpoint (.safetensors) in models/checkpoints, or the bundled "
                        "nano model."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The video model, for any sampler node."
                ),
                io.Clip.Output(
                    display_name="clip",
                    tooltip="The text encoder inside the file, for STIV Text Encode.",
                ),
                io.Vae.Output(
                    display_name="vae",
                    tooltip="The VAE inside the file. Core VAE nodes decode whole videos with it.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, ckpt_name: str | None, **kwargs: Any) -> Any:
        if ckpt_name == BUNDLED:
            return _state(str(BUNDLED_PATH))
        return _fingerprint("checkpoints", ckpt_name)

    @classmethod
    def execute(cls, ckpt_name: str) -> io.NodeOutput:
        path = _checkpoint_path(ckpt_name)
        card, parts = read_checkpoint(path, as_stored=True)
        vae = None
        if parts["vae"]:
            vae = fold_frames(comfy.sd.VAE(sd=dict(parts["vae"])), "STIV Load Checkpoint")
        model = build_model(path, card, parts["diffusion_model"])
        return io.NodeOutput(model, build_text_encoder(path, card, parts["text_encoder"]), vae)


class STIVVideoVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVVideoVAE",
            display_name="STIV Video VAE",
            category="STIV/loaders",
            description=(
                "Let an image VAE (SD, SDXL, SD3, Flux) encode and decode video, frame by frame. "
                "Core VAE Encode, VAE Decode and their tiled versions then work on whole videos."
            ),
            search_aliases=[
                "stiv",
                "vae decode video",
                "per-frame vae",
                "fold frames",
                "image vae",
            ],
            inputs=[
                io.Vae.Input("vae", tooltip="The image VAE that the model was trained with."),
            ],
            outputs=[
                io.Vae.Output(
                    display_name="vae", tooltip="The same VAE, for videos. No extra memory."
                )
            ],
        )

    @classmethod
    def execute(cls, vae: Any) -> io.NodeOutput:
        return io.NodeOutput(fold_frames(vae))


def _checkpoint_path(name: str) -> str:
    if name != BUNDLED:
        return folder_paths.get_full_path_or_raise("checkpoints", name)
    if not BUNDLED_PATH.is_file():
        raise ValueError(
            f"{BUNDLED}: {BUNDLED_PATH.name} is missing from the folder models of ComfyUI-STIV: "
            "install the pack again"
        )
    return str(BUNDLED_PATH)


def _safetensors(folder: str) -> list[str]:
    names = folder_paths.get_filename_list(folder)
    return [name for name in names if name.lower().endswith(".safetensors")]


def _fingerprint(folder: str, name: str | None) -> Any:
    """Changes when the file does: a checkpoint that training writes anew is loaded anew.

    A name that comes by wire is not known when the host asks (None): any file of the folder may be
    meant, and what the wire brings the host watches by itself.
    """
    if name is None:
        return [(each, _fingerprint(folder, each)) for each in _safetensors(folder)]
    return _state(folder_paths.get_full_path(folder, name))


def _state(path: str | None) -> tuple[int, int] | None:
    """Of a file, or None where there is none."""
    if path is None or not os.path.isfile(path):
        return None
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size
