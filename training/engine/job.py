"""What a worker process does: steps over one row, asked for by `training.engine.run`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from .reader import Frame, Reader
from .rows import Row, Section
from .step import FrameStep, Step, Unavailable, make_step

_LONGEST_REASON = 500  # characters


def request(steps: Sequence[Step], row: Row, root: Path, limit: float) -> dict[str, Any]:
    """The message that asks for steps over a row. limit: seconds that each may take."""
    return {
        "steps": [[step.name, json.dumps(step.settings()), step.stamp()] for step in steps],
        "row": row,
        "root": str(root),
        "limit": sum(step.seconds(row, limit) for step in steps),
    }


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The sections of the request's steps for its row, and the seconds that they took.

    A step that fails has a section with `error`. The answer is `unavailable` alone where the row
    is not to blame.
    """
    began = time.perf_counter()
    try:
        steps = [(_step(name, settings), stamp) for name, settings, stamp in request["steps"]]
        reader = Reader(request["row"], Path(request["root"]))
        sections, spent = run_steps(steps, request["row"], reader)
    except Unavailable as error:
        return {"unavailable": str(error)[:_LONGEST_REASON]}, b""
    clock = {**asdict(reader.clock), "seconds": time.perf_counter() - began, "steps": spent}
    return {"sections": sections, "clock": clock}, b""


def run_steps(
    steps: Sequence[tuple[Step, dict[str, Any]]], row: Row, reader: Reader
) -> tuple[dict[str, Section], dict[str, float]]:
    """The section of each step, given with its stamp, and the seconds that each took.

    All `FrameStep`s see the frames of one pass. A step that fails leaves the others alone. Raises
    Unavailable.
    """
    runs = [_Run(step, stamp) for step, stamp in steps]
    passing = [run for run in runs if isinstance(run.step, FrameStep)]
    for run in runs:
        if run in passing:
            run.measure = run.attempt(run.step.start, row)
        else:
            run.section = run.attempt(run.step.run, row, reader)
    try:
        if any(run.error is None for run in passing):
            for frame in reader.stream():
                for run in passing:
                    run.see(frame)
    except Unavailable:
        raise
    except Exception as error:  # of the file: a step's own are kept by its run
        for run in passing:
            run.error = run.error or error
    for run in passing:
        if run.error is None:
            run.section = run.attempt(run.measure.result)
    return {run.step.name: run.outcome() for run in runs}, {r.step.name: r.seconds for r in runs}


class _Run:
    """One step over one row; what it raises is kept, so that the others go on."""

    def __init__(self, step: Step, stamp: dict[str, Any]):
        self.step, self.stamp = step, stamp
        self.measure = self.section = None
        self.error: Exception | None = None
        self.seconds = 0.0

    def attempt(self, call: Callable, *arguments: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*arguments)
        except Unavailable:
            raise
        except Exception as error:
            self.error = error
        finally:
            self.seconds += time.perf_counter() - began

    def see(self, frame: Frame) -> None:
        if self.error is None and self.attempt(self.measure.wants, frame):
            self.attempt(self.measure.add, frame)

    def outcome(self) -> Section:
        if self.error is None:
            self.attempt(_check_numbers, self.section)
        if self.error is None:
            return {**self.section, "made_by": self.stamp}
        return failed(_say(self.error), self.stamp)


def _check_numbers(section: Section) -> None:
    """Raises ValueError for what rows cannot hold: it would end the run, not the row."""
    try:
        json.dumps(section, allow_nan=False)
    except ValueError:
        raise ValueError("gave what is no number (NaN), or an infinite one") from None


def failed(reason: str, stamp: dict[str, Any]) -> Section:
    """The section of a step that could not do a row."""
    return {"error": reason[:_LONGEST_REASON], "made_by": stamp}


def _say(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "needs more memory than a worker process may have"
    return str(error) if isinstance(error, ValueError) and str(error) else repr(error)


@cache  # models stay loaded
def _step(name: str, settings: str) -> Step:
    return make_step(name, json.loads(settings))
