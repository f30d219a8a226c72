"""What the commands of `python -m training` do. Each imports only what it needs."""

from __future__ import annotations

import logging
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    from .config import TrainConfig
    from .sampling import Sampler

log = logging.getLogger(__name__)


def _config(args: Namespace) -> TrainConfig:
    from .config import load_config

    if args.config is None:
        raise ValueError("name the recipe: --config recipe.yaml (training/recipes has some)")
    return load_config(args.config, args.set)


def doctor(args: Namespace) -> int:
    """Print every finding; 1 if one is an error."""
    from .doctor import doctor as examine

    findings = examine(_config(args))
    for finding in findings:
        print(finding)
    return int(any(finding.level == "error" for finding in findings))


def cache(args: Namespace) -> None:
    """Encode the clips or the captions of a recipe's sets."""
    from .caches import commands as caches

    config = _config(args)
    if not config.data.sets:
        raise ValueError(f"{args.config}: data.sets is empty: say where the clips are")
    part = part_of(args.part)
    if args.dump:
        caches.dump_clips(config, args.dump, args.count)
    elif args.what == "latents":
        settings = {"workers": args.workers, "stale": args.stale, "prune": args.prune}
        caches.encode_clips(config, part=part, **settings)
    else:
        caches.encode_captions(config, part=part, stale=args.stale)


def part_of(text: str) -> tuple[int, int]:
    """0/4 as (0, 4)."""
    try:
        index, count = map(int, text.split("/"))
    except ValueError:
        index, count = -1, 0
    if not 0 <= index < count:
        raise ValueError(f"--part is {text!r}: expected I/N with 0 <= I < N, as in 0/4")
    return index, count


def train(args: Namespace) -> int:
    """Train, continue, or say what would be done; 130 after Ctrl-C, as shells have it, so that what
    a script would do with a whole run is not done. After SIGTERM, which batch systems send at the
    end of their time, 0."""
    if args.help_config:
        from .config import TrainConfig
        from .doctor import describe

        print(describe(TrainConfig))
        return 0
    config = _config(args)
    if args.dry_run:
        from .doctor import plan

        print(plan(config))
        return 0
    import signal

    import torch

    from .loop import Trainer

    if args.threads:
        torch.set_num_threads(args.threads)
    trainer = Trainer(config, allow_changes=args.allow_changes)
    trainer.start()
    with trainer.loader:
        stopped_by = trainer.run(args.until)
    return 128 + stopped_by if stopped_by == signal.SIGINT else 0


def export(args: Namespace) -> None:
    """Write the checkpoint and print its card."""
    from .export import export as write

    card = write(_config(args), args.out, vae=args.vae, weights=args.weights)
    log.info("wrote %s (%.1f MB)\n%s", args.out, args.out.stat().st_size / 1e6, card.summary())


def lora_export(args: Namespace) -> None:
    """Write the LoRA."""
    from .export import export_lora

    export_lora(_config(args), args.out, weights=args.weights)
    log.info("wrote %s (%.1f MB)", args.out, args.out.stat().st_size / 1e6)


def sample(args: Namespace) -> None:
    """Render each prompt to an mp4, and a contact sheet of all."""
    from .networks import best_device
    from .watch.samples import write_samples

    given = (args.frames, args.height, args.width)
    if any(given) and not all(given):
        raise ValueError("give --frames, --height and --width together, or none of them")
    picture = _picture(args.image) if args.image else None
    sampler = sampler_of(
        args,
        args.prompt,
        size=given if all(given) else None,
        device="cpu" if args.cpu else best_device(),
    )
    clean = mask = None
    if picture:
        clean, mask = sampler.first_frame([picture] * len(args.prompt))
    clips = sampler.clips(args.prompt, clean, mask, args.seed)
    for path in write_samples(clips, args.prompt, args.out, args.seed, fps=args.fps):
        log.info("wrote %s", path)


def sampler_of(args: Namespace, prompts: list[str], **settings) -> Sampler:
    """Of --checkpoint and the files that it needs, for prompts that will be asked for."""
    from .networks import DTYPES
    from .sampling import Sampler

    return Sampler.from_checkpoint(
        args.checkpoint,
        vae=args.vae,
        text_encoder=args.text_encoder,
        tokenizer=args.tokenizer,
        prompts=prompts,
        dtype=DTYPES[args.precision],
        steps=args.steps,
        guidance_scale=args.guidance_scale,
        **settings,
    )


def _picture(path: Path) -> Picture:
    from .data.pictures import open_picture, shown, to_rgb

    with open(path, "rb") as file:
        try:
            return to_rgb(shown(open_picture(file)))
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{path}: no picture that can be read: {error}") from None


def score(args: Namespace) -> None:
    """Score the shapes domain, and multi-view where it was trained; the last line is JSON."""
    from stiv.checkpoint import read_card

    from .evaluation.score import FRAMES, SIZE, evaluate, report
    from .evaluation.views import evaluate_views, multi_view_sampler
    from .shapes.captions import held_out_prompts

    prompts = [prompt for prompt, _ in held_out_prompts(args.count)]
    sampler = sampler_of(args, prompts, size=(FRAMES, SIZE, SIZE))
    results = evaluate(sampler.clips, sampler.codec, count=args.count)
    if any(row["task"] == "multi_view" for row in read_card(args.checkpoint).tasks):
        views = multi_view_sampler(sampler)
        results |= evaluate_views(views.clips, views.codec, count=args.count)
    report(results)


def ablations(args: Namespace) -> None:
    """Print the paper's tables, one row of them, or how to train it."""
    from stiv.ablations import ablation

    from .ablation_tables import describe_row, markdown, overview
    from .ablations import command

    if args.row is None and args.recipe:
        raise ValueError("--recipe is of one row: name it, as in ablations t2i/rope --recipe")
    if args.row is not None and args.markdown:
        raise ValueError("--markdown is of all rows: leave out the name")
    if args.row is None:
        print(markdown() if args.markdown else overview())
        return
    row = ablation(args.row)
    print(command(row) if args.recipe else describe_row(row))
