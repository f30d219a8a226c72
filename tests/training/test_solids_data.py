"""View sets as latents, as a stream beside the clips, and in the card of what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import changed
from tests.training.vaes import make_vae
from training.batches import make_batch
from training.codec import SpaceCodec
from training.config import parse_config
from training.data.loader import Loader
from training.data.plan import Plan
from training.doctor import doctor, plan
from training.export import export
from training.loop import Trainer
from training.shapes.cache import encode_clips, write_stats
from training.shapes.dataset import ShapesDataset
from training.solids.dataset import SolidsDataset
from training.solids.render import view_set
from training.solids.scene import scene_from_seed
from training.streams import open_streams

STREAMS = [
    {"batch": 4, "weight": 0.5},
    {"batch": 2, "weight": 0.5, "set": "solids", "tasks": {"multi_view": 1.0}},
]


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips and view sets of one VAE, 32 pixels square."""
    folder = tmp_path_factory.mktemp("latents")
    write_stats(folder, encode_clips(make_vae(), folder, "train", 8, frames=4, size=32))
    SolidsDataset.encode(make_vae(), folder, "train", 5, size=32, low_precision=False)
    return folder


@pytest.fixture
def config(recipe: dict, latents: Path):
    return parse_config(changed(recipe, {"data.latents": latents, "data.streams": STREAMS}))


def test_samples_are_the_views_in_the_clips_latent_space(latents: Path) -> None:
    data, clips = SolidsDataset(latents / "solids"), ShapesDataset(latents)
    assert data.latents == clips.latents
    assert data.buckets == {"7x4x4": 5}
    codec = SpaceCodec(make_vae(), data.latents)
    for index in (0, 4):
        sample = data.load("7x4x4", index)
        views = view_set(scene_from_seed(index), 32)
        assert torch.allclose(
            codec.encode(views[None])[0], torch.from_numpy(sample.latents), atol=0.02
        )
        assert (sample.captions, sample.key) == ((), f"solids#{index}")
        assert sample.micro.tolist() == [32, 32, 0, 0, 1, 7]
    assert data.digest() == SolidsDataset(latents / "solids").digest() != clips.digest()


def test_a_cache_goes_on_where_it_ended(latents: Path, tmp_path: Path) -> None:
    settings = {"size": 32, "shard": 2, "low_precision": False}
    paths = SolidsDataset.encode(make_vae(), tmp_path, "held_out", 3, **settings)
    times = [path.stat().st_mtime_ns for path in paths]
    paths[1].unlink()
    again = SolidsDataset.encode(make_vae(), tmp_path, "held_out", 3, **settings)
    assert again == paths and paths[0].stat().st_mtime_ns == times[0]
    assert {path.parent.name for path in paths} == {"solids"}


def test_only_the_vae_runs_in_low_precision(latents: Path, tmp_path: Path) -> None:
    SolidsDataset.encode(make_vae(), tmp_path, "train", 5, size=32)
    low, high = (
        torch.cat([load_file(path)["latents"] for path in folder.glob("solids/train-*")]).float()
        for folder in (tmp_path, latents)
    )
    assert float((low - high).abs().mean() / high.std()) < 0.02


def test_views_of_another_vae_or_without_clips_are_refused(tmp_path: Path) -> None:
    SolidsDataset.encode(make_vae(1), tmp_path, "train", 2, size=32)
    with pytest.raises(ValueError, match="holds no finished 'train' clips of shapes: encode them"):
        SolidsDataset(tmp_path / "solids")
    write_stats(tmp_path, encode_clips(make_vae(0), tmp_path, "train", 2, frames=4, size=32))
    with pytest.raises(ValueError, match=r"train-000000\.safetensors .* not made alike"):
        SolidsDataset(tmp_path / "solids")
    with pytest.raises(ValueError, match="holds no finished 'held_out' clips"):
        SolidsDataset(tmp_path / "solids", "held_out")


def test_a_stream_draws_its_own_tasks(config) -> None:
    streams = open_streams(config)
    assert streams.facts["dataset"] == "shapes, solids" and streams.facts["clips"] == 13
    seen = set()
    with Loader(Plan(streams.specs, config.seed, 40), config.seed) as loader:
        for raw in loader:
            batch = make_batch(raw, config, config.model.build())
            if raw.bucket != "7x4x4":
                assert batch.frame_mask[:, 1:].sum() == 0
                continue
            assert batch.captions == ["", ""]
            assert batch.frame_mask.tolist() == [[True] + [False] * 6] * 2
            for x, latents in zip(batch.x, raw.latents, strict=True):
                is_blank = not x[:, 0].any()
                assert is_blank or torch.equal(x[:, 0], latents[:, 0])
                seen.add(is_blank)
    assert seen == {True, False}  # the null image of multi-view is zeros


def test_a_run_on_both_tells_of_both(config, tmp_path: Path) -> None:
    trainer = Trainer(config)
    trainer.start()
    trainer.run()
    card = export(config, tmp_path / "both.safetensors")
    ranges = {task["task"]: task["frames"] for task in card.tasks}
    assert ranges == {"t2v": [4, 4], "ti2v": [4, 4], "multi_view": [7, 7]}
    text = plan(config)
    assert "tasks of stream 1 (solids): multi_view 100%" in text and "7x4x4" in text


def test_states_from_before_streams_had_tasks_go_on(tiny) -> None:
    """A key that is not set is not part of what a state is compared by."""
    config = tiny()
    trainer = Trainer(config)
    assert all("tasks" not in s for s in trainer.fingerprint()["config"]["data"]["streams"])


def test_missing_view_sets_are_named(config, latents: Path, tmp_path: Path) -> None:
    empty = config.model_dump(mode="json")
    empty["data"]["latents"] = str(tmp_path)
    findings = [str(f) for f in doctor(parse_config(empty)) if "solids" in str(f)]
    assert any("python -m training.solids.dataset" in finding for finding in findings)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ({"set": "solids"}, r"set its tasks: \{multi_view: 1.0\} and still: false"),
        ({"set": "solids", "tasks": {"t2v": 1.0}}, "views without words or motion"),
        ({"set": "solids", "tasks": {"multi_view": 1.0}, "still": True}, "still: false"),
        ({"set": "cones"}, "a stream takes set 'cones': expected one of"),
        ({"tasks": {"t2v": 0.5}}, "task shares sum to 0.5"),
        ({"tasks": {"dance": 1.0}}, "unknown task 'dance'"),
    ],
)
def test_streams_that_make_no_sense(recipe: dict, stream: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_config(changed(recipe, {"data.streams": [{"batch": 4}, stream]}))
