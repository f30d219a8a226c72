"""STIV Compile: one compilation for all blocks, and what it lasts for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from ComfyUI_STIV.nodes.host import fingerprint, speed
from ComfyUI_STIV.stiv.packed import can_pack
from torch._dynamo.utils import counters

from tests.nodes import fingerprints, tiny
from tests.nodes.scenes import Loaded, Scene
from tests.nodes.test_sampling import assert_given


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing compiled before, and nothing left for other tests."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture
def traced(monkeypatch) -> None:
    """All but the generation of code, which takes half a minute."""
    full = speed.set_torch_compile_wrapper

    def wrapper(model: Any, *, backend: str, options: dict, keys: list[str]) -> None:
        full(model, backend="aot_eager", options=options, keys=keys)

    monkeypatch.setattr(speed, "set_torch_compile_wrapper", wrapper)


def compiled(model: Any) -> Any:
    return tiny.run("STIVCompile", model=model)


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def assert_same(made: torch.Tensor, plain: torch.Tensor) -> None:
    assert (made - plain).norm() / plain.norm() < 1e-5


def test_one_compilation_is_for_all_blocks_and_steps(scene: Scene, traced) -> None:
    plain = scene.sample(steps=3)
    made = scene.but(model=compiled(scene.model)).sample(steps=3)
    assert_same(made, plain)
    assert_given(made, scene)
    config = scene.model.model.diffusion_model.config
    assert config.depth + config.mask_decoder_blocks == 3 and graphs() == 1
    assert not counters["graph_break"]
    assert torch.equal(
        scene.sample(steps=3), plain
    )  # the other copy of the MODEL computes as before
    assert graphs() == 1


@pytest.mark.parametrize("order", ["lora, compiled", "compiled, lora"])
def test_loras_need_no_other(scene: Scene, folders, order: str, traced) -> None:
    fingerprints.write_lora(folders["loras"])

    def with_lora(model: Any, strength: float) -> Any:
        settings = {"lora_name": "tiny.safetensors", "strength_model": strength}
        return tiny.run("LoraLoaderModelOnly", model=model, **settings)

    for strength in (0.0, 1.0, -0.5):
        plain = scene.but(model=with_lora(scene.model, strength)).sample()
        if order == "lora, compiled":
            both = compiled(with_lora(scene.model, strength))
        else:
            both = with_lora(compiled(scene.model), strength)
        assert_same(scene.but(model=both).sample(), plain)
    assert graphs() == 1


def test_the_second_size_compiles_for_all(loaded: Loaded, traced) -> None:
    model, needed = compiled(loaded.model), []
    for frames, batch in ((4, 1), (7, 1), (12, 1), (20, 1), (12, 2), (7, 3)):
        scene = loaded.scene(frames=frames, batch=batch)
        assert_same(scene.but(model=model).sample(steps=2), scene.sample(steps=2))
        needed.append(graphs())
    assert needed == [1, 2, 2, 2, 3, 3]


@pytest.mark.skipif(not can_pack(torch.float32), reason="this torch has no oneDNN for x86")
def test_goes_with_packed_weights(scene: Scene, traced, monkeypatch) -> None:
    monkeypatch.setattr(speed, "pays_off", can_pack)
    both = compiled(tiny.run("STIVFasterCPU", model=scene.model))
    assert_same(scene.but(model=both).sample(), scene.sample())


@pytest.mark.slow
def test_generated_code_computes_the_same(scene: Scene) -> None:
    assert_same(scene.but(model=compiled(scene.model)).sample(), scene.sample())


def test_long_videos_keep_what_it_made(loaded: Loaded) -> None:
    """Two runs of a workflow compile anew, and are still known to make the same."""
    first, second = (fingerprint.fingerprint(compiled(loaded.model)) for _ in range(2))
    assert first.lasting and first.digest == second.digest
    assert first.digest != fingerprint.fingerprint(loaded.model).digest


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_where_nothing_can_be_compiled_it_says_so(scene: Scene, monkeypatch, device: str) -> None:
    model = scene.model.clone()
    model.load_device = torch.device(device)
    monkeypatch.setattr(speed.shutil, "which", lambda name: None)
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    missing = "C++ compiler" if device == "cpu" else "Triton"
    assert missing in speed.compile_doubt(model)
    assert compiled(model) is model
