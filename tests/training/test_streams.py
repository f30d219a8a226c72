"""What a run trains on: clips kept out of all its streams, and what its card says of the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.conftest import changed
from tests.training.data.conftest import make_shard
from training.config import parse_config
from training.export import export
from training.loop import Trainer
from training.streams import open_streams, strides_of

HELD_OUT = {"watch.heldout_every": 3, "watch.heldout_clips": 2}


def test_held_out_clips_are_in_no_stream(tiny) -> None:
    """Stills, key frames and thinned clips are read from the same folder."""
    streams = [{}, {"still": True}, {"set": "keys"}, {"every": 2}]
    opened = open_streams(tiny(**HELD_OUT, **{"data.streams": streams}))
    assert [dict(spec.dataset.buckets) for spec in opened.specs] == [
        *[{"4x4x4": 10}] * 3,
        {"2x4x4": 10},
    ]
    held_out = {sample.key for sample in opened.held_out}
    assert len(held_out) == 2
    for spec in opened.specs:
        ((bucket, count),) = spec.dataset.buckets.items()
        assert not held_out & {spec.dataset.load(bucket, i).key for i in range(count)}


def test_clips_are_counted_once(tiny) -> None:
    streams = [{}, {"still": True}, {"set": "keys"}]
    assert open_streams(tiny(**{"data.streams": streams})).facts["clips"] == 12
    assert open_streams(tiny(**HELD_OUT, **{"data.streams": streams})).facts["clips"] == 10


def test_other_sets_lose_no_clips(recipe: dict, tmp_path: Path) -> None:
    for name, count in (("one", 9), ("two", 5)):
        make_shard(tmp_path / "latents" / name, name, count)
    config = cached(recipe, tmp_path, [{"set": "one"}, {"set": "two"}], **HELD_OUT)
    opened = open_streams(config)
    assert [spec.dataset.buckets["3x2x2"] for spec in opened.specs] == [7, 5]
    assert opened.facts["clips"] == 12


@pytest.mark.parametrize(
    ("strides", "expected"),
    [((3,), [3, 3]), ((3.0, 3.125, 3.75), [3, 4]), ((0.9990,), [1, 1])],
)
def test_the_card_says_the_strides_that_were_trained(
    recipe: dict, tmp_path: Path, strides: tuple[float, ...], expected: list[int]
) -> None:
    """With `fps` they depend on the rates of the files, and no recipe says them."""
    folder = tmp_path / "latents"
    make_shard(folder, "a-0", 6, (4, 4, 4), strides=strides)
    make_shard(folder, "b-0", 6, (1, 4, 4), strides=(1,))
    config = cached(recipe, tmp_path, [{"batch": 2}])
    assert list(strides_of(open_streams(config).specs[0].dataset)) == expected
    trainer = Trainer(config)
    trainer.start()
    trainer.run(1)
    card = export(config, tmp_path / "model.safetensors")
    found = {task["task"]: task["stride"] for task in card.tasks}
    assert found == {"t2i": [1, 1], "t2v": expected, "ti2v": expected}


def cached(recipe: dict, tmp_path: Path, streams: list[dict], **changes):
    """A run on caches of clips, in the folder `latents`."""
    changes |= {"data.kind": "clips", "data.latents": tmp_path / "latents"}
    changes |= {
        "data.streams": streams,
        "data.sets": [{"path": "x", "name": s.get("set", "")} for s in streams],
    }
    return parse_config(changed(recipe, changes))
