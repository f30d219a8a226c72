"""Placing and giving frames; what does not fit is refused in one line, before sampling."""

from __future__ import annotations

import logging
import re
from typing import Any

import comfy.sd
import comfy.utils
import pytest
import torch
from comfy.taesd.taesd import TAESD
from ComfyUI_STIV.nodes.host.replacement import CleanFrames
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nodes import tiny
from tests.nodes.scenes import Loaded, Scene
from tests.nodes.test_sampling import assert_given, close


def place(frames: Any, positions: str, before: Any = None) -> Any:
    inputs = {} if before is None else {"stiv_frames": before}
    return tiny.run("STIVPlaceFrames", frames=frames, positions=positions, **inputs)


def replace(loaded: Loaded, placed: Any, latent: Any = None, vae: Any = None) -> tuple:
    scene = loaded.scene()
    return tiny.run(
        "STIVFrameReplacement",
        positive=scene.positive,
        negative=scene.negative,
        vae=vae or loaded.vae,
        latent=latent or scene.latent,
        stiv_frames=placed,
    )


def pictures(count: int, height: int = 64, width: int = 64, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(5))


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 30), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_empty_latents(width: int, height: int, frames: int, batch: int) -> None:
    latent = tiny.run(
        "STIVEmptyLatent", width=16 * width, height=16 * height, frames=frames, batch_size=batch
    )
    assert latent["samples"].shape == (batch, 4, frames, 2 * height, 2 * width)
    assert not latent["samples"].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 250}, "width is 250, not a multiple of 16: use 240 or 256"),
        ({"height": 8}, "height is 8, not a multiple of 16: use 16 or 32"),
        ({"frames": 0}, "frames is 0 and batch_size 1: use 1 or more"),
    ],
)
def test_sizes_that_do_not_divide(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny.run(
            "STIVEmptyLatent",
            **{"width": 64, "height": 64, "frames": 4, "batch_size": 1, **changes},
        )


def test_given_frames_are_the_vaes_latents(loaded: Loaded) -> None:
    frames = pictures(2)
    positive, negative, latent = replace(loaded, place(frames, "first,last"))
    encoded = loaded.vae.encode(frames)[0].movedim(1, 0)
    assert torch.equal(latent["samples"][0, :, [0, 3]].movedim(1, 0), encoded)
    assert not latent["samples"][:, :, 1:3].any()
    assert positive[0][1]["stiv_frames"].mask.tolist() == [True, False, False, True]
    assert "stiv_frames" not in negative[0][1]


def test_wires_in_a_row_equal_one(loaded: Loaded) -> None:
    frames = pictures(2)
    one = replace(loaded, place(frames, "0,3"))[2]["samples"]
    chained = place(frames[:1], "first", place(frames[1:], "-1"))
    assert torch.equal(replace(loaded, chained)[2]["samples"], one)


def after(loaded: Loaded, before: tuple, placed: Any, **inputs: Any) -> tuple:
    """A second STIV Frame Replacement, behind a first one."""
    positive, negative, latent = before
    inputs = {"positive": positive, "negative": negative, "latent": latent, **inputs}
    return tiny.run("STIVFrameReplacement", vae=loaded.vae, stiv_frames=placed, **inputs)


def test_a_second_node_adds_to_the_frames_of_the_first(loaded: Loaded) -> None:
    frames = pictures(2)
    first = replace(loaded, place(frames[:1], "first"))
    second = after(loaded, first, place(frames[1:], "last"))
    assert first[0][0][1]["stiv_frames"].mask.tolist() == [True, False, False, False]
    one = replace(loaded, place(frames, "first,last"))
    assert close(second[2]["samples"], one[2]["samples"]) < 1e-5  # encoded one by one, or together
    given_frames = second[0][0][1]["stiv_frames"]
    assert given_frames.mask.tolist() == [True, False, False, True]
    positive, negative, latent = second
    scene = Scene(loaded.model, positive, negative, latent, given_frames.latents, given_frames.mask)
    samples = scene.sample()
    assert_given(samples, scene)
    assert close(samples, scene.but(positive=one[0], latent=one[2]).sample()) < 1e-4


@pytest.mark.parametrize(
    ("positions", "frames", "message"),
    [
        ("0-1", 4, "has a frame at position 0 already, from STIV Frame Replacement: remove one"),
        ("last", 5, "another video (4 frames of 8 × 8 latents with 4 channels, here 5 frames of"),
    ],
)
def test_a_second_node_that_does_not_fit(
    loaded: Loaded, positions: str, frames: int, message: str
) -> None:
    first = replace(loaded, place(pictures(1), "first"))
    placed = place(pictures(len(positions.split("-"))), positions)
    latent = tiny.run("STIVEmptyLatent", width=64, height=64, frames=frames, batch_size=1)
    with pytest.raises(ValueError, match=f"^STIV Frame Replacement: .*{re.escape(message)}"):
        after(loaded, first, placed, latent=latent)


def test_frames_of_one_pass_may_lie_on_different_devices() -> None:
    mask = torch.tensor([True, False])
    on_device, kept = (torch.zeros(1, 4, 2, 8, 8, device=d) for d in ("meta", "cpu"))
    together = CleanFrames.batch([CleanFrames(on_device, mask), CleanFrames(kept, mask)])
    assert together.latents.shape == (2, 4, 2, 8, 8) and together.latents.is_meta


def test_latents_are_handed_over_as_they_are(loaded: Loaded) -> None:
    video = torch.randn(1, 4, 2, 8, 8)
    latent = replace(loaded, place({"samples": video}, "0-1"))[2]["samples"]
    assert torch.equal(latent[:, :, :2], video)
    batch = video[0].movedim(1, 0)  # pictures encoded by a core node
    assert torch.equal(replace(loaded, place({"samples": batch}, "0-1"))[2]["samples"], latent)


def test_pictures_and_latents_mix(loaded: Loaded) -> None:
    mixed = place({"samples": torch.randn(1, 4, 1, 8, 8)}, "last", place(pictures(1), "first"))
    positive, negative, latent = replace(loaded, mixed)
    given_frames = positive[0][1]["stiv_frames"]
    scene = Scene(loaded.model, positive, negative, latent, given_frames.latents, given_frames.mask)
    assert_given(scene.sample(), scene)


def test_with_or_without_the_video_vae(loaded: Loaded, scene: Scene) -> None:
    image_vae = loaded.vae.first_stage_model.vae
    placed = place(pictures(1), "first")
    by_image_vae = replace(loaded, placed, vae=image_vae)[2]["samples"]
    assert torch.equal(by_image_vae, replace(loaded, placed)[2]["samples"])


def test_other_sizes_are_cropped_and_said(loaded: Loaded, caplog: pytest.LogCaptureFixture) -> None:
    frames = pictures(1, height=100, width=160, channels=4)  # with transparency
    with caplog.at_level(logging.INFO):
        latent = replace(loaded, place(frames, "2"))[2]["samples"]
    assert "1 of 4 frames given, at 2; pictures of 160 × 100 cropped and resized to 64 × 64" in (
        caplog.text
    )
    fitted = comfy.utils.common_upscale(frames[..., :3].movedim(-1, 1), 64, 64, "lanczos", "center")
    encoded = loaded.vae.encode(fitted.movedim(1, -1))[:, :, 0]
    assert torch.allclose(latent[:, :, 2], encoded, atol=1e-6)


def test_a_batch_gets_the_frames_in_every_video(loaded: Loaded) -> None:
    latent = tiny.run("STIVEmptyLatent", width=64, height=64, frames=4, batch_size=3)
    out = replace(loaded, place(pictures(1), "first"), latent)[2]["samples"]
    assert out.shape == (3, 4, 4, 8, 8)
    assert torch.equal(out[0], out[2])


def test_without_frames_nothing_changes(loaded: Loaded) -> None:
    scene = loaded.scene()
    inputs = {"positive": scene.positive, "negative": scene.negative, "latent": scene.latent}
    out = tiny.run("STIVFrameReplacement", vae=loaded.vae, **inputs)
    assert all(a is b for a, b in zip(out, inputs.values(), strict=True))


@pytest.mark.parametrize(
    ("count", "positions", "message"),
    [
        (1, "4", "'4' in positions '4' is outside the video of 4 frames: use 0 to 3"),
        (1, "7-3", "'7-3' in positions '7-3' runs backwards: write 3-7"),
        (2, "first", None),
        (3, "0,1", "name 2 of 4 frames, but 3 are given"),
        (1, "", "'' in positions '' is not understood"),
        (1, "tomorrow", "'tomorrow' in positions 'tomorrow' is not understood"),
        (2, "0,0", "name a frame twice"),
    ],
)
def test_positions(loaded: Loaded, count: int, positions: str, message: str | None) -> None:
    placed = place(pictures(count), positions)
    if message is None:
        return
    with pytest.raises(ValueError, match=message) as error:
        replace(loaded, placed)
    assert str(error.value).startswith("STIV Frame Replacement: ")
    assert "\n" not in str(error.value)


def test_two_frames_at_one_place(loaded: Loaded) -> None:
    placed = place(pictures(1), "last", place(pictures(1), "3"))
    with pytest.raises(ValueError, match="two frames are given at position 3"):
        replace(loaded, placed)


def test_latents_that_do_not_fit(loaded: Loaded) -> None:
    for latent, message in (
        (torch.zeros(1, 4, 1, 6, 8), "latent frame at 0 is 64 × 48 pixels, the video 64 × 64"),
        (torch.ones(1, 16, 1, 8, 8), "latent frame at 0 has 16 channels, the VAE makes 4"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(loaded, place({"samples": latent}, "first"))
    with pytest.raises(ValueError, match="give it one video"):
        place({"samples": torch.zeros(2, 4, 3, 8, 8)}, "first")
    video = {"samples": torch.ones(1, 16, 4, 8, 8)}
    with pytest.raises(ValueError, match="latent has 16 channels, the VAE makes 4"):
        replace(loaded, place(pictures(1), "first"), video)


def test_another_models_vae_is_refused(loaded: Loaded, scene: Scene) -> None:
    """The VAE's 16 channels meet the model's 4 when sampling is prepared."""
    wrong = comfy.sd.VAE(sd=tiny.randomised(TAESD(latent_channels=16), 1, scale=0.6))
    positive, _, latent = replace(loaded, place(pictures(1), "first"), vae=wrong)
    with pytest.raises(ValueError, match=r"latents have shape \(1, 16, 4, 8, 8\), this STIV model"):
        scene.but(positive=positive, latent=latent).sample()
    with pytest.raises(ValueError, match="VAE makes 16 latent channels, the model takes 4"):
        scene.but(positive=positive).sample()


def with_frames(scene: Scene, latents: torch.Tensor) -> Scene:
    mask = torch.zeros(latents.shape[2], dtype=torch.bool)
    mask[0] = True
    ((text, extra),) = scene.positive
    return scene.but(positive=[[text, {**extra, "stiv_frames": CleanFrames(latents, mask)}]])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 5, 8, 8), "made for 5 frames of 8 × 8 latents, the sampler has 4 frames of 8 × 8"),
        ((1, 4, 4, 6, 8), "made for 4 frames of 6 × 8 latents, the sampler has"),
        ((2, 4, 4, 8, 8), "given frames for a batch of 2, the sampler has a batch of 1"),
    ],
)
def test_frames_for_another_latent(scene: Scene, shape: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        with_frames(scene, torch.zeros(shape)).sample()
    assert "\n" not in str(error.value)


def test_a_batch_with_frames_of_its_own(loaded: Loaded) -> None:
    scene = with_frames(loaded.scene(batch=2), torch.randn(2, 4, 4, 8, 8))
    given_frames = scene.positive[0][1]["stiv_frames"].latents
    samples = scene.sample()
    assert torch.equal(samples[:, :, 0], given_frames[:, :, 0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_with_nan(loaded: Loaded, value: float) -> None:
    scene = loaded.scene()
    bad = torch.zeros(1, 4, 4, 8, 8)
    bad[0, 0, 2, 3, 3] = value
    with pytest.raises(ValueError, match="latent image contains NaN or infinity: check what"):
        scene.but(latent={"samples": bad}).sample()
    with pytest.raises(ValueError, match="NaN or infinity of the given frames"):
        replace(loaded, place({"samples": bad[:, :, 2:3]}, "first"))


def test_nodes_say_what_they_are_for() -> None:
    """A tooltip on every input and output, aliases, and a description in words."""
    assert len(tiny.SHOWN) == 23 and len(tiny.PACK) == 29
    for name, node in tiny.SHOWN.items():
        schema = node.GET_SCHEMA()
        assert schema.category.split("/")[0] == "STIV" and schema.display_name.startswith("STIV ")
        assert len(schema.description) > 40 and schema.search_aliases
        for socket in (*schema.inputs, *schema.outputs):
            assert socket.tooltip and len(socket.tooltip) > 10, f"{name}.{socket.id}"


def test_first_frame_guides_the_rest(scene: Scene, loaded: Loaded) -> None:
    """The generated frames depend on the given one."""
    other = replace(loaded, place(1 - pictures(1), "first"))
    changed = scene.but(positive=other[0], latent=other[2]).sample()
    assert close(changed[:, :, 1:], scene.sample()[:, :, 1:]) > 1e-3
