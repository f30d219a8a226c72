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
from tests.nodes.scenes import Loaded, Scene, load
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
    monkeypatch.setattr(speed, "_BACKEND", "aot_eager")


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
def test_packed_weights_are_left_as_they_are(scene: Scene, monkeypatch) -> None:
    monkeypatch.setattr(speed, "pays_off", can_pack)
    packed = tiny.run("STIVFasterCPU", model=scene.model)
    assert "STIV Faster CPU" in speed.compile_doubt(packed)
    assert compiled(packed) is packed
    made = compiled(scene.model)
    assert "compiled" in speed.packing_doubt(made)
    assert tiny.run("STIVFasterCPU", model=made) is made


def test_another_attention_is_not_that_of_before(scene: Scene, traced) -> None:
    """The host keeps it among options that change every step, which compiled code ignores."""

    def with_attention(model: Any, scale: float) -> Any:
        model = model.clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = (
            lambda function, *args, **kwargs: scale * function(*args, **kwargs)
        )
        return model

    model = compiled(scene.model)
    for scale in (None, 0.5, 2.0, None):
        plain, fast = (
            one if scale is None else with_attention(one, scale) for one in (scene.model, model)
        )
        made = scene.but(model=fast).sample(steps=2)
        assert_same(made, scene.but(model=plain).sample(steps=2))


@pytest.mark.slow  # a minute
def test_many_cases_all_run_compiled(loaded: Loaded, traced) -> None:
    """Beyond torch's own limit of eight."""
    found = []
    for width in (32, 48, 64, 96):
        other = tiny.write(loaded.path.with_name(f"{width}.safetensors"), width=width)
        model = compiled(load(other).model)
        for frames, batch in ((4, 1), (7, 1), (1, 1), (12, 2)):
            loaded.scene(frames=frames, batch=batch).but(model=model).sample(steps=2)
        found.append(graphs())
    assert found[-1] - found[-2] == found[-2] - found[-3] > 1 and found[-1] > 8


@pytest.mark.slow
def test_generated_code_computes_the_same(scene: Scene) -> None:
    assert_same(scene.but(model=compiled(scene.model)).sample(), scene.sample())


def test_long_videos_keep_what_it_made(loaded: Loaded) -> None:
    """Two runs of a workflow compile anew, and are still known to make the same."""
    first, second = (fingerprint.fingerprint(compiled(loaded.model)) for _ in range(2))
    assert first.lasting and first.digest == second.digest
    assert first.digest != fingerprint.fingerprint(loaded.model).digest


@pytest.mark.parametrize("device", ["cpu", "cuda", "privateuseone"])
def test_where_nothing_can_be_compiled_it_says_so(scene: Scene, device: str) -> None:
    model = scene.model.clone()
    model.load_device = torch.device(device)
    missing = {"cpu": "C++ compiler", "cuda": "Triton", "privateuseone": "for privateuseone"}
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        assert missing[device] in speed.compile_doubt(model)
        assert compiled(model) is model


def test_bypassed_loras_under_dynamic_memory_are_not_lost(scene: Scene, monkeypatch) -> None:
    model = scene.model.clone()
    model.injections = {"bypass_lora": []}
    assert speed.compile_doubt(model) is None
    monkeypatch.setattr(model, "is_dynamic", lambda: True)
    assert "bypass" in speed.compile_doubt(model)
