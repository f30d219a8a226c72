"""An image VAE on video: as the host's own decoding of each frame, in any amount of memory."""

from __future__ import annotations

import comfy.sd
import pytest
import torch
from comfy.taesd.taesd import TAESD
from ComfyUI_STIV.nodes.host.vae import FoldedFrames, decode_frames

from tests.nodes import tiny
from tests.nodes.scenes import Loaded


@pytest.fixture(scope="module")
def image_vae() -> comfy.sd.VAE:
    return comfy.sd.VAE(sd=tiny.randomised(TAESD(), 11, scale=0.6))


@pytest.fixture(scope="module")
def video_vae(image_vae: comfy.sd.VAE) -> comfy.sd.VAE:
    return tiny.run("STIVVideoVAE", vae=image_vae)


@pytest.mark.parametrize("batch", [1, 2])
def test_decoding_equals_the_hosts_frame_by_frame(
    image_vae: comfy.sd.VAE, video_vae: comfy.sd.VAE, batch: int
) -> None:
    latents = torch.randn(batch, 4, 3, 8, 6)
    video = tiny.run("VAEDecode", samples={"samples": latents}, vae=video_vae)
    frames = latents.movedim(2, 1).flatten(0, 1)
    pictures = tiny.run("VAEDecode", samples={"samples": frames}, vae=image_vae)
    assert torch.equal(video, pictures)


def test_encoding_equals_the_hosts_frame_by_frame(
    image_vae: comfy.sd.VAE, video_vae: comfy.sd.VAE
) -> None:
    frames = torch.rand(5, 64, 48, 3)
    video = tiny.run("VAEEncode", pixels=frames, vae=video_vae)["samples"]
    pictures = tiny.run("VAEEncode", pixels=frames, vae=image_vae)["samples"]
    assert video.shape == (1, 4, 5, 8, 6)
    assert torch.equal(video[0].movedim(1, 0), pictures)


def test_tiled_nodes_take_video(image_vae: comfy.sd.VAE, video_vae: comfy.sd.VAE) -> None:
    tiles = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
    latents = {"samples": torch.randn(1, 4, 3, 16, 16)}
    tiled = tiny.run("VAEDecodeTiled", samples=latents, vae=video_vae, **tiles)
    assert tiled.shape == (3, 128, 128, 3)
    whole = tiny.run(
        "VAEDecodeTiled", samples=latents, vae=video_vae, **{**tiles, "tile_size": 512}
    )
    assert torch.equal(whole, tiny.run("VAEDecode", samples=latents, vae=video_vae))
    pixels = torch.rand(3, 128, 128, 3)
    assert tiny.run("VAEEncodeTiled", pixels=pixels, vae=video_vae, **tiles)["samples"].shape == (
        1,
        4,
        3,
        16,
        16,
    )


def test_single_pictures_still_work(image_vae: comfy.sd.VAE, video_vae: comfy.sd.VAE) -> None:
    latents = {"samples": torch.randn(2, 4, 8, 8)}
    pictures = tiny.run("VAEDecode", samples=latents, vae=image_vae)
    assert torch.equal(tiny.run("VAEDecode", samples=latents, vae=video_vae), pictures)


@pytest.mark.parametrize(("free", "most"), [(1, 1), (2.5, 2), (100, 7)])
def test_frames_go_in_parts_that_fit(
    video_vae: comfy.sd.VAE, monkeypatch: pytest.MonkeyPatch, free: float, most: int
) -> None:
    folded = video_vae.first_stage_model
    assert isinstance(folded, FoldedFrames)
    latents = torch.randn(2, 4, 7, 4, 4)
    expected = tiny.run("VAEDecode", samples={"samples": latents}, vae=video_vae)
    cost = video_vae.memory_used_decode(latents.shape, video_vae.vae_dtype)
    monkeypatch.setattr(video_vae.patcher, "get_free_memory", lambda device: free * cost)
    sizes = []
    decode = folded.network.decode
    monkeypatch.setattr(folded.network, "decode", lambda x: sizes.append(len(x)) or decode(x))
    assert torch.allclose(
        tiny.run("VAEDecode", samples={"samples": latents}, vae=video_vae), expected, atol=1e-6
    )
    assert max(sizes) == most and sum(sizes) == 14


@pytest.mark.parametrize("batch", [1, 3, 7, 8])
def test_frames_come_decoded_in_batches(
    image_vae: comfy.sd.VAE, video_vae: comfy.sd.VAE, batch: int
) -> None:
    """As the core decodes them together, from a VAE that folds frames and one that does not."""
    latents = torch.randn(4, 7, 6, 4)
    together = tiny.run("VAEDecode", samples={"samples": latents[None]}, vae=video_vae)
    for vae in (image_vae, video_vae):
        parts = list(decode_frames(vae, latents, batch))
        assert [len(part) for part in parts] == [len(part) for part in together.split(batch)]
        torch.testing.assert_close(torch.cat(parts), together, rtol=0, atol=1e-6)
    if batch >= 7:
        assert torch.equal(torch.cat(parts), together)


def test_latents_that_cannot_be_decoded_are_refused(video_vae: comfy.sd.VAE) -> None:
    for latents, batch in ((torch.randn(1, 4, 3, 4, 4), 8), (torch.randn(4, 3, 4, 4), 0)):
        with pytest.raises(ValueError, match=r"latents have shape .*expected \(channels, frames"):
            list(decode_frames(video_vae, latents, batch))
    with pytest.raises(ValueError, match="there is no VAE"):
        list(decode_frames(None, torch.randn(4, 3, 4, 4)))


def test_memory_does_not_grow_with_the_length(video_vae: comfy.sd.VAE) -> None:
    short, long = ((1, 4, frames, 8, 8) for frames in (1, 500))
    for estimate in (video_vae.memory_used_decode, video_vae.memory_used_encode):
        assert estimate(short, torch.float32) == estimate(long, torch.float32)


def test_weights_are_shared(image_vae: comfy.sd.VAE, video_vae: comfy.sd.VAE) -> None:
    assert video_vae.patcher is image_vae.patcher
    assert image_vae.latent_dim == 2  # the one that went in still does pictures
    assert tiny.run("STIVVideoVAE", vae=video_vae) is video_vae
    assert list(video_vae.get_sd()) == list(image_vae.get_sd())


def test_other_vaes_are_refused(image_vae: comfy.sd.VAE, loaded: Loaded) -> None:
    import copy

    video, coarse = copy.copy(image_vae), copy.copy(image_vae)
    video.latent_dim = 3
    coarse.upscale_ratio = coarse.downscale_ratio = 16
    for vae, message in (
        (video, r"STIV Video VAE: STIV needs a VAE that encodes pictures one by one"),
        (coarse, r"latents 16 times smaller, STIV needs 8: load another VAE"),
        (None, r"there is no VAE, the checkpoint holds none: use Load VAE"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            tiny.run("STIVVideoVAE", vae=vae)
        assert "\n" not in str(error.value)
