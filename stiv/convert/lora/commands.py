"""The commands `lora convert`, `merge`, `extract` and `info`."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ...header import printable
from ...tensor_file import byte_count, described, replacing, tensor_hash, write_tensors
from ..console import ProgressLine, add_output, check_output, finish, writing
from ..exchange import DTYPES
from ..weights import Weights
from .adapter import Lora
from .extract import Extracted, extract
from .forms import completed_metadata, lora_metadata, noted_metadata, peft_config, stored_tensors
from .keys import FORMS
from .merge import merge, model_shapes
from .reading import PEFT_CONFIG, PEFT_FILE, read_lora

_SHOWN = 12


def add_commands(names: argparse._SubParsersAction) -> None:
    """`lora` and its four commands."""
    top = names.add_parser("lora", help="LoRA files: convert, merge, extract, look into")
    actions = top.add_subparsers(dest="action", required=True)
    for add in (_add_convert, _add_merge, _add_extract, _add_info):
        add(actions)


def _add_convert(actions) -> None:
    parser = actions.add_parser(
        "convert",
        help="another trainer's LoRA to the form that ComfyUI loads",
        description="Read a LoRA with the names of PEFT, diffusers, kohya or others, on our layers "
        "or on those of PixArt-alpha and Open-Sora 1.0, and write it for STIV models. What it "
        "changes stays exactly the same.",
    )
    _add_lora(parser)
    parser.add_argument("--base", type=Path, help="the checkpoint it is for: shapes are compared")
    parser.add_argument(
        "--form", choices=FORMS, default="comfy",
        help=f"whose names to write (peft: name it {PEFT_FILE}; default: comfy)",
    )  # fmt: skip
    parser.add_argument("--dtype", choices=DTYPES, help="of what is written; default: as it is")
    add_output(parser, "LoRA")
    parser.set_defaults(run=_convert)


def _add_merge(actions) -> None:
    parser = actions.add_parser(
        "merge", help="add LoRAs into a checkpoint",
        description="W + strength * alpha / rank * B @ A for every layer, summed in float32 and "
        "rounded once to the checkpoint's dtype.",
    )  # fmt: skip
    parser.add_argument("checkpoint", type=Path, help="STIV checkpoint")
    _add_lora(parser, nargs="+")
    parser.add_argument(
        "--strength", type=float, nargs="+", default=[1.0],
        help="one for all, or one for each LoRA (default: 1)",
    )  # fmt: skip
    add_output(parser)
    parser.set_defaults(run=_merge)


def _add_extract(actions) -> None:
    parser = actions.add_parser(
        "extract", help="a LoRA from the difference of two checkpoints",
        description="The LoRA of a rank that comes nearest to turning BASE into TUNED, by singular "
        "values, and how much of every layer's difference it keeps.",
    )  # fmt: skip
    parser.add_argument("tuned", type=Path, help="STIV checkpoint trained from BASE")
    parser.add_argument("base", type=Path, help="STIV checkpoint")
    parser.add_argument("--rank", type=int, required=True, help="of every layer, e.g. 32")
    parser.add_argument(
        "--layers", nargs="+", metavar="LAYER",
        help="ends of layers in the blocks (qkv, cross_attn.proj) or full names; default: all",
    )  # fmt: skip
    parser.add_argument(
        "--full-diff", action="store_true",
        help="store the differences of biases, norms and tables too, which have no rank",
    )  # fmt: skip
    parser.add_argument("--fast", action="store_true", help="approximate: for the largest models")
    parser.add_argument("--device", default="cpu", help="where to compute (default: cpu)")
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of what is written; default: TUNED's, fp32 for float8"
    )
    add_output(parser, "LoRA")
    parser.set_defaults(run=_extract)


def _add_info(actions) -> None:
    parser = actions.add_parser(
        "info", help="what a LoRA file holds, and whether it fits",
        description="Form, ranks, scales and metadata of a LoRA, and with --base whether every "
        "shape agrees.",
    )  # fmt: skip
    _add_lora(parser, may_skip=False)
    parser.add_argument("--base", type=Path, help="the checkpoint it is for: shapes are compared")
    parser.set_defaults(run=_info, skip_unknown=True)


def _add_lora(
    parser: argparse.ArgumentParser, nargs: str | None = None, *, may_skip: bool = True
) -> None:
    parser.add_argument("lora", type=Path, nargs=nargs, help="LoRA file, or a folder of PEFT's")
    parser.add_argument(
        "--alpha", type=float,
        help="of a file that states none, neither itself nor beside it; default: the rank",
    )  # fmt: skip
    if may_skip:
        parser.add_argument(
            "--skip-unknown", action="store_true", help="list tensors of no known layer and go on"
        )


# --- what they do --------------------------------------------------------------------------------


def _convert(args: argparse.Namespace) -> None:
    check_output(args)
    beside = args.out.with_name(PEFT_CONFIG)
    if args.form == "peft":
        if args.out.name != PEFT_FILE:
            raise ValueError(f"--out {args.out}: PEFT reads only files of the name {PEFT_FILE}")
        if beside.exists() and not args.overwrite:
            raise ValueError(f"{beside}: is there already; choose another folder or --overwrite")
    base = Weights.read(args.base) if args.base else None
    lora = _read(args, args.lora, base)
    title = args.out.parent.name if args.form == "peft" else args.out.stem
    metadata = completed_metadata(lora, title, base and base.card.tensor_hash)
    tensors = stored_tensors(lora, args.form, args.dtype and DTYPES[args.dtype])
    _describe(lora)
    _write(args, metadata, tensors)
    if args.form == "peft" and not args.dry_run:
        with replacing(beside) as file:
            file.write(json.dumps(peft_config(lora), indent=2).encode() + b"\n")


def _merge(args: argparse.Namespace) -> None:
    check_output(args)
    strengths = args.strength * len(args.lora) if len(args.strength) == 1 else args.strength
    if len(strengths) != len(args.lora):
        raise ValueError(
            f"--strength has {len(strengths)} numbers for {len(args.lora)} LoRAs: give one, or one "
            "for each"
        )
    if odd := [s for s in strengths if not abs(s) <= 100]:  # true for NaN too
        raise ValueError(f"--strength {odd[0]}: expected a number from -100 to 100")
    base = Weights.read(args.checkpoint)
    loras = [_read(args, path, base) for path in args.lora]
    for lora in loras:
        _describe(lora)
        trained_on = noted_metadata(lora.metadata).get("base")
        if trained_on not in (None, base.card.tensor_hash):
            print(f"note: {lora.path.name} was made for the model {trained_on!s:.64}, not for this")
    with ProgressLine() as progress:
        merged = merge(base, list(zip(loras, strengths, strict=True)), progress)
    finish(args, merged)


def _extract(args: argparse.Namespace) -> None:
    check_output(args)
    try:
        device = torch.device(args.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {args.device}: {str(error).splitlines()[0]}") from None
    tuned, base = Weights.read(args.tuned), Weights.read(args.base)
    with ProgressLine() as progress:
        found = extract(
            tuned.diffusion_model,
            base.diffusion_model,
            args.rank,
            layers=args.layers,
            dtype=DTYPES[args.dtype] if args.dtype else _usual_dtype(tuned.diffusion_model),
            full_diff=args.full_diff,
            is_fast=args.fast,
            device=device,
            progress=progress,
        )
    if not found.tensors:
        raise ValueError(f"{args.tuned} and {args.base} do not differ in these layers: no LoRA")
    values = {
        "rank": args.rank,
        "alpha": args.rank,
        "base": base.card.tensor_hash,
        "extracted_from": tuned.card.tensor_hash,
        "kept": round(found.kept, 6),
    }
    said = {key: tuned.card.modelspec[key] for key in ("license",) if key in tuned.card.modelspec}
    _report(found)
    _write(args, lora_metadata(args.out.stem, {**values, **said}), found.tensors)


def _info(args: argparse.Namespace) -> None:
    base = Weights.read(args.base) if args.base else None
    lora = _read(args, args.lora, base)
    _describe(lora)
    known = described(lora.tensors)
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in known.values())
    print(f"dtypes: {', '.join(f'{n} tensors {name}' for name, n in dtypes.items())}")
    print(f"bytes: {byte_count(lora.tensors):,}")
    alphas = Counter(f"{pair.scale:g}" for pairs in lora.pairs.values() for pair in pairs)
    print(f"alpha / rank: {', '.join(f'{scale} ({n})' for scale, n in alphas.items())}")
    for key, value in {**lora.metadata, **noted_metadata(lora.metadata)}.items():
        if key != "stiv.lora":
            print(printable(f"{key}: {value}", 300))
    print(f"tensor hash: {tensor_hash(lora.tensors)}")
    if base:
        print(f"fits {args.base}: every shape agrees")


def _read(args: argparse.Namespace, path: Path, base: Weights | None) -> Lora:
    shapes = model_shapes(base.diffusion_model) if base else None
    return read_lora(path, shapes, alpha=args.alpha, skip_unknown=args.skip_unknown)


def _write(
    args: argparse.Namespace, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]
) -> None:
    megabytes = byte_count(tensors) / 1e6
    if args.dry_run:
        print(f"would write {args.out} ({megabytes:,.1f} MB, {len(tensors)} tensors)")
        return
    with writing(args.out, byte_count(tensors)) as progress:
        write_tensors(args.out.resolve(), metadata, tensors, progress)
    print(f"wrote {args.out} ({megabytes:,.1f} MB, {len(tensors)} tensors)")


def _describe(lora: Lora) -> None:
    ranks = Counter(lora.rank(name) for name in lora.pairs)
    layers = ", ".join(f"{n} of rank {rank}" for rank, n in sorted(ranks.items())) or "none"
    print(f"{lora.path.name}: a LoRA in the form of {lora.form}; layers: {layers}")
    if doras := [name for name in lora.pairs if lora.is_dora(name)]:
        print(f"DoRA: {len(doras)} layers")
    if lora.differences:
        print(f"whole differences: {len(lora.differences)} tensors")
    for note in lora.notes:
        print(f"note: {note}")
    if lora.left_out:
        print(f"left out: {len(lora.left_out)} tensors that mean nothing to this model")
        for name in lora.left_out[:_SHOWN]:
            print(f"  {name}")
        if len(lora.left_out) > _SHOWN:
            print(f"  and {len(lora.left_out) - _SHOWN} more")


def _report(found: Extracted) -> None:
    """Every stored tensor, then what was left out."""
    for fit in found.fits:
        if fit.is_stored:
            print(f"{fit.name}: changed by {fit.relative:.2%}, of which {fit.kept:.2%} kept")
    if left := [fit for fit in found.fits if not fit.is_stored]:
        print("left out (biases, norms and tables: --full-diff):")
        for fit in left:
            print(f"  {fit.name}: changed by {fit.relative:.2%}")
    print(f"in total {found.kept:.2%} of the squared difference kept")


def _usual_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    dtypes = Counter(t.dtype for t in described(tensors).values() if t.dtype in DTYPES.values())
    return dtypes.most_common(1)[0][0] if dtypes else torch.float32
