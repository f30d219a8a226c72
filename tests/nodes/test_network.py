"""The network inside the host: attention of every kind, names of its tensors, compilation."""

from __future__ import annotations

from collections.abc import Callable

import comfy.ops
import pytest
import torch
import torch.nn.functional as F
from comfy.ldm.modules import attention as host_attention
from comfy_api.torch_helpers import set_torch_compile_wrapper
from ComfyUI_STIV.nodes.host import network
from ComfyUI_STIV.stiv.checkpoint import read_checkpoint
from ComfyUI_STIV.stiv.shapes import expected_shapes
from torch.overrides import TorchFunctionMode

from tests.nodes import tiny
from tests.nodes.scenes import Loaded

ATTENTIONS = ("attention_basic", "attention_split", "attention_sub_quad", "attention_pytorch")


@pytest.mark.parametrize("case", ["plain", "mask", "causal", "mask of all"])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_attention_of_the_host(name: str, case: str) -> None:
    """As on a GPU, where the user's choice is taken; the CPU takes torch's unless told."""
    attention: Callable = getattr(host_attention, name)
    chosen = lambda _, *args, **kw: attention(*args, **kw)  # noqa: E731
    override = {"chosen": chosen, "transformer_options": {"optimized_attention_override": chosen}}
    q, k, v = (torch.randn(2, 3, n, 16) for n in (6, 6 if case == "causal" else 5, 5))
    v = torch.randn(2, 3, 6, 16) if case == "causal" else v
    mask = None
    if case.startswith("mask"):
        mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
        mask[0, ..., 3:] = case == "mask of all"
    settings = {"attn_mask": mask, "is_causal": case == "causal"}
    expected = F.scaled_dot_product_attention(q, k, v, **settings)
    out = network.attend(q, k, v, **settings, **override)
    assert torch.allclose(out, expected, atol=1e-5)
    assert torch.equal(network.attend(q, k, v, **settings, transformer_options={}), expected)


def test_many_heads_run_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over time every pixel is a head, more than a CUDA kernel takes at once."""
    calls = []

    def attention(_, q, *args, **kwargs):
        calls.append(q.shape[1])
        return host_attention.attention_pytorch(q, *args, **kwargs)

    monkeypatch.setattr(network, "_HEADS_AT_ONCE", 4)
    q, k, v = torch.randn(3, 1, 10, 5, 8).unbind()
    options = {"optimized_attention_override": attention}
    chosen = options["optimized_attention_override"]
    out = network.attend(q, k, v, chosen=chosen, transformer_options=options)
    assert calls == [4, 4, 2]
    assert torch.allclose(out, F.scaled_dot_product_attention(q, k, v), atol=1e-6)


def layer_of_host(case: str) -> torch.nn.Linear:
    operations = comfy.ops.manual_cast if case == "cast" else comfy.ops.disable_weight_init
    layer = operations.Linear(8, 12, dtype=torch.float16 if case == "cast" else torch.float32)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    if case == "LoRA on the way":
        layer.weight_function = [lambda weight: weight + 1]
    if case == "float8 products":
        layer = comfy.ops.fp8_ops.Linear(8, 12, dtype=torch.float32)
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.normal_(layer.bias)
    if case == "hook":
        layer.register_forward_hook(lambda module, args, out: 2 * out)
    if case == "LoRA beside":
        layer.forward = lambda x: 2 * type(layer).forward(layer, x)
    if case == "LoRA taken off":
        layer.forward = layer.forward  # as the host puts it back
    return layer.requires_grad_(False)


@pytest.mark.parametrize(
    "case",
    [
        "as it is",
        "cast",
        "LoRA on the way",
        "LoRA beside",
        "LoRA taken off",
        "hook",
        "float8 products",
    ],
)
def test_values_alone_are_those_of_the_whole_layer(case: str) -> None:
    layer, x = layer_of_host(case), torch.randn(2, 5, 8)
    products = []

    class Seen(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is F.linear:
                products.append(len(args[1]))
            return function(*args, **(kwargs or {}))

    with Seen():
        found = network.last_outputs(layer, 4, x)
    torch.testing.assert_close(found, layer(x)[..., -4:])
    assert products == [12 if case in ("LoRA beside", "hook", "float8 products") else 4]


def test_parameters_keep_the_names_of_the_bare_network(loaded: Loaded) -> None:
    state = loaded.model.model.diffusion_model.state_dict()
    card, parts = read_checkpoint(loaded.path)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    assert shapes == expected_shapes(card.config)
    assert all(torch.equal(state[name], t) for name, t in parts["diffusion_model"].items())


def test_the_input_of_the_sampler_is_not_written_to(loaded: Loaded) -> None:
    """A cache that edits its input in place must not reach the sampler's state."""

    def spoil(executor, x, *args, **kwargs):
        out = executor(x, *args, **kwargs)
        x.zero_()
        return out

    scene = loaded.scene()
    spoiled = scene.model.clone()
    spoiled.add_wrapper_with_key("diffusion_model", "test", spoil)
    assert torch.equal(scene.but(model=spoiled).sample(), scene.sample())


@pytest.mark.parametrize("frames", [tiny.FRAMES, 1])
def test_it_compiles_in_one_piece(loaded: Loaded, frames: int) -> None:
    torch._dynamo.reset()
    scene = loaded.scene(frames=frames)
    compiled = scene.model.clone()
    set_torch_compile_wrapper(model=compiled, backend="eager", fullgraph=True)
    samples = scene.but(model=compiled).sample(steps=2)
    assert torch.allclose(samples, scene.sample(steps=2), atol=1e-4)
    torch._dynamo.reset()


def test_help_pages_are_there() -> None:
    from scripts.prepare import ROOT

    pages = {path.stem for path in (ROOT / "js" / "docs").glob("*.md")}
    assert set(tiny.SHOWN) == pages
