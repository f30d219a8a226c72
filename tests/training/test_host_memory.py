"""Estimates of what waits in host memory, against what swapping and offloading really move."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stiv import MODELS, STIVConfig, STIVTransformer
from tests.training import sharded_memory as worker
from training import memory
from training.estimate import activation_bytes, lora_state_bytes
from training.host_memory import offloaded_bytes, swapped_bytes, without_swapped
from training.lora import TARGETS, add_lora
from training.low_precision import bytes_held, freeze_in
from training.swap import swap_blocks

CONFIG = STIVConfig(width=192, depth=4, heads=3, text_width=16, pooled_width=16)
BLOCKS = CONFIG.depth + CONFIG.mask_decoder_blocks
STORED = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


@pytest.mark.parametrize("base", ["fp32", "bf16", "fp8"])
@pytest.mark.parametrize("count", [3, BLOCKS])
def test_swapped_bytes_are_those_that_are_moved(base: str, count: int) -> None:
    model = STIVTransformer(CONFIG)
    add_lora(model, 4, 4.0)
    if base in STORED:
        freeze_in(model, STORED[base])
    held = bytes_held(model)
    moved = swap_blocks(model, count)
    assert held - bytes_held(model) == pytest.approx(moved, rel=0.02)
    assert swapped_bytes(CONFIG, count, base) == pytest.approx(moved, rel=0.02)


@pytest.mark.parametrize("base", ["fp32", "bf16", "fp8"])
def test_two_swapped_blocks_stay_in_the_device_s_state(base: str) -> None:
    config = MODELS["xl"]
    blocks = config.depth + config.mask_decoder_blocks
    whole = lora_state_bytes(config, 8, TARGETS, base)
    assert without_swapped(whole, config, 0, base) is whole
    found = without_swapped(whole, config, blocks, base)
    away = swapped_bytes(config, blocks, base)
    assert whole.weights - found.weights == pytest.approx(away * (blocks - 2) / blocks, rel=1e-3)
    assert 0 <= found.copies <= whole.copies
    # a float32 base is copied to bfloat16 for its products, and autograd keeps the copies
    assert (whole.copies - found.copies > away / 3) == (base == "fp32")


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_offloaded_bytes_are_those_that_are_copied(mode: str, monkeypatch) -> None:
    copied, to_host = [], memory.to_host
    monkeypatch.setattr(memory, "to_host", lambda t: copied.append(t.nbytes) or to_host(t))
    model = worker.build()
    memory.set_checkpointing(model, mode, offload=True)
    worker.loss(model)
    kept = len(worker.KEEP[0]) / 12
    shape = (4, 6, 8)
    total, one = offloaded_bytes(worker.TINY, shape, mode, "fp32", text_tokens=5, kept=kept)
    assert sum(copied) == pytest.approx(2 * total, rel=0.1)  # a batch of two
    assert total / 3 < one < total / 2  # the block after unmasking is the largest of three


def test_what_is_not_offloaded_is_outside_of_the_blocks() -> None:
    config, shape = MODELS["xl"], (20, 32, 32)
    for mode in ("none", "selective", "full"):
        total, one = offloaded_bytes(config, shape, mode)
        outside = activation_bytes(config, shape, mode) - total
        plain = replace(config, depth=1, mask_decoder_blocks=0)
        assert outside == activation_bytes(plain, shape, mode) - one
