"""Segments wired by hand: the same latents, joined, and for other models."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.nodes import tiny
from tests.nodes.long_videos import clip_of, latents, make_all, picture, plan_of, sampled
from tests.nodes.scenes import Loaded


def test_wiring_by_hand_gives_the_same_latents(loaded: Loaded) -> None:
    placed = tiny.run("STIVPlaceFrames", frames=picture(0.3), positions="4")
    video = plan_of(stiv_frames=placed)
    key, *gaps = make_all(loaded, video)
    keys = sampled(loaded, tiny.run("STIVKeyFrames", plan=video, number=0))
    assert torch.equal(keys[0], latents(key))
    for number, gap in enumerate(gaps):
        parts = tiny.run("STIVSegment", plan=video, number=number, made={"samples": keys})
        assert torch.equal(sampled(loaded, parts)[0], latents(gap))


def test_a_roll_out_by_hand_gives_the_same_latents(loaded: Loaded) -> None:
    video = plan_of("Prediction", clip=picture(0.6, 2))
    before = None
    for number, handle in enumerate(make_all(loaded, video)):
        parts = tiny.run("STIVSegment", plan=video, number=number, made=before)
        before = {"samples": sampled(loaded, parts)}
        assert torch.equal(before["samples"][0], latents(handle))


def doubled_by_hand(loaded: Loaded, clip: Tensor, fps: float) -> tuple[Tensor, float]:
    """Plan with a factor of 2, segments, sampler, decoder, join: all frames, and their rate."""
    overlap = 1
    plan, _ = tiny.run(
        "STIVInterpolationPlan", clip=clip, prompts="a red circle", factor="2", fps=fps, window=8,
        overlap=overlap, seed=2,
    )  # fmt: skip
    folded, parts = tiny.run("STIVVideoVAE", vae=loaded.vae), {}
    for number in range(len(plan.plan.segments)):
        made = sampled(loaded, tiny.run("STIVSegment", plan=plan, number=number))
        parts[f"segment{number}"] = tiny.run("VAEDecode", samples={"samples": made}, vae=folded)
    assert len(parts) > 1
    frames, *_ = tiny.run(
        "STIVJoinSegments", segments=parts, fps=plan.plan.fps, shared=2 * overlap, images=True
    )
    return frames, plan.plan.fps


def test_a_clip_is_doubled_twice_by_hand(loaded: Loaded) -> None:
    """Every frame stays in its place, as the VAE shows it, and the clip plays as long as before."""
    clip, fps = torch.rand(5, 64, 64, 3, generator=torch.Generator().manual_seed(8)), 8.0
    for _ in range(2):
        frames, faster = doubled_by_hand(loaded, clip, fps)
        assert (len(frames), faster) == (2 * len(clip), 2 * fps)
        through = loaded.vae.decode(loaded.vae.encode(clip)).reshape(clip.shape)
        torch.testing.assert_close(frames[::2], through, rtol=0, atol=1e-4)
        clip, fps = frames, faster


def test_more_than_one_doubling_at_once_is_refused_by_hand() -> None:
    plan, _ = tiny.run(
        "STIVInterpolationPlan", clip=picture(0.5, 5), prompts="", factor="4", fps=8.0, window=8,
        overlap=1, seed=2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="doubled once at a time, the plan's factor is 4: set it"):
        tiny.run("STIVSegment", plan=plan, number=0)


def test_joined_segments_show_shared_frames_once() -> None:
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(9, 32, 32, 3, generator=generator)
    parts = {"segment0": frames[:4], "segment1": frames[3:6], "segment2": frames[5:]}
    images, video, report = tiny.run(
        "STIVJoinSegments", segments=parts, fps=8.0, shared=1, images=True
    )
    assert torch.equal(images, frames)
    components = video.get_components()
    assert components.images.shape == (9, 32, 32, 3) and components.frame_rate == 8
    assert report.startswith("9 frames of 3 segments")


def test_segments_of_two_sizes_are_refused() -> None:
    parts = {"segment0": picture(0.1, 3), "segment1": picture(0.1, 3)[:, :32]}
    with pytest.raises(ValueError, match="64 x 32 and 64 x 64 pixels: resize"):
        tiny.run("STIVJoinSegments", segments=parts, fps=8.0, shared=1, images=False)


def test_a_segment_of_nothing_new_is_refused() -> None:
    parts = {"segment0": picture(0.1, 3), "segment1": picture(0.2, 1)}
    with pytest.raises(ValueError, match="segment 1 has 1 frames, of which 1 are shared"):
        tiny.run("STIVJoinSegments", segments=parts, fps=8.0, shared=1, images=False)


def test_pictures_at_both_ends_serve_other_models() -> None:
    pictures = torch.rand(2, 64, 64, 3)
    placed = tiny.run("STIVPlaceFrames", frames=pictures, positions="0,3")
    video = plan_of(stiv_frames=placed)
    first, last, *size = tiny.run("STIVSegment", plan=video, number=0)[5:]
    assert torch.equal(torch.cat([first, last]), pictures)
    assert size == [4, 64, 64]


def test_a_segment_that_the_plan_lacks_is_named() -> None:
    with pytest.raises(ValueError, match="makes no seg9: it makes key0, seg0, seg1"):
        tiny.run("STIVSegment", plan=plan_of(), number=9)


def test_parts_by_hand_of_a_size_that_is_cut(loaded: Loaded) -> None:
    video = plan_of("Prediction", clip=clip_of(2, 50, 70), width=50, height=70)
    before = None
    for number, handle in enumerate(make_all(loaded, video)):
        parts = tiny.run("STIVSegment", plan=video, number=number, made=before)
        before = {"samples": sampled(loaded, parts)}
        assert torch.equal(before["samples"][0], latents(handle))
    first = tiny.run("STIVSegment", plan=video, number=0)[5]
    assert torch.equal(first, clip_of(2, 50, 70)[:1])
    # Pictures made before may be as VAE Decode gives them, or cut already.
    whole = torch.rand(4, 80, 64, 3)
    for pictures in (whole, whole[:, :70, :50]):
        parts = tiny.run("STIVSegment", plan=video, number=1, made=pictures)
        given, first = parts[1], parts[5]
        assert torch.equal(first, whole[2:3, :70, :50])
        assert {frame.frame.shape for frame in given.resolve(4)} == {(80, 64, 3)}
