"""Sample videos of a run are drawn under conditions that it trains on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.vaes import make_vae
from training.encoders.taesd import TinyVAE
from training.loop import Trainer
from training.shapes.cache import encode_clips, write_stats
from training.solids.dataset import SolidsDataset
from training.vae import VAETraining, save_vae


@pytest.fixture
def watch(tiny_vae: TinyVAE, tmp_path: Path) -> dict:
    path = tmp_path / "vae.safetensors"
    save_vae(tiny_vae, path, VAETraining(widths=(8, 8, 8, 8), blocks=1))
    settings = {"samples_every": 6, "prompts": ["", "a red circle"], "sample_steps": 2}
    return {"vae": str(path), **{f"watch.{key}": value for key, value in settings.items()}}


def seen_by_samples(config) -> tuple[Trainer, list]:
    """What the model is called with for one round of sample videos, before any training."""
    trainer = Trainer(config)
    trainer.start()
    seen: list = []
    trainer.model.register_forward_pre_hook(lambda _, args: seen.append(args))
    trainer.watch._draw_samples(0)
    assert len(seen) == 2
    return trainer, seen


@pytest.mark.parametrize(
    ("streams", "frames", "stride"),
    [
        ([{"every": 2}], 2, 2),
        ([{}], 4, 1),
        ([{"set": "keys"}], 4, 2),  # of 2 to 20
        ([{"still": True}], 1, 1),
        ([{"still": True}, {"every": 2}, {}], 2, 2),  # the first stream of videos
    ],
)
def test_samples_have_length_and_stride_of_the_clips(
    tiny, watch: dict, streams: list[dict], frames: int, stride: int
) -> None:
    _, seen = seen_by_samples(tiny(**watch, **{"data.streams": streams}))
    for x, _, _, micro in seen:
        assert x.shape[2] == frames
        assert micro.tolist() == [[32, 32, 0, 0, stride, frames]]


@pytest.fixture
def views(tiny, watch: dict, tmp_path: Path):
    """views(**changes): the config of a run on view sets alone."""
    folder = tmp_path / "views"
    write_stats(folder, encode_clips(make_vae(), folder, "train", 2, frames=4, size=32))
    SolidsDataset.encode(make_vae(), folder, "train", 8, size=32, low_precision=False)
    stream = {"batch": 2, "set": "solids", "tasks": {"multi_view": 1.0}}
    values = {"data.latents": str(folder), "data.streams": [stream], "text.pretrain_steps": 0}
    return lambda **changes: tiny(**watch | values | changes)


def test_multi_view_samples_show_a_held_out_input_view_or_zeros(views) -> None:
    config = views(**{"watch.heldout_every": 3, "watch.heldout_clips": 1})
    trainer, seen = seen_by_samples(config)
    (held_out,) = trainer.streams.held_out
    view = torch.as_tensor(held_out.latents)[:, 0]
    for x, *_ in seen:
        null, given = x.chunk(2)
        assert not null[:, :, 0].any()
        assert all(torch.equal(row, view) for row in given[:, :, 0])
        assert torch.equal(null[:, :, 1:], given[:, :, 1:])


def test_multi_view_samples_without_an_input_view_say_what_to_do(views) -> None:
    with pytest.raises(ValueError, match=r"set watch\.heldout_every, or set watch\.samples_every"):
        Trainer(views()).start()
