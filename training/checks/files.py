"""The files that a recipe names: VAE, text encoder, checkpoints to start from."""

from __future__ import annotations

from stiv.checkpoint import read_card

from ..config import TrainConfig
from ..start import cached_latents, start_steps
from . import Finding, Findings, absent, has_shards


def vae(config: TrainConfig) -> Findings:
    """The VAE opens; its weights are compared with the caches by `data.latents`."""
    if config.vae is None:
        if config.data.sets:
            yield Finding(
                "warn", "vae", "none is named: clips cannot be encoded, samples not be drawn",
                "name a SD or SDXL checkpoint by vae, as in ComfyUI/models/checkpoints",
            )  # fmt: skip
        return
    if not config.vae.is_file():
        yield absent(
            "vae", config.vae, "name a SD or SDXL checkpoint, as in ComfyUI/models/checkpoints"
        )
        return
    from ..encoders.vae import open_vae

    found = open_vae(config.vae, latents=config.vae_space).latents
    yield Finding(
        "ok", "vae", f"{config.vae}: latents {found['name']}, {found['channels']} channels"
    )


def text_encoder(config: TrainConfig) -> Findings:
    """The frozen text encoder and its tokenizer are there, and as wide as the model reads."""
    text, model = config.text, config.model.build()
    if text.encoder == "nano":
        yield Finding("ok", "text encoder", "nano, trained with the model")
        return
    from stiv.public import TEXT_ENCODERS

    facts = TEXT_ENCODERS[text.encoder]
    for field, key in (("text_width", "width"), ("pooled_width", "pooled_width")):
        if getattr(model, field) != facts[key]:
            yield Finding(
                "error",
                "text encoder",
                f"{text.encoder} is {facts[key]} wide ({key}), the model takes "
                f"{getattr(model, field)}",
                f"set model.changes.{field}: {facts[key]}",
            )
    level = "warn" if has_shards(text.cache, "text") else "error"
    if text.file is None or not text.file.is_file():
        where = text.file or "text.file (not set)"
        yield Finding(
            level, "text encoder", f"{where} is not there: new captions cannot be encoded",
            f"name {text.encoder}.safetensors, as in ComfyUI/models/text_encoders, by text.file",
        )  # fmt: skip
        return
    from ..encoders.text import describe_text, find_tokenizer, text_encoder_of

    found = text_encoder_of(text.file)
    said = describe_text(found) if found else "no text encoder of a kind that is known"
    if found is None or any(found[key] != facts[key] for key in found):
        yield Finding(
            level, "text encoder", f"{text.file} is {said}; the recipe says {describe_text(facts)}",
            f"name {text.encoder}.safetensors by text.file, or set text.encoder",
        )  # fmt: skip
        return
    yield Finding("ok", "text encoder", f"{text.file}: {said}")
    try:
        yield Finding("ok", "tokenizer", str(find_tokenizer(text.encoder, text.tokenizer)))
    except ValueError as error:
        yield Finding(level, "tokenizer", str(error))


def init(config: TrainConfig) -> Findings:
    """The checkpoints to start from open, and steps lead from them to the model."""
    weights = config.text.weights
    if weights is not None and not weights.is_file():
        yield absent("text.weights", weights, "name a checkpoint with a small text encoder inside")
    if config.init is None:
        return
    paths = [path for path in (config.init.weights, config.init.temporal) if path]
    if gone := [path for path in paths if not path.is_file()]:
        yield from (absent("init", path, "export it from its recipe's run") for path in gone)
        return
    latents = cached_latents(config)
    try:
        steps = start_steps(config, latents)
    except ValueError as error:
        yield Finding("error", "init", str(error).removeprefix("init "))
        return
    card = read_card(paths[0])
    names = card.text["encoder"]
    if names != config.text.encoder:
        yield Finding(
            "warn", "init", f"{paths[0]} was trained with the text encoder {names}, this run "
            f"takes {config.text.encoder}: it has to learn the prompts anew",
        )  # fmt: skip
    if latents not in (None, card.latents["name"]):
        yield Finding(
            "warn", "init", f"{paths[0]} was trained on latents of {card.latents['name']}, this "
            f"run's are of {latents}: its first and last layers have to learn them anew",
        )  # fmt: skip
    yield Finding("ok", "init", f"{paths[0]}: {card.size}, {card.parameters:,} parameters")
    for step in steps:
        yield Finding("ok", "init", step.line())
