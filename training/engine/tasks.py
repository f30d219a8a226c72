"""A task of datatrove: every n-th shard. Imported only with that engine."""

from __future__ import annotations

from collections.abc import Sequence

from datatrove.pipeline.base import PipelineStep

from .run import run
from .step import Step, make_step
from .work import Work


class ShardTask(PipelineStep):
    """Runs steps over the shards of one task. It holds plain values: engines pickle it."""

    type = "🎞 DATA ENGINE"
    name = "steps"

    def __init__(
        self, work: Work, steps: Sequence[Step], workers: int, limit: float, retry: bool
    ) -> None:
        super().__init__()
        self.folder, self.media = work.folder.absolute(), work.media.absolute()
        self.settings = [(step.name, step.settings()) for step in steps]
        self.workers, self.limit, self.retry = workers, limit, retry

    @property
    def steps(self) -> list[Step]:
        return [make_step(name, settings) for name, settings in self.settings]

    def run(self, data=None, rank: int = 0, world_size: int = 1):
        """The steps for every `world_size`-th shard from shard `rank` on."""
        report = run(
            Work(self.folder, self.media),
            self.steps,
            workers=self.workers,
            limit=self.limit,
            retry=self.retry,
            part=(rank, world_size),
        )
        if report.busy:
            raise RuntimeError(f"another process works on the shards {', '.join(report.busy)}")
        self.stat_update("rows", value=report.rows - report.done)
        self.stat_update("failed", value=report.failed)
        self.stat_update("seconds of video", value=round(report.video))
        return data
