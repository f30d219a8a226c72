"""Block swap and offloading: the same numbers, and nothing on the device that need not be there."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.live import standing_in
from stiv import STIVConfig, STIVTransformer
from tests.models import random_model
from tests.training.launches import losses, train
from training.config import EngineSection
from training.export import export, export_lora
from training.layers import Operations
from training.loop import Trainer
from training.lora import add_lora, lora_tensors
from training.low_precision import bytes_held, freeze_in
from training.memory import MODES, blocks_of, set_checkpointing
from training.parallel import make_accelerator
from training.swap import ON_DEVICE, Swap, SwappedLinear, swap_blocks

CONFIG = STIVConfig(
    width=48, depth=5, heads=3, text_width=16, pooled_width=16, mask_decoder_blocks=1
)
BLOCKS = 6
BASES = {"fp32": None, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


def network(base: str = "fp32") -> STIVTransformer:
    """A LoRA that has learned something, on a frozen base."""
    model = random_model(CONFIG, operations=Operations)
    add_lora(model, 4, 4.0, ["qkv", "proj", "fc1", "fc2"])  # q and kv are frozen and not adapted
    if BASES[base]:
        freeze_in(model, BASES[base])
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def loss(model: STIVTransformer, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x, text = (torch.randn(shape, generator=generator) for shape in ((2, 4, 3, 8, 8), (2, 3, 16)))
    keep = torch.arange(12).expand(2, -1)
    return model(x.to(dtype), torch.tensor([0.2, 0.7]), text.to(dtype), keep=keep).square().mean()


def step(model: STIVTransformer, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Loss and gradients of a pass that finds what another, without backward, has left."""
    with torch.no_grad():
        loss(model, dtype)
    found = loss(model, dtype)
    found.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {"loss": found.detach(), **gradients}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_loss_and_gradients_are_the_same_bits(base: str, mode: str, dtype: torch.dtype) -> None:
    plain = network(base)
    set_checkpointing(plain, mode)
    expected = step(plain, dtype)
    for count, offload in ((0, True), (4, False), (BLOCKS, True)):
        model = network(base)
        if count:
            swap_blocks(model, count)
        set_checkpointing(model, mode, offload=offload)
        found = step(model, dtype)
        assert found.keys() == expected.keys()
        wrong = [name for name in expected if not torch.equal(found[name], expected[name])]
        assert not wrong, (count, offload)


@pytest.mark.parametrize("mode", MODES)
def test_passes_may_wait_for_a_common_backward(mode: str) -> None:
    """Then blocks come in another order than forward, and selective checkpointing, which counts
    operations, must not see their copies."""
    gradients = []
    for count in (0, 4):
        model = network()
        if count:
            swap_blocks(model, count)
        set_checkpointing(model, mode)
        losses = [loss(model), 2 * loss(model)]
        sum(losses).backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize("base", BASES)
def test_swapped_weights_are_no_longer_the_models(base: str) -> None:
    model = network(base)
    held, names = bytes_held(model), set(model.state_dict())
    away = swap_blocks(model, 4)
    weights = sum(
        module.weight.nbytes for module in model.modules() if isinstance(module, SwappedLinear)
    )
    assert bytes_held(model) == held - weights
    assert weights <= away < weights + 4 * 9 * 256  # nine layers of a block, each aligned
    gone = names - set(model.state_dict())
    swapped = {name.split(".q.")[0] for name in gone if name.endswith("cross_attn.q.weight")}
    assert swapped == {f"blocks.{i}.cross_attn" for i in (0, 1, 3, 4)}  # spread evenly
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"cpu"}
    model.to("meta")  # as to any device: those in host memory do not come along
    assert all(
        m.weight.device.type == "cpu" for m in model.modules() if isinstance(m, SwappedLinear)
    )


def live_bytes(model: STIVTransformer) -> tuple[int, int, list[int]]:
    """Bytes made and still held after forward, after backward, and at the entry of each block."""
    entries: list[int] = []
    with standing_in() as live:
        for block in blocks_of(model):
            block.register_forward_pre_hook(lambda *_: entries.append(live.now))
        found = loss(model)
        forward = live.now
        found.backward()
        del found
        model.zero_grad()
        return forward, live.now, entries


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("mode", MODES)
def test_two_blocks_are_on_the_device_and_autograd_holds_none(base: str, mode: str) -> None:
    """Measured against the same network with all its weights there: what is made by a forward
    pass and lives on grows by two blocks at most, with every checkpointing."""
    plain, model = network(base), network(base)
    block = swap_blocks(model, BLOCKS) // BLOCKS
    for one in (plain, model):
        set_checkpointing(one, mode)
    before, after = live_bytes(plain), live_bytes(model)
    assert after[0] - before[0] <= ON_DEVICE * block
    assert after[1] - before[1] <= ON_DEVICE * block
    assert len(before[2]) == BLOCKS * (2 if mode != "none" else 1)  # and when computed again
    for without, swapped in zip(before[2], after[2], strict=True):
        assert swapped - without <= ON_DEVICE * block


def test_copies_that_somebody_keeps_would_be_found(monkeypatch) -> None:
    """The measurement above can fail: a swap whose copies are held is over its bound."""
    kept, weight = [], Swap.weight

    def keeping(*args):
        kept.append(weight(*args))
        return kept[-1]

    plain, model = network(), network()
    block = swap_blocks(model, BLOCKS) // BLOCKS
    monkeypatch.setattr(Swap, "weight", keeping)
    assert live_bytes(model)[0] - live_bytes(plain)[0] > (ON_DEVICE + 1) * block


@pytest.mark.parametrize("base", ["bf16", "fp8"])
def test_a_swapped_base_needs_less_at_its_peak(base: str) -> None:
    peaks = []
    for swapped in (0, BLOCKS):
        model = network(base)
        if swapped:
            swap_blocks(model, swapped)
        set_checkpointing(model, "full", offload=bool(swapped))
        held = bytes_held(model)
        with standing_in() as live:
            loss(model).backward()
        peaks.append(held + live.peak)
    assert peaks[1] < peaks[0]


def test_the_next_block_is_fetched_and_each_once_a_pass(monkeypatch) -> None:
    model = network()
    swap_blocks(model, 4)
    set_checkpointing(model, "full")
    fetched, used = [], []
    copied, weight = Swap._copied, Swap.weight

    def copies(swap, stored):
        fetched.append(next(i for i, block in enumerate(swap.host) if block.bytes is stored))
        return copied(swap, stored)

    def uses(swap, block, *rest):
        if not used or used[-1] != block:
            used.append(block)
            assert block in swap._visits or len(used) == 1  # it is there before it is asked for
        return weight(swap, block, *rest)

    monkeypatch.setattr(Swap, "_copied", copies)
    monkeypatch.setattr(Swap, "weight", uses)
    for _ in range(2):
        loss(model).backward()
    assert used == [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0]
    assert fetched == [0, 1, 2, 3, 1, 0, 2, 3, 1, 0]


class FakeStream:
    """Notes what is queued on it, as `Swap` uses a torch.cuda.Stream; events are numbers."""

    def __init__(self, name: str, log: list[str]):
        self.name, self.log, self.copies = name, log, 0

    def wait_stream(self, other: FakeStream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")

    def record_event(self) -> int:
        self.copies += 1
        self.log.append(f"copy {self.copies}")
        return self.copies

    def wait_event(self, number: int) -> None:
        self.log.append(f"{self.name} waits for copy {number}")


def test_streams_wait_for_each_other_where_there_are_streams(monkeypatch) -> None:
    """The order of the CUDA calls: no copy is written over what still computes, none is read or
    freed before it is complete."""
    model, log = network(), []
    swap_blocks(model, 4)
    swap, device = model.blocks[0].cross_attn.q._swap, torch.device("cpu")
    compute, side = FakeStream("compute", log), FakeStream("side", log)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: compute)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    swap._device, swap._stream = device, side

    def use(block: int) -> list[str]:
        log.clear()
        for index in (0, 1):
            swap.weight(block, index, device)
        return list(log)

    def copies(*numbers: int) -> list[str]:
        return [line for n in numbers for line in ("side waits for compute", f"copy {n}")]

    assert use(0) == [*copies(1, 2), "compute waits for copy 1"]
    assert use(1) == [*copies(3), "compute waits for copy 2"]
    assert use(3) == [*copies(4), "compute waits for copy 4"]
    # the third block came and was not used: its memory is let go only after its copy
    assert use(0) == ["compute waits for copy 3", *copies(5, 6), "compute waits for copy 5"]


def test_the_adapter_is_the_same() -> None:
    plain, model = network("bf16"), network("bf16")
    swap_blocks(model, BLOCKS)
    expected, found = lora_tensors(plain), lora_tensors(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_bad_counts_and_trained_weights_are_named() -> None:
    for count in (1, ON_DEVICE, BLOCKS + 1):
        with pytest.raises(ValueError, match=f"swap_blocks is {count}: expected 3 to 6"):
            swap_blocks(network(), count)
    with pytest.raises(ValueError, match="fsdp_offload_params"):
        swap_blocks(random_model(CONFIG, operations=Operations), 3)


# --- runs ----------------------------------------------------------------------------------------

SIZES = {"width": 48, "depth": 3, "heads": 3, "text_width": 16, "pooled_width": 16}
SAVING = {"swap_blocks": 3, "offload_activations": True, "checkpointing": "full"}


@pytest.fixture
def lora(tiny, tmp_path: Path):
    """lora(name, **engine): a LoRA run on a tiny checkpoint, its frozen weights in float8."""
    first = Trainer(tiny(run=str(tmp_path / "base"), **{"model.changes": SIZES}))
    first.start()
    first.run(1)
    export(first.config, tmp_path / "base.safetensors")
    return lambda name, **engine: tiny(
        run=str(tmp_path / name),
        init={"weights": str(tmp_path / "base.safetensors")},
        lora={"rank": 2, "alpha": 2.0, "base": "fp8"},
        engine=engine,
        **{"model.changes": SIZES},
    )


def test_a_run_is_the_same_whole_stopped_and_without_swap(lora, tmp_path: Path) -> None:
    def finish(name: str, stops: list[int], **engine) -> dict[str, Tensor]:
        for stop in stops:
            trainer = Trainer(lora(name, **engine))
            trainer.start()
            trainer.run(stop)
        export_lora(trainer.config, tmp_path / f"{name}.safetensors")
        swapped = sum(isinstance(m, SwappedLinear) for m in trainer.networks.modules())
        assert bool(swapped) == ("swap_blocks" in engine)
        return load_file(tmp_path / f"{name}.safetensors")

    plain = finish("plain", [6])
    for found in (finish("whole", [6], **SAVING), finish("parts", [2, 5, 6], **SAVING)):
        assert found.keys() == plain.keys()
        assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.slow
def test_processes_that_swap_give_the_losses_of_one_that_does_not(lora, tmp_path: Path) -> None:
    for name, processes, engine in (("one", 1, {}), ("ddp", 2, SAVING)):
        recipe = lora(name, **engine).model_dump(mode="json", exclude_none=True)
        train(recipe, tmp_path / name, processes)
    expected = losses(tmp_path / "one")
    assert len(expected) == 6
    assert losses(tmp_path / "ddp") == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine.swap_blocks": 3}, "FSDP2 with fsdp_offload_params: true"),
        ({"engine.swap_blocks": 3, "engine.compile": True}, "set compile: false"),
        ({"engine.offload_activations": True, "engine.compile": True}, "set compile: false"),
        ({"lora": {}, "init": {"weights": "x"}, "engine.swap_blocks": 2}, "expected 3 to 3"),
        ({"lora": {}, "init": {"weights": "x"}, "engine.swap_blocks": 4}, "expected 3 to 3"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(tiny, changes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        tiny(**{"model.changes": SIZES}, **changes)
    assert "\n" not in str(refused.value)


def test_fsdp2_and_swap_are_refused(monkeypatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ValueError, match="fsdp_offload_params"):
        make_accelerator(EngineSection(swap_blocks=3))
