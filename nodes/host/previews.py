"""Moving previews: several frames of the video that a sampler is making, for the pack's front end.

The host's own preview is one still picture per step. Where it is on, some frames more follow it
over the server's websocket as one small picture of frames side by side, a few times a second.
"""

from __future__ import annotations

import base64
import io
import logging
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from comfy.cli_args import LatentPreviewMethod, args
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context
from PIL import Image
from torch import Tensor

EVENT = "stiv.preview"
"""The websocket message: the node ids as in the host's own previews, and the strip."""
MOST_FRAMES = 16
LONGEST_SIDE = 96
"""Of one frame, in pixels."""
_PERIOD = 0.25  # seconds at least between two strips


def with_moving_preview(callback: Callable | None, latent_format: Any) -> Callable | None:
    """A sampler's callback that also sends moving previews.

    The same callback where nobody looks: without a callback or a server, or where previews are
    off (--preview-method none).
    """
    server, running = _server(), get_executing_context()
    if None in (callback, server, running) or args.preview_method == LatentPreviewMethod.NoPreviews:
        return callback
    last_sent = float("-inf")

    def call(step: int, x0: Tensor, x: Tensor, total_steps: int) -> Any:
        nonlocal last_sent
        result = callback(step, x0, x, total_steps)
        now, is_last = time.monotonic(), step + 1 == total_steps
        if x0.shape[2] > 1 and (is_last or now - last_sent >= _PERIOD):
            last_sent = now
            try:
                data = {**_node_ids(running), **describe(strip(x0, latent_format), x0.shape)}
                server.send_sync(EVENT, data, server.client_id)
            except Exception:  # nothing that is only looked at may end a run of hours
                logging.warning("STIV: the moving preview could not be sent", exc_info=True)
        return result

    return call


def strip(x0_BCTHW: Tensor, latent_format: Any) -> Tensor:
    """Up to 16 frames (t, h, w, 3) of the first video, uint8 on the CPU, as the latents'
    approximate colours."""
    every = -(-x0_BCTHW.shape[2] // MOST_FRAMES)
    x_TCHW = x0_BCTHW[0, :, ::every].movedim(1, 0).float()
    longest = max(x_TCHW.shape[-2:])
    if longest > LONGEST_SIDE:
        size = [max(1, side * LONGEST_SIDE // longest) for side in x_TCHW.shape[-2:]]
        x_TCHW = F.interpolate(x_TCHW, size=size, mode="area")
    x_THWC = x_TCHW.cpu().movedim(1, -1)  # one copy from the device, of little
    bias = latent_format.latent_rgb_factors_bias
    rgb_THW3 = x_THWC @ torch.tensor(latent_format.latent_rgb_factors)
    if bias is not None:
        rgb_THW3 = rgb_THW3 + torch.tensor(bias)
    return ((rgb_THW3 + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def describe(frames_THW3: Tensor, shape: torch.Size) -> dict[str, Any]:
    """What the front end gets of a strip: a JPEG of the frames side by side, and how many.

    shape: of the latents, (B, C, T, h, w).
    """
    count, height, width, _ = frames_THW3.shape
    side_by_side = frames_THW3.movedim(0, 1).reshape(height, count * width, 3)
    file = io.BytesIO()
    Image.fromarray(side_by_side.numpy()).save(file, format="JPEG", quality=85, subsampling=0)
    return {
        "strip": base64.b64encode(file.getvalue()).decode("ascii"),
        "count": count,
        "width": width,
        "height": height,
        "frames": shape[2],
    }


def _node_ids(running: Any) -> dict[str, str | None]:
    """Which node is sampling, by the names of the host's own preview event in the browser."""
    prompt, node = get_progress_state().dynprompt, running.node_id
    return {
        "jobId": running.prompt_id,
        "nodeId": node,
        "displayNodeId": prompt.get_display_node_id(node),
        "parentNodeId": prompt.get_parent_node_id(node),
        "realNodeId": prompt.get_real_node_id(node),
    }


def _server() -> Any:
    from server import PromptServer  # the host's; imported late, for it starts the web stack

    return getattr(PromptServer, "instance", None)
