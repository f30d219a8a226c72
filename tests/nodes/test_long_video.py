"""Plans and their parts through the host in this process, on a tiny random model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from comfy_api.latest import InputImpl
from ComfyUI_STIV.nodes.host import long_run, segments, stretches
from ComfyUI_STIV.nodes.host.film import Film
from ComfyUI_STIV.stiv import timeline
from ComfyUI_STIV.stiv.frames import to_canvas

from tests.nodes import tiny
from tests.nodes.long_videos import (
    SETTINGS,
    SIZE,
    clip_of,
    latents,
    make_all,
    picture,
    plan_of,
    sampled,
)
from tests.nodes.scenes import Loaded


def test_a_window_after_one_that_is_left_out_takes_the_right_frames(loaded: Loaded) -> None:
    placed = tiny.run("STIVPlaceFrames", frames=picture(0.2), positions="4")
    video = plan_of("Prediction", frames=8, window=4, carry=3, stiv_frames=placed)
    handles = make_all(loaded, video)
    names = [handle.name for handle in handles]
    assert "seg1" not in names
    before = {"samples": latents(handles[names.index("seg0")])[None]}
    parts = tiny.run("STIVSegment", plan=video, number=2, made=before)
    assert torch.equal(sampled(loaded, parts)[0], latents(handles[names.index("seg2")]))


def test_given_frames_and_carried_ones_are_exact(loaded: Loaded) -> None:
    video = plan_of("Prediction")
    handles = make_all(loaded, video)
    for before, after in pairwise(handles):
        assert torch.equal(latents(before)[:, -2:], latents(after)[:, :2])


def test_a_second_time_everything_comes_from_the_store(loaded: Loaded) -> None:
    video = plan_of(seed=11)
    first = make_all(loaded, video)
    again = make_all(loaded, plan_of(seed=11))
    assert [handle.key for handle in first] == [handle.key for handle in again]
    other = make_all(loaded, plan_of(seed=11, prompts="a red circle\n1: a blue square"))
    assert [a.key == b.key for a, b in zip(first, other, strict=True)] == [True, True, False]


def test_looking_ahead_goes_through_the_models_once(loaded: Loaded, monkeypatch) -> None:
    """And finds the keys that the segments have when they are made."""
    video = plan_of("Prediction", seed=13)
    handles = make_all(loaded, video)
    taken = []

    def counted(of: Callable) -> Callable:
        return lambda value: taken.append(of.__name__) or of(value)

    for name in ("model_fingerprint", "vae_fingerprint"):
        monkeypatch.setattr(segments, name, counted(getattr(segments, name)))
    made = [handle.key for handle in handles]
    found = long_run._keys(video, loaded.model, loaded.clip, loaded.vae, "", SETTINGS)
    assert found == (made, [], "")
    assert len(made) > 2 and taken == ["model_fingerprint", "vae_fingerprint"]


def test_a_run_keeps_what_the_store_has_of_its_video(loaded: Loaded) -> None:
    """Else a full store makes room for its first segments by removing the next ones."""
    video = plan_of(seed=14)
    handles = make_all(loaded, video)
    folder, begun = segments.segment_store().folder, time.time()
    files = [next(folder.glob(f"*/{handle.key}.safetensors")) for handle in handles]
    for file in files:
        os.utime(file, (begun - 86_400, begun - 86_400))
    long_run.announce(video, loaded.model, loaded.clip, loaded.vae, "", SETTINGS)
    assert all(file.stat().st_mtime > begun - 60 for file in files)


def test_a_damaged_segment_is_made_again(loaded: Loaded) -> None:
    video = plan_of(seed=12)
    (handle, *_) = make_all(loaded, video)
    expected = latents(handle)
    store = segments.segment_store()
    (path,) = store.folder.glob(f"*/{handle.key}.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    generation = store.generation()
    assert torch.equal(latents(make_all(loaded, video)[0]), expected)
    assert store.generation() != generation


def film_of(
    loaded: Loaded, video: segments.LongVideo, handles: list, look: stretches.Look
) -> stretches.FilmHandle:
    film = None
    for stretch in timeline.stretches(video.plan):
        part, slots = stretches.part_of(video.plan, stretch, look.match)
        assert stretches.Part.from_json(part.to_json()) == part
        chosen = [handles[slot] for slot in slots]
        film = stretches.write_stretch(part, look, loaded.vae, video, chosen, film, video.identity)
    return film


LOOK = stretches.Look(8.0, 0, exact=True, match=False)


def test_the_frames_are_those_of_the_core_decoder(loaded: Loaded) -> None:
    video = plan_of()
    key, *gaps = handles = make_all(loaded, video)
    film = film_of(loaded, video, handles, LOOK)
    frames = stretches.all_frames(film, LOOK, loaded.vae, video)
    (folded,) = [tiny.run("STIVVideoVAE", vae=loaded.vae)]
    expected = torch.cat(
        [
            torch.cat([latents(key)[:, [index]], latents(gap)[:, 1:-1]], dim=1)
            for index, gap in enumerate(gaps)
        ],
        dim=1,
    )
    decoded = tiny.run("VAEDecode", samples={"samples": expected[None]}, vae=folded)
    torch.testing.assert_close(frames, decoded, rtol=0, atol=1e-5)


def test_pictures_come_back_exactly_or_as_the_vae_shows_them(loaded: Loaded) -> None:
    given = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    placed = tiny.run("STIVPlaceFrames", frames=given, positions="4")
    video = plan_of(stiv_frames=placed)
    handles = make_all(loaded, video)
    frames = {}
    for exact in (True, False):
        look = stretches.Look(8.0, 18, exact=exact, match=False)
        film = film_of(loaded, video, handles, look)
        frames[exact] = stretches.all_frames(film, look, loaded.vae, video)
    assert torch.equal(frames[True][4], given[0])
    through = loaded.vae.decode(loaded.vae.encode(given))[0]
    torch.testing.assert_close(frames[False][4], through.reshape(64, 64, 3), rtol=0, atol=1e-4)
    others = torch.arange(6) != 4
    assert torch.equal(frames[True][others], frames[False][others])


def test_matched_colours_leave_given_pictures_alone(loaded: Loaded) -> None:
    given = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    placed = tiny.run("STIVPlaceFrames", frames=given, positions="4")
    video = plan_of(stiv_frames=placed)
    look = stretches.Look(8.0, 18, exact=True, match=True)
    film = film_of(loaded, video, make_all(loaded, video), look)
    frames = stretches.all_frames(film, look, loaded.vae, video)
    assert torch.equal(frames[4], given[0])


def test_a_film_that_goes_on_keeps_playing_what_it_has(loaded: Loaded) -> None:
    video = plan_of(seed=14)
    handles = make_all(loaded, video)
    whole = film_of(loaded, video, handles, LOOK)
    size = whole.path.stat().st_size
    part, slots = stretches.part_of(video.plan, timeline.stretches(video.plan)[0], False)
    chosen = [handles[slot] for slot in slots]
    stretches.write_stretch(part, LOOK, loaded.vae, video, chosen, None, video.identity)
    assert whole.path.stat().st_size == size


def test_two_videos_with_one_beginning_have_films_of_their_own(loaded: Loaded) -> None:
    videos = [plan_of(seed=15), plan_of(seed=15, prompts="a red circle\n1: a blue square")]
    placed = tiny.run("STIVPlaceFrames", frames=picture(0.7), positions="4")
    videos += [plan_of(seed=15, stiv_frames=placed)]
    placed = tiny.run("STIVPlaceFrames", frames=picture(0.8), positions="4")
    videos += [plan_of(seed=15, stiv_frames=placed)]
    assert len({video.identity for video in videos}) == len(videos)
    assert plan_of(seed=15).identity == videos[0].identity
    first, other = (film_of(loaded, video, make_all(loaded, video), LOOK) for video in videos[:2])
    assert first.parts()[0].key == other.parts()[0].key
    assert first.path != other.path
    for film in (first, other):
        ids = [part.key for part in film.parts()]
        assert Film(film.path).kept(ids) == len(ids)


def test_a_film_that_another_server_finished_is_finished_again(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is removed at the worst moment, the first time."""
    video = plan_of(seed=16)
    film = film_of(loaded, video, make_all(loaded, video), LOOK)
    finish, tries = stretches.finish, []

    def late(path: Path, target: Path) -> None:
        tries.append(target)
        if len(tries) == 1:
            Film(path).remove()
        finish(path, target)

    monkeypatch.setattr(stretches, "finish", late)
    target = stretches.finished(film, LOOK, loaded.vae, video)
    assert tries == [target] * 2 and not film.path.exists()
    assert InputImpl.VideoFromFile(str(target)).get_frame_count() == 6


def test_a_film_whose_pieces_are_lost_is_written_again(loaded: Loaded) -> None:
    video = plan_of(seed=13)
    handles = make_all(loaded, video)
    film = film_of(loaded, video, handles, LOOK)
    path = film.path
    before = path.read_bytes()
    path.unlink()
    for piece in segments.segment_store().folder.glob("*/*.mp4"):
        piece.unlink()
    stretches.grow(film, LOOK, loaded.vae, video)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 9999, '{"name": 1, "count": 99999999999, "width": 64}']
)
def test_tasks_from_strangers(text: str) -> None:
    for kind in (segments.Task, stretches.Part):
        with pytest.raises(ValueError, match="not understood"):
            kind.from_json(text)


def test_parts_that_are_not_connected_are_refused(loaded: Loaded) -> None:
    for source, message in (
        ((0, 0), "need segments"),
        ((-5, 0), "need segments"),
        ((-1, 0), "no plan"),
    ):
        part = stretches.Part(0, (source,), (), 64, 64)
        with pytest.raises(ValueError, match=message):
            stretches.write_stretch(part, LOOK, loaded.vae, None, [], None)
    for slot, message in ((0, "earlier segments"), (-5, "earlier segments"), (-1, "no plan")):
        task = segments.Task("a", 4, 64, 64, 0, ((0, slot, 0),))
        text = loaded.text("")
        recipe = segments.Recipe(SETTINGS, loaded.model, text, text, loaded.vae)
        with pytest.raises(ValueError, match=message):
            segments.make_segment(task, recipe, [])


def test_a_frame_that_the_plan_was_not_given_is_named(loaded: Loaded) -> None:
    video, text = plan_of(), loaded.text("")
    recipe = segments.Recipe(SETTINGS, loaded.model, text, text, loaded.vae, video)
    with pytest.raises(ValueError, match="no given frame at 999"):
        segments.make_segment(segments.Task("a", 4, 64, 64, 0, ((0, -1, 999),)), recipe, [])
    part = stretches.Part(0, ((-1, 999),), (), 64, 64)
    look = stretches.Look(8, 18, exact=True, match=False)
    with pytest.raises(ValueError, match="no given frame at 999"):
        stretches.write_stretch(part, look, loaded.vae, video, [], None)


def test_what_would_stop_a_run_is_said_before(loaded: Loaded) -> None:
    tall = torch.zeros(1, 4, 1, 16, 8)
    placed = tiny.run("STIVPlaceFrames", frames={"samples": tall}, positions="4")
    video = plan_of(stiv_frames=placed)
    with pytest.raises(ValueError, match=r"latent given at frame 4 has the shape \(4, 16, 8\)"):
        long_run.check(video, loaded.model, loaded.clip, loaded.vae, "", SETTINGS)


@pytest.mark.parametrize(
    ("kind", "inputs", "message"),
    [
        ("LongVideo", {"stride": 9}, "STIV Long Video Plan: .*10.*window"),
        ("LongVideo", {"prompts": "7: a"}, "STIV Long Video Plan: .*the last one is 1"),
        ("LongVideo", {"key_frames": 1}, "key frames"),
        ("Prediction", {"carry": 4}, "carry"),
        ("Prediction", {"clip": picture(0.0, 20)}, "the clip has 20 frames, the video 10"),
        ("Prediction", {"width": 41}, "width is 41, an odd number: use 40 or 42"),
    ],
)
def test_a_plan_that_cannot_be_says_why(kind: str, inputs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_of(kind, **inputs)


def test_an_interpolation_of_a_video_takes_its_rate_and_size() -> None:
    from comfy_api.latest import InputImpl, Types

    images = torch.rand(6, 71, 100, 3)
    clip = InputImpl.VideoFromComponents(
        Types.VideoComponents(images=images, frame_rate=np.float64(12.5))
    )
    video, report = tiny.run(
        "STIVInterpolationPlan", clip=clip, prompts="", factor="2", fps=3.0, window=8, overlap=1,
        seed=0,
    )  # fmt: skip
    assert (video.plan.frames, video.plan.fps) == (12, 25.0)
    assert (video.plan.width, video.plan.height) == (100, 70)
    assert "the clip is 100 x 71 pixels, the video 100 x 70" in report
    assert all(torch.equal(video.frames[2 * i].frame, images[i, :70]) for i in range(6))


def test_a_prediction_of_a_video_takes_its_rate() -> None:
    from comfy_api.latest import InputImpl, Types

    parts = Types.VideoComponents(images=torch.rand(2, 64, 64, 3), frame_rate=np.float64(12.5))
    video, report = tiny.run(
        "STIVPredictionPlan", clip=InputImpl.VideoFromComponents(parts), prompts="", frames=9,
        window=4, carry=2, seed=0, **SIZE,
    )  # fmt: skip
    assert video.plan.fps == 12.5 and "12.5 fps, as the clip; fps was set to 8" in report
    assert video.plan.given == (0, 1)


def test_a_clip_of_any_size_comes_back_in_its_own(loaded: Loaded) -> None:
    clip = clip_of(3, 50, 70)
    video, report = tiny.run(
        "STIVInterpolationPlan", clip=clip, prompts="", factor="2", fps=8.0, window=4, overlap=1,
        seed=0,
    )  # fmt: skip
    assert "50 x 70 pixels, made at 64 x 80 and cut" in report
    handles = make_all(loaded, video)
    assert {tuple(latents(handle).shape[2:]) for handle in handles} == {(10, 8)}
    frames = {}
    for exact in (True, False):
        look = stretches.Look(16.0, 0, exact=exact, match=False)
        film = film_of(loaded, video, handles, look)
        frames[exact] = stretches.all_frames(film, look, loaded.vae, video)
        assert frames[exact].shape == (6, 70, 50, 3)
    assert torch.equal(frames[True][::2], clip)
    through = loaded.vae.decode(loaded.vae.encode(to_canvas(clip))).reshape(3, 80, 64, 3)
    torch.testing.assert_close(frames[False][::2], through[:, :70, :50], rtol=0, atol=1e-4)
    assert stretches.finished(film, look, loaded.vae, video).is_file()
