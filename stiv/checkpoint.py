"""Checkpoints: one safetensors file with the model, its card and, all in one, text encoder and VAE.

Tensor names are the model's own, or in an all-in-one file begin with `diffusion_model.`,
`text_encoder.` or `vae.`. Files that ComfyUI's own save nodes wrote (their prefixes, no metadata
of ours) are read too; their card then says what had to be assumed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .card import Card, infer_card
from .header import WEIGHT_DTYPES, CheckpointError, Header, read_header
from .quantised import check_layers, dequantise, extra_shapes, part_dtypes
from .shapes import (
    Shapes,
    count_blocks,
    expected_shapes,
    expected_text_shapes,
    foreign_family,
    infer_config,
    looks_like_stiv,
    mismatches,
    some,
)
from .tensor_file import (
    DTYPE_NAMES,
    LazyTensors,
    Progress,
    described,
    read_lazily,
    tensor_hash,
    write_tensors,
)

__all__ = [
    "Card",
    "CheckpointError",
    "expected_shapes",
    "read_card",
    "read_checkpoint",
    "read_checkpoint_header",
    "stored_tensors",
    "stream_checkpoint",
    "tensor_hash",
    "write_checkpoint",
]

PARTS = ("diffusion_model", "text_encoder", "vae")

# Prefixes in the file, ours first, then those of ComfyUI's save nodes.
_PREFIXES = {
    "diffusion_model.": "diffusion_model",
    "text_encoder.": "text_encoder",
    "vae.": "vae",
    "model.diffusion_model.": "diffusion_model",
    "first_stage_model.": "vae",
    "cond_stage_model.": "text_encoder",
}
_GET_AGAIN = "get the file again from its source"

Path_ = str | os.PathLike[str]
Names = dict[str, dict[str, str]]  # part -> name within the part -> name in the file


def read_card(path: Path_) -> Card:
    """The card of a checkpoint; reads and checks the header only, no tensor.

    Raises:
        CheckpointError: when the file is not a sound STIV checkpoint.
    """
    return _inspect(path)[0]


def read_checkpoint_header(path: Path_) -> tuple[Card, set[str]]:
    """The card, and which of "diffusion_model", "text_encoder" and "vae" the file holds; read from
    its header alone.

    Raises:
        CheckpointError: when the file is not a sound STIV checkpoint.
    """
    card, names, _ = _inspect(path)
    return card, {part for part, table in names.items() if table}


def read_checkpoint(
    path: Path_, *, verify: bool = False, as_stored: bool = False
) -> tuple[Card, dict[str, Mapping[str, Tensor]]]:
    """The card and the tensors of a checkpoint, memory-mapped: they are read when used.

    Args:
        path: the file.
        verify: read all of it and compare its tensor hash with the card's.
        as_stored: leave quantised layers as they are, with their scales; else their weights are
            given as the float32 numbers that they stand for.

    Returns:
        The card, and for "diffusion_model", "text_encoder" and "vae" the tensors by their names
        within the part; a part that the file has not is empty.

    Raises:
        CheckpointError: when the file is not a sound STIV checkpoint.
    """
    card, names, _ = _inspect(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            parts = {
                part: {name: file.get_tensor(stored) for name, stored in table.items()}
                for part, table in names.items()
            }
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(path, f"cannot be read: {error}; {_GET_AGAIN}") from error
    if verify:
        _verify(path, card, names, parts)
    plain = _checked_layers(path, parts["diffusion_model"])
    return card, parts if as_stored else {**parts, "diffusion_model": plain}


def stream_checkpoint(
    path: Path_, *, as_stored: bool = False
) -> tuple[Card, dict[str, Mapping[str, Tensor]]]:
    """`read_checkpoint` for files larger than the memory: every use of a tensor reads it anew.

    Raises:
        CheckpointError: when the file is not a sound STIV checkpoint, or a tensor cannot be read.
    """
    card, names, header = _inspect(path)
    parts = {part: read_lazily(path, header, table) for part, table in names.items()}
    plain = _checked_layers(path, parts["diffusion_model"])
    return card, parts if as_stored else {**parts, "diffusion_model": plain}


def stored_tensors(path: Path_) -> tuple[Card, LazyTensors]:
    """The card and every tensor by its name in the file, as it is stored, streamed.

    Raises:
        CheckpointError: when the file is not a sound STIV checkpoint, or a tensor cannot be read.
    """
    card, names, header = _inspect(path)
    _checked_layers(path, read_lazily(path, header, names["diffusion_model"]))
    return card, read_lazily(path, header, {name: name for name in header.tensors})


def _checked_layers(path: Path_, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The model's tensors without scales, after the checks of what the header does not tell."""
    try:
        check_layers(tensors)
    except ValueError as error:
        raise CheckpointError(path, f"{error}") from None
    return dequantise(tensors)


def write_checkpoint(
    path: Path_,
    card: Card,
    diffusion_model: Mapping[str, Tensor],
    text_encoder: Mapping[str, Tensor] | None = None,
    vae: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
    extra: Mapping[str, str] | None = None,
) -> Card:
    """Writes a checkpoint atomically: on any failure the file that was there stays.

    Equal contents give equal files, byte for byte.

    Args:
        path: the file to write; its folder must exist.
        card: what the file says of itself; its `tensor_hash` is computed anew.
        diffusion_model: the model's tensors; with the other two left out they are stored bare.
        text_encoder: tensors of the small text encoder, whose config and vocab the card holds.
        vae: tensors of a VAE.
        progress: told of the bytes hashed, then of those written.
        extra: texts of others for the metadata, such as the workflow that made it.

    Any of the tensors may be `LazyTensors`: they are made twice, once for the hash and once for
    the file, and never all at once.

    Returns:
        The card as it will be read, with its hash.

    Raises:
        CheckpointError: when the tensors do not fit the card.
        ValueError: when the card holds a value that JSON has not, or `extra` a key of the card's.
        OSError: when the file cannot be written.
    """
    if odd := [key for key in extra or {} if key.startswith(("stiv.", "modelspec."))]:
        raise ValueError(f"metadata {odd[0]} belongs to the card")
    given = dict(zip(PARTS, (diffusion_model, text_encoder or {}, vae or {}), strict=True))
    for part, table in given.items():
        known = described(table)
        shapes = {name: tuple(tensor.shape) for name, tensor in known.items()}
        dtypes = {name: _dtype_name(path, name, tensor) for name, tensor in known.items()}
        _check_part(path, card, part, shapes, dtypes, remedy="write it with this model's own card")
    tensors = _joined(given, bare=not text_encoder and not vae)
    if card.inferred:  # from now on the file states it
        card = replace(card, training={**card.training, "assumed": list(card.inferred)})
    metadata = replace(card, tensor_hash=tensor_hash(tensors, progress)).to_metadata()
    card = Card.from_metadata(metadata)  # before writing: what cannot be read back is not written
    write_tensors(Path(os.path.realpath(path)), {**(extra or {}), **metadata}, tensors, progress)
    return card


def _joined(parts: Mapping[str, Mapping[str, Tensor]], bare: bool) -> LazyTensors:
    """The tensors of all parts by their names in the file."""
    places = {
        name if bare else f"{part}.{name}": (part, name)
        for part, table in parts.items()
        for name in table
    }
    known = {stored: described(parts[part])[name] for stored, (part, name) in places.items()}

    def make(stored: str) -> Tensor:
        part, name = places[stored]
        return parts[part][name]

    return LazyTensors(known, make)


def _inspect(path: Path_) -> tuple[Card, Names, Header]:
    """The card, where each tensor is, and the header, after every check that it allows."""
    header = read_header(path)
    names = _split(path, header)
    ours = any(key.startswith("stiv.") for key in header.metadata)
    shapes = {
        part: {name: header.tensors[stored].shape for name, stored in table.items()}
        for part, table in names.items()
    }
    if not ours and not looks_like_stiv(shapes["diffusion_model"]):
        raise CheckpointError(path, _not_ours(header))
    try:
        if ours:
            card = Card.from_metadata(header.metadata)
        else:
            card = infer_card(*infer_config(shapes["diffusion_model"]))
    except ValueError as error:
        raise CheckpointError(path, f"bad model card: {error}; {_GET_AGAIN}") from error
    if not ours and names["text_encoder"]:  # useless without the vocabulary in the metadata
        note = "text encoder in the file left out: its vocabulary was not saved with it"
        card = replace(card, inferred=(*card.inferred, note))
        names["text_encoder"], shapes["text_encoder"] = {}, {}
    for part in PARTS:
        dtypes = {name: header.tensors[stored].dtype for name, stored in names[part].items()}
        _check_part(path, card, part, shapes[part], dtypes)
    return card, names, header


def _split(path: Path_, header: Header) -> Names:
    names: Names = {part: {} for part in PARTS}
    for stored in header.tensors:
        prefix = next((p for p in _PREFIXES if stored.startswith(p)), "")
        part, name = _PREFIXES.get(prefix, "diffusion_model"), stored.removeprefix(prefix)
        if name in names[part]:
            raise CheckpointError(
                path, f"tensor {name} of the {part} is there twice, as {names[part][name]} and "
                f"{stored}; {_GET_AGAIN}",
            )  # fmt: skip
        names[part][name] = stored
    return names


def _not_ours(header: Header) -> str:
    family = foreign_family(header.tensors)
    if family:
        return f"is not a STIV model but looks like {family[0]}; load it with {family[1]}"
    stated = header.metadata.get("modelspec.architecture")
    hint = f"its metadata says {stated[:60]!r}" if stated else f"{some(list(header.tensors))}"
    return f"is not a STIV model ({hint}); choose a checkpoint that was saved by STIV"


def _check_part(
    path: Path_,
    card: Card,
    part: str,
    shapes: Shapes,
    dtypes: Mapping[str, str],
    remedy: str = _GET_AGAIN,
) -> None:
    """Compares a part's tensors with what the card asks for; the VAE is the host's to judge."""
    if part == "vae" or (part == "text_encoder" and not shapes):
        return
    if part == "diffusion_model":
        for stack, wanted in (
            ("blocks", card.config.depth),
            ("decoder_blocks", card.config.mask_decoder_blocks),
        ):
            # Compared first, so that a card cannot ask for a network much larger than the file.
            found = count_blocks(shapes, stack)
            if found != wanted:
                raise CheckpointError(
                    path, f"holds {found} {stack}, its config says {wanted}; {remedy}"
                )
        expected = expected_shapes(card.config) | extra_shapes(shapes, dtypes)
    elif card.text_encoder_config is None:
        raise CheckpointError(
            path,
            f"holds a text encoder, but stiv.text has no config and vocab for it; {remedy}",
        )
    else:
        expected = expected_text_shapes(card.text_encoder_config)

    problems = mismatches(expected, shapes)
    odd = [
        f"{name} is {dtype}, expected {' or '.join(wanted)}"
        for name, dtype in dtypes.items()
        if dtype not in (wanted := part_dtypes(name) or WEIGHT_DTYPES)
    ]
    if odd:
        problems.append(f"{len(odd)} of the wrong dtype ({some(odd)})")
    if problems:
        raise CheckpointError(
            path,
            f"tensors of the {part} do not fit its config: {'; '.join(problems)}; {remedy}",
        )


def _verify(path: Path_, card: Card, names: Names, parts: Mapping[str, Mapping[str, Tensor]]):
    if card.tensor_hash is None:
        raise CheckpointError(path, "has no tensor hash to verify; save it with STIV first")
    found = tensor_hash(
        {stored: parts[part][name] for part in PARTS for name, stored in names[part].items()}
    )
    if found != card.tensor_hash:
        raise CheckpointError(
            path,
            f"its tensors hash to {found}, its card says {card.tensor_hash}: they were changed or "
            f"damaged; {_GET_AGAIN}",
        )


def _dtype_name(path: Path_, name: str, tensor: Tensor) -> str:
    if tensor.dtype not in DTYPE_NAMES:
        raise CheckpointError(path, f"tensor {name} has dtype {tensor.dtype}, which is not written")
    return DTYPE_NAMES[tensor.dtype]
