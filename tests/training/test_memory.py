"""Activation checkpointing: the same gradients, less kept, attention not computed again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.live import standing_in
from stiv.tokens import Positions
from tests.models import random_model
from tests.training import sharded_memory as worker
from tests.training.ranks import run_ranks
from training.attention import short_attention
from training.layers import Operations
from training.lora import add_lora
from training.memory import MODES, blocks_of, from_host, run, set_checkpointing, to_host

FUSED = "aten._scaled_dot_product_flash_attention_for_cpu.default"
SOFTMAX = "aten._softmax.default"
BLOCKS = worker.TINY.depth + worker.TINY.mask_decoder_blocks


class Count(TorchDispatchMode):
    """How often each operation runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.calls[str(operation)] += 1
        return operation(*args, **(kwargs or {}))


def measure(mode: str, attention=None) -> tuple[dict, int, Counter]:
    """Gradients, bytes that autograd keeps for backward, and what backward runs."""
    model = worker.build(attention)
    set_checkpointing(model, mode)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = worker.loss(model)
    with Count() as count:
        loss.backward()
    return worker.gradients(model), sum(kept.values()), count.calls


@pytest.mark.parametrize("attention", [None, short_attention], ids=["sdpa", "short"])
def test_gradients_are_equal_and_less_is_kept(attention) -> None:
    plain, kept_plain, _ = measure("none", attention)
    selective, kept_selective, _ = measure("selective", attention)
    full, kept_full, _ = measure("full", attention)
    for name, gradient in plain.items():
        assert torch.equal(gradient, selective[name]), name
        assert torch.equal(gradient, full[name]), name
    assert kept_full < kept_selective < 0.3 * kept_plain


def test_a_selective_block_keeps_three_tokens_and_a_bit() -> None:
    """Input, two attention outputs and their logarithmic sums, in units of tokens x width."""
    config, tokens = worker.TINY, 2 * 2 * 12
    block = worker.build().blocks[0]
    x = torch.randn(2, 2, 12, config.width, requires_grad=True)
    others = (
        torch.randn(2, 6, config.width),
        torch.randn(2, 5, config.width),
        None,
        Positions(config, (2, 3, 4), x),
        nn.functional.scaled_dot_product_attention,
    )
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    given = {t.untyped_storage().data_ptr() for t in others if isinstance(t, torch.Tensor)}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run("selective", block, x, *others)
    numbers = sum(n for storage, n in kept.items() if storage not in given)
    logarithms = 2 * tokens * config.heads
    assert numbers <= 3 * tokens * config.width + logarithms + 16  # and seeds of kernels


def test_self_attention_is_not_computed_again() -> None:
    again = {mode: measure(mode)[2][FUSED] for mode in MODES}
    # spatial, temporal and cross-attention; selective repeats only the last, as in the paper
    assert again == {"none": 0, "selective": BLOCKS, "full": 3 * BLOCKS}
    again = {mode: measure(mode, short_attention)[2][SOFTMAX] for mode in MODES}
    assert again == {"none": 0, "selective": BLOCKS, "full": 3 * BLOCKS}


def test_every_backend_gives_the_same_gradients() -> None:
    """torch's fallback of separate products as well, in which no operation is attention."""
    with sdpa_kernel(SDPBackend.MATH):
        plain, kept_plain, _ = measure("none")
        selective, kept, _ = measure("selective")
    assert kept < 0.5 * kept_plain
    assert all(torch.equal(plain[name], selective[name]) for name in plain)


def test_long_rows_without_a_kernel_are_computed_again() -> None:
    """Their probabilities would be larger than all else: kept would be worse than nothing."""
    long = torch.randn(1, 1, 80, 8, requires_grad=True)
    short = torch.randn(1, 1, 40, 8, requires_grad=True)
    for q, expected in ((long, 1), (short, 0)):
        out = run("selective", lambda q: ((q @ q.mT).softmax(-1) @ q).sin(), q)
        with Count() as count:
            out.sum().backward()
        assert count.calls[SOFTMAX] == expected


def test_modes_follow_each_other_and_an_unknown_one_is_named() -> None:
    model = worker.build()
    set_checkpointing(model, "full", compiled=True)
    assert all("forward" in vars(block) for block in blocks_of(model))
    set_checkpointing(model, "none")
    assert model.checkpoint is None
    assert not any("forward" in vars(block) for block in blocks_of(model))
    with pytest.raises(ValueError, match="'some'"):
        set_checkpointing(model, "some")


# how weights are shared, checkpointing, compiled, offloaded
EAGER = [
    *(["ddp", "selective", False, False], ["ddp", "none", False, True]),
    *(["fsdp2", "full", False, False], ["fsdp2", "selective", False, False]),
    *(["fsdp2", mode, False, True] for mode in MODES),
]
COMPILED = [
    *(["ddp", "selective", True, False], ["fsdp2", "selective", True, False]),
    ["fsdp2", "none", True, False],
]


@pytest.mark.parametrize(
    "cases", [EAGER, pytest.param(COMPILED, marks=pytest.mark.slow)], ids=["eager", "compiled"]
)
def test_it_composes_with_ddp_and_fsdp2(cases: list) -> None:
    model = worker.build()
    worker.loss(model).backward()
    expected = worker.gradients(model)
    for found in run_ranks(worker.every_engine, 2, cases, seconds=600):
        assert len(found) == len(cases)
        for case, gradients in found.items():
            for name, gradient in expected.items():
                torch.testing.assert_close(
                    gradients[name], gradient, rtol=1e-4, atol=1e-6, msg=f"{case}: {name}"
                )


def test_compiled_blocks_share_their_code_and_keep_attention() -> None:
    """One graph for all blocks of a shape; its backward has no self-attention forward."""
    from torch._dynamo.utils import counters

    graphs = []
    backend = recording_backend(graphs)
    torch._dynamo.reset()
    counters.clear()
    model = worker.build()
    set_checkpointing(model, "selective", compiled=True, backend=backend)
    worker.loss(model).backward()
    found = worker.gradients(model)
    plain, _, _ = measure("none")
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
    # masked main blocks and unmasked decoder blocks have shapes of their own
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    calls = [(kind, names[FUSED]) for kind, names in graphs]
    assert sorted(calls) == [("backward", 1), ("backward", 1), ("forward", 3), ("forward", 3)]


def recording_backend(graphs: list):
    """torch.compile's way of splitting forward from backward, run as it is."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.partitioners import min_cut_rematerialization_partition

    def record(kind):
        def compiler(graph, inputs):
            graphs.append((kind, Counter(str(node.target) for node in graph.graph.nodes)))
            return make_boxed_func(graph.forward)

        return compiler

    return aot_autograd(
        fw_compiler=record("forward"),
        bw_compiler=record("backward"),
        partition_fn=min_cut_rematerialization_partition,
    )


@pytest.mark.parametrize(("mode", "tensors"), [("full", 1), ("selective", 3), ("none", 20)])
def test_offloaded_activations_are_not_on_the_device(mode: str, tensors: int) -> None:
    """At least the input of every block is away, and the outputs of its two self-attentions."""
    alive, gradients = [], []
    for offload in (False, True):
        model = worker.build()
        set_checkpointing(model, mode, offload=offload)
        with standing_in() as live:
            loss = worker.loss(model)
            alive.append(live.now)
            loss.backward()
        gradients.append(worker.gradients(model))
    inputs = 4 * worker.TINY.width * 2 * 2 * (2 * 8 + 12)  # two masked blocks and a whole one
    assert alive[0] - alive[1] >= tensors * inputs
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@pytest.mark.parametrize("rank", [0, 16])
def test_copies_of_weights_in_bfloat16_are_not_offloaded(rank: int) -> None:
    """They are on the device as weights are; what is away are activations."""
    alive, gradients, losses = {}, {}, {}
    for offload in (False, True):
        model = random_model(replace(worker.TINY, width=64), std=0.1, operations=Operations)
        if rank:
            add_lora(model, rank, float(rank))
        set_checkpointing(model, "none", offload=offload)
        matrices = [
            weight
            for block in blocks_of(model)
            for weight in block.parameters()
            if weight.ndim == 2 and 2 * weight.numel() >= 4096  # smaller ones always stay
        ]
        with standing_in() as live:
            losses[offload] = worker.loss(model, torch.bfloat16)
            alive[offload] = live.now
            losses[offload].backward()
        gradients[offload] = worker.gradients(model)
    copies = 2 * sum(weight.numel() for weight in matrices)
    assert copies < alive[True] < copies + 0.3 * (alive[False] - copies)
    assert torch.equal(losses[False], losses[True])
    assert all(torch.equal(gradients[True][n], value) for n, value in gradients[False].items())


def test_offloaded_tensors_come_back_in_the_same_order() -> None:
    tensor = torch.randn(2, 3, 4, 5).transpose(1, 2)
    back = from_host(to_host(tensor), tensor.device)
    assert torch.equal(back, tensor) and back.stride() == tensor.stride()
    assert back.data_ptr() != tensor.data_ptr()
