"""`python -m training cache latents|text`: the caches of a recipe, from its sets and encoders."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from ..config import TrainConfig
from ..data import clips as clip_data
from ..data.report import Report
from ..data.sources import DataSpec
from ..encoders.text import open_text_encoder
from ..encoders.vae import FrameVAE, open_vae
from ..names import short_hash
from ..networks import best_device
from . import latents, text
from .shards import Stale, shard_paths

log = logging.getLogger(__name__)

_EVERY = 10  # seconds between lines of progress


def encode_clips(
    config: TrainConfig,
    *,
    part: tuple[int, int] = (0, 1),
    workers: int = 2,
    stale: Stale = "refuse",
    prune: bool = False,
) -> None:
    """Encode every set's clips that its cache lacks.

    prune: drop the samples of clips that the set has no more; without it they stay. It is for all
    of a set, so for part 0. A broken file is noted in `quarantine.jsonl` of the set's cache and the
    others follow. Raises ValueError for a missing VAE, stale shards or pruning by another part,
    before anything is decoded; and where no file of a set is left, so that a disk which is not
    mounted costs no cache.
    """
    if prune and part[0]:
        raise ValueError(f"--prune is with --part {part[0]}/{part[1]}: give it to part 0")
    if config.vae is None:
        raise ValueError("vae is not set: name the VAE's .safetensors to encode the clips with")
    vae = open_vae(config.vae, latents=config.vae_space, device=best_device())
    for spec in config.data.sets:
        out = config.data.folder(spec.name)
        report = Report(out / "quarantine.jsonl")
        done = _encode_set(config, spec, vae, out, report, part, workers, stale)
        said = f"{done.written} clips encoded"
        if done.recaptioned:
            said += f", new captions for {done.recaptioned}"
        log.info("%s: %s\n%s", out, said, report.summary())
        if prune:
            _prune(spec, out)
        if not shard_paths(out, "latents"):
            raise ValueError(f"{spec.path}: no clip could be made of it; the lines above say why")


def _encode_set(
    config: TrainConfig,
    spec: DataSpec,
    vae: FrameVAE,
    out: Path,
    report: Report,
    part: tuple[int, int],
    workers: int,
    stale: Stale,
) -> latents.CacheReport:
    made_by = spec.provenance(config.seed)
    finished = latents.done(out, latents.provenance(vae, made_by), stale=stale)
    captions: dict[str, tuple[str, ...]] = {}  # of clips that are not decoded again

    def is_finished(key: str, content: str, texts: tuple[str, ...]) -> bool:
        if (key, content) not in finished:
            return False
        captions[key] = texts
        return True

    progress = _Progress()
    done = latents.cache_latents(
        clip_data.clips(
            spec, workers=workers, seed=config.seed, report=report, part=part, skip=is_finished
        ),
        vae,
        out,
        spec=made_by,
        writer=str(part[0]),
        stale=stale,
        reject=report.quarantine,
        progress=lambda run: progress(run.written),
    )
    done.recaptioned += latents.recaption(out, captions.get)
    return done


def _prune(spec: DataSpec, out: Path) -> None:
    """Drop the samples whose file was deleted, or is no entry of the set any more.

    Raises ValueError where all are.
    """
    prefix = f"{spec.name}/" if spec.name else ""
    exists = lru_cache(Path.exists)  # members of a tar, and cuts of a video, follow each other
    there: set[bytes] = set()
    for source in clip_data.sources(spec):
        mark = short_hash(prefix + source.name)
        if mark not in there and exists(source.path):
            there.add(mark)
    if not there:
        raise ValueError(
            f"{spec.path}: none of the set's files is there, so nothing was removed from {out}: "
            "mount their disk, or remove that folder yourself"
        )
    removed = latents.remove(out, lambda s: short_hash(s["key"].rpartition("#")[0]) not in there)
    log.info("%s: %d samples removed, whose clips are gone", out, removed)


def encode_captions(
    config: TrainConfig, *, part: tuple[int, int] = (0, 1), stale: Stale = "refuse"
) -> None:
    """Encode the captions in the latent caches, the prompts of sample videos, and the empty one.

    Raises ValueError for a missing encoder, stale shards, or a latent cache not made yet.
    """
    settings = config.text
    if settings.encoder == "nano":
        raise ValueError("text.encoder nano learns with the model: it has no cache")
    if settings.file is None:
        raise ValueError(f"text.file is not set: name the .safetensors of {settings.encoder}")
    encoder = open_text_encoder(
        settings.encoder, settings.file, tokenizer=settings.tokenizer, device=best_device()
    )
    progress = _Progress()
    report = text.cache_text(
        _captions(config),
        encoder,
        settings.cache,
        writer=str(part[0]),
        part=part,
        stale=stale,
        progress=lambda run: progress(run.written),
    )
    log.info(
        "%s: %d captions encoded, %d were there", settings.cache, report.written, report.skipped
    )


def dump_clips(config: TrainConfig, folder: Path, count: int) -> None:
    """Write the first clips of every set as they are trained on: video, caption, conditions."""
    for spec in config.data.sets:
        log.info("wrote %s", clip_data.dump(spec, folder / spec.name, count, seed=config.seed))


def _captions(config: TrainConfig) -> Iterator[str]:
    yield from config.watch.prompts
    for spec in config.data.sets:
        folder = config.data.folder(spec.name)
        if not shard_paths(folder, "latents"):
            raise ValueError(f"{folder} holds no latents: run `cache latents` before `cache text`")
        yield from latents.captions(folder)


class _Progress:
    """A line of progress now and then."""

    def __init__(self):
        self._began = self._said = time.monotonic()

    def __call__(self, count: int) -> None:
        now = time.monotonic()
        if now - self._said > _EVERY:
            self._said = now
            log.info("%d done, %.1f per second", count, count / (now - self._began))
