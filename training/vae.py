"""The nano's per-frame VAE: a small TAESD, trained on rendered frames and exported in its format.

TAESD is 64 channels wide everywhere. Most of that width is not needed for shapes of one colour, so
the network is trained narrow (`training.encoders.taesd`). Images are in [-1, 1].

    python -m training.vae train --out vae.safetensors
    python -m training.vae score --vae vae.safetensors
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from .encoders.taesd import TinyVAE
from .encoders.vae import open_vae
from .files import atomic
from .shapes import DOMAIN_VERSION
from .shapes.render import render_clips, render_frame
from .shapes.scene import Scene, scene_from_seed

log = logging.getLogger("training.vae")


@dataclass(frozen=True, kw_only=True)
class VAETraining:
    """How the VAE is trained; every field is recorded in the exported file."""

    widths: tuple[int, int, int, int] = (16, 32, 64, 64)  # full resolution to latent resolution
    blocks: int = 1  # residual blocks per level
    latent_channels: int = 4
    steps: int = 7800
    restart: int = 4500  # from this step on: harder frames, less latent noise, the rate once more
    batch: int = 16  # frames per step
    pictures: float = 0.15  # share of frames that are smooth pictures in any colours
    learning_rate: float = 1.5e-3  # peak; warmed up, then a cosine to zero
    warm_up: int = 100
    latent_noise: tuple[float, float] = (0.08, 0.04)  # deviation of the noise on decoder inputs
    latent_penalty: float = 2e-3  # weight of the mean squared latent
    seed: int = 0
    dtype: str = "bfloat16"  # autocast, or float32: whichever the machine runs faster

    def is_late(self, step: int) -> bool:
        """True in the second of the two stages."""
        return step >= self.restart

    def noise(self, step: int) -> float:
        """Deviation of the noise that the latents get at a step."""
        return self.latent_noise[int(self.is_late(step))]

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        first, last = (self.restart, self.steps) if self.is_late(step) else (0, self.restart)
        warm = min(1.0, (step - first + 1) / self.warm_up)
        fall = 0.5 * (1 + np.cos(np.pi * (step - first) / (last - first)))
        return float(self.learning_rate * warm * fall)


def smooth_pictures(count: int, generator: torch.Generator, size: int = 64) -> Tensor:
    """Smooth random pictures (count, 3, size, size) in [-1, 1], some with hard-edged areas, so
    that a photograph the model never saw survives the round trip."""

    def field(channels: int, cells: int) -> Tensor:
        coarse = torch.randn(count, channels, cells, cells, generator=generator)
        return F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)

    def picture() -> Tensor:
        return 0.7 * field(3, 3) + 0.35 * field(1, 6) + 0.15 * field(3, 10)

    level = torch.rand(count, 1, 1, 1, generator=generator) * 2 - 1
    area = (field(1, 4) * 12).clamp(0, 1)  # steep: an edge of a pixel or two
    flat = torch.rand(count, 3, 1, 1, generator=generator) * 2 - 1
    inside = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.5, flat, picture())
    return (0.4 * level + picture() * (1 - area) + inside * area).clamp(-1, 1)


def to_images(frames: np.ndarray) -> Tensor:
    """uint8 (..., H, W, 3) to float (N, 3, H, W) in [-1, 1], channels last in memory."""
    flat = torch.from_numpy(np.ascontiguousarray(frames)).reshape(-1, *frames.shape[-3:])
    return flat.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def training_batch(config: VAETraining, step: int) -> Tensor:
    """The frames of a step, a function of the seed and the step only: (batch, 3, 64, 64)."""
    pictures = round(config.batch * config.pictures)
    rng = np.random.default_rng([config.seed, step])
    seeds = rng.integers(0, 2**40, config.batch - pictures)
    times = rng.random(len(seeds))
    scenes = [scene_from_seed(int(s)) for s in seeds]
    if config.is_late(step):
        scenes = [_harder(scene, rng) for scene in scenes]
    frames = [render_frame(scene, u) for scene, u in zip(scenes, times, strict=True)]
    generator = torch.Generator().manual_seed(config.seed * 2_000_003 + step)
    images = torch.cat([to_images(np.stack(frames)), smooth_pictures(pictures, generator)])
    return images.contiguous(memory_format=torch.channels_last)


def _harder(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with its objects turned by any angle and of any size: what a VAE finds hard, and
    the domain's clips show too rarely."""
    objects = (
        replace(o, angle=rng.uniform(0, 2 * np.pi), radius=o.radius * rng.uniform(0.65, 1.15))
        for o in scene.objects
    )
    return replace(scene, objects=tuple(objects))


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal to noise ratio in dB of images in [-1, 1]."""
    return float(-10 * torch.log10(F.mse_loss(a.float().clamp(-1, 1), b.float()) / 4))


@torch.inference_mode()
def score(vae: TinyVAE, clips: int = 8) -> dict[str, float]:
    """PSNR in dB on held-out clips and on unseen smooth pictures, and the latents' deviation."""
    scenes = [scene_from_seed(1_000_000 + i, "held_out") for i in range(clips)]
    frames = to_images(render_clips(scenes, frames=8))
    pictures = smooth_pictures(32, torch.Generator().manual_seed(12345))
    z = vae.encode(frames)
    return {
        "psnr": round(psnr(vae.decode(z), frames), 2),
        "psnr_pictures": round(psnr(vae.decode(vae.encode(pictures)), pictures), 2),
        "latent_std": round(float(z.std()), 3),
    }


def loss_of(
    vae: TinyVAE, images: Tensor, config: VAETraining, step: int, generator: torch.Generator
) -> Tensor:
    """L1 + squared error of the decoded noisy latents, and the latents' penalty."""
    z = vae.encode(images)
    noise = torch.randn(z.shape, generator=generator).to(z.dtype)
    decoded = vae.decode(z + config.noise(step) * noise).float()
    error = F.l1_loss(decoded, images) + F.mse_loss(decoded, images)
    return error + config.latent_penalty * z.float().square().mean()


def train(config: VAETraining, out: Path, *, log_every: int = 50, save_every: int = 250) -> TinyVAE:
    """Trains, resuming from `out` + '.state' where it exists, and writes the exported VAE to `out`.

    Raises ValueError when the saved state belongs to another configuration.
    """
    torch.manual_seed(config.seed)
    vae = TinyVAE(config.widths, config.latent_channels, config.blocks)
    vae = vae.to(memory_format=torch.channels_last)
    weights = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=config.learning_rate, betas=(0.9, 0.99), fused=True)
    state_path, start = out.with_suffix(".state"), 0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        if state["config"] != json.dumps(asdict(config)):
            raise ValueError(f"{state_path} is of {state['config']}: remove it to start afresh")
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    out.parent.mkdir(parents=True, exist_ok=True)
    low = config.dtype == "bfloat16"
    began, running = time.monotonic(), 0.0
    for step in range(start, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step)
        images = training_batch(config, step)
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = loss_of(vae, images, config, step, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        running += float(loss.detach())
        done = step + 1
        if done % log_every == 0:
            rate = (done - start) / (time.monotonic() - began)
            log.info("step %d loss %.4f steps/s %.2f", done, running / log_every, rate)
            running = 0.0
        if done % save_every == 0 or done == config.steps:
            log.info("step %d score %s", done, json.dumps(score(vae)))
            state = {
                "config": json.dumps(asdict(config)),
                "step": done,
                "vae": vae.state_dict(),
                "optimizer": optimizer.state_dict(),
            }
            with atomic(state_path) as part:
                torch.save(state, part)
    save_vae(vae, out, config)
    return vae


def save_vae(vae: TinyVAE, out: Path, config: VAETraining) -> None:
    """Writes the exported VAE, with its recipe and score, as safetensors."""
    metadata = {
        "vae.training": json.dumps({**asdict(config), "domain_version": DOMAIN_VERSION}),
        "vae.score": json.dumps(score(vae)),
    }
    with atomic(out) as part:
        save_file(vae.export(), part, metadata)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.vae", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    trainer = commands.add_parser("train", help="train, or go on with a stopped training")
    trainer.add_argument("--out", type=Path, required=True)
    trainer.add_argument("--steps", type=int, default=VAETraining.steps)
    trainer.add_argument("--batch", type=int, default=VAETraining.batch)
    trainer.add_argument("--seed", type=int, default=VAETraining.seed)
    trainer.add_argument("--dtype", choices=("float32", "bfloat16"), default=VAETraining.dtype)
    scorer = commands.add_parser("score", help="PSNR on held-out clips")
    scorer.add_argument("--vae", type=Path, required=True)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if args.command == "score":
        print(json.dumps(score(open_vae(args.vae).network, clips=32)))
        return
    config = VAETraining(steps=args.steps, batch=args.batch, seed=args.seed, dtype=args.dtype)
    train(config, args.out)


if __name__ == "__main__":
    main()
