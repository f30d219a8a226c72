"""What a run tells the plan panel in the browser that started it: events, never an obstacle.

`stiv.plan`        {node, plan, prompt}: the plan that a plan node made.
`stiv.long_video`  {node, run, kind, …} of a STIV Long Video:
    start     plan, prompt, kept, memory, disk
    check     the same and seconds, of a dry run
    segment   name, made, seconds: one is there, made now or kept from before
    pictures  pictures: a JPEG as a data URL by the segment's name
    end       made, seconds, seams

`prompt` holds the node and all that it depends on, as the browser sent them, so that it can tell
later what was changed since. Nothing is worked out or sent where no browser listens.
"""

from __future__ import annotations

import base64
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from comfy_execution.graph_utils import is_link
from comfy_execution.progress import get_progress_state
from comfy_execution.utils import get_executing_context

from ...stiv.plan import Plan
from ...stiv.plan_view import plan_view
from ...stiv.seams import Jump, Seam

PLAN, LONG_VIDEO = "stiv.plan", "stiv.long_video"
MAX_PROMPT = 4_000_000  # characters; a larger one is left out, and nothing is known to be the same


def tell_plan(plan: Plan) -> None:
    """The plan that the running node made."""
    _send(PLAN, lambda: {"plan": plan_view(plan), "prompt": source_prompt()})


def tell_run(kind: str, work: Callable[[], Mapping[str, Any]]) -> None:
    """An event of the running STIV Long Video, or of the one that the running node is inside of;
    `work` gives what it says, and is called only if somebody listens."""
    _send(LONG_VIDEO, lambda: {"kind": kind, "run": _context().prompt_id, **work()})


def source_prompt() -> dict[str, Any] | None:
    """The nodes that the running node depends on, and itself, by id; None where they are too
    large to send."""
    whole = get_progress_state().dynprompt.get_original_prompt()
    found: dict[str, Any] = {}
    waiting = [_original_node()]
    while waiting:
        name = waiting.pop()
        if name in found or name not in whole:
            continue
        node = whole[name]
        found[name] = {"class_type": node["class_type"], "inputs": node["inputs"]}
        waiting += [value[0] for value in node["inputs"].values() if is_link(value)]
    return found if len(json.dumps(found, default=str)) <= MAX_PROMPT else None


def pictures_to_json(pictures: Mapping[str, bytes]) -> dict[str, str]:
    """JPEG files as data URLs."""
    return {
        name: "data:image/jpeg;base64," + base64.b64encode(data).decode()
        for name, data in pictures.items()
    }


def seams_to_json(seams: Sequence[Seam]) -> list[dict[str, Any]]:
    """Ratios to the usual change; None where they are not known."""
    return [
        {
            "position": seam.position,
            "luma": _ratio(seam.luma),
            "colour": _ratio(seam.colour),
            "motion": _ratio(seam.motion),
            "stands_still": seam.stands_still,
        }
        for seam in seams
    ]


def _ratio(jump: Jump) -> float | None:
    return round(jump.ratio, 3) if math.isfinite(jump.ratio) else None


def _send(event: str, work: Callable[[], Mapping[str, Any]]) -> None:
    from server import PromptServer  # the host's; imported late, for it starts the web stack

    server = getattr(PromptServer, "instance", None)
    listener = getattr(server, "client_id", None)
    if _context() is None or listener is None or listener not in server.sockets:
        return
    try:
        server.send_sync(event, {"node": _original_node(), **work()}, listener)
    except Exception:
        logging.warning("STIV: the plan panel could not be told of %s", event, exc_info=True)


def _context() -> Any:
    return get_executing_context()


def _original_node() -> str:
    """The id, in the prompt that was sent, of the node that runs or that the running one came
    out of."""
    return get_progress_state().dynprompt.get_real_node_id(_context().node_id)
