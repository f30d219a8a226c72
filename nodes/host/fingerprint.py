"""What decides a sampling result, as keys for a store: models, conditionings, VAEs, settings.

Two fingerprints are equal, also in another process, when all that they were taken of computes the
same; what a run leaves behind (where weights lie, counters, caches) is not part of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary

import comfy.ldm.modules.attention
import comfy.model_management
import comfyui_version
import torch
from comfy.cli_args import args
from comfy.model_base import BaseModel
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from comfy.weight_adapter.base import WeightAdapterBase
from torch import Tensor

from ...stiv.card import Card
from ...stiv.packed import PackedForward
from .content import Content
from .digests import is_plain, joined
from .vae import FoldedFrames

COMPUTE_VERSION = 1
"""Raised when this pack computes something else from the same inputs: stored segments of before
are then made again. The pack's own code is known by this number, not by its text."""


@dataclass(frozen=True)
class Fingerprint:
    """A content hash of something live."""

    digest: str
    """64 hexadecimal digits."""
    lasting: bool
    """Whether it is the same after a restart; else it holds for these objects in this process."""
    reason: str = ""
    """What has no lasting fingerprint, and where; one line, empty when `lasting`."""


def fingerprint(value: Any, name: str = "value") -> Fingerprint:
    """Of any value: numbers, texts, tensors, containers, objects, functions, MODELs, VAEs.

    A `Fingerprint` inside counts as what it was taken of: when it is not lasting, neither is this.
    """
    content = Content(_RULES, _PASSING)
    return _taken(content, content.digest(value, name))


def model_fingerprint(model: Any) -> Fingerprint:
    """Of a MODEL: its weights and dtypes with all patches, wrappers, options and hooks, on this
    kind of device, with this version of the host.

    Weights are hashed as they are loaded, once while they live: the hash in a checkpoint's card is
    no proof of them, for loading does not verify it, and other models have none.
    """
    content = Content(_RULES, _PASSING)
    digest = content.facts("sampling", compute=COMPUTE_VERSION, host=_host(), MODEL=model)
    return _taken(content, digest)


def conditioning_fingerprint(conditioning: list) -> Fingerprint:
    """Of a CONDITIONING: encoded texts, given frames, masks, schedules, hooks, control nets."""
    content = Content(_RULES, _PASSING)
    digest = content.facts("conditioning", compute=COMPUTE_VERSION, CONDITIONING=conditioning)
    return _taken(content, digest)


def vae_fingerprint(vae: Any) -> Fingerprint:
    """Of a VAE: its weights, dtype and settings, on this kind of device."""
    content = Content(_RULES, _PASSING)
    digest = content.facts("vae", compute=COMPUTE_VERSION, host=_host(), VAE=vae)
    return _taken(content, digest)


def _taken(content: Content, digest: bytes) -> Fingerprint:
    return Fingerprint(digest.hex(), not content.reason, content.reason)


def _host() -> dict[str, Any]:
    """The host's version, and what its command line says of how it computes."""
    return {
        "version": comfyui_version.__version__,
        "attention": comfy.ldm.modules.attention.optimized_attention.__name__,
        "fast": sorted(feature.value for feature in getattr(args, "fast", None) or ()),
        "deterministic": getattr(args, "deterministic", False),
    }


# Models


def _patcher(content: Content, patcher: Any) -> bytes:
    with _ejected(patcher):
        return _patcher_facts(content, patcher)


@contextmanager
def _ejected(patcher: Any) -> Iterator[None]:
    """Takes out what copies of a MODEL put into their common network while one of them is loaded
    (its `injections`, which are described by themselves), as the host does to read its weights."""
    loaded = (of.model for of in comfy.model_management.current_loaded_models)
    copies = [copy for copy in loaded if copy is not None and copy.model is patcher.model]
    with ExitStack() as stack:
        for copy in dict.fromkeys((patcher, *copies)):
            stack.enter_context(copy.use_ejected())
        yield


def _patcher_facts(content: Content, patcher: Any) -> bytes:
    model = patcher.model
    more = {key: of for key, of in patcher.additional_models.items() if key != "multigpu"}
    return content.facts(
        "model",
        kind=type(model),
        device=torch.device(patcher.load_device),
        weights=joined("modules", *_modules(content, patcher)),
        base=_base_model(patcher) if isinstance(model, BaseModel) else None,
        cast=patcher.force_cast_weights,
        patches=patcher.patches,
        hook_patches=list(patcher.hook_patches.values()),
        forced_hooks=patcher.forced_hooks,
        weight_wrappers=patcher.weight_wrapper_patches,
        object_patches=patcher.object_patches,
        model_options=_in_order(patcher.model_options),
        wrappers=_ordered(patcher.wrappers),
        callbacks=_ordered(patcher.callbacks),
        injections=patcher.injections,
        attachments=patcher.attachments,
        additional_models=more,
    )


def _modules(content: Content, patcher: Any) -> Iterator[str | bytes]:
    """Every module by path, class and own tensors, as it is without patches.

    While a model is loaded, patched weights and objects stand in the places of the original ones,
    maybe those of another copy of the MODEL; the host keeps the originals aside.
    """
    swapped = patcher.object_patches_backup
    waiting = [("", patcher.model)]
    while waiting:
        path, module = waiting.pop()
        content.know(module, joined("module", path))
        yield from (path, content.digest(type(module), path))
        for name, tensor in _own_tensors(patcher, path, module):
            yield from (name, content.digest(tensor, name))
        for name in _QUANTISED:
            if name in vars(module):
                yield from (name, content.digest(vars(module)[name], _join(path, name)))
        for name, value in sorted(vars(module).items()):
            if isinstance(value, (FunctionType, MethodType)):
                value = swapped.get(_join(path, name), value)
                if not _is_method_of(module, name, value):
                    yield from (name, content.digest(value, _join(path, name)))
        for name, child in module._modules.items():
            below = _join(path, name)
            child = swapped.get(below, child)
            apart = below == _SAMPLING or below in patcher.object_patches
            if isinstance(child, torch.nn.Module) and not apart:
                waiting.append((below, child))


def _own_tensors(
    patcher: Any, path: str, module: torch.nn.Module
) -> Iterator[tuple[str, Tensor | torch.dtype | None]]:
    leaf = not any(True for child in module.children() for _ in child.parameters())
    for name, tensor in module._parameters.items():
        key = _join(path, name)
        if key in patcher.backup:
            tensor = patcher.backup[key].weight
        elif key in patcher.hook_backup:
            tensor = patcher.hook_backup[key][0]
        if tensor is not None and tensor.is_meta:  # a bias that the host fills with zeros
            tensor = torch.zeros(tensor.shape, dtype=tensor.dtype)
        wanted = getattr(module, f"{name}_comfy_model_dtype", None)
        if tensor is not None and wanted not in (None, tensor.dtype):
            # As read from a file of another dtype. Loading converts it in its place, in a module
            # with others below it; else it is converted whenever it is used.
            if leaf:
                yield f"{key} dtype", wanted
            else:
                tensor = tensor.to(wanted)
        yield key, tensor
    for name, tensor in module._buffers.items():
        key = _join(path, name)
        yield key, getattr(patcher, "backup_buffers", {}).get(key, tensor)


def _base_model(patcher: Any) -> dict[str, Any]:
    """What a diffusion model is besides its network."""
    model, config = patcher.model, patcher.model.model_config
    swapped = patcher.object_patches_backup
    values = {name: swapped.get(name, value) for name, value in vars(model).items()}
    return {
        "settings": {name: value for name, value in values.items()
                     if is_plain(value) and name not in _RESIDENCE},
        "type": model.model_type,
        "dtype": model.get_dtype(),
        "latent_format": patcher.get_model_object("latent_format"),
        "model_sampling": patcher.get_model_object(_SAMPLING),
        "manual_cast": patcher.get_model_object("manual_cast_dtype"),
        "config": [type(config), config.unet_config, config.sampling_settings,
                   config.optimizations, config.custom_operations],
        **_of_card(getattr(model, "card", None)),
    }  # fmt: skip


def _of_card(card: Card | None) -> dict[str, Any]:
    """What of a STIV's card decides what is computed; nothing where that is the usual."""
    if card is None or (card.image_attention, card.stride) == (None, 1):
        return {}
    return {"card": [card.image_attention, card.stride]}


def _in_order(options: Mapping[str, Any]) -> dict[str, Any]:
    """Model options with their wrappers in the order in which they run."""
    options = {key: value for key, value in options.items() if not key.startswith("multigpu")}
    inner = dict(options.get("transformer_options", {}))
    for key in ("wrappers", "callbacks"):
        if key in inner:
            inner[key] = _ordered(inner[key])
    return {**options, "transformer_options": inner}


def _ordered(table: Mapping[str, Any]) -> dict[str, Any]:
    return {kind: list(by_key.items()) for kind, by_key in table.items() if by_key}


def _is_method_of(module: torch.nn.Module, name: str, value: Any) -> bool:
    """Whether it is what the class gives anyway: putting a method back leaves it in the object."""
    default = getattr(type(module), name, None)
    return getattr(value, "__self__", None) is module and value.__func__ is default


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


# Other objects of the host


def _vae(content: Content, vae: Any) -> bytes:
    network = vae.first_stage_model
    if isinstance(network, FoldedFrames):
        return joined("folded", content.digest(network.vae, "VAE"))
    held = {
        name: value for name, value in vars(vae).items()
        if name not in _VAE_PASSING and not name.startswith("memory_used")
    }  # fmt: skip
    return content.facts("vae", patcher=vae.patcher, settings=held)


def _adapter(content: Content, adapter: Any) -> bytes:
    """A LoRA or the like. Bypass mode writes its strength and dtype into it when a run begins."""
    if adapter not in _ADAPTERS:
        held = (
            type(adapter),
            sorted(getattr(adapter, "loaded_keys", ())),
            getattr(adapter, "weights", None),
        )
        digest = content.digest(held, "weights")
        if content.reason:
            return digest
        _ADAPTERS[adapter] = digest
    return _ADAPTERS[adapter]


def _network(content: Content, module: torch.nn.Module) -> bytes:
    """A module outside a MODEL. A compiled one is described by what was compiled."""
    original = module._modules.get("_orig_mod")
    if original is not None:
        return joined("compiled", content.digest(original, "_orig_mod"))
    return content.plain_object(module)


def _taken_before(content: Content, taken: Fingerprint) -> bytes:
    if not taken.lasting:
        content.reason = content.reason or taken.reason
    return joined("fingerprint", taken.digest)


_SAMPLING = "model_sampling"
_QUANTISED = ("quant_format", "_full_precision_mm")
"""Attributes that decide how the host computes a quantised layer."""
_ADAPTERS: WeakKeyDictionary[Any, bytes] = WeakKeyDictionary()

_RULES = (
    (Fingerprint, _taken_before),
    (ModelPatcher, _patcher),
    (VAE, _vae),
    (WeightAdapterBase, _adapter),
    (torch.nn.Module, _network),
)

_VAE_PASSING = frozenset(("first_stage_model", "patcher", "device", "output_device", "size"))

_RESIDENCE = frozenset((
    "device", "current_patcher", "memory_usage_factor", "model_loaded_weight_memory",
    "lowvram_patch_counter", "model_lowvram", "current_weight_patches_uuid",
    "model_offload_buffer_memory", "dynamic_vbars", "dynamic_pins", "dynamic_patchers",
    "comfy_cast_weights", "prev_comfy_cast_weights", "comfy_patched_weights",
    "comfy_force_cast_weights", "weight_function", "bias_function", "weight_lowvram_function",
    "bias_lowvram_function", "seed_key", "_v", "_v_signature", "_v_weight", "_v_bias",
    "_prefetch", "_pins", "_pin_state",
))  # fmt: skip
"""Attributes by which the host knows where a module's weights lie."""

_PASSING = {
    "torch.nn.modules.module.Module": _RESIDENCE,
    "comfy.context_windows.IndexListContextHandler": frozenset(("_step", "_model")),
    "comfy.controlnet.ControlBase": frozenset((
        "cond_hint", "control_input", "extra_concat", "timestep_range", "model_sampling_current",
        "multigpu_clones", "control_model", "load_device", "device",
    )),
    "comfy.hooks.Hook": frozenset(("_skip_adding",)),
    "comfy.hooks.HookKeyframe": frozenset(("start_t",)),
    "comfy.hooks.HookKeyframeGroup": frozenset((
        "_current_keyframe", "_current_used_steps", "_current_index", "_current_strength",
        "_curr_t", "curr_t",
    )),
    f"{PackedForward.__module__}.PackedForward": frozenset(("source", "packed")),
}  # fmt: skip
"""What sampling changes in objects of the host and of this pack."""
