"""The runs of a comparison: planned at equal compute, trained once, kept in a cache.

A run lies in the cache under a digest of all that decides it, so arms, comparisons and later calls
that ask for the same training share it, and what was stopped goes on. Several processes may work on
one cache: what one trains the others wait for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from stiv.checkpoint import read_card

from ...config import TrainConfig, parse_config
from ...estimate import Grid, flops
from ...export import export
from ...files import atomic
from ...loop import Diverged, Trainer
from ...networks import best_device
from ...options import BUNDLED
from ...sampling import latent_shape
from ...section import read_yaml
from ...shapes import DOMAIN_VERSION
from ...state import states
from ...watch.metrics import FILE as METRICS
from ...watch.metrics import read_metrics
from .comparison import ArmSection, Comparison, SetSection, StageSection

log = logging.getLogger(__name__)

MODEL, FACTS = "model.safetensors", "facts.json"
_TEXT_TOKENS = 24  # of a caption of the domain, for the FLOPs
# A network that predicts nothing has a loss of 2, the variances of latents and noise, give or take
# what batches differ by.
_NOTHING = 2.1
_LAST = 0.1  # share of the steps over which the last loss is a mean


@dataclass(frozen=True)
class Run:
    """One training, or a checkpoint that is there already (without a config)."""

    name: str
    seed: int
    folder: Path
    config: TrainConfig | None = None
    parents: tuple[Run, ...] = ()
    flops: float = 0.0
    """Of the training, by `training.estimate`."""
    shape: tuple[int, int, int] = (16, 8, 8)
    """(T, h, w) of what is sampled."""

    @property
    def checkpoint(self) -> Path:
        """The file that sampling opens."""
        return self.folder / MODEL if self.config else self.folder

    @property
    def facts(self) -> dict[str, Any] | None:
        """What its training came to; None while it is not done."""
        path = self.folder / FACTS
        if self.config is None:
            return {}
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


@dataclass
class Planner:
    """Makes the runs of a comparison. cache: where sets, runs and scores are kept; compiled: their
    blocks are, which changes nothing but rounding, so that they lie where others do."""

    comparison: Comparison
    cache: Path
    compiled: bool = False
    runs: dict[str, Run] = field(default_factory=dict)
    """By digest."""

    def run(self, arm: str, seed: int) -> Run:
        """An arm's, with those that it starts from. ValueError for a bad setting."""
        if self.comparison.checkpoint:
            return self._given(seed)
        section = self.comparison.arms[arm]
        steps = section.steps or self._steps(section)
        return self._planned(f"{arm}, seed {seed}", section, steps, seed)

    def _given(self, seed: int) -> Run:
        path = self.comparison.checkpoint
        path = BUNDLED if str(path) == "nano" else path.expanduser()
        if not path.is_file():
            raise ValueError(f"checkpoint {path} is not there")
        return Run(path.name, seed, path, shape=latent_shape(read_card(path), None)[1:])

    def _steps(self, section: ArmSection) -> int:
        """As many as the first arm's compute allows."""
        comparison = self.comparison
        if comparison.equal == "steps":
            return comparison.steps
        first = next(iter(comparison.arms.values()))
        budget = (first.steps or comparison.steps) * self._step_flops(first)
        return max(1, round(budget / self._step_flops(section)))

    def _step_flops(self, section: ArmSection | StageSection) -> float:
        config = self._config(section, 1, 0, Path("run"), stages=False)
        return step_flops(config, self.comparison.sets[self.comparison.set_of(section)])

    def _planned(self, name: str, section: ArmSection | StageSection, steps: int, seed: int) -> Run:
        parents = {
            stage: self.stage(stage, seed) for stage in sorted(_stages(section.train.values()))
        }
        found = self.comparison.sets[self.comparison.set_of(section)]
        draft = self._config(section, steps, seed, Path("run"), parents)
        decides = draft.model_dump(mode="json", exclude={"run", "name", "notes", "save", "watch"})
        decides["data"]["latents"] = set_identity(found)
        # Where files lie decides nothing: all of them are ours, or other runs'.
        decides["init"], decides["text"]["weights"] = None, bool(draft.text.weights)
        decides["vae"], decides["engine"]["compile"] = None, False
        origin = {key: _mentioned(value, parents) for key, value in section.train.items()}
        digest = digest_of([decides, origin])
        if digest not in self.runs:
            folder = self.cache / "runs" / digest
            frames = found.frames // max(s.every or 1 for s in draft.data.streams)
            self.runs[digest] = Run(
                name,
                seed,
                folder,
                self._config(section, steps, seed, folder, parents),
                tuple(parents.values()),
                steps * step_flops(draft, found),
                (frames, found.size // 8, found.size // 8),
            )
        return self.runs[digest]

    def stage(self, name: str, seed: int) -> Run:
        stages = self.comparison.stages
        if name not in stages:
            raise ValueError(f"there is no stage {name!r}: expected {', '.join(stages) or 'none'}")
        section = stages[name]
        return self._planned(f"stage {name}, seed {seed}", section, section.steps, seed)

    def _config(
        self,
        section: ArmSection | StageSection,
        steps: int,
        seed: int,
        folder: Path,
        parents: Mapping[str, Run] | None = None,
        *,
        stages: bool = True,
    ) -> TrainConfig:
        values = read_yaml(self.comparison.base)
        found = self.comparison.sets[self.comparison.set_of(section)]
        own = {"steps": steps, "seed": seed, "run": str(folder), "vae": str(BUNDLED)}
        own["data.latents"] = str(set_folder(self.cache, found))
        # Words come from where the network does, or else from ours.
        starts = any(key.startswith("init.") for key in section.train)
        own["text.weights"] = None if starts else str(BUNDLED)
        if self.compiled:
            own["engine.compile"] = True
        for key, value in {**section.train, **own}.items():
            if isinstance(value, str) and value.startswith("@"):
                if not stages:
                    continue
                value = str(parents[value[1:]].checkpoint)
            _set(values, key, value)
        return parse_config(values, str(self.comparison.base))


def _stages(values) -> set[str]:
    return {v[1:] for v in values if isinstance(v, str) and v.startswith("@")}


def _mentioned(value: Any, parents: Mapping[str, Run]) -> Any:
    is_stage = isinstance(value, str) and value.startswith("@")
    return parents[value[1:]].folder.name if is_stage else value


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        is_list = isinstance(values, list)
        values = values[int(section)] if is_list else values.setdefault(section, {})
    values[int(last) if isinstance(values, list) else last] = value


def digest_of(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def step_flops(config: TrainConfig, found: SetSection) -> float:
    """FLOPs of a training step, mean over its streams."""
    model, total, weights = config.model.build(), 0.0, 0.0
    side = found.size // 8
    for stream in config.data.streams:
        T = 1 if stream.still else found.frames // (stream.every or 1)
        grid = Grid.of(model, (T, side, side))
        kept = 1 - config.masking.ratio if grid.S > 1 else 1.0
        one = flops(model, (T, side, side), _TEXT_TOKENS, kept=kept)
        total += stream.weight * stream.batch * one
        weights += stream.weight
    return total / weights


# --- sets -----------------------------------------------------------------------------------------


def set_identity(found: SetSection) -> dict[str, Any]:
    """What decides a set's latents, besides the VAE, which is always ours."""
    return {**found.model_dump(), "domain": DOMAIN_VERSION}


def set_folder(cache: Path, found: SetSection) -> Path:
    """Where a set's latents are."""
    return cache / "sets" / digest_of(set_identity(found))


def prepare_set(cache: Path, found: SetSection) -> Path:
    """Encode what is missing of a set; returns its folder."""
    from filelock import FileLock

    from ...encoders.vae import open_vae
    from ...shapes.cache import encode_clips, write_stats
    from ...shapes.slow import Gaps

    folder = set_folder(cache, found)
    done = folder / "done"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        if done.exists():
            return folder
        log.info("encoding %d clips of %d px: %s", found.clips, found.size, folder)
        vae = open_vae(BUNDLED, device=best_device(), frames_at_once=256)
        sizes = {"frames": found.frames, "size": found.size}
        write_stats(folder, encode_clips(vae, folder, "train", found.clips, **sizes))
        if found.gaps:
            Gaps.encode(vae, folder, "train", found.gaps, size=found.size)
        done.touch()
    return folder


# --- training -------------------------------------------------------------------------------------


def train(run: Run, *, until: int | None = None, network: bool = False) -> bool:
    """Train a run, or go on with it; True once it is done, False where it was stopped.

    A run whose gradients stop being finite is done, too: that is what it came to. So is one whose
    loss ends above that of a network that predicts nothing; both count as diverged. `until`: stop
    after this step. network: also where its results are known (`record`) but its network is not
    there. Its states are removed once its checkpoint is written.
    """
    from filelock import FileLock  # torch brings it

    run.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(run.folder / ".lock"):  # another process may have it in hand
        if run.facts is not None and (run.checkpoint.exists() or not network):
            return True
        return all(train(parent, network=True) for parent in run.parents) and _train(run, until)


def _train(run: Run, until: int | None) -> bool:
    config, began, ended, stopped_by = run.config, time.process_time(), False, None
    if config.engine.compile:
        torch.compiler.reset()  # what other runs of this process compiled is of no use to this one
    trainer = Trainer(config)
    trainer.start()
    try:
        with trainer.loader:
            stopped_by = trainer.run(until)
    except Diverged as error:
        log.warning("%s: %s", run.name, error)
        ended = True
    # After the last step, too, a signal is for all that would come next.
    if stopped_by is not None or (not ended and trainer.progress.step < config.steps):
        return False
    card = export(config, run.checkpoint, vae=BUNDLED) if states(config.run) else None
    loss, worst = _losses(config)
    loss = None if ended else loss
    facts = {
        "steps": trainer.progress.step,
        "flops": run.flops,
        "seconds": round(trainer.progress.seconds, 1),
        "device": _device_name(trainer.device),
        "cpu_seconds": round(time.process_time() - began, 1),
        "skipped": trainer.progress.skipped,
        "diverged": loss is None or loss > _NOTHING,
        "loss": loss,
        "worst_loss": worst,
        "model": card and card.tensor_hash,
    }
    with atomic(run.folder / FACTS) as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(config.run / "states", ignore_errors=True)
    return True


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _losses(config: TrainConfig) -> tuple[float | None, float | None]:
    """The mean training loss over the last tenth of the steps, None where it was not finite; and
    the highest of all that was logged."""
    losses = [row["loss"] for row in read_metrics(config.run / METRICS) if "loss" in row]
    last = losses[-max(1, round(_LAST * len(losses))) :]
    mean = None if None in last or not last else sum(last) / len(last)
    return mean, max((loss for loss in losses if loss is not None), default=None)


def order(runs: list[Run]) -> Iterator[Run]:
    """Every run once, after those that it starts from."""
    seen: set[Path] = set()
    for run in runs:
        for one in (*order(list(run.parents)), run):
            if one.folder not in seen:
                seen.add(one.folder)
                yield one
