"""The latent cache: what is in it, and that nothing is lost, whatever happens to a run."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from training.caches import latents as module
from training.caches.latents import (
    cache_latents,
    captions,
    done,
    provenance,
    recaption,
    remove,
    samples,
)
from training.caches.shards import CacheWriteError, read_header, shard_paths

SPEC = {"stride": 3, "sizes": [[16, 16]]}
ROOT = Path(__file__).parents[3]


def contents(folder: Path) -> dict[str, tuple]:
    """Everything in a cache, by key; a key that is there twice is an error."""
    found = {}
    for path in shard_paths(folder, "latents"):
        header = read_header(path)
        with safe_open(path, "np") as file:
            latents, micro = file.get_tensor("latents"), file.get_tensor("micro")
        for i, s in enumerate(header.samples):
            assert s["key"] not in found
            found[s["key"]] = (
                s["content"], tuple(s["captions"]), s["fps"], tuple(micro[i]), latents[i].tobytes(),
            )  # fmt: skip
    return found


def test_what_is_written(tmp_path: Path, vae, clips) -> None:
    report = cache_latents(clips(10), vae, tmp_path, spec=SPEC, shard=4, writer="7")
    names = [path.name for path in shard_paths(tmp_path, "latents")]
    assert names == [
        "latents-1x2x3-7-00000.safetensors",
        "latents-2x2x2-7-00000.safetensors",
        "latents-2x2x2-7-00001.safetensors",
    ]
    assert sorted(report.shards) == names and (report.written, report.skipped) == (10, 0)
    assert not list(tmp_path.glob("*.part"))
    header = read_header(tmp_path / names[1])
    assert header.shape == (4, 4, 2, 2, 2) and header.bucket == "2x2x2"
    assert header.provenance == {"encoder": vae.hash, "latents": vae.latents, "spec": SPEC}
    found = contents(tmp_path)
    for clip in clips(10):
        content, texts, fps, micro, raw = found[clip.key]
        assert (content, texts, fps, micro) == (clip.content, clip.captions, clip.fps, clip.micro)
        expected = vae.encode(clip.frames[None])[0]
        stored = torch.from_numpy(np.frombuffer(raw, np.float16).reshape(expected.shape).copy())
        assert torch.allclose(stored.float(), expected, atol=2e-3 * expected.abs().max())
    assert sorted(captions(tmp_path)) == sorted(c for clip in clips(10) for c in clip.captions)


def test_a_rerun_encodes_only_what_is_new(tmp_path: Path, vae, clips) -> None:
    cache_latents(clips(7), vae, tmp_path, spec=SPEC, shard=4)
    assert done(tmp_path, provenance(vae, SPEC)) == {(c.key, c.content) for c in clips(7)}
    before = {path: path.stat().st_mtime_ns for path in shard_paths(tmp_path, "latents")}
    report = cache_latents(clips(9), vae, tmp_path, spec=SPEC, shard=4)
    assert (report.written, report.skipped) == (2, 7)
    assert set(contents(tmp_path)) == {c.key for c in clips(9)}
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())


def test_changed_sources_are_replaced_and_changed_captions_taken_over(
    tmp_path: Path, vae, clip
) -> None:
    old = [clip(i) for i in range(5)]
    cache_latents(old, vae, tmp_path, spec=SPEC, shard=3)
    new = [*old[:3], clip(3, content="f" * 64), replace(old[4], captions=("other words",))]
    report = cache_latents(new, vae, tmp_path, spec=SPEC, shard=3)
    assert (report.written, report.skipped, report.replaced, report.recaptioned) == (1, 4, 1, 1)
    found = contents(tmp_path)
    assert found[new[3].key][0] == "f" * 64 and found[new[4].key][1] == ("other words",)
    cache_latents(new, vae, tmp_path / "fresh", spec=SPEC, shard=3)
    assert found == contents(tmp_path / "fresh")

    assert recaption(tmp_path, lambda key: ["new"] if key == old[0].key else None) == 1
    assert recaption(tmp_path, lambda key: ["new"] if key == old[0].key else None) == 0
    assert contents(tmp_path)[old[0].key][1] == ("new",)
    assert remove(tmp_path, lambda sample: sample["content"] == "f" * 64) == 1
    assert set(contents(tmp_path)) == {c.key for c in old} - {old[3].key}


def test_stale_shards_are_refused_or_rewritten(tmp_path: Path, vae, other_vae, clips) -> None:
    cache_latents(clips(4), vae, tmp_path, spec=SPEC)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"2 of 2 shards do not fit .* made with encoder"):
        cache_latents(clips(4), other_vae, tmp_path, spec=SPEC)
    with pytest.raises(
        ValueError, match=r"latents-1x2x3-0-00000.safetensors: made with spec.stride 3, now 1"
    ):
        done(tmp_path, provenance(vae, {**SPEC, "stride": 1}))
    assert contents(tmp_path) == before
    report = cache_latents(clips(4), other_vae, tmp_path, spec=SPEC, stale="rewrite")
    assert report.written == 4 and contents(tmp_path).keys() == before.keys()
    assert done(tmp_path, provenance(other_vae, SPEC)) == {(c.key, c.content) for c in clips(4)}


@pytest.mark.parametrize("harm", ["truncate", "zero", "garbage", "other"])
def test_a_damaged_shard_is_named(tmp_path: Path, vae, clips, harm: str) -> None:
    cache_latents(clips(4), vae, tmp_path, spec=SPEC)
    path = shard_paths(tmp_path, "latents")[1]
    data = path.read_bytes()
    path.write_bytes(
        {
            "truncate": data[: len(data) // 2],
            "zero": b"",
            "garbage": b"x" * len(data),
            "other": data.replace(b'"micro"', b'"macro"'),
        }[harm]
    )
    with pytest.raises(ValueError, match=rf"1 of 2 shards do not fit this run \({path.name}: "):
        cache_latents(clips(4), vae, tmp_path, spec=SPEC)
    report = cache_latents(clips(4), vae, tmp_path, spec=SPEC, stale="rewrite")
    assert (report.written, report.skipped) == (2, 2)
    assert set(contents(tmp_path)) == {c.key for c in clips(4)}


def test_several_writers_divide_the_clips(tmp_path: Path, vae, clips) -> None:

    def write(i: int) -> None:
        cache_latents(clips(30), vae, tmp_path, spec=SPEC, shard=2, writer=str(i), part=(i, 3))

    with ThreadPoolExecutor(3) as pool:  # at once, into one folder
        list(pool.map(write, range(3)))
    assert set(contents(tmp_path)) == {c.key for c in clips(30)}
    counts = [len(list(tmp_path.glob(f"latents-*-{i}-*.safetensors"))) for i in range(3)]
    assert all(counts)
    cache_latents(clips(30), vae, tmp_path / "one", spec=SPEC)
    ours, whole = contents(tmp_path), contents(tmp_path / "one")
    assert {k: v[:-1] for k, v in ours.items()} == {k: v[:-1] for k, v in whole.items()}


def test_writers_change_shards_of_one_another_at_once(tmp_path: Path, vae, clips) -> None:
    """All shards are of one writer, and each of three has captions for its share of all of them."""
    many = list(clips(48))
    cache_latents(many, vae, tmp_path, spec=SPEC, shard=8)
    for turn in range(3):
        new = [replace(clip, captions=(f"{turn} of {clip.key}",)) for clip in many]

        def write(i: int, new: list = new) -> int:
            report = cache_latents(
                new, vae, tmp_path, spec=SPEC, shard=8, writer=str(i), part=(i, 3)
            )
            return report.recaptioned

        with ThreadPoolExecutor(3) as pool:
            assert sum(pool.map(write, range(3))) == 48
        found = contents(tmp_path)
        assert {key: texts for key, (_, texts, *_) in found.items()} == {
            clip.key: clip.captions for clip in new
        }


def test_a_shard_that_another_writer_drops_has_no_samples(tmp_path: Path, vae, clips) -> None:
    cache_latents(clips(8), vae, tmp_path, spec=SPEC, shard=2)
    first, *others, last = shard_paths(tmp_path, "latents")
    kept = [s["key"] for path in (first, *others[1:]) for s in read_header(path).samples]
    found = samples(tmp_path)
    keys = [next(found)["key"]]
    others[0].unlink()
    last.unlink()
    assert [*keys, *(s["key"] for s in found)] == kept
    first.write_bytes(first.read_bytes()[:100])
    with pytest.raises(ValueError, match=first.name):
        list(samples(tmp_path))


def test_an_error_in_the_clips_loses_nothing(tmp_path: Path, vae, clips) -> None:
    def failing():
        yield from clips(5)
        raise RuntimeError("the decoder died")

    with pytest.raises(RuntimeError, match="the decoder died"):
        cache_latents(failing(), vae, tmp_path, spec=SPEC)
    assert set(contents(tmp_path)) == {c.key for c in clips(5)}


def test_clips_that_cannot_be_encoded(tmp_path: Path, vae, clip) -> None:
    bad = replace(clip(1), frames=np.zeros((2, 20, 16, 3), np.uint8))
    worse = replace(clip(2), micro=(1.0,))
    refused = []
    report = cache_latents(
        [clip(0), bad, worse, clip(3)], vae, tmp_path, spec=SPEC,
        reject=lambda key, reason: refused.append((key, reason)),
    )  # fmt: skip
    assert (report.written, report.rejected) == (2, 2)
    assert [key for key, _ in refused] == [bad.key, worse.key]
    assert "20 x 16, expected multiples of 8" in refused[0][1]
    with pytest.raises(ValueError, match=rf"{bad.key}: cannot be encoded: frames are 20 x 16"):
        cache_latents([clip(0), bad], vae, tmp_path, spec=SPEC)


def test_an_encoder_that_overflows_is_said_to(tmp_path: Path, vae, clip) -> None:
    class Overflowing:
        hash, latents, frames_at_once = vae.hash, vae.latents, 1

        def encode(self, frames):
            return vae.encode(frames) * 1e9

    with pytest.raises(ValueError, match=r"folder/0.mp4#0: .* too large for float16"):
        cache_latents([clip(0)], Overflowing(), tmp_path, spec=SPEC)
    assert shard_paths(tmp_path, "latents") == []


def test_names_that_are_no_unicode(tmp_path: Path, vae, clip) -> None:
    odd = replace(clip(0), key="caf\udce9.mp4#0", captions=("a \ud800 caption",))
    cache_latents([odd], vae, tmp_path, spec=SPEC)
    assert cache_latents([odd], vae, tmp_path, spec=SPEC).skipped == 1
    assert list(contents(tmp_path)) == ["caf\\udce9.mp4#0"]


def test_few_large_samples_per_shard_and_bounded_memory(
    tmp_path: Path, vae, clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 4 * 2 * 2 * 2 * 2
    monkeypatch.setattr(module, "SHARD_BYTES", 3 * size)
    cache_latents(clips(20), vae, tmp_path / "a", spec=SPEC)
    shapes = [read_header(path).shape for path in shard_paths(tmp_path / "a", "latents")]
    assert all(n <= 3 for n, _, t, _, _ in shapes if t == 2)
    monkeypatch.setattr(module, "SHARD_BYTES", 2**20)
    monkeypatch.setattr(module, "PENDING_BYTES", 6 * size)
    cache_latents(clips(20), vae, tmp_path / "b", spec=SPEC)
    assert len(shard_paths(tmp_path / "b", "latents")) > 2
    assert contents(tmp_path / "a").keys() == contents(tmp_path / "b").keys()


def test_settings_that_are_refused(tmp_path: Path, vae, clips) -> None:
    for settings, message in (
        ({"writer": "a-b/c"}, "writer is 'a-b/c'"),
        ({"shard": 513}, "shard is 513: expected 1 to 512"),
        ({"part": (3, 3)}, "part is 3/3"),
        ({"stale": "ignore"}, "stale is 'ignore'"),
    ):
        with pytest.raises(ValueError, match=message):
            cache_latents(clips(1), vae, tmp_path, spec=SPEC, **settings)
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheWriteError, match="cannot be made"):
        cache_latents(clips(1), vae, tmp_path / "file", spec=SPEC)


WRITER = """
import sys, time
sys.path[:0] = [{root!r}, {here!r}]
from conftest import make_clips, make_vae
from training.caches.latents import cache_latents

def slow():
    for clip in make_clips(60):
        time.sleep({pause})
        yield clip

cache_latents(slow(), make_vae(), {out!r}, spec={spec!r}, shard=2, writer="w")
"""


def start_writer(out: Path, pause: float, before: str = "") -> subprocess.Popen:
    here = str(Path(__file__).parent)
    code = WRITER.format(root=str(ROOT), here=here, out=str(out), spec=SPEC, pause=pause)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", before + code], env=environment, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_writer_goes_on_where_it_was(tmp_path: Path, vae, clips) -> None:
    out = tmp_path / "killed"
    process = start_writer(out, pause=0.02)
    deadline = time.monotonic() + 120
    while len(shard_paths(out, "latents")) < 3 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    survived = contents(out)  # every file under a final name is whole
    assert 0 < len(survived) < 60
    # What being killed inside a write leaves behind, whether or not the signal hit one:
    (out / "latents-2x2x2-w-00099.safetensors.part").write_bytes(b"half")

    report = cache_latents(clips(60), vae, out, spec=SPEC, shard=2, writer="w")
    assert (report.skipped, report.written) == (len(survived), 60 - len(survived))
    assert not list(out.glob("*.part"))
    whole = tmp_path / "whole"
    cache_latents(clips(60), vae, whole, spec=SPEC, shard=2, writer="w")
    ours, theirs = contents(out), contents(whole)
    assert ours.keys() == theirs.keys()
    for key, (*facts, raw) in theirs.items():
        # Batches fall otherwise after a restart; float16 hides the last bits, or shows one of them.
        a, b = (np.frombuffer(x, np.float16).astype(np.float32) for x in (ours[key][-1], raw))
        assert list(ours[key][:-1]) == facts and np.abs(a - b).max() <= 2e-3 * np.abs(b).max()


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""


@pytest.mark.skipif(os.name != "posix", reason="limits of a process")
def test_a_disk_that_refuses_more(tmp_path: Path, vae, clips) -> None:
    """A limit on the size of files stands in for a full disk: the write fails half-way."""
    cache_latents(clips(2), vae, tmp_path, spec=SPEC, writer="w")
    before = {path.name: path.read_bytes() for path in shard_paths(tmp_path, "latents")}
    process = start_writer(tmp_path, pause=0, before=LIMITED.format(size=200))
    _, message = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "CacheWriteError" in message and os.strerror(errno.EFBIG) in message
    assert "run the same command again: it goes on from there" in message
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    report = cache_latents(clips(60), vae, tmp_path, spec=SPEC, writer="w")
    assert (report.skipped, report.written) == (2, 58)
