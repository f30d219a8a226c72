"""The doctor on real runs: a healthy one, and one fault after another."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stiv.checkpoint import write_checkpoint
from stiv.config import MODELS, STIVConfig
from stiv.model import STIVTransformer
from tests.training.machines import CPU, H200, shipped
from training import loop
from training.caches.text import TextCache, cache_text
from training.checks.data import missing_captions
from training.config import TrainConfig
from training.doctor import Finding, describe, doctor, plan
from training.loop import Trainer
from training.outlook import Machine


def found(config: TrainConfig, *, machine: Machine = CPU, **options) -> dict[str, Finding]:
    """The worst finding about each subject."""
    worst: dict[str, Finding] = {}
    order = ("ok", "warn", "error")
    for finding in doctor(config, machine=machine, **{"dry_step": False, **options}):
        before = worst.get(finding.about)
        if before is None or order.index(finding.level) > order.index(before.level):
            worst[finding.about] = finding
    return worst


def test_a_healthy_run_has_no_errors_and_takes_a_step(tiny) -> None:
    config = tiny()
    findings = doctor(config, machine=CPU)
    assert [str(f) for f in findings if f.level == "error"] == []
    step = findings[-1]
    assert step.about == "dry step" and re.fullmatch(r"loss \d+\.\d{4}", step.text)
    assert not config.run.exists()  # the step ran elsewhere


def test_no_step_is_tried_after_an_error(tiny) -> None:
    config = tiny(**{"data.latents": "/nowhere"})
    findings = doctor(config, machine=CPU)
    assert findings[-1].text == "left out: correct the errors first"
    assert found(config)["latent cache"].level == "error"


def test_a_check_that_breaks_is_a_finding(tiny, tmp_path) -> None:
    config = tiny(init={"weights": str(tmp_path / "bad")})
    (tmp_path / "bad").write_bytes(b"\xff" * 100)
    finding = found(config)["init"]
    assert finding.level == "error" and str(tmp_path / "bad") in finding.text


@pytest.mark.parametrize("batch", [6, {"4x4x4": 8, "1x4x4": 6}])
def test_batches_divide_by_processes(tiny, batch) -> None:
    config = tiny(**{"data.streams": [{"batch": batch}]})
    assert found(config, machine=replace(CPU, processes=2)).get("batches") is None
    finding = found(config, machine=replace(CPU, processes=4))["batches"]
    assert finding.level == "error" and "batch 6 " in finding.text
    assert finding.remedy == "set data.streams.0.batch: 4"


def checkpoint(path: Path, config: STIVConfig, card) -> Path:
    model = STIVTransformer(config)
    model.init_weights()
    write_checkpoint(path, replace(card, config=config), model.state_dict())
    return path


@pytest.fixture
def card():
    from stiv.card import Card
    from stiv.public import LATENT_SPACES, TEXT_ENCODERS

    return Card(MODELS["xl"], LATENT_SPACES["sd"], TEXT_ENCODERS["clip_g"])


def frozen(tiny, tmp_path: Path, **changes) -> TrainConfig:
    """A recipe on clips and clip_g, of which nothing is there yet."""
    return tiny(
        **{
            "model.changes": {"width": 48, "depth": 1, "heads": 3, "text_width": 1280}
            | {"pooled_width": 1280},
            "text": {
                "encoder": "clip_g",
                "cache": str(tmp_path / "text"),
                "file": str(tmp_path / "clip_g.safetensors"),
            },
            "vae": str(tmp_path / "vae.safetensors"),
            "data": {
                "sets": [{"path": str(tmp_path / "clips"), "sizes": [[32, 32]], "frames": [4]}],
                "latents": str(tmp_path / "latents"),
                "streams": [{"batch": 4}],
            },
            **changes,
        }
    )


def test_everything_that_is_missing_is_named_with_what_to_do(tiny, tmp_path) -> None:
    config = frozen(tiny, tmp_path, init={"weights": str(tmp_path / "t2i.safetensors")})
    findings = found(config)
    for about, word in (
        ("vae", "vae.safetensors"),
        ("text encoder", "clip_g.safetensors"),
        ("init", "t2i.safetensors"),
        ("data.sets.0", "clips"),
        ("latent cache", "latents"),
        ("text cache", "text"),
    ):
        assert findings[about].level == "error", about
        assert word in findings[about].text
    assert "cache latents" in findings["latent cache"].remedy
    assert "cache text" in findings["text cache"].remedy


@pytest.mark.parametrize(
    ("change", "level"),
    [
        ({"temporal_attention": False, "temporal_patch": 1}, "ok"),  # an image model grows
        ({}, "ok"),
        ({"width": 96}, "error"),
        ({"depth": 2}, "error"),
    ],
)
def test_start_is_tried_without_building_it(tiny, tmp_path, card, change, level) -> None:
    config = frozen(tiny, tmp_path, init={"weights": str(tmp_path / "start.safetensors")})
    checkpoint(tmp_path / "start.safetensors", replace(config.model.build(), **change), card)
    assert found(config)["init"].level == level


def test_data_sets_are_counted_with_their_captions(tiny, tmp_path) -> None:
    config = frozen(tiny, tmp_path)
    clips = tmp_path / "clips"
    clips.mkdir()
    assert "no videos or images" in found(config)["data.sets.0"].text
    for index in range(3):
        (clips / f"{index}.mp4").write_bytes(b"")
    assert "none has a caption" in found(config)["data.sets.0"].text
    (clips / "0.txt").write_text("a fox")
    finding = found(config)["data.sets.0"]
    assert finding.level == "warn" and finding.text.startswith("2 have no caption")
    for index in range(3):
        (clips / f"{index}.txt").write_text("a fox")
    assert found(config)["data.sets.0"].text.endswith("3 entries")


def test_width_of_the_text_is_checked(tiny, tmp_path) -> None:
    config = frozen(tiny, tmp_path, **{"text.encoder": "t5xxl"})
    texts = [f for f in doctor(config, machine=CPU, dry_step=False) if f.about == "text encoder"]
    assert any("4096" in f.text and "model.changes.text_width: 4096" in f.remedy for f in texts)


def test_the_text_encoders_file_and_tokenizer_are_looked_at(tiny, tmp_path) -> None:
    from safetensors.torch import save_file

    config = frozen(tiny, tmp_path, **{"text.tokenizer": str(tmp_path)})
    table = "text_model.embeddings.token_embedding.weight"
    for name, width, expected in (
        (table, 768, "is clip_g, 768 wide, pooled 768; the recipe says clip_g, 1280 wide"),
        ("shared.weight", 4096, "is t5xxl, 4096 wide; the recipe says clip_g, 1280 wide"),
        ("other.weight", 1280, "is no text encoder of a kind that is known"),
    ):
        save_file({name: torch.zeros(2, width)}, config.text.file)
        finding = found(config)["text encoder"]
        assert finding.level == "error" and expected in finding.text
    save_file({table: torch.zeros(2, 1280)}, config.text.file)
    findings = found(config)
    assert findings["text encoder"].level == "ok"
    assert findings["tokenizer"].level == "error"
    assert "vocab.json" in findings["tokenizer"].text


def test_memory_and_disk_are_compared_with_what_there_is(tiny, monkeypatch) -> None:
    config = tiny()
    small = replace(CPU, memory=10**6)
    assert found(config, machine=small)["memory"].level == "warn"
    assert found(config)["memory"].level == "ok"
    import training.checks.machine as checks

    usage = checks.shutil.disk_usage("/")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert found(config)["disk"].level == "error"


def test_swap_and_offloading_are_for_a_gpu_and_need_the_host_s_memory(monkeypatch) -> None:
    import psutil

    config = shipped("low_memory")
    finding = found(config)["host memory"]
    assert finding.level == "warn" and "save nothing" in finding.text
    assert finding.remedy == "set engine.swap_blocks: 0 and engine.offload_activations: false"
    assert found(config, machine=H200)["host memory"].level == "ok"
    unchecked = shipped("low_memory", "engine.checkpointing=none", "engine.swap_blocks=0")
    finding = found(unchecked, machine=H200)["host memory"]
    assert finding.level == "warn" and finding.remedy.startswith("set engine.checkpointing: full")
    memory = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory._replace(available=10**8))
    assert found(config, machine=H200)["host memory"].level == "error"
    assert "host memory" not in found(shipped("lora"))


def test_missing_packages_come_with_the_command(tiny, monkeypatch) -> None:
    import training.checks.machine as checks

    monkeypatch.setattr(checks, "_is_missing", lambda module: module == "tensorboard")
    finding = found(tiny(**{"watch.tensorboard": True}))["packages"]
    assert finding.level == "error" and finding.remedy.endswith("-m pip install tensorboard")
    assert found(tiny())["packages"].level == "ok"


# --- keys ----------------------------------------------------------------------------------------


def keys(model, prefix: str = "") -> list[str]:
    from training.describe import _section

    found = []
    for name, field in model.model_fields.items():
        section, _ = _section(field.annotation)
        found += keys(section, f"{prefix}{name}.") if section else [f"{prefix}{name}"]
    return found


def test_every_key_is_described_with_its_type_and_default() -> None:
    text = describe(TrainConfig)
    lines = text.splitlines()
    for key in keys(TrainConfig):
        depth = key.count(".")
        name = re.escape(key.rsplit(".")[-1])
        pattern = re.compile(rf"\s{{{2 * depth},}}(- )?{name}  \(.+\)")
        assert any(pattern.fullmatch(line) for line in lines), key
    assert "steps  (whole number, >= 1, required)" in lines
    assert "  lr  (number, > 0 and <= 0.1, default 0.0002)" in lines
    assert max(map(len, lines)) <= 110


def test_findings_are_lines_for_people() -> None:
    assert str(Finding("ok", "vae", "there")) == "ok     vae: there"
    assert str(Finding("error", "vae", "gone", "get it")).endswith("\n       -> get it")


# --- caches of clips -----------------------------------------------------------------------------


@pytest.fixture
def cached(tiny, tmp_path, tiny_vae) -> TrainConfig:
    """A run on a cache of four clips, one of them without its caption in the text cache."""
    from safetensors.torch import save_file

    from training.caches.latents import cache_latents
    from training.encoders.vae import open_vae

    save_file(tiny_vae.export(), tmp_path / "vae.safetensors")
    config = frozen(tiny, tmp_path)
    vae = open_vae(tmp_path / "vae.safetensors")
    clips = [
        Clip(np.full((4, 32, 32, 3), i, np.uint8), (f"clip {i}",), f"{i}.mp4") for i in range(4)
    ]
    cache_latents(clips, vae, config.data.latents, spec={})
    cache_text([f"clip {i}" for i in range(3)], FakeEncoder(), config.text.cache)
    return config


@dataclass
class Clip:
    frames: np.ndarray
    captions: tuple[str, ...]
    key: str
    content: str = "0" * 64
    fps: float = 8.0
    micro: tuple[float, ...] = (32, 32, 0, 0, 3, 4)


class FakeEncoder:
    name, hash, width, pooled_width, max_tokens, batch = "clip_g", "0", 1280, 1280, 77, 4

    def encode(self, captions):
        return [(torch.zeros(2, 1280), torch.zeros(1280)) for _ in captions]


def test_caches_are_counted_and_compared(cached) -> None:
    findings = found(cached)
    assert findings["latent cache"].text.endswith("4x4x4: 4 clips")
    assert findings["text cache"].level == "error"
    assert findings["text cache"].text == "lacks the states of 1 captions, as 'clip 3'"
    assert "4x4x4: 4 clips" in plan(cached, machine=CPU)


def test_prompts_that_were_not_encoded_are_told_before_the_first_step(cached) -> None:
    watch = cached.watch.model_copy(update={"samples_every": 100, "prompts": ["clip 0", "a fox"]})
    config = cached.model_copy(update={"watch": watch})
    lacks = r"lacks the states of 2 captions, as 'a fox'"
    assert re.match(lacks, found(config)["text cache"].text)
    with pytest.raises(ValueError, match=rf"text cache .* {lacks}: run python -m .* cache text"):
        Trainer(config).start()


def test_captions_that_were_not_encoded_are_told_before_the_first_step(cached) -> None:
    """By whichever process finds them: each looks at its share of the shards."""
    with pytest.raises(ValueError, match=r"lacks the states of 1 captions, as 'clip 3'"):
        Trainer(cached).start()
    cache = TextCache(cached.text.cache)
    assert [missing_captions(cached, cache, (i, 2)) for i in range(2)] == [["clip 3"], []]


def test_captions_are_looked_up_once(cached, monkeypatch) -> None:
    """By the first start, or by the doctor for its step; a run that goes on has the same data."""
    cache_text(["clip 3"], FakeEncoder(), cached.text.cache, writer="1")
    looked, check = [], loop.check_captions
    monkeypatch.setattr(loop, "check_captions", lambda *a: looked.append(a) or check(*a))
    assert doctor(cached, machine=CPU)[-1].text.startswith("loss") and not looked
    for calls, options in ((1, {}), (1, {}), (2, {"allow_changes": True})):
        trainer = Trainer(cached, **options)
        trainer.start()
        trainer.run(1)
        assert len(looked) == calls


def test_latents_of_another_vae_are_told(cached, tiny_vae, tmp_path) -> None:
    from safetensors.torch import save_file

    other = {name: tensor + 0.5 for name, tensor in tiny_vae.export().items()}
    save_file(other, tmp_path / "vae.safetensors")
    finding = found(cached)["latent cache"]
    assert finding.level == "error" and "another VAE" in finding.text


def test_latents_of_another_number_of_channels_are_told(cached) -> None:
    changes = {**cached.model.changes, "latent_channels": 16}
    model = cached.model.model_copy(update={"changes": changes})
    finding = found(cached.model_copy(update={"model": model}))["latent cache"]
    assert finding.remedy.startswith("set model.changes.latent_channels: 4")
