"""PixArt-alpha and Open-Sora 1.0 in ComfyUI: the diffusion they are, through the core samplers."""

from __future__ import annotations

import logging
from pathlib import Path

import comfy.samplers
import pytest
import torch
from ComfyUI_STIV.nodes.host.replacement import FRAMES, CleanFrames
from ComfyUI_STIV.stiv.convert.cli import main
from safetensors.torch import save_file
from torch import Tensor

from tests.nodes import tiny
from tests.nodes.scenes import Loaded
from tests.stiv.convert.releases import pixart, stdit

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
TEXT = tiny.TEXT_WIDTH


@pytest.fixture(scope="module")
def wide(folders: dict[str, Path]) -> str:
    """One block of PixArt-alpha for 512 pixels in the released widths, which the host can load."""
    path = folders["diffusion_models"] / "PixArt-XL-2-512x512.safetensors"
    save_file(pixart(512, width=1152, depth=1, text=4096, tokens=120), path)
    return path.name


def prompt(length: int, width: int, seed: int) -> list:
    states = torch.randn(1, length, width, generator=torch.Generator().manual_seed(seed))
    return [[states, {}]]


@pytest.mark.parametrize(
    ("sampler", "scheduler", "cfg"), [("dpmpp_2m", "karras", 4.5), ("ddpm", "normal", 1.0)]
)
def test_samples_what_the_hosts_own_loader_samples(
    wide: str, sampler: str, scheduler: str, cfg: float
) -> None:
    ours = tiny.run("STIVLoadModel", model_name=wide, weight_dtype="fp32")
    theirs = tiny.run("UNETLoader", unet_name=wide, weight_dtype="default")
    settings = {"sampler_name": sampler, "scheduler": scheduler, "steps": 2, "cfg": cfg}
    conds = prompt(9, 4096, 0), prompt(9, 4096, 1)
    found = tiny.sample(ours, *conds, {"samples": torch.zeros(1, 4, 1, 64, 64)}, **settings)
    expected = tiny.sample(theirs, *conds, {"samples": torch.zeros(1, 4, 64, 64)}, **settings)
    # the host takes these weights for PixArt-Sigma's and scales as for another VAE
    expected = expected * theirs.model.latent_format.scale_factor / 0.18215
    assert (found[:, :, 0] - expected).norm() / expected.norm() < 1e-4


def imported(folders: dict[str, Path], state: dict[str, Tensor], name: str):
    torch.save(state, folders["diffusion_models"] / f"{name}.pth")
    out = folders["diffusion_models"] / f"{name}.safetensors"
    source = folders["diffusion_models"] / f"{name}.pth"
    main(["import", str(source), "--heads", "2", "--overwrite", "--out", str(out)])
    return tiny.run("STIVLoadModel", model_name=out.name, weight_dtype="fp32")


@pytest.fixture(scope="module")
def video(folders: dict[str, Path]):
    state = stdit()
    state["y_embedder.y_proj.fc1.weight"] = torch.randn(24, TEXT)
    state["y_embedder.y_embedding"] = torch.randn(5, TEXT)
    return imported(folders, state, "stdit")


def euler(model, text: Tensor, sigmas: Tensor, noise: Tensor) -> Tensor:
    """The probability flow of the diffusion by Euler steps, written out; sigma is noise over
    data."""
    network = model.model.diffusion_model
    known = ((1 - (1 - BETAS).cumprod(0)) / (1 - BETAS).cumprod(0)).sqrt()
    x = noise.double() * (1 + sigmas[0].double() ** 2).sqrt()
    for sigma, after in zip(sigmas.double(), sigmas.double()[1:], strict=False):
        step = (known.log() - sigma.log()).abs().argmin()  # as the host rounds to steps
        scaled = (x / (1 + sigma**2).sqrt()).float()
        predicted = (
            type(network)
            .__mro__[1]
            .forward(  # the network without the host's calling
                network, scaled, (1 - step / 1000)[None], text
            )
        )
        x = x + (after - sigma) * predicted
    return x


def test_a_video_model_follows_its_diffusion(video) -> None:
    """Against the formulas; the latents of the wire are the VAE's."""
    (text, _) = prompt(4, TEXT, 0)[0]
    latent = {"samples": torch.zeros(1, 4, 3, 6, 6)}
    settings = {"sampler_name": "euler", "scheduler": "normal", "steps": 5, "cfg": 1.0}
    found = tiny.sample(video, [[text, {}]], [[text, {}]], latent, **settings)
    sampling = video.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 5)
    noise = torch.randn(latent["samples"].shape, generator=torch.manual_seed(7))
    expected = euler(video, text, sigmas, noise) / 0.18215
    assert (found - expected).norm() / expected.norm() < 1e-4


def test_no_prompt_is_the_models_own_null_text(video, loaded: Loaded) -> None:
    """As many of its rows as the prompt has tokens, whatever the encoder makes of no text."""
    positive, latent = prompt(4, TEXT, 0), {"samples": torch.zeros(1, 4, 3, 6, 6)}
    empty = tiny.run("STIVTextEncode", clip=loaded.clip, text="  ")
    rows = video.model.diffusion_model.null_text
    found = tiny.sample(video, positive, empty, latent)
    assert torch.equal(found, tiny.sample(video, positive, [[rows[None, :4].clone(), {}]], latent))
    whole = tiny.sample(video, positive, [[rows[None].clone(), {}]], latent)
    assert not torch.equal(found, whole)
    words = tiny.run("STIVTextEncode", clip=loaded.clip, text="red")
    other = tiny.sample(video, positive, words, latent)
    plain = [[words[0][0], {"attention_mask": words[0][1]["attention_mask"]}]]
    assert torch.equal(other, tiny.sample(video, positive, plain, latent))


def test_given_frames_stay_exact(video) -> None:
    """It was never trained to be given frames, and the node says so; they are kept all the same."""
    frames = torch.randn(1, 4, 3, 6, 6)
    mask = torch.tensor([True, False, False])
    clean = frames * mask[None, None, :, None, None]
    (text, _) = prompt(4, TEXT, 0)[0]
    positive = [[text, {FRAMES: CleanFrames(clean, mask, task="ti2v")}]]
    for sampler in ("euler", "uni_pc", "dpmpp_2m_sde"):
        latent = {"samples": clean.clone()}
        found = tiny.sample(video, positive, prompt(4, TEXT, 1), latent, sampler_name=sampler)
        assert torch.equal(found[:, :, 0], clean[:, :, 0])
        assert found[:, :, 1:].abs().max() > 0.1


@pytest.mark.parametrize(("mode", "renorm"), [("joint", True), ("separate", False)])
def test_guidance_nodes_take_it(video, mode: str, renorm: bool) -> None:
    guided = tiny.run("STIVGuidance", model=video, mode=mode, image_scale=1.5, renorm=renorm)
    latent = {"samples": torch.zeros(1, 4, 3, 6, 6)}
    conds = prompt(4, TEXT, 0), prompt(4, TEXT, 1)
    found, plain = (tiny.sample(m, *conds, latent, cfg=7.0) for m in (guided, video))
    assert torch.isfinite(found).all()
    # without given frames the three passes are two; renorm changes the result
    assert torch.allclose(found, plain, atol=1e-4, rtol=1e-4) == (not renorm)


def test_a_file_that_does_not_say_its_size(folders: dict[str, Path]) -> None:
    state = pixart()
    del state["pos_embed"]
    path = folders["diffusion_models"] / "no_size.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError, match=r"no_size\.safetensors: .*heads.*--heads"):
        tiny.run("STIVLoadModel", model_name=path.name, weight_dtype="default")


def test_long_prompts_are_told(video, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        latent = {"samples": torch.zeros(1, 4, 3, 6, 6)}
        tiny.sample(video, prompt(9, TEXT, 0), prompt(4, TEXT, 1), latent)
    assert "the prompt has 9 tokens" in caplog.text and "up to 5" in caplog.text
