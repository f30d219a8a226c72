"""Loading: the same global batches for any ranks and workers, exact resume, errors by name."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.caches.latents import remove
from training.caches.shards import write_shard
from training.data.loader import CacheDataset, Loader, still
from training.data.plan import Plan, Sample, StreamSpec, Without

STEPS, SEED = 24, 11


@pytest.fixture
def plan(cache) -> Plan:
    """Clips and stills of one cache, 2 : 1."""
    data = CacheDataset(cache)
    return Plan([StreamSpec(data, 4, 2), StreamSpec(data, 8, 1, still=True)], SEED, STEPS)


def _load(plan, **options) -> list:
    with Loader(plan, SEED, **options) as loader:
        return list(loader)


def _same(ours, theirs) -> bool:
    assert (ours.step, ours.bucket, ours.stream) == (theirs.step, theirs.bucket, theirs.stream)
    assert (ours.keys, ours.captions) == (theirs.keys, theirs.captions)
    assert np.array_equal(ours.positions, theirs.positions)
    return torch.equal(ours.latents, theirs.latents) and torch.equal(ours.micro, theirs.micro)


# --- samples


def test_samples_are_normalised_and_described(cache):
    data = CacheDataset(cache)
    assert data.buckets == {"3x2x2": 13, "1x2x4": 17} and len(data) == 30
    sample = data.load("3x2x2", 6)  # second of the second shard: latents 1 + frame / 8
    assert sample.latents.shape == (4, 3, 2, 2) and sample.latents.dtype == np.float32
    expected = (1 + np.arange(3) / 8 - 0.25) * 0.5  # (raw - shift) * scale
    assert (sample.latents == expected.reshape(1, 3, 1, 1)).all()
    assert sample.captions == ("caption 1", "variant 1") and sample.key == "a-1/1.mp4#0"
    assert sample.micro.tolist() == [480, 640, 1, 2, 3, 3]


def test_scale_and_shift_per_channel(shard, tmp_path):
    space = {"channels": 3, "scale": [1.0, 2.0, 4.0], "shift": [0.0, 1.0, -1.0]}
    shard(tmp_path, shape=(1, 1, 1), space=space)
    latents = CacheDataset(tmp_path).load("1x1x1", 2).latents
    assert latents.flatten().tolist() == [2.0, 2.0, 12.0]


@pytest.mark.parametrize("scale", [[1.0, 2.0], float("nan"), None])
def test_scales_that_do_not_fit_are_refused(shard, tmp_path, scale):
    shard(tmp_path, space={"channels": 3, "scale": scale, "shift": 0.0})
    with pytest.raises(ValueError, match=r"scale of the latent space .* 3 of them"):
        CacheDataset(tmp_path)


def test_shards_beyond_the_open_ones_are_closed_and_reopened(shard, tmp_path):
    for i in range(5):
        shard(tmp_path, f"a-{i}", 2, (1, 1, 1), first=10 * i)
    data = CacheDataset(tmp_path, open_shards=2)
    for index in [*range(10), *range(9, -1, -1)]:
        raw = 10 * (index // 2) + index % 2
        assert data.load("1x1x1", index).latents[0, 0, 0, 0] == (raw - 0.25) * 0.5
        assert len(data._shards) <= 2


def test_threads_may_share_a_data_set(cache):
    data = CacheDataset(cache, open_shards=1)
    expected = [data.load("3x2x2", i).key for i in range(13)]
    found: dict[int, list[str]] = {}

    def read(number: int) -> None:
        found[number] = [data.load("3x2x2", i).key for i in range(13)]

    threads = [threading.Thread(target=read, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(found.values()) == [expected] * 4


def test_a_data_set_travels_to_another_process(cache):
    data = CacheDataset(cache)
    data.load("3x2x2", 0)
    copy = pickle.loads(pickle.dumps(data))  # what multiprocessing does
    assert copy.load("3x2x2", 12).key == data.load("3x2x2", 12).key
    assert copy.digest() == data.digest()


def test_reads_what_the_cache_writes(tmp_path):
    """Shards of `training.caches`, bit for bit, with odd captions and numbers of samples."""
    shape, captions = (3, 4, 2, 6, 4), [["é 😀", 'with "quotes"'], [], [""]]
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0)).half()
    micro = torch.arange(18.0).reshape(3, 6)
    space = {"name": "custom", "channels": 4, "scale": 2.0, "shift": 0.5, "downscale": 8}
    samples = [
        {"key": f"{i}.mp4#0", "content": "0" * 64, "captions": c, "fps": 8.0}
        for i, c in enumerate(captions)
    ]
    write_shard(
        tmp_path / "latents-2x6x4-0-00000.safetensors",
        {"latents": latents, "micro": micro},
        {"provenance": {"encoder": "e", "latents": space, "spec": {}}, "samples": samples},
    )
    data = CacheDataset(tmp_path)
    assert (data.latents, data.name) == (space, tmp_path.name)
    for i in range(3):
        sample = data.load("2x6x4", i)
        assert np.array_equal(sample.latents, (latents[i].float() - 0.5) * 2)
        assert np.array_equal(sample.micro, micro[i]) and sample.captions == tuple(captions[i])


# --- batches


def test_batches_follow_the_plan(plan):
    batches = _load(plan)
    assert [b.step for b in batches] == list(range(STEPS))
    for step, batch in enumerate(batches):
        spec = plan.batch(step)
        data = plan.streams[spec.stream].dataset
        assert (batch.bucket, batch.stream) == (spec.bucket, spec.stream)
        assert batch.positions.tolist() == list(range(len(spec.indices)))
        loaded = [data.load(spec.bucket, int(i)) for i in spec.indices]
        assert batch.keys == [sample.key for sample in loaded]
        assert batch.captions == [sample.captions for sample in loaded]
        if spec.stream == 0:
            assert np.array_equal(batch.latents, [sample.latents for sample in loaded])
            assert np.array_equal(batch.micro, [sample.micro for sample in loaded])


def test_stills_are_one_frame_of_their_clip(plan):
    frames = set()
    for batch in _load(plan):
        if batch.stream != 1 or batch.bucket != "3x2x2":
            continue
        assert batch.latents.shape == (8, 4, 1, 2, 2)
        assert batch.micro[:, 4:].unique().tolist() == [1.0]
        assert torch.equal(batch.micro[:, :4], torch.tensor([480.0, 640, 1, 2]).expand(8, 4))
        for value, key, position in zip(
            batch.latents[:, 0, 0, 0, 0], batch.keys, batch.positions, strict=True
        ):
            number = int(key.split("/")[1].split(".")[0])
            frame = round(((float(value) / 0.5 + 0.25) - number) * 8)
            rng = np.random.default_rng([SEED, batch.step, int(position), 7])
            assert frame == rng.integers(3)
            frames.add(frame)
    assert frames == {0, 1, 2}


def test_a_still_leaves_its_clip_as_it_was():
    clip = Sample(np.zeros((2, 5, 1, 1)), (), np.arange(6.0), "key")
    still(clip, np.random.default_rng(0))
    assert clip.micro.tolist() == [0, 1, 2, 3, 4, 5] and clip.latents.shape[1] == 5


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_see_the_global_batch(plan, world):
    ranks = [_load(plan, rank=rank, world=world) for rank in range(world)]
    for whole, *parts in zip(_load(plan), *ranks, strict=True):
        assert torch.equal(torch.cat([part.latents for part in parts]), whole.latents)
        assert torch.equal(torch.cat([part.micro for part in parts]), whole.micro)
        assert [key for part in parts for key in part.keys] == whole.keys
        assert [n for part in parts for n in part.positions] == whole.positions.tolist()
        assert len({len(part.keys) for part in parts}) == 1


@settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(start=st.integers(0, STEPS), prefetch=st.integers(0, 4))
def test_resuming_equals_the_uninterrupted_stream(plan, start, prefetch):
    rest = _load(plan, start_step=start, prefetch=prefetch)
    whole = _load(plan)[start:]
    assert all(_same(a, b) for a, b in zip(rest, whole, strict=True))


def test_worker_processes_give_the_same_and_end(plan):
    """From any step; memory that they share with us is freed with the batch, not before."""
    start, whole = 7, _load(plan)
    loader = Loader(plan, SEED, start_step=start, workers=2)
    batches = [next(loader) for _ in range(9)]
    children = _children()
    assert len(children) >= 2
    loader.close()
    assert not children & _children()
    assert all(_same(a, b) for a, b in zip(batches, whole[start : start + 9], strict=True))


def test_ctrl_c_is_for_the_run_and_not_for_its_workers(plan):
    """A terminal sends it to all of them."""
    before = _children()
    with Loader(plan, SEED, workers=2) as loader:
        batches = [next(loader) for _ in range(4)]  # now both are up
        for child in _children() - before:
            os.kill(child, signal.SIGINT)
        batches += list(loader)
    assert len(batches) == STEPS


def test_worker_processes_have_no_torch(cache):
    """It is most of what a process would hold, and they only read."""
    data = Without(CacheDataset(cache), "1x2x4", 3)  # as a run has it that holds clips out
    plan = Plan([StreamSpec(data, 4), StreamSpec(data, 4, still=True)], SEED, STEPS)
    with Loader(plan, SEED, workers=2) as loader:
        for _ in range(4):
            next(loader)
        children = _children()
        assert len(children) >= 2
        for child in children:
            maps = Path(f"/proc/{child}/maps").read_text()
            assert "safetensors" in maps and "libtorch" not in maps


def test_without_workers_no_process_is_started(plan):
    before = _children()
    with Loader(plan, SEED) as loader:
        next(loader)
        assert _children() == before
    with pytest.raises(ValueError, match="closed"):
        next(loader)


def _children() -> set[int]:
    """Processes that live and that this one started; zombies do not count."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    state, parent = file.read().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if int(parent) == os.getpid() and state != "Z":
                with open(f"/proc/{name}/cmdline") as file:
                    if "spawn_main" in file.read():
                        found.add(int(name))
    return found


# --- mistakes and damage


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world": 3}, "batch of 4 does not divide by 3 ranks"),
        ({"world": 8}, "batch of 4 does not divide by 8 ranks: make it 8"),
        ({"rank": 2, "world": 2}, "rank 2 is not one of 2 ranks"),
        ({"start_step": STEPS + 1}, "start step 25"),
        ({"workers": -1}, "workers -1"),
    ],
)
def test_options_that_do_not_fit(plan, options, message):
    with pytest.raises(ValueError, match=message):
        Loader(plan, SEED, **options)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_shard_that_breaks_during_the_run_is_named(cache, prefetch):
    plan = Plan([StreamSpec(CacheDataset(cache, open_shards=1), 4)], SEED, STEPS)
    path = cache / "latents-3x2x2-a-1.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"latents-3x2x2-a-1\.safetensors, row .*cache latents"):
        _load(plan, prefetch=prefetch)


def test_a_shard_that_breaks_is_named_across_processes(cache):
    plan = Plan([StreamSpec(CacheDataset(cache), 4)], SEED, STEPS)
    (cache / "latents-1x2x4-a-0.safetensors").unlink()
    with pytest.raises(ValueError, match=r"latents-1x2x4-a-0\.safetensors"):
        _load(plan, workers=1)


def test_a_shard_replaced_by_another_bucket_is_named(cache, shard):
    data = CacheDataset(cache)
    shard(cache, "a-1", 8, (2, 3, 2)).replace(cache / "latents-3x2x2-a-1.safetensors")
    with pytest.raises(ValueError, match=r"latents-3x2x2-a-1\.safetensors.*indexed bucket 3x2x2"):
        data.load("3x2x2", 12)


def test_rows_that_moved_are_an_error_until_the_data_is_opened_again(cache):
    data = CacheDataset(cache)
    removed = "a-1/3.mp4#0"
    assert remove(cache, lambda sample: sample["key"] == removed) == 1
    with pytest.raises(ValueError, match=r"latents-3x2x2-a-1\.safetensors, .* were indexed"):
        data.load("3x2x2", 9)
    again = CacheDataset(cache)
    keys = [again.load("3x2x2", i).key for i in range(again.buckets["3x2x2"])]
    assert len(keys) == 12 and removed not in keys and again.digest() != data.digest()


@pytest.mark.parametrize("samples", ["[]", "{}", "not json", json.dumps([{"key": "a"}] * 3)])
def test_damaged_descriptions_are_named(shard, tmp_path, samples):
    from safetensors.numpy import load_file, save_file

    path = shard(tmp_path, shape=(1, 1, 1))
    provenance = json.dumps({"encoder": "e", "latents": {"scale": 1, "shift": 0}})
    described = {"stiv.cache": "1", "provenance": provenance, "samples": samples}
    save_file(load_file(path), path, described)
    with pytest.raises(ValueError, match=r"latents-1x1x1-a-0\.safetensors, row 0 of bucket 1x1x1"):
        CacheDataset(tmp_path).load("1x1x1", 0)


class Slow:
    """A data set that takes its time, and counts who reads at once."""

    def __init__(self):
        self.buckets = {"1x1x1": 64}
        self.reading, self.most, self.lock = 0, 0, threading.Lock()

    def load(self, bucket: str, index: int) -> Sample:
        with self.lock:
            self.reading += 1
            self.most = max(self.most, self.reading)
        time.sleep(0.005)
        with self.lock:
            self.reading -= 1
        return Sample(np.full((1, 1, 1, 1), float(index)), (), np.zeros(6), str(index))


@pytest.mark.parametrize(("prefetch", "most"), [(0, 1), (3, 3)])
def test_steps_are_read_ahead_by_threads_and_come_in_order(prefetch, most):
    data = Slow()
    plan = Plan([StreamSpec(data, 4)], 0, 16)
    batches = _load(plan, prefetch=prefetch)
    assert [b.step for b in batches] == list(range(16)) and data.most == most
    assert [b.keys for b in batches] == [
        [str(i) for i in plan.batch(step).indices] for step in range(16)
    ]
