"""Cross-attention to the first frame, instead of frame replacement or beside it."""

from __future__ import annotations

import pytest
import torch

from tests.training.vaes import make_vae
from training.batches import make_batch
from training.codec import SpaceCodec
from training.config import TrainConfig
from training.loop import Trainer
from training.sampling import Sampler
from training.state import fingerprint

MODES = ("instead", "beside")


def settings(mode: str, **more) -> dict:
    """Of a run whose first frame is always given."""
    return {
        "data.image_attention": mode,
        "data.tasks": {"ti2v": 1.0},
        "data.image_dropout": 0.0,
        "data.streams": [{"batch": 4}],
        **more,
    }


def with_network(tiny, **changes) -> TrainConfig:
    config = tiny(**{"model.changes.image_cross_attention": True, **changes})
    assert config.model.build().image_cross_attention
    return config


def first_batch(trainer: Trainer):
    raw = next(trainer.loader)
    return raw, make_batch(raw, trainer.config, trainer.networks["diffusion_model"].config)


@pytest.mark.parametrize("mode", MODES)
def test_the_first_frame_is_shown_and_replaced_as_the_recipe_says(mode, tiny) -> None:
    trainer = Trainer(with_network(tiny, **settings(mode)))
    trainer.start()
    raw, batch = first_batch(trainer)
    assert torch.equal(batch.image, raw.latents[:, :, 0])
    replaced = mode == "beside"
    assert batch.frame_mask.any() == replaced
    assert torch.equal(batch.x[:, :, 0], raw.latents[:, :, 0]) == replaced
    parts = list(batch.split(2))
    assert torch.equal(torch.cat([part.image for part in parts]), batch.image)
    trainer.run(2)
    assert trainer.networks["diffusion_model"].image_embed.weight.abs().max() > 0


def test_a_dropped_picture_is_zeros(tiny) -> None:
    trainer = Trainer(with_network(tiny, **settings("beside", **{"data.image_dropout": 1.0})))
    trainer.start()
    _, batch = first_batch(trainer)
    assert not batch.image.any() and not batch.frame_mask.any()


def test_recipe_and_network_have_to_agree(tiny) -> None:
    with pytest.raises(ValueError, match="set both or neither"):
        tiny(**{"data.image_attention": "instead"})
    with pytest.raises(ValueError, match="set both or neither"):
        tiny(**{"model.changes.image_cross_attention": True})


def test_states_made_before_the_key_existed_go_on(tiny) -> None:
    values = fingerprint(tiny(), {})["config"]
    assert "image_attention" not in values["data"] and "weights" not in values["text"]


@pytest.fixture
def asked() -> list[dict]:
    return []


@pytest.fixture
def sampler(asked) -> Sampler:
    """Of a model that returns what it is shown, and notes it."""

    def velocity(x, t, texts, image=None):
        asked.append({"x": x, "image": image, "texts": texts})
        return torch.zeros_like(x) if image is None else torch.zeros_like(x) + image[:, :, None]

    codec = SpaceCodec(make_vae(width=4), {"shift": 0.0, "scale": 1.0})
    return Sampler(velocity, codec, (4, 3, 4, 4), steps=2, guidance_scale=2.0)


def given(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    clean = torch.ones(count, 4, 3, 4, 4)
    mask = torch.zeros(count, 3, dtype=torch.bool)
    mask[:, 0] = True
    return clean * mask[:, None, :, None, None], mask


def but(sampler: Sampler, **changes) -> Sampler:
    from dataclasses import replace

    return replace(sampler, **changes)


@pytest.mark.parametrize("mode", [None, *MODES])
def test_sampler_shows_the_picture_to_the_conditional_pass(mode, sampler, asked) -> None:
    made = but(sampler, image_attention=mode).latents(["a", "b"], *given(), seed=1)
    seen = asked[0]
    if mode is None:
        assert seen["image"] is None
    else:
        assert not seen["image"][:2].any() and (seen["image"][2:] == 1).all()
    assert torch.equal(seen["x"][2:, :, 0], torch.ones(2, 4, 4, 4)) == (mode != "instead")
    assert torch.equal(made[:, :, 0], torch.ones(2, 4, 4, 4)) == (mode != "instead")


@pytest.mark.parametrize("null", ["noised", "blank", "given"])
def test_unconditional_pass_sees_given_frames_as_it_is_told(null, sampler, asked) -> None:
    but(sampler, null=null).latents(["a", "b"], *given(), seed=1)
    first = asked[0]["x"][:2, :, 0]
    assert torch.equal(first, torch.ones_like(first)) == (null == "given")
    assert torch.equal(first, torch.zeros_like(first)) == (null == "blank")
    but(sampler, null=null, image_attention="beside").latents(["a"], *given(1), seed=1)
    assert asked[-1]["image"][:1].any() == (null == "given")


def test_renorm_keeps_the_conditional_magnitude(sampler) -> None:
    """Guided by 3 a velocity of ones is 3; renormed it is one again."""

    def velocity(x, t, texts):
        is_null = torch.tensor([not text for text in texts]).view(-1, 1, 1, 1, 1)
        return torch.where(is_null, torch.zeros_like(x), torch.ones_like(x))

    plain = but(sampler, velocity=velocity, guidance_scale=3.0)
    noise = plain.latents(["a"], seed=4) - 3
    assert torch.allclose(but(plain, renorm=True).latents(["a"], seed=4) - noise, torch.ones(()))


def test_a_seed_each_makes_videos_that_do_not_depend_on_their_neighbours(sampler) -> None:
    together = sampler.latents(["a", "b"], seed=[5, 6])
    assert torch.equal(together[1:], sampler.latents(["b"], seed=[6]))
    assert torch.equal(together[:1], sampler.latents(["a"], seed=5))
