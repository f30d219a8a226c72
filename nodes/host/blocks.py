"""Blocks of a long video: what they are told, checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from ...stiv.plan import Segment
from ...stiv.prompts import quote
from ...stiv.timeline import Block
from .segments import LongVideo, SegmentHandle

_NODE = "STIV Make Block"
_LEAVE_IT = "use STIV Long Video, which adds these nodes by itself"


def next_block(video: LongVideo, number: int, made: Sequence[SegmentHandle]) -> Block:
    """The block of that number. Raises ValueError unless it is the one after what is made."""
    blocks = video.blocks
    if not 0 <= number < len(blocks):
        raise ValueError(
            f"{_NODE}: number is {number}, the plan has blocks 0 to {len(blocks) - 1}: {_LEAVE_IT}"
        )
    before = blocks[number].segments.start
    if len(made) != before:
        raise ValueError(
            f"{_NODE}: made has {len(made)} segments, block {number} comes after {before}: "
            f"{_LEAVE_IT}"
        )
    return blocks[number]


def texts_to_json(nodes: Mapping[tuple[str, int], str]) -> str:
    """Ids of the nodes that encode texts, by text and stride, as a widget value."""
    return json.dumps([[text, stride, node] for (text, stride), node in nodes.items()])


def texts_from_json(
    texts: str, segments: Iterable[Segment], negative: str
) -> dict[tuple[str, int], str]:
    """The inverse. Raises ValueError for anything else, and where a segment's text is missing."""
    try:
        nodes = {(str(text), int(stride)): str(node) for text, stride, node in json.loads(texts)}
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{_NODE}: texts is not understood ({error!r}): {_LEAVE_IT}") from None
    for segment in segments:
        for text in (segment.prompt, negative):
            if (text, segment.step) not in nodes:
                raise ValueError(
                    f"{_NODE}: texts has no node for {quote(text)} with stride {segment.step}: "
                    f"{_LEAVE_IT}"
                )
    return nodes
