"""MODELs and other values with their fingerprints, also those that another process takes.

python -m tests.nodes.fingerprints <ComfyUI> <base folder> <checkpoint> prints them as JSON.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import torch


class Colour(Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass(frozen=True)
class Setting:
    name: str
    values: tuple[float, ...]
    colour: Colour = Colour.RED

    @functools.cached_property
    def total(self) -> float:
        return sum(self.values)


class Patch:
    """What a custom node may put into model options."""

    factor = 2.0

    def __init__(self, scale: float, more: Any = None):
        self.scale, self.more = scale, more
        self.itself = self

    def __call__(self, args: dict[str, Any]) -> Any:
        return args["denoised"] * self.scale * self.factor

    def apply(self, args: dict[str, Any]) -> Any:
        return scaled(args["denoised"], self.scale)


BIAS = 0.25


def scaled(x: Any, scale: float) -> Any:
    return x * scale + BIAS


def halved(latent: Any) -> Any:
    return latent / 2


def injection() -> Any:
    """A pack that puts a function of its own into the network while it is loaded."""
    from comfy.patcher_extension import PatcherInjection

    def inject(patcher: Any) -> None:
        block = patcher.model.diffusion_model.blocks[0]
        forward = block.forward
        block.forward = lambda *args, **kwargs: forward(*args, **kwargs)

    def eject(patcher: Any) -> None:
        del patcher.model.diffusion_model.blocks[0].forward

    return PatcherInjection(inject, eject)


def closing_over(scale: float) -> Any:
    return lambda args: args["denoised"] * scale


def digest(value: Any) -> str:
    """The fingerprint of a value that must have a lasting one."""
    from ComfyUI_STIV.nodes.host.fingerprint import fingerprint

    taken = fingerprint(value)
    assert taken.lasting and not taken.reason, taken.reason
    return taken.digest


def values() -> dict[str, Any]:
    """Values of every kind whose fingerprint lasts."""
    generator = torch.Generator().manual_seed(3)
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.SiLU())
    for parameter in module.parameters():
        torch.nn.init.constant_(parameter, 0.5)
    loop: list[Any] = [1]
    loop.append({"back": loop})
    return {
        "numbers": [1, 1.0, True, -0.0, math.inf, math.nan, 2**200, 1j, None, ...],
        "texts": ["a", b"a", "\ud800", ""],
        "containers": ({3, "x", (1, 2)}, frozenset(range(50)), {"b": 1, "a": [2]}, (), [], {}),
        "tensors": [torch.arange(6.0), torch.zeros(0, 3), torch.ones(2, dtype=torch.bfloat16)],
        "dataclass": Setting("x", (1.0, 2.0)),
        "enum": [Colour.BLUE, torch.float16, torch.device("cpu")],
        "functions": [scaled, len, torch.sin, math.sqrt, functools.partial(scaled, scale=2.0)],
        "lambda": lambda x: x if x in {"a", "b", "c"} else scaled(x, 2.0),
        "closure": closing_over(0.5),
        "method": Patch(0.5).apply,
        "object": Patch(0.5, {"generator": generator}),
        "class": Patch,
        "module": module,
        "loop": loop,
    }


def models(path: Path) -> dict[str, Any]:
    """MODELs by what is special about them, made with the nodes of pack and host."""
    from comfy_extras.nodes_apg import APG
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode
    from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
    from comfy_extras.nodes_lora_debug import LoraLoaderBypassModelOnly
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3, RescaleCFG
    from ComfyUI_STIV.nodes.host.speed import packed

    from tests.nodes import scenes, tiny, wan

    model = scenes.load(path).model

    def lora(strength: float, node: Any = "LoraLoaderModelOnly") -> Any:
        return tiny.run(node, model=model, lora_name="tiny.safetensors", strength_model=strength)

    def guided(mode: str, scale: float = 1.5, renorm: bool = False) -> Any:
        return tiny.run("STIVGuidance", model=model, mode=mode, image_scale=scale, renorm=renorm)

    cache = {"model": model, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
    window = {
        "context_length": 2, "context_overlap": 1, "context_schedule": "standard_static",
        "context_stride": 1, "closed_loop": False, "fuse_method": "pyramid", "dim": 2,
        "freenoise": False, "cond_retain_index_list": "0", "split_conds_to_windows": False,
    }  # fmt: skip
    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(Patch(0.5))
    swapped = model.clone()
    swapped.add_object_patch("process_latent_out", halved)
    injected = model.clone()
    injected.set_injections("their pack", [injection()])
    wrapped = model.clone()
    wrapped.set_model_sampler_post_cfg_function(closing_over(0.5))
    return {
        "plain": model,
        "LoRA 0.5": lora(0.5),
        "LoRA 0.6": lora(0.6),
        "LoRA beside 0.5": lora(0.5, LoraLoaderBypassModelOnly),
        "shift 3": tiny.run(ModelSamplingSD3, model=model, shift=3.0),
        "shift 4": tiny.run(ModelSamplingSD3, model=model, shift=4.0),
        "separate": guided("separate"),
        "separate 2": guided("separate", 2.0),
        "renorm": guided("joint", renorm=True),
        "interval": tiny.run("STIVGuidanceInterval", model=model, start=0.0, end=0.5),
        "interval to 0.6": tiny.run("STIVGuidanceInterval", model=model, start=0.0, end=0.6),
        "packed": packed(model),
        "EasyCache": tiny.run(EasyCacheNode, reuse_threshold=0.2, **cache),
        "EasyCache 0.3": tiny.run(EasyCacheNode, reuse_threshold=0.3, **cache),
        "LazyCache": tiny.run(LazyCacheNode, reuse_threshold=0.2, **cache),
        "windows": tiny.run(ContextWindowsManualNode, model=model, **window),
        "APG": tiny.run(APG, model=model, eta=1.0, norm_threshold=5.0, momentum=0.5),
        "RescaleCFG": tiny.run(RescaleCFG, model=model, multiplier=0.7),
        "patch object": patched,
        "patch function": wrapped,
        "method exchanged": swapped,
        "injected": injected,
        "Wan": wan.build(),
        "Wan, other weights": wan.build(1),
    }


def write_lora(
    folder: Path, layer: str = "blocks.0.spatial_attn.qkv", outer: int = 96, name: str = "tiny"
) -> None:
    """For a layer of the tiny network that takes its width and gives `outer`."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(9)
    save_file({
        f"diffusion_model.{layer}.lora_A.weight": torch.randn(2, 32, generator=generator).half(),
        f"diffusion_model.{layer}.lora_B.weight": torch.randn(outer, 2, generator=generator).half(),
    }, folder / f"{name}.safetensors")  # fmt: skip


def taken(path: Path) -> dict[str, str]:
    """The digests of everything here; all of them must last."""
    from ComfyUI_STIV.nodes.host import fingerprint as f

    from tests.nodes import scenes

    scene = scenes.load(path).scene("first")
    found = {name: f.fingerprint(value) for name, value in values().items()}
    found |= {name: f.model_fingerprint(model) for name, model in models(path).items()}
    found["positive"] = f.conditioning_fingerprint(scene.positive)
    found["vae"] = f.vae_fingerprint(scenes.load(path).vae)
    assert not [one.reason for one in found.values() if not one.lasting]
    return {name: one.digest for name, one in found.items()}


if __name__ == "__main__":
    from tests import hosting

    hosting.install(Path(sys.argv[1]), Path(sys.argv[2]))
    from tests.nodes import fingerprints  # not as __main__: the functions here have that name

    with torch.inference_mode():
        print("\n" + json.dumps(fingerprints.taken(Path(sys.argv[3]))))
