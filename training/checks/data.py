"""The data of a run: its sets, and what is cached of them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import GAPS, SOLIDS, TrainConfig
from ..names import one_line
from ..streams import open_streams
from . import Finding, Findings, absent, has_shards

if TYPE_CHECKING:
    from ..caches.text import TextCache

SOURCES = 1_000_000
"""Entries of a data set that are counted; of larger ones the first."""

_CACHE_TEXT = "python -m training cache text --config …"

_DRAWN = (
    (SOLIDS, "view sets", "training.solids.dataset"),
    (GAPS, "gaps", "training.shapes.slow"),
)
"""Sets beside the clips of the shapes: name, in words, and what makes them."""


def sets(config: TrainConfig) -> Findings:
    """Every data set is found and counted; nothing is decoded."""
    from ..data.formats import read_sources

    for index, spec in enumerate(config.data.sets):
        is_cached = has_shards(config.data.folder(spec.name), "latents")
        about = f"data.sets.{index}"
        rejected: list[tuple[str, str]] = []
        try:
            sources = read_sources(
                spec.path,
                spec.format,
                media=spec.media,
                caption_lines=spec.caption_lines,
                reject=lambda name, reason, seen=rejected: seen.append((name, reason)),
            )
            captions = [bool(source.captions) for source in islice(sources, SOURCES)]
        except (ValueError, OSError) as error:
            yield Finding("warn" if is_cached else "error", about, str(error))
            continue
        yield from _counted(about, spec, captions, rejected)


def _counted(about: str, spec, captions: list[bool], rejected: list[tuple[str, str]]) -> Findings:
    count, without = len(captions), len(captions) - sum(captions)
    more = " or more" if count == SOURCES else ""
    if not count:
        yield Finding(
            "error", about, f"{spec.path} holds no clips or pictures",
            "name a folder of clips with a .txt beside each, or another format (README)",
        )  # fmt: skip
        return
    yield Finding("ok", about, f"{spec.path}: {count:,}{more} entries")
    if without == count and spec.uncaptioned == "skip":
        yield Finding(
            "error", about, "none has a caption, so all would be left out",
            "write captions, or set uncaptioned: empty",
        )  # fmt: skip
    elif without:
        fate = "left out" if spec.uncaptioned == "skip" else "trained with the empty caption"
        yield Finding("warn", about, f"{without:,} have no caption: they are {fate}")
    if rejected:
        first = one_line(": ".join(rejected[0]))
        count = len(rejected)
        yield Finding("warn", about, f"{count:,} entries cannot be used, the first: {first}")


def latents(config: TrainConfig) -> Findings:
    """Latents are there, of the right number of channels and of the VAE that is named."""
    from ..data.index import Index

    if config.data.kind == "shapes":
        missing = [set_ for set_ in _DRAWN if _is_missing(config, set_[0])]
        for name, what, module in missing:
            remedy = f"make them: python -m {module} --help"
            yield absent(what, config.data.folder(name), remedy)
        if missing:
            return
        try:
            streams = open_streams(config)
        except ValueError as error:
            remedy = "make them: python -m training.shapes.cache --help, and what the recipe names"
            yield Finding("error", "latent cache", str(error), remedy)
        else:
            yield Finding("ok", "latent cache", f"{streams.facts['clips']:,} clips")
        return
    for folder in _folders(config):
        if not has_shards(folder, "latents"):
            yield absent("latent cache", folder, "run: python -m training cache latents --config …")
            continue
        index = Index.open(folder)
        channels = config.model.build().latent_channels
        if index.channels != channels:
            yield Finding(
                "error", "latent cache", f"{folder} has latents of {index.channels} channels, the "
                f"model takes {channels}",
                f"set model.changes.latent_channels: {index.channels}, or encode with another VAE",
            )  # fmt: skip
        counts = ", ".join(f"{name}: {len(rows):,}" for name, rows in index.buckets.items())
        yield Finding("ok", "latent cache", f"{folder}: {counts} clips")
        yield from _provenance(config, folder, index.provenance)


def _is_missing(config: TrainConfig, name: str) -> bool:
    """Whether a stream takes a drawn set that was not made."""
    folder = config.data.folder(name)
    return folder in _folders(config) and not has_shards(folder, "train")


def _provenance(config: TrainConfig, folder: Path, found: dict) -> Findings:
    """Whether the recipe's VAE is the one that the latents are of."""
    if config.vae is None or not config.vae.is_file():
        return
    from ..encoders.vae import open_vae

    vae = open_vae(config.vae, latents=found.get("latents"))
    if vae.hash != found.get("encoder"):
        yield Finding(
            "error", "latent cache", f"{folder} was encoded with another VAE than {config.vae}",
            "name the VAE it was encoded with, or give data.latents another folder",
        )  # fmt: skip


def texts(config: TrainConfig) -> Findings:
    """Every caption of the latent cache, and every prompt of samples, is in the text cache."""
    text = config.text
    if text.encoder == "nano":
        return
    if not has_shards(text.cache, "text"):
        yield absent("text cache", text.cache, f"run: {_CACHE_TEXT}")
        return
    from ..caches.text import TextCache

    cache = TextCache(text.cache)
    yield Finding("ok", "text cache", f"{text.cache}: {len(cache):,} captions")
    if missing := missing_captions(config, cache):
        yield Finding("error", "text cache", f"lacks {_named(missing)}", f"run: {_CACHE_TEXT}")


def check_captions(config: TrainConfig, cache: TextCache, part: tuple[int, int] = (0, 1)) -> None:
    """Raises ValueError where a caption of the run is not in the text cache, which would end it
    in the step that comes to it. part: see `missing_captions`."""
    if missing := missing_captions(config, cache, part):
        raise ValueError(f"text cache {cache.folder} lacks {_named(missing)}: run {_CACHE_TEXT}")


def missing_captions(
    config: TrainConfig, cache: TextCache, part: tuple[int, int] = (0, 1)
) -> list[str]:
    """Captions of the latent caches and prompts of samples that a text cache lacks, each once.

    part: (i, n) looks at every n-th shard from the i-th on, for n processes to divide the work.
    """
    from ..caches import latents as latents_cache

    missing = cache.missing(config.watch.prompts if config.watch.samples_every else [])
    for folder in _folders(config):
        missing += cache.missing(latents_cache.captions(folder, part))
    return list(dict.fromkeys(missing))


def _named(missing: list[str]) -> str:
    return f"the states of {len(missing):,} captions, as {missing[0][:60]!r}"


def _folders(config: TrainConfig) -> list[Path]:
    """The latent caches of the streams."""
    return sorted({config.data.folder(stream.set) for stream in config.data.streams})
