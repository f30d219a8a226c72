"""Save a model as it is on the wires: one checkpoint with its card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import io, ui

from ..stiv.checkpoint import Card, write_checkpoint
from ..stiv.convert.casting import cast_tensors, too_large_for
from ..stiv.convert.exchange import DTYPES
from ..stiv.convert.weights import Weights
from ..stiv.quantised import dequantise
from ..stiv.shapes import some
from ..stiv.tensor_file import byte_count, described
from .host.disk import check_disk
from .host.model import require_stiv
from .host.report import tell
from .host.saving import MODEL_PREFIX, baked_tensors, patches_of, text_part, vae_part

AS_LOADED = "as loaded"
_NODE = "STIV Save Checkpoint"
_FOLDER = "checkpoints"
_STEPS = 1000  # of the progress bar
_HEADER_BYTES = 2**20  # spared on the disk beside the tensors


class STIVSaveCheckpoint(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="STIVSaveCheckpoint",
            display_name=_NODE,
            category="STIV/loaders",
            description=(
                "Save a STIV model with its card as one file, LoRAs and merges baked in. Connect "
                "CLIP and VAE to put them inside. STIV Load Checkpoint lists it at once."
            ),
            search_aliases=["stiv", "save model", "checkpoint save", "bake lora", "export model"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.Model.Input("model", tooltip="A STIV model; its LoRAs are baked in."),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip=(
                        "The CLIP of STIV Load Checkpoint, to put the text encoder inside. Others "
                        "(clip_g, T5) stay files of their own."
                    ),
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="The model's image VAE, to put it inside."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="stiv/model",
                    tooltip="Folder and name under checkpoints in ComfyUI's output folder.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=[AS_LOADED, *DTYPES],
                    default=AS_LOADED,
                    tooltip=(
                        "Of the weights in the file; bf16 and fp16 are half the size of fp32. A "
                        "VAE stays as it is."
                    ),
                ),
                io.String.Input(
                    "title",
                    default="",
                    tooltip="The model's name on its card; empty: as it is.",
                    advanced=True,
                ),
                io.String.Input(
                    "license",
                    default="",
                    tooltip="The licence on the card; empty: as it is.",
                    advanced=True,
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        filename_prefix: str,
        dtype: str,
        title: str = "",
        license: str = "",
        clip: Any = None,
        vae: Any = None,
    ) -> io.NodeOutput:
        card = require_stiv(model, _NODE).card
        inside_vae = {} if vae is None else vae_part(vae, card, _NODE)
        if clip is not None:
            text_part(clip, card)  # refused before anything is loaded
        path = _next_path(filename_prefix)
        loaded = [model] if clip is None else [model, clip.load_model()]
        comfy.model_management.load_models_gpu(loaded)

        text = None if clip is None else text_part(clip, card)
        weights = Weights(
            card=_with_text(card, text),
            diffusion_model=baked_tensors(model.state_dict_for_saving, MODEL_PREFIX),
            text_encoder=text[1] if text else {},
            vae=inside_vae,
        )
        patches = patches_of(model)
        settings = {"dtype": dtype, **({"patches": patches} if patches else {})}
        weights = weights.derived("save", settings, [card.tensor_hash])
        weights = replace(weights, card=_described(weights.card, title, license))
        saved = _write(path, _cast(weights, dtype), _workflow(cls))
        lines = _report(path, weights, patches, clip, dtype) + _left_out(model)
        report = "\n".join((*lines, "", saved.summary()))
        tell(cls, report)
        return io.NodeOutput(ui=ui.PreviewText(report))


def _next_path(prefix: str) -> Path:
    """The file to write; the host refuses a prefix that leads out of its output folder."""
    if not os.path.basename(os.path.normpath(prefix)).strip(". "):
        raise ValueError(f"{_NODE}: filename_prefix {prefix!r} names no file: try stiv/model")
    root = os.path.join(folder_paths.get_output_directory(), _FOLDER)
    folder, name, counter, *_ = folder_paths.get_save_image_path(prefix, root)
    return Path(folder, f"{name}_{counter:05}_.safetensors")


def _with_text(card: Card, text: tuple[dict[str, Any], Any] | None) -> Card:
    """The card of a file with this text encoder inside, or with none."""
    beside = {key: value for key, value in card.text.items() if key not in ("config", "vocab")}
    return replace(card, text=text[0] if text else beside)


def _described(card: Card, title: str, license: str) -> Card:
    given = {"title": title.strip(), "license": license.strip(), "date": date.today().isoformat()}
    modelspec = card.modelspec | {key: value for key, value in given.items() if value}
    return replace(card, modelspec=modelspec)


def _cast(weights: Weights, dtype: str) -> Weights:
    """In the dtype of the widget; quantised layers stay so only as loaded."""
    if dtype == AS_LOADED:
        return weights
    weights = replace(weights, diffusion_model=dequantise(weights.diffusion_model))
    if too_large := too_large_for(weights, DTYPES[dtype]):
        listed = some([f"{name}: {size:.6g}" for name, size in too_large.items()])
        raise ValueError(
            f"{_NODE}: {len(too_large)} tensors hold values too large for {dtype} ({listed}): "
            "choose bf16"
        )
    return replace(
        weights,
        diffusion_model=cast_tensors(weights.diffusion_model, DTYPES[dtype]),
        text_encoder=cast_tensors(weights.text_encoder, DTYPES[dtype]),
    )


def _workflow(node: type[io.ComfyNode]) -> dict[str, str]:
    """What the front end opens when the file is dropped on it, unless ComfyUI shall not save it."""
    if args.disable_metadata or node.hidden is None:
        return {}
    found = {"prompt": node.hidden.prompt, **(node.hidden.extra_pnginfo or {})}
    return {key: json.dumps(value) for key, value in found.items() if value is not None}


def _write(path: Path, weights: Weights, extra: Mapping[str, str]) -> Card:
    parts = (weights.diffusion_model, weights.text_encoder, weights.vae)
    needed = sum(map(byte_count, parts)) + _HEADER_BYTES
    bar = comfy.utils.ProgressBar(_STEPS)

    def progress(what: str, done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        half = _STEPS // 2
        bar.update_absolute(half * (what == "write") + half * done // max(1, total))

    try:
        check_disk({path.parent: needed}, "the checkpoint")
        return write_checkpoint(path, weights.card, *parts, progress, extra)
    except OSError as error:
        raise ValueError(
            f"{_NODE}: {path} could not be written: {error.strerror or error}"
        ) from error


def _report(
    path: Path, weights: Weights, patches: Mapping[str, Any], clip: Any, dtype: str
) -> list[str]:
    place = path.relative_to(folder_paths.get_output_directory())
    dtypes = {t.dtype for t in described(weights.diffusion_model).values()} - {torch.uint8}
    loaded = ", ".join(sorted(str(found).removeprefix("torch.") for found in dtypes))
    lines = [
        f"saved: {place} ({path.stat().st_size / 1e6:,.1f} MB)",
        f"weights: {loaded if dtype == AS_LOADED else dtype}",
    ]
    if patches:
        lines.append(f"baked in: {', '.join(patches['kinds'])}, on {patches['tensors']} tensors")
    if clip is None:
        lines.append("text encoder: none connected, so none inside")
    elif not weights.text_encoder:
        name = type(clip.cond_stage_model).__name__
        lines.append(f"text encoder: {name} is not put inside; load it beside the model")
    return lines


def _left_out(model: Any) -> list[str]:
    """What other nodes set on the model that is no weight and changes every result."""
    found = []
    if "model_sampling" in model.object_patches:
        found.append("the shift that another node set")
    if model.injections:
        found.append("LoRAs in bypass mode")
    return [f"not in the file: {' and '.join(found)}; keep those nodes"] if found else []
