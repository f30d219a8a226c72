"""Image models as the start of video models: exact where the paper's recipe makes it exact."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stiv.config import STIVConfig
from stiv.convert.initialise import grow
from stiv.model import STIVTransformer
from tests.models import random_model

IMAGE = STIVConfig(
    width=32,
    depth=2,
    heads=2,
    text_width=8,
    pooled_width=8,
    temporal_patch=1,
    temporal_attention=False,
    mask_decoder_blocks=1,
)
VIDEO = replace(IMAGE, temporal_patch=2, temporal_attention=True)


def trained(config: STIVConfig, seed: int) -> STIVTransformer:
    return random_model(config, seed=seed, std=0.1)


@pytest.mark.parametrize("position", ["rope", "sincos"])
def test_a_still_video_gives_the_still_images_output(position: str) -> None:
    image_config = replace(IMAGE, position=position)
    image, video = trained(image_config, 0), STIVTransformer(replace(VIDEO, position=position))
    video.load_state_dict(grow(image.state_dict(), image_config, video.config))
    still, text, t = torch.randn(1, 4, 1, 8, 8), torch.randn(1, 3, 8), torch.tensor([0.3])
    micro = torch.tensor([[64.0, 64, 0, 0, 1, 6]])
    expected = image(still, t, text, micro=micro)
    got = video(still.expand(-1, -1, 6, -1, -1), t, text, micro=micro)
    torch.testing.assert_close(got, expected.expand_as(got), atol=2e-6, rtol=1e-5)


def test_a_joint_start_is_spatial_of_one_and_temporal_of_the_other() -> None:
    image, video = trained(IMAGE, 0), trained(VIDEO, 1)
    state = grow(image.state_dict(), IMAGE, VIDEO, temporal=video.state_dict())
    for name, tensor in state.items():
        if ".temporal_attn." in name:
            assert torch.equal(tensor, video.state_dict()[name])
        elif name in image.state_dict() and "final" not in name and "patch" not in name:
            assert torch.equal(tensor, image.state_dict()[name])


def test_what_does_not_fit_is_named() -> None:
    wider = replace(VIDEO, width=64)
    with pytest.raises(ValueError, match=r"shape .*the new model needs"):
        grow(trained(IMAGE, 0).state_dict(), IMAGE, wider)
    with pytest.raises(ValueError, match=r"the new model has no blocks\.2"):
        deeper = replace(IMAGE, depth=3)
        grow(trained(deeper, 0).state_dict(), deeper, VIDEO)
    with pytest.raises(ValueError, match="temporal_patch 2 cannot become 4"):
        grow(trained(VIDEO, 0).state_dict(), VIDEO, replace(VIDEO, temporal_patch=4))
