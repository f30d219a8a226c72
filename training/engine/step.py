"""What a step of the engine is, and the table of all steps.

A step is a frozen dataclass: its fields are its settings, plain values that JSON can hold, since it
is made again from them in every worker process. For one row it gives one section:

    @dataclass(frozen=True)
    class Loudness(Step):
        name: ClassVar[str] = "loudness"
        version: ClassVar[int] = 1
        packages: ClassVar[dict[str, str]] = {"soundlib": "soundlib"}

        def run(self, row, reader):
            return {"score": …}

`version` is raised when the same settings would give other values. What was done with the same
version and settings is never done again. A step is added by a line in `STEPS`; the engine then runs
it over rows with worker processes, a time limit, quarantine and resuming (`training.engine.run`).

Steps that look at frames as they pass are `FrameStep`s: however many of them run together, the
segment is decoded once.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from ..data.worker import MEMORY
from .rows import Row, Section

if TYPE_CHECKING:
    from .reader import Frame, Reader
    from .work import Shard

Kind = Literal["files", "segments"]

#: name of a step -> where its class is
STEPS: dict[str, str] = {
    "probe": "training.engine.scan:Probe",
    "fingerprint": "training.engine.scan:Fingerprint",
    "segments": "training.engine.segment:Segment",
    "motion": "training.engine.features.motion:Motion",
    "clarity": "training.engine.features.clarity:Clarity",
    "picture": "training.engine.features.picture:Picture",
    "text": "training.engine.features.text:Text",
    "clip": "training.engine.features.clip:Clip",
    "captions_short": "training.engine.captions:ShortCaptions",
    "captions_dense": "training.engine.captions:DenseCaptions",
    "captions_motion": "training.engine.captions:MotionCaptions",
    "categorize": "training.engine.categorize:Categorize",
    "dsg_short": "training.engine.dsg:ShortDsg",
    "dsg_dense": "training.engine.dsg:DenseDsg",
    "dsg_motion": "training.engine.dsg:MotionDsg",
    "dsg_source": "training.engine.dsg:SourceDsg",
}


class NotReady(ValueError):
    """A package, model or file that a step needs is missing; the text says how to get it."""


class Unavailable(RuntimeError):
    """Something that a step needs, as a server, is gone for now, and no row is to blame: the run
    ends with the text, keeps what it has, and goes on when it is started again."""


@dataclass(frozen=True)
class Step:
    """The base of every step. Its class variables say what it is, its fields are settings."""

    name: ClassVar[str]  # of the step and of its section
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "segments"  # which rows it is run over
    packages: ClassVar[Mapping[str, str]] = {}  # module it imports -> what pip calls it
    after: ClassVar[Sequence[str]] = ()  # sections that a row must have, without error, before it
    unstamped: ClassVar[Sequence[str]] = ()  # settings that change no result, as an address
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {}  # least and most of a setting
    memory: ClassVar[int | None] = MEMORY  # bytes of a process's address space; None = any (GPUs)

    def run(self, row: Row, reader: Reader) -> Section:
        """The section for a row, without `made_by`. Raises ValueError where the row gives none,
        Unavailable where not the row is to blame.

        Called in a worker process, which it may crash or hang. The same object sees many rows, so
        models are loaded once (`functools.cached_property`).
        """
        raise NotImplementedError

    def check(self) -> None:
        """Called once before any work. Raises NotReady naming what is missing and how to get it,
        ValueError for a setting outside its limits."""
        for key, (least, most) in self.limits.items():
            found = getattr(self, key)
            if not least <= found <= most:  # not a number, too
                raise ValueError(f"{self.name}.{key} is {found}: expected {least} to {most}")
        missing = [pip for name, pip in self.packages.items() if not _installed(name)]
        if missing:
            raise NotReady(
                f"{self.name}: {' and '.join(missing)} missing: pip install {' '.join(missing)}"
            )

    def stamp(self) -> dict[str, Any]:
        """What decides the values: version and settings. `made_by` of the sections."""
        settings = {k: v for k, v in self.settings().items() if k not in self.unstamped}
        return {"version": self.version, **settings}

    def finish(self, shard: Shard) -> None:
        """Called when all rows of a shard have been visited, in the main process."""

    def seconds(self, row: Row, limit: float) -> float:
        """How long the step may take for a row; `limit` is what the user set for one."""
        return limit

    def settings(self) -> dict[str, Any]:
        """The fields as plain data, see `make_step`."""
        return asdict(self)

    def is_done(self, row: Row, *, retry: bool = False) -> bool:
        """Whether the row has this step's section, made as it would be made now or by a newer
        version. retry: an error does not count as done."""
        section = row.get(self.name)
        if section is None or (retry and "error" in section):
            return False
        made_by, stamp = section.get("made_by", {}), self.stamp()
        return made_by == stamp or made_by.get("version", 0) > self.version

    def lacks(self, row: Row) -> str | None:
        """The section that has to come before and is missing or failed, if there is one."""
        return next((name for name in self.after if "error" in row.get(name, {"error": 0})), None)


class Measure(Protocol):
    """What a `FrameStep` makes of one segment. Frames come in the order in which they are shown."""

    def wants(self, frame: Frame) -> bool:
        """Whether it looks at this frame. Pixels are converted only for frames that one wants."""

    def add(self, frame: Frame) -> None:
        """Looks at a frame it wants. It keeps no more than a few of them."""

    def result(self) -> Section:
        """The section, after the last frame. Raises ValueError where the frames give none."""


@dataclass(frozen=True)
class FrameStep(Step):
    """A step that measures the frames of a segment as they pass."""

    def start(self, row: Row) -> Measure:
        """The measure of one segment."""
        raise NotImplementedError

    def run(self, row: Row, reader: Reader) -> Section:
        one = self.start(row)
        for frame in reader.stream():
            if one.wants(frame):
                one.add(frame)
        return one.result()


def step_class(name: str) -> type[Step]:
    """The class of a step. Raises ValueError for a name that there is not."""
    if name not in STEPS:
        raise ValueError(f"no step is called {name!r}: expected one of {', '.join(STEPS)}")
    module, _, attribute = STEPS[name].partition(":")
    return getattr(importlib.import_module(module, __package__), attribute)


def make_step(name: str, settings: Mapping[str, Any] | None = None) -> Step:
    """A step from plain data. Raises ValueError for an unknown step or setting."""
    kind = step_class(name)
    known = {field.name for field in fields(kind)}
    for key in settings or {}:
        if key not in known:
            raise ValueError(f"{name} has no setting {key!r}: expected one of {sorted(known)}")
    return kind(**(settings or {}))


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False
