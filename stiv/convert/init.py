"""The command `init`: a checkpoint as the start of another model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..card import Card
from ..config import MODELS, STIVConfig
from ..header import parse_json, printable
from ..public import LATENT_SPACES, TEXT_ENCODERS
from .console import add_output, check_output, finish
from .difference import output, relative_rms
from .initialise import Aim, Step, Temporal, initialised, plan, stages
from .weights import Weights

_POSITIONS = ("space_scale", "time_scale", "rope_theta", "sincos_base")
_CUSTOM = '{"name": "custom", "channels": 8, "scale": 1.0, "shift": 0.0, "downscale": 8}'


def add_commands(names: argparse._SubParsersAction) -> None:
    """`init`."""
    parser = names.add_parser(
        "init",
        help="start a model from others: image to video, joint, baseline to STIV, larger, longer",
        description="Start a model from a checkpoint, in steps. Each is listed with the inputs for "
        "which it leaves the output as it was, what has to be trained, and the measured change: "
        "its RMS over the RMS of the output before, on small random latents and texts. It tells "
        "steps apart and says little of pictures.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("base", type=Path, help="STIV checkpoint (others: `import` first)")
    parser.add_argument("--like", choices=list(MODELS), help="become this size's network")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of the network's config, the value as JSON; may be repeated",
    )
    parser.add_argument("--temporal", type=Path, help="take this checkpoint's temporal attention")
    parser.add_argument("--size", metavar="A:B", help="RoPE interpolated from A to B pixels a side")
    parser.add_argument("--frames", metavar="A:B", help="RoPE interpolated from A to B frames")
    parser.add_argument(
        "--depth-map", metavar="MAP", help="the base's block for every new one: 0,1,new,2"
    )
    parser.add_argument(
        "--velocity", action="store_true", help="from predicting noise to predicting velocity"
    )
    parser.add_argument(
        "--text", choices=[*TEXT_ENCODERS, "custom"], help="text encoder whose prompts it will read"
    )
    parser.add_argument(
        "--latents",
        metavar="SPACE",
        help=f"latents that it will see: {', '.join(LATENT_SPACES)}, or as JSON {_CUSTOM}",
    )
    parser.add_argument("--seed", type=int, default=0, help="of new weights; default: 0")
    parser.add_argument("--no-measure", action="store_true", help="leave the changes unmeasured")
    add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Plan, measure and write; with --dry-run only plan."""
    check_output(args)
    base = Weights.read(args.base)
    latents = _latents(args.latents, base.card)
    config = _config(args, base.card, latents)
    text = _text(args.text, base.card, config)
    try:
        aim = Aim(
            config=config,
            depth_map=_depth_map(args.depth_map),
            temporal=_temporal(args.temporal),
            velocity=_becomes_velocity(args.velocity, base.card),
            latents=latents and (base.card.latents["name"], str(latents.get("name"))),
            encoders=text and (base.card.text["encoder"], text["encoder"]),
            seed=args.seed,
        )
        steps = plan(base.card.config, aim)
    except ValueError as error:
        raise ValueError(f"{args.base}: {error}") from None
    if not steps:
        raise ValueError(f"{args.base}: is what was asked for already; nothing was written")
    weights = initialised(base, aim, steps, latents=latents, text=text)
    if args.dry_run or args.no_measure:
        for step in steps:
            print(f"{step.name}: {step.does}\n    {step.promise}")
    else:
        _print_measured(base, steps)
    print(_tasks_line(base.card, weights.card))
    finish(args, weights)


def _print_measured(base: Weights, steps: Sequence[Step]) -> None:
    """Every step with its change of the output, then that of all together, but for the sign."""
    config, sign = base.card.config, 1
    still = not config.temporal_attention  # a picture's model is shown pictures
    first = before = output(base.diffusion_model, config, still=still)
    for step, tensors in zip(steps, stages(steps, base.diffusion_model)[1:], strict=True):
        after = output(tensors, step.after, still=still)
        print(f"{step.name}: {step.does}\n    {step.promise}")
        print(f"    changes the output by {_percent(after, step.sign * before)}", flush=True)
        before, sign = after, sign * step.sign
    print(f"all steps change the output by {_percent(before, sign * first)}")


# --- what is wanted ------------------------------------------------------------------------------


def _config(args: argparse.Namespace, card: Card, latents: dict[str, Any] | None) -> STIVConfig:
    base = card.config
    values = MODELS[args.like].to_dict() if args.like else base.to_dict()
    settings = {name: value for text in args.set for name, value in _setting(text).items()}
    # Positions go with the size and the length, not with the network; others begin anew.
    stay = settings.get("position", values["position"]) == base.position
    if args.size and stay and base.position == "sincos" and base.sincos_base:
        raise ValueError("--size: these sin-cos positions fit themselves to any size: leave it out")
    values |= {name: getattr(base if stay else STIVConfig, name) for name in _POSITIONS}
    for option, name in (("size", "space_scale"), ("frames", "time_scale")):
        if text := getattr(args, option):
            values[name] *= _ratio(option, text)
    if latents:
        values["latent_channels"] = latents["channels"]
    if encoder := TEXT_ENCODERS.get(args.text):
        values |= {"text_width": encoder["width"], "pooled_width": encoder["pooled_width"]}
    if args.depth_map:
        values["depth"] = len(args.depth_map.split(","))
    values |= settings
    if not latents and values["latent_channels"] != base.latent_channels:
        raise ValueError(
            f"latent_channels {base.latent_channels} cannot become {values['latent_channels']!r} "
            "without saying whose latents they are: add --latents"
        )
    return STIVConfig.from_dict(values)


def _setting(text: str) -> dict[str, Any]:
    """A field and its value from FIELD=VALUE; a word needs no quotes."""
    name, equals, value = text.partition("=")
    known = [field.name for field in fields(STIVConfig)]
    if not equals or name not in known:
        raise ValueError(f"--set {text}: expected FIELD=VALUE with one of {', '.join(known)}")
    try:
        return {name: parse_json(value)}
    except ValueError:
        return {name: value}  # as text; the config refuses what is none


def _ratio(option: str, text: str) -> float:
    old, _, new = text.partition(":")
    if not (old.isdecimal() and new.isdecimal() and int(old) and int(new)):
        raise ValueError(f"--{option} {text}: expected trained:new, as in 256:512")
    return int(old) / int(new)


def _depth_map(text: str | None) -> tuple[int | None, ...] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if odd := [word for word in words if word != "new" and not word.isdecimal()]:
        raise ValueError(f"--depth-map: {odd[0]!r} is neither a block's number nor new")
    return tuple(None if word == "new" else int(word) for word in words)


def _temporal(path: Path | None) -> Temporal | None:
    if path is None:
        return None
    other = Weights.read(path)
    return Temporal(
        tensors=other.diffusion_model,
        config=other.card.config,
        tensor_hash=other.card.tensor_hash,
    )


def _becomes_velocity(is_asked: bool, card: Card) -> bool:
    if is_asked and card.prediction == "velocity":
        raise ValueError("predicts velocity already: leave out --velocity")
    return is_asked


def _latents(text: str | None, card: Card) -> dict[str, Any] | None:
    """The new latent space, None where it stays."""
    if text is None:
        return None
    space = LATENT_SPACES.get(text)
    if space is None:
        try:
            space = parse_json(text)
        except ValueError:
            space = None
        if not isinstance(space, dict) or type(space.get("channels")) is not int:
            names = ", ".join(LATENT_SPACES)
            raise ValueError(f"--latents {text}: expected {names}, or JSON as {_CUSTOM}")
    return None if space == card.latents else space


def _text(name: str | None, card: Card, config: STIVConfig) -> dict[str, Any] | None:
    """The new text encoder, None where it stays."""
    widths = {"width": config.text_width, "pooled_width": config.pooled_width}
    same = all(card.text[key] == value for key, value in widths.items())
    if name is None and not same:
        known = (key for key, facts in TEXT_ENCODERS.items() if facts.items() >= widths.items())
        name = next(known, None)
    if name is None and not same:
        raise ValueError(
            f"text states of {config.text_width} numbers and pooled ones of {config.pooled_width} "
            "are of no encoder that is known: add --text custom, or --text with a name"
        )
    if name is None or (name == card.text["encoder"] and same):
        return None
    facts = TEXT_ENCODERS.get(name, {"encoder": name, "max_tokens": card.text["max_tokens"]})
    return {**facts, **widths}


# --- what is said --------------------------------------------------------------------------------


def _percent(new, old) -> str:
    change = relative_rms(new, old)
    return "all of it (it was zero)" if change == float("inf") else f"{100 * change:.3g}%"


def _tasks_line(before: Card, after: Card) -> str:
    names = [task["task"] for task in after.tasks]
    lost = [task["task"] for task in before.tasks if task not in after.tasks]
    said = f"tasks: {', '.join(names) or 'none'}"
    return printable(said + (f" (no longer: {', '.join(lost)}, to be trained)" if lost else ""))
