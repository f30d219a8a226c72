"""Faster sampling as patches of a MODEL, which other patches, LoRAs and offloading go with."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from comfy.model_base import BaseModel
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import (
    COMPILE_KEY,
    TORCH_COMPILE_KWARGS,
    apply_torch_compile_factory,
)
from torch import nn

from ...stiv.packed import GeluUnlessPacked, PackedForward, packable, pays_off

_NETWORK = "diffusion_model"
_BACKEND = "inductor"
# By default torch compiles for 8 cases and runs others as they are.
_KNOWN = inspect.signature(torch.compile).parameters
_MANY_CASES = {"recompile_limit": 64} if "recompile_limit" in _KNOWN else {}


def packed(model: Any) -> Any:
    """A copy of the MODEL (a STIV) whose blocks compute with packed weights on a CPU."""
    model = model.clone()
    for name, layer, gelu in packable(model.model.diffusion_model):
        path = f"{_NETWORK}.{name}"
        forward = PackedForward(layer, gelu, partial(_is_plain, model.model, f"{path}.weight"))
        model.add_object_patch(f"{path}.forward", forward)
        if gelu:
            mlp = path.rpartition(".")[0]
            model.add_object_patch(f"{mlp}.activation", GeluUnlessPacked(forward))
    return model


def _is_plain(model: BaseModel, key: str, layer: nn.Module) -> bool:
    """Whether the product is with the weight as it was loaded: the host does nothing to it on its
    way, and no hook's lies in its place for a part of a step."""
    running = model.current_patcher
    hooked = running is not None and key in running.hook_backup
    return not (hooked or layer.weight_function or layer.bias_function)


def packing_doubt(model: Any) -> str | None:
    """Why packed weights would not be used, for the artist; None where they are."""
    if TORCH_COMPILE_KWARGS in model.model_options:
        return "packed weights do not go with compiled models: nothing changes"
    device, dtype = model.load_device, model.model.get_dtype_inference()
    if device.type != "cpu":
        return f"the model runs on {device}: packed weights are for a CPU, nothing changes"
    if not pays_off(dtype):
        name = str(dtype).removeprefix("torch.")
        return f"packed weights would not be faster for {name} on this CPU: nothing changes"
    return None


def compiled(model: Any) -> Any:
    """A copy of the MODEL (a STIV) whose blocks run compiled.

    All of them share what one is compiled to, so compilation takes as long for a large model as
    for a small one. LoRAs in the weights need no other; a second size compiles once more, for
    most others as well.
    """
    model = model.clone(disable_dynamic=True)  # as the host's own node for whole models
    network = model.model.diffusion_model
    blocks = [
        f"{_NETWORK}.{name}.{i}"
        for name in ("blocks", "decoder_blocks")
        for i in range(len(getattr(network, name, ())))
    ]
    settings = {"backend": _BACKEND, "options": {"guard_filter_fn": _lasting}, **_MANY_CASES}
    # The host's `set_torch_compile_wrapper`, with a limit of our own.
    made = {path: torch.compile(model.get_model_object(path), **settings) for path in blocks}
    model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY)
    wrapper = apply_torch_compile_factory(compiled_module_dict=made)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, COMPILE_KEY, wrapper)
    model.model_options[TORCH_COMPILE_KWARGS] = settings
    return model


def _lasting(guards: Any) -> list[bool]:
    """Which conditions of compiled code are checked: none on what the host changes every step."""
    return ["transformer_options" not in guard.name for guard in guards]


def compile_doubt(model: Any) -> str | None:
    """Why nothing is compiled, for the artist; None where it is."""
    if any(isinstance(patch, PackedForward) for patch in model.object_patches.values()):
        return "the model comes from STIV Faster CPU, which does not go with it: nothing changes"
    if model.is_dynamic() and model.injections:
        return (
            "a LoRA in bypass mode is lost where ComfyUI compiles with dynamic VRAM: load it with "
            "the ordinary LoRA loader, or after STIV Compile; nothing changes"
        )
    reason = _cannot_compile(model.load_device)
    return reason and f"{reason}; nothing changes"


def _cannot_compile(device: torch.device) -> str | None:
    if device.type == "cpu":
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:  # of many kinds, by platform
            return (
                f"compiling for a CPU needs a C++ compiler ({error}): install g++ (Windows: MSVC; "
                "macOS: Xcode's tools), or name one by the variable CXX"
            )
    elif device.type in ("cuda", "xpu"):
        from torch.utils._triton import has_triton

        if not has_triton():
            return (
                "compiling for a GPU needs Triton, which is not installed or does not know this "
                "GPU (on Windows: triton-windows)"
            )
    elif device.type != "mps":
        return f"torch does not compile for {device.type}"
    return None
