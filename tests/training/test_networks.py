"""bfloat16 training: activations in bfloat16, parameters and gradients in float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from stiv.config import STIVConfig
from stiv.flow import flow_loss
from stiv.model import STIVBlock, STIVTransformer
from stiv.text_encoder import Block, TextEncoder, TextEncoderConfig, Tokenizer
from training.attention import short_attention
from training.lora import add_lora
from training.low_precision import freeze_in
from training.memory import MODES, set_checkpointing
from training.networks import Networks

CAPTIONS = ["a red circle moves left", "red red"]
TOKENIZER = Tokenizer(sorted({word for text in CAPTIONS for word in text.split()}), 12)
TEXT = TextEncoderConfig(width=24, depth=2, heads=2, max_tokens=12, vocab_size=len(TOKENIZER))
MODEL = STIVConfig(
    width=48, depth=2, heads=3, text_width=24, pooled_width=24, mask_decoder_blocks=1
)
LATENTS = (2, 4, 4, 4, 4)
KEEP = torch.tensor([[0, 2, 3], [1, 2, 3]])


def build(dtype: torch.dtype | None, **changes: Any) -> Networks:
    """The same networks for every dtype, every weight at work."""
    networks = Networks(replace(MODEL, **changes), TEXT, dtype=dtype, tokenizer=TOKENIZER)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in networks.named_parameters():
        std = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        nn.init.normal_(parameter, float("norm" in name), std, generator=generator)
    return networks


def loss(networks: Networks) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x, target = torch.randn(2, *LATENTS, generator=generator)
    velocity = networks.velocity(x, torch.tensor([0.2, 0.7]), CAPTIONS, keep=KEEP)
    assert velocity.dtype == torch.float32
    return flow_loss(velocity, target, torch.zeros(LATENTS[0], LATENTS[2], dtype=torch.bool)).mean()


def step(networks: Networks) -> tuple[float, dict[str, Tensor]]:
    networks.zero_grad()
    value = loss(networks)
    value.backward()
    assert value.dtype == torch.float32
    return value.item(), {n: p.grad for n, p in networks.named_parameters() if p.requires_grad}


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def watch(networks: Networks) -> set[torch.dtype]:
    """The dtypes that go into and come out of blocks and layers, filled by every pass."""
    seen: set[torch.dtype] = set()

    def see(_, inputs, output):
        tensors = [*inputs, output]
        seen.update(t.dtype for t in tensors if isinstance(t, Tensor) and t.is_floating_point())

    for module in networks.modules():
        if isinstance(module, nn.Linear | nn.RMSNorm | nn.LayerNorm | STIVBlock | Block):
            module.register_forward_hook(see)
    return seen


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_activations_and_float32_parameters(mode: str) -> None:
    networks = build(torch.bfloat16)
    set_checkpointing(networks["diffusion_model"], mode)
    seen = watch(networks)
    _, gradients = step(networks)
    assert seen == {torch.bfloat16}  # when backward computes them again, too
    for name, parameter in networks.named_parameters():
        assert parameter.dtype == gradients[name].dtype == torch.float32, name
        assert gradients[name].isfinite().all() and gradients[name].any(), name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("changes", [{}, {"shared_adaln": False, "position": "sincos"}], ids=str)
def test_loss_and_gradient_are_those_of_bfloat16_weights(changes: dict, mode: str) -> None:
    """Oracle: torch's own layers on weights that were rounded, as FSDP2 gathers them."""
    networks = build(torch.bfloat16, **changes)
    set_checkpointing(networks["diffusion_model"], mode)
    config = networks["diffusion_model"].config
    rounded = build(None, **changes)
    rounded["diffusion_model"] = STIVTransformer(config, attention=short_attention)
    rounded["text_encoder"] = TextEncoder(TEXT)
    rounded.load_state_dict(networks.state_dict())
    rounded.to(torch.bfloat16)
    (found, gradients), (expected, others) = step(networks), step(rounded)
    assert found == expected
    assert gradients.keys() == others.keys()
    for name, gradient in others.items():
        # where a weight is used more than once, float32 adds its gradients up more exactly
        assert difference(gradients[name], gradient.float()) < 2**-8, name


@pytest.mark.parametrize("mode", ["none", "selective"])
def test_compiled_blocks_give_the_same_step(mode: str) -> None:
    """Traced and differentiated ahead of time; without a C++ compiler nothing is generated."""
    networks = build(torch.bfloat16)
    expected, others = step(networks)
    torch._dynamo.reset()
    set_checkpointing(networks["diffusion_model"], mode, compiled=True, backend="aot_eager")
    found, gradients = step(networks)
    assert found == expected
    assert all(difference(gradients[name], others[name]) < 2**-8 for name in others)


class Texts:
    """A text cache of captions that are their own number of tokens."""

    def get(self, captions: list[str]) -> tuple[Tensor, Tensor, Tensor]:
        lengths = torch.tensor([int(caption) for caption in captions])
        rows = torch.randn(16, 24, generator=torch.Generator().manual_seed(3))
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return rows[: mask.shape[1]] * mask[..., None], mask, rows[lengths - 1]


def cached(compiled: bool) -> Networks:
    networks = Networks(MODEL, text_cache=Texts(), compiled=compiled)
    networks.load_state_dict({k: v for k, v in build(None).state_dict().items() if "diff" in k})
    return networks


def run(networks: Networks, *lengths: int) -> Tensor:
    x = torch.randn(LATENTS, generator=torch.Generator().manual_seed(2))
    return networks.velocity(x, torch.tensor([0.2, 0.7]), [str(n) for n in lengths])


def test_compiled_blocks_see_few_lengths_of_cached_text() -> None:
    """A compilation for every longest caption of a batch would take longer than the training."""
    networks, plain = cached(True), cached(False)
    torch._dynamo.reset()
    counter = CompileCounter()
    set_checkpointing(networks["diffusion_model"], "none", compiled=True, backend=counter)
    for longest in range(1, 9):
        torch.testing.assert_close(run(networks, longest, 1), run(plain, longest, 1))
    once = counter.frame_count
    assert once > 0
    run(networks, 12, 9)
    assert counter.frame_count == 2 * once
    assert networks.prompts(["12", "9"])["mask"].sum(1).tolist() == [12, 9]
    assert plain.prompts(["12", "9"])["states"].shape[1] == 12


@pytest.mark.parametrize("compiled", [False, True])
def test_a_recipe_says_whether_blocks_are_compiled(tiny, monkeypatch, compiled: bool) -> None:
    monkeypatch.setattr("training.caches.text.TextCache", lambda folder: Texts())
    sizes = {"width": 48, "depth": 1, "heads": 3, "text_width": 1280, "pooled_width": 1280}
    text = {"encoder": "clip_g", "cache": "cache"}
    config = tiny(text=text, **{"model.changes": sizes, "engine.compile": compiled})
    networks = Networks.from_config(config)
    assert networks.prompts(["5", "3"])["mask"].shape[1] == (8 if compiled else 5)


def test_bfloat16_is_near_float32() -> None:
    (found, gradients), (expected, others) = step(build(torch.bfloat16)), step(build(None))
    assert found == pytest.approx(expected, rel=0.01)
    joined = [torch.cat([g.flatten() for g in each.values()]) for each in (gradients, others)]
    assert difference(*joined) < 0.05


@pytest.mark.parametrize("base", [None, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_a_lora_computes_in_bfloat16(base: torch.dtype | None) -> None:
    networks = build(torch.bfloat16).requires_grad_(False)
    model = networks["diffusion_model"]
    if base is not None:
        freeze_in(model, base)
    names = add_lora(model, 4, 8.0)
    seen = watch(networks)
    optimizer = torch.optim.SGD([model.get_parameter(name) for name in names], lr=0.1)
    before, gradients = step(networks)
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    assert all(g.any() == (".lora_B." in name) for name, g in gradients.items())  # B is 0 yet
    optimizer.step()
    after, gradients = step(networks)
    assert after < before
    assert all(g.isfinite().all() and g.any() for g in gradients.values())
    assert seen == {torch.bfloat16}
