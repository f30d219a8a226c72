"""Running steps over rows: worker processes, time limits, quarantine, going on after being stopped.

Every section that is made is at once in the shard's log, so that a run may be killed anywhere and
loses the rows in flight only. Rows are taken and answers written in the order of the rows, so that
the results are the same for any number of workers and however often a run was stopped.

A step that fails for a row leaves an error in its section. Where a worker process crashed or hung,
each of the row's steps is tried alone, to find which it was; a file that costs several processes
is given up.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from tqdm import tqdm

from ..data.workers import Workers
from ..names import one_line
from . import job
from .rows import Log, Row, Section, file_name, seconds
from .step import Step, Unavailable
from .work import Busy, Shard, Work

MOST_LOST = 2  # worker processes that the segments of one file may cost
_EXAMPLES = 5


@dataclass
class Report:
    """What a run did."""

    rows: int = 0
    done: int = 0  # rows that nothing was to be done for
    waiting: Counter[str] = field(default_factory=Counter)  # rows without a section, by its name
    made: Counter[str] = field(default_factory=Counter)  # sections, by step
    failed: int = 0  # sections with an error
    failures: list[tuple[str, str, str]] = field(default_factory=list)  # the first: file, step, why
    busy: list[str] = field(default_factory=list)  # shards that another process works on
    video: float = 0.0  # seconds of video in the rows that were worked on
    wall: float = 0.0  # seconds that the run took
    clock: Counter[str] = field(default_factory=Counter)  # seconds of the workers, see `job.answer`

    def summary(self) -> str:
        """A few lines for people."""
        lines = [f"{self.rows} rows, {self.done} of them done before, in {self.wall:.1f} s"]
        if self.video and self.wall:
            lines[0] += f" ({self.video / self.wall:.1f} s of video per second)"
        lines += [f"{step}: {count} made" for step, count in sorted(self.made.items())]
        for section, count in sorted(self.waiting.items()):
            lines.append(f"left out: {count} rows without {section}")
        if self.failed:
            lines.append(f"failed: {self.failed} (all in the folder quarantine)")
            lines += [f"  {path}: {step}: {why}" for path, step, why in self.failures]
        if self.busy:
            lines.append(f"another process works on {', '.join(self.busy)}")
        return "\n".join(map(one_line, lines))


def run(
    work: Work,
    steps: Sequence[Step],
    *,
    workers: int = 2,
    limit: float = 120.0,
    retry: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Report:
    """Does the steps for every row of their kind that they were not done for.

    limit: seconds that a step may take for a row, see `Step.seconds`. retry: rows in which a step
    failed are done again. part: (i, n) takes every n-th shard from the i-th on.

    Raises NotReady and ValueError before any work; Unavailable where a step cannot go on for now;
    RuntimeError where no worker process can be started.
    """
    (kind,) = {step.kind for step in steps}
    for step in steps:
        step.check()
    shards = work.shards(kind, part)
    report = Report()
    began = time.monotonic()
    memory = None if any(s.memory is None for s in steps) else max(s.memory for s in steps)
    with (
        Workers(workers, limit, answer="training.engine.job:answer", memory=memory) as pool,
        _progress(shards, steps) as bar,
    ):
        runner = _Runner(work, steps, limit, retry, pool, report, bar)
        try:
            runner.run(shards, ahead=2 * workers)
        finally:
            report.wall = time.monotonic() - began
    return report


class _Runner:
    """One run: rows go out to the pool shard after shard, and come back in the same order."""

    def __init__(self, work: Work, steps, limit, retry, pool: Workers, report: Report, bar):
        self.work, self.steps, self.limit, self.retry = work, steps, limit, retry
        self.pool, self.report, self.bar = pool, report, bar
        self.open: deque[_Open] = deque()  # shards with rows in flight, in order

    def run(self, shards: Sequence[Shard], ahead: int) -> None:
        def request(item: _Item) -> dict:
            return job.request(item.steps, item.row, self.work.media, self.limit)

        try:
            for item, (reply, _) in self.pool.ordered(self._items(shards), request, ahead):
                while self.open[0] is not item.shard:
                    self._finish(self.open.popleft())
                self._take(item, reply)
            while self.open:
                self._finish(self.open.popleft())
        finally:
            for shard in self.open:
                shard.close()

    def _items(self, shards: Sequence[Shard]) -> Iterator[_Item]:
        """Every row that something is to be done for, with what."""
        for shard in shards:
            try:
                opened = _Open(shard, self.steps)
            except Busy:
                self.report.busy.append(shard.name)
                continue
            self.open.append(opened)
            nothing = True
            for row in shard.rows():
                if not self.retry:
                    opened.note_lost(row)
                steps = self._to_do(row)
                if steps:
                    nothing = False
                    yield _Item(opened, row, steps, opened.lost_before[file_name(row)])
            if nothing:
                self.open.remove(opened)
                self._finish(opened)

    def _to_do(self, row: Row) -> list[Step]:
        self.report.rows += 1
        steps = [step for step in self.steps if not step.is_done(row, retry=self.retry)]
        lacking = {step: step.lacks(row) for step in steps}
        for section in {name for name in lacking.values() if name}:
            self.report.waiting[section] += 1
        steps = [step for step in steps if lacking[step] is None]
        if not steps:
            self.report.done += not any(lacking.values())
            self.bar.update()
        return steps

    def _take(self, item: _Item, reply: dict) -> None:
        shard, row, steps = item.shard, item.row, item.steps
        path = file_name(row)
        if item.lost_before + shard.lost[path] >= MOST_LOST:
            reason = f"given up: the file cost {MOST_LOST} worker processes"
            sections = {step.name: job.failed(reason, step.stamp()) for step in steps}
        elif reply.get("lost"):
            sections = self._alone(row, steps, reply["error"])
            shard.lost[path] += 1
        else:
            sections = self._sections(reply)
        shard.log.append({"id": row["id"], "sections": sections})
        for name, section in sections.items():
            if "error" in section:
                self.report.failed += 1
                if len(self.report.failures) < _EXAMPLES:
                    self.report.failures.append((path, name, section["error"]))
            else:
                self.report.made[name] += 1
        self.report.video += seconds(row)
        self.bar.set_postfix_str(f"{self.report.failed} failed", refresh=False)
        self.bar.update()

    def _alone(self, row: Row, steps: Sequence[Step], reason: str) -> dict[str, Section]:
        """The sections of steps that together lost their process."""
        if len(steps) == 1:
            return {steps[0].name: {**job.failed(reason, steps[0].stamp()), "lost": True}}
        sections: dict[str, Section] = {}
        for step in steps:
            asked = self.pool.submit(job.request([step], row, self.work.media, self.limit))
            reply, _ = asked.result()
            lost = reply.get("lost")
            sections |= self._alone(row, [step], reply["error"]) if lost else self._sections(reply)
        return sections

    def _sections(self, reply: dict) -> dict[str, Section]:
        if "unavailable" in reply:
            raise Unavailable(reply["unavailable"])
        clock = reply["clock"]
        self.report.clock.update({f"step {name}": t for name, t in clock.pop("steps").items()})
        self.report.clock.update(clock)
        return reply["sections"]

    def _finish(self, shard: _Open) -> None:
        shard.finish()
        for step in self.steps:
            step.finish(shard.shard)
        shard.close()


class _Open:
    """A shard that is being worked on. Raises Busy where another process does so."""

    def __init__(self, shard: Shard, steps: Sequence[Step]):
        self.shard = shard
        self.lost: Counter[str] = Counter()  # processes that a file has cost this run
        self.lost_before: Counter[str] = Counter()  # and earlier ones, in the rows read so far
        self._steps = steps
        self._stack = ExitStack()
        shard.take_in_leftovers()
        self.log: Log = self._stack.enter_context(shard.log(steps))

    def note_lost(self, row: Row) -> None:
        """Counts what an earlier run of the same steps and settings lost with this row."""
        if any(row.get(s.name, {}).get("lost") and s.is_done(row) for s in self._steps):
            self.lost_before[file_name(row)] += 1

    def finish(self) -> None:
        self.shard.take_in(self.log)
        self.log.delete()

    def close(self) -> None:
        self._stack.close()


@dataclass(frozen=True)
class _Item:
    """A row that steps are to be done for."""

    shard: _Open
    row: Row
    steps: list[Step]
    lost_before: int
    """Processes that its file cost earlier runs in the rows up to this one. Rows are read ahead of
    the answers, further with more workers: counts of later rows would depend on how far."""


def _progress(shards: Sequence[Shard], steps: Sequence[Step]) -> tqdm:
    """Rows done, rate and time left; on a terminal often, in a log file twice a minute."""
    total = 0
    for shard in shards:
        with open(shard.path, "rb") as file:
            total += sum(1 for _ in file)
    name = steps[0].name if len(steps) == 1 else f"{len(steps)} steps"
    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(total=total, desc=name, unit="row", mininterval=interval, maxinterval=interval)
