"""Tasks of datatrove. Imported only with that engine."""

from __future__ import annotations

from collections.abc import Sequence

from datatrove.pipeline.base import PipelineStep

from .duplicates import mark_duplicates
from .run import run
from .step import Step, make_step
from .work import Work

_TYPE = "🎞 DATA ENGINE"


class ShardTask(PipelineStep):
    """Runs steps over the shards of one task. It holds plain values: engines pickle it."""

    type = _TYPE

    def __init__(
        self, work: Work, steps: Sequence[Step], workers: int, limit: float, retry: bool
    ) -> None:
        super().__init__()
        self.folder, self.media = work.folder.absolute(), work.media.absolute()
        self.settings = [(step.name, step.settings()) for step in steps]
        self.workers, self.limit, self.retry = workers, limit, retry
        self.name = "-".join(step.name for step in steps)[:80]

    @property
    def steps(self) -> list[Step]:
        return [make_step(name, settings) for name, settings in self.settings]

    def run(self, data=None, rank: int = 0, world_size: int = 1):
        """The steps for every `world_size`-th shard from shard `rank` on. Raises RuntimeError where
        another process works on one of them, and what `training.engine.run.run` raises."""
        report = run(
            Work.open(self.folder, self.media),
            self.steps,
            workers=self.workers,
            limit=self.limit,
            retry=self.retry,
            part=(rank, world_size),
        )
        print(report.summary())
        if report.busy:
            raise RuntimeError(f"another process works on the shards {', '.join(report.busy)}")
        self.stat_update("rows", value=report.rows - report.done)
        self.stat_update("failed", value=report.failed)
        self.stat_update("seconds of video", value=round(report.video))
        for section, count in report.waiting.items():
            self.stat_update(f"left out without {section}", value=count)
        return data


class MarkTask(PipelineStep):
    """Marks the duplicates among the files of a work folder."""

    type = _TYPE
    name = "duplicates"

    def __init__(self, work: Work) -> None:
        super().__init__()
        self.folder = work.folder.absolute()

    def run(self, data=None, rank: int = 0, world_size: int = 1):
        """All files, in one task. Only rows are read."""
        marked = mark_duplicates(Work.open(self.folder, is_read=False))
        self.stat_update("duplicates", value=marked)
        return data
