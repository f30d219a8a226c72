"""Moving previews: the same colours as the host's own stills, small, and only where one looks."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from comfy.cli_args import LatentPreviewMethod, args
from ComfyUI_STIV.nodes.host import previews
from ComfyUI_STIV.nodes.host.latents import VideoLatents
from ComfyUI_STIV.stiv.public import LATENT_SPACES
from latent_preview import Latent2RGBPreviewer
from PIL import Image


@pytest.mark.parametrize("space", sorted(LATENT_SPACES))
def test_frames_have_the_colours_of_the_hosts_preview(space: str) -> None:
    latents = VideoLatents(LATENT_SPACES[space])
    x0 = torch.randn(2, latents.latent_channels, 7, 6, 8, generator=torch.manual_seed(1))
    host = Latent2RGBPreviewer(
        latents.latent_rgb_factors,
        latents.latent_rgb_factors_bias,
        latents.latent_rgb_factors_reshape,
    )
    frames = previews.strip(x0, latents)
    assert frames.shape == (7, 6, 8, 3)
    middle = torch.frombuffer(
        bytearray(host.decode_latent_to_preview(x0).tobytes()), dtype=torch.uint8
    )
    difference = frames[3].flatten().int() - middle.int()
    assert difference.abs().max() <= 1  # the host's order of rounding


def test_a_long_and_large_video_becomes_a_small_strip() -> None:
    latents = VideoLatents(LATENT_SPACES["sd"])
    frames = previews.strip(torch.zeros(1, 4, 100, 90, 160, dtype=torch.bfloat16), latents)
    assert frames.shape == (15, 54, 96, 3)  # every seventh
    told = previews.describe(frames, torch.Size((1, 4, 100, 90, 160)))
    with Image.open(io.BytesIO(base64.b64decode(told.pop("strip")))) as picture:
        assert (picture.format, picture.size) == ("JPEG", (15 * 96, 54))
    assert told == {"count": 15, "width": 96, "height": 54, "frames": 100}


def test_without_a_callback_a_server_or_previews_nothing_is_wrapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def callback(*_: object) -> None: ...

    latents = VideoLatents(LATENT_SPACES["sd"])
    assert previews.with_moving_preview(None, latents) is None
    assert previews.with_moving_preview(callback, latents) is callback  # no server runs here
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Auto)
    assert previews.with_moving_preview(callback, latents) is callback


def test_a_preview_that_fails_leaves_the_sampling_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    latents = VideoLatents(LATENT_SPACES["sd"])
    monkeypatch.setattr(args, "preview_method", LatentPreviewMethod.Auto)
    monkeypatch.setattr(previews, "_server", lambda: object())  # a server that can send nothing
    monkeypatch.setattr(previews, "get_executing_context", lambda: object())
    call = previews.with_moving_preview(lambda *step: "kept", latents)
    assert call(0, torch.zeros(1, 4, 3, 4, 4), torch.zeros(1), 2) == "kept"
    assert "moving preview could not be sent" in caplog.text
