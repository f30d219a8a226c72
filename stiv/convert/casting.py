"""The command `dtype`: a checkpoint's weights in another number format."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

import torch
from torch import Tensor

from ..quantised import quantise_layers
from ..shapes import some
from ..tensor_file import LazyTensors, Progress, byte_count, described
from .console import ProgressLine, add_output, check_output, finish
from .exchange import DTYPES
from .weights import Tensors, Weights

FLOAT8 = "fp8_e4m3fn"


def add_commands(names: argparse._SubParsersAction) -> None:
    """`dtype`."""
    parser = names.add_parser(
        "dtype",
        help="cast the weights: fp32, bf16, fp16, or float8 with scales",
        description="Cast the weights of model and text encoder; a VAE inside stays as it is. "
        f"{FLOAT8} keeps the blocks' linear layers at one byte a weight, with a scale for each, as "
        "ComfyUI computes with them; everything else becomes bf16.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("source", type=Path, help="STIV checkpoint")
    parser.add_argument("--to", choices=[*DTYPES, FLOAT8], required=True)
    parser.add_argument(
        "--clamp",
        action="store_true",
        help="cut values that fp16 cannot hold to the largest that it can, instead of refusing",
    )
    add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Look for values that are too large, then cast and write."""
    check_output(args)
    weights = Weights.read(args.source)
    with ProgressLine() as progress:
        too_large = too_large_for(weights, DTYPES.get(args.to, torch.bfloat16), progress)
    if too_large:
        listed = some([f"{name}: {size:.6g}" for name, size in too_large.items()])
        if not args.clamp:
            raise ValueError(
                f"{args.source}: {len(too_large)} tensors hold values too large for {args.to} "
                f"({listed}); cast to bf16, or add --clamp to cut them"
            )
        print(f"cut to the range of {args.to}: {listed}")
    finish(args, cast(weights, args.to, clamped=list(too_large)))


def cast(weights: Weights, to: str, clamped: list[str] | None = None) -> Weights:
    """The checkpoint in a dtype of `DTYPES`, or with layers in scaled float8 (`FLOAT8`).

    clamped: names, with their part, of tensors whose values are cut to the range of the dtype.
    What is not of floating point stays, and so does the VAE: it is small, and pictures need it
    exact. Raises ValueError, when it is written, for values that float8 cannot hold.
    """
    dtype = DTYPES.get(to, torch.bfloat16)
    settings = {"to": to, **({"clamped": clamped} if clamped else {})}

    def part(name: str) -> Tensors:
        cut = {full.removeprefix(f"{name}.") for full in clamped or () if full.startswith(name)}
        return cast_tensors(getattr(weights, name), dtype, cut)

    quantised = to == FLOAT8
    model = quantise_layers(weights.diffusion_model) if quantised else part("diffusion_model")
    return weights.derived(
        "dtype", settings, [weights], diffusion_model=model, text_encoder=part("text_encoder")
    )


def too_large_for(
    weights: Weights, dtype: torch.dtype, progress: Progress | None = None
) -> dict[str, float]:
    """The largest size in every tensor, named with its part, that `dtype` would turn into infinity.

    Raises ValueError for a tensor that holds NaN or infinity already.
    """
    parts = {"diffusion_model": weights.diffusion_model, "text_encoder": weights.text_encoder}
    total, done, found = sum(map(byte_count, parts.values())), 0, {}
    for part, tensors in parts.items():
        for name, like in described(tensors).items():
            if like.is_floating_point() and like.numel():
                largest = max(map(abs, map(float, tensors[name].float().aminmax())))
                if not largest < float("inf"):  # NaN too
                    raise ValueError(
                        f"tensor {part}.{name} holds values that are NaN or infinite: list them "
                        "with verify, and take another copy of the weights"
                    )
                if largest > torch.finfo(dtype).max:
                    found[f"{part}.{name}"] = largest
            done += like.numel() * like.dtype.itemsize
            if progress:
                progress("check", done, total)
    return found


def cast_tensors(
    tensors: Tensors, dtype: torch.dtype, clamped: Collection[str] = ()
) -> LazyTensors:
    """Tensors of floating point in another dtype, the others as they are.

    clamped: names of those whose values are cut to the range of the dtype.
    """
    known = {
        name: torch.empty(
            tensor.shape,
            dtype=dtype if tensor.is_floating_point() else tensor.dtype,
            device="meta",
        )
        for name, tensor in described(tensors).items()
    }

    def make(name: str) -> Tensor:
        tensor = tensors[name]
        if name in clamped:  # in float32: a shorter float may not hold the limit itself
            limit = torch.finfo(dtype).max
            tensor = tensor.float().clamp(-limit, limit)
        return tensor.to(known[name].dtype)

    return LazyTensors(known, make)
