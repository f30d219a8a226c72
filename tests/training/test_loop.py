"""The loop on real latents of a small random VAE: learning, resume, export, the command line."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from scripts.prepare import ROOT
from stiv.checkpoint import read_checkpoint, write_checkpoint
from tests.commands import Command
from training.batches import shift_at
from training.config import load_config
from training.encoders.taesd import TinyVAE
from training.export import export
from training.loop import Trainer, _Stopping
from training.sampling import Sampler
from training.state import states
from training.vae import VAETraining, save_vae


def trained(config, until: int | None = None) -> Trainer:
    trainer = Trainer(config)
    trainer.start()
    trainer.run(until)
    return trainer


def tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer._tensors().items()}


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in lines(run) if "loss" in line]


@pytest.fixture
def vae_file(tiny_vae: TinyVAE, tmp_path: Path) -> Path:
    path = tmp_path / "vae.safetensors"
    save_vae(tiny_vae, path, VAETraining(widths=(8, 8, 8, 8), blocks=1))
    return path


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_run_continues_bit_for_bit(tiny, tmp_path: Path, precision: str) -> None:
    def finish(name: str, *stops: int) -> Trainer:
        config = tiny(run=str(tmp_path / name), **{"engine.precision": precision})
        for stop in (*stops, config.steps):
            trainer = trained(config, stop)
        return trainer

    whole, parts = finish("whole"), finish("parts", 2, 5)
    expected, got = tensors(whole), tensors(parts)
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert len(losses(tmp_path / "whole")) == 6


def test_the_loss_falls(tiny) -> None:
    config = tiny(steps=60)
    trained(config)
    found = losses(config.run)
    assert sum(found[-15:]) < 0.8 * sum(found[:15])


def test_accumulation_changes_nothing_but_rounding(tiny, tmp_path: Path) -> None:
    trained(tiny(run=str(tmp_path / "once")))
    trained(tiny(run=str(tmp_path / "parts"), **{"engine.accumulate": 2}))
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "once"), rel=1e-4)


def test_learning_rate_rises_holds_and_falls(tiny) -> None:
    trainer = Trainer(tiny())
    rates = [trainer.learning_rate(step) / 1e-3 for step in range(6)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 2 / 3, 1 / 3])


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_checkpointing_gives_the_same_run(tiny, tmp_path: Path, mode: str) -> None:
    plain = trained(tiny(run=str(tmp_path / "plain")), 3)
    saved = trained(tiny(run=str(tmp_path / "saved"), **{"engine.checkpointing": mode}), 3)
    expected, got = tensors(plain), tensors(saved)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_masking_ends_with_an_unmasked_phase(tiny) -> None:
    changes = {"model.changes": {"width": 48, "depth": 1, "heads": 3, "text_width": 16}}
    changes["model.changes"] |= {"pooled_width": 16, "mask_decoder_blocks": 1}
    config = tiny(**changes, **{"masking.ratio": 0.5, "masking.unmasked_steps": 2})
    trainer = Trainer(config)
    trainer.start()
    seen = []
    trainer.model.register_forward_pre_hook(lambda _, args: seen.append(args[4]))
    trainer.run()
    assert [keep is not None for keep in seen] == [True] * 4 + [False] * 2
    assert {tuple(keep.shape) for keep in seen[:4]} == {(4, 2)}


def test_steps_that_are_not_finite_change_nothing_and_end_the_run(tiny) -> None:
    config = tiny(**{"engine.max_bad_steps": 2})
    trainer = Trainer(config)
    trainer.start()
    before = tensors(trainer)
    trainer.networks["diffusion_model"].final.linear.register_forward_hook(
        lambda module, args, output: output * float("nan")
    )
    trainer.train_step()
    after = tensors(trainer)
    assert all(torch.equal(after[name], before[name]) for name in before)
    with pytest.raises(ValueError, match=r"2 steps in a row .*bad-step-00000001-0\.json"):
        trainer.train_step()
    dump = json.loads((config.run / "bad-step-00000001-0.json").read_text())
    assert len(dump["keys"]) == len(dump["captions"]) == len(dump["t"]) == 4


def test_a_state_of_other_settings_is_refused_by_name(tiny) -> None:
    trained(tiny(), 2)
    with pytest.raises(ValueError, match=r"optimizer\.lr: 0\.001 -> 0\.002.*--allow-changes"):
        Trainer(tiny(**{"optimizer.lr": 2e-3})).start()
    other = Trainer(tiny(**{"optimizer.lr": 2e-3}), allow_changes=True)
    other.start()
    assert other.progress.step == 2
    longer = Trainer(tiny(steps=9, **{"engine.checkpointing": "full"}))
    longer.start()
    assert longer.progress.step == 2
    with pytest.raises(ValueError, match=r"steps is 1, but .*step-00000002 is at step 2 already"):
        Trainer(tiny(steps=1)).start()


def test_held_out_clips_are_part_of_a_state(tiny) -> None:
    trained(tiny(), 1)
    with pytest.raises(ValueError, match=r"data\.0: of the same clips all -> 9 are trained on"):
        Trainer(tiny(**{"watch.heldout_every": 3})).start()


def test_a_task_that_leaves_nothing_to_learn_is_refused(tiny) -> None:
    tasks = {"data.tasks": {"t2v": 0.5, "v2v": 0.5}}
    with pytest.raises(ValueError, match=r"bucket 4x4x4: task v2v gives all 4 frames"):
        Trainer(tiny(**tasks)).start()
    Trainer(tiny(**tasks, **{"data.streams": [{"batch": 4, "still": True}]})).start()


def test_ctrl_c_saves_and_a_second_one_does_not_wait(tiny, monkeypatch) -> None:
    trainer = Trainer(tiny())
    trainer.start()
    step, presses = trainer.train_step, {1: 1, 2: 2}

    def pressed() -> dict[str, torch.Tensor]:
        for _ in range(presses.get(trainer.progress.step, 0)):
            signal.raise_signal(signal.SIGINT)
        return step()

    monkeypatch.setattr(trainer, "train_step", pressed)
    assert trainer.run() == signal.SIGINT
    assert [path.name for path in states(trainer.config.run)] == ["step-00000002"]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert trainer.progress.step == 2


SIGNALS = {"ctrl-c": signal.SIGINT, "term": signal.SIGTERM}


@pytest.mark.parametrize(
    ("sent", "told"),
    [("", None), ("term", "term"), ("term ctrl-c", "ctrl-c"), ("ctrl-c term", "ctrl-c")],
)
def test_a_run_tells_the_signal_that_came(tiny, monkeypatch, sent: str, told: str | None) -> None:
    """Be it after the last step. Only a second Ctrl-C does not wait."""
    trainer = Trainer(tiny(steps=1))
    trainer.start()
    save = trainer.save

    def signalled() -> Path:
        for name in sent.split():
            signal.raise_signal(SIGNALS[name])
        return save()

    monkeypatch.setattr(trainer, "save", signalled)
    assert trainer.run() == (told and SIGNALS[told])
    assert states(trainer.config.run)[-1].name == "step-00000001"


def test_a_handler_that_python_did_not_set_is_left(monkeypatch) -> None:
    set_handler, before = signal.signal, signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(signal, "signal", lambda *words: set_handler(*words) and None)
    try:
        with _Stopping() as stopping:
            signal.raise_signal(signal.SIGTERM)
        assert stopping.by == signal.SIGTERM
    finally:
        set_handler(signal.SIGTERM, before)
        set_handler(signal.SIGINT, signal.default_int_handler)


def test_no_step_is_asked_for(tiny) -> None:
    assert trained(tiny(), 0).progress.step == 0


def test_only_the_newest_states_stay(tiny) -> None:
    config = tiny(**{"save.steps": 1, "save.keep": 2})
    trained(config)
    assert [path.name for path in states(config.run)] == ["step-00000005", "step-00000006"]


def test_export_is_the_average_in_a_file_the_sampler_opens(
    tiny, vae_file: Path, tmp_path: Path
) -> None:
    config = tiny(shift=2.0, shift_tokens=2)
    trainer = trained(config)
    path = tmp_path / "tiny.safetensors"
    card = export(config, path, vae=vae_file)
    _, parts = read_checkpoint(path, verify=True)
    name = "blocks.0.mlp.fc1.weight"
    averaged = trainer.ema.tensors[f"diffusion_model.{name}"]
    assert torch.equal(parts["diffusion_model"][name], averaged.half())
    export(config, tmp_path / "raw.safetensors", weights="raw")
    _, raw = read_checkpoint(tmp_path / "raw.safetensors")
    weights = trainer.parameters[f"diffusion_model.{name}"].detach()
    assert torch.equal(raw["diffusion_model"][name], weights.half())
    assert [task["task"] for task in card.tasks] == ["t2i", "t2v", "ti2v"]
    assert card.tasks[1]["frames"] == [4, 4]
    assert card.tasks[0]["height"] == [32, 32]
    assert (card.training["steps"], card.training["dataset"]) == (6, "shapes")

    sampler = Sampler.from_checkpoint(path, steps=3)
    assert sampler.shape == (4, 4, 4, 4)
    assert sampler.shift == 4.0  # of eight tokens, as training shifts clips; pictures have four
    assert shift_at(config, config.model.build(), (1, 4, 4)) == pytest.approx(2 * 2**0.5)
    clean = torch.randn(2, 4, 4, 4, 4)
    mask = torch.tensor([[True, False, False, False]] * 2)
    made = sampler.latents(["a red circle", "a square"], clean, mask)
    assert torch.equal(made[:, :, 0], clean[:, :, 0])
    assert torch.equal(made, sampler.latents(["a red circle", "a square"], clean, mask))
    assert sampler.clips(["a red circle"], None, None, 0).shape == (1, 4, 32, 32, 3)


def test_a_run_starts_from_a_checkpoint(tiny, tmp_path: Path) -> None:
    first = trained(tiny(), 2)
    path = tmp_path / "parent.safetensors"
    parent = export(first.config, path)
    child = Trainer(tiny(run=str(tmp_path / "child"), init={"weights": str(path)}))
    child.start()
    assert child.progress.step == 0
    for name, parameter in child.parameters.items():
        assert torch.equal(parameter, first.ema.tensors[name].half().float())
    child.run(1)
    card = export(child.config, tmp_path / "child.safetensors")
    assert card.training["parents"] == [parent.tensor_hash]

    deeper = {"width": 48, "depth": 1, "heads": 3, "text_width": 16, "pooled_width": 16}
    other = tiny(
        run=str(tmp_path / "other"),
        init={"weights": str(path)},
        **{"model.changes": {**deeper, "width": 96}},
    )
    with pytest.raises(ValueError, match=r"parent\.safetensors: width 48 cannot become 96"):
        Trainer(other).start()


def test_a_run_may_begin_with_a_new_text_encoder(tiny, tmp_path: Path) -> None:
    first = trained(tiny(), 2)
    path = tmp_path / "parent.safetensors"
    export(first.config, path)

    def start(name: str, **init: bool) -> dict[str, torch.Tensor]:
        config = tiny(run=str(tmp_path / name), seed=4, init={"weights": str(path), **init})
        child = Trainer(config)
        child.start()
        return child.parameters

    taken, new = start("taken"), start("new", text_encoder=False)
    for name, parameter in new.items():
        if name.startswith("diffusion_model."):
            assert torch.equal(parameter, taken[name])
        elif name.endswith("embedding.weight"):
            assert not torch.allclose(parameter, taken[name], atol=1e-3)


def test_a_new_text_encoder_has_the_words_of_its_data(tiny, tmp_path: Path) -> None:
    path = tmp_path / "parent.safetensors"
    export(trained(tiny(), 1).config, path)
    card, parts = read_checkpoint(path)
    frozen = {"encoder": "custom", "width": 16, "pooled_width": 16, "max_tokens": 40}
    write_checkpoint(path, replace(card, text=frozen), parts["diffusion_model"])
    child = tiny(run=str(tmp_path / "child"), init={"weights": str(path)})
    with pytest.raises(ValueError, match="no text encoder of our own inside"):
        Trainer(child).start()
    init = {"weights": str(path), "text_encoder": False}
    trained(tiny(run=str(tmp_path / "new"), init=init), 1)
    with pytest.raises(ValueError, match=r"init\.text_encoder is false, but a lora"):
        tiny(init=init, lora={"rank": 2})


def test_the_text_encoder_learns_at_its_share_of_the_rate(tiny, tmp_path: Path) -> None:
    def moved(share: float) -> torch.Tensor:
        config = tiny(run=str(tmp_path / str(share)), **{"text.lr_share": share})
        trainer = Trainer(config)
        trainer.start()
        name = "text_encoder.token_embedding.weight"
        before = trainer.parameters[name].detach().clone()
        trainer.train_step()
        return trainer.parameters[name].detach() - before

    torch.testing.assert_close(moved(0.1), 0.1 * moved(1.0), rtol=1e-3, atol=1e-7)


def test_an_image_model_grows_into_a_video_model(tiny, recipe, tmp_path: Path) -> None:
    sizes = recipe["model"]["changes"]
    image = tiny(
        run=str(tmp_path / "image"),
        **{
            "model.changes": {**sizes, "temporal_attention": False, "temporal_patch": 1},
            "data.streams": [{"batch": 4, "still": True}],
        },
    )
    trained(image, 2)
    path = tmp_path / "image.safetensors"
    card = export(image, path)
    assert [task["task"] for task in card.tasks] == ["t2i"]
    video = Trainer(tiny(run=str(tmp_path / "video"), init={"weights": str(path)}))
    video.start()
    added = video.parameters["diffusion_model.blocks.0.temporal_attn.proj.weight"].detach()
    assert not added.any()
    video.run(2)
    assert len(losses(video.config.run)) == 2


def test_held_out_losses_and_samples_are_shown(tiny, vae_file: Path) -> None:
    config = tiny(
        vae=str(vae_file),
        **{
            "watch.heldout_every": 3,
            "watch.heldout_clips": 2,
            "watch.samples_every": 6,
            "watch.prompts": ["a red circle", "a <b>square</b>"],
            "watch.sample_steps": 2,
        },
    )
    trained(config)
    held_out = [line for line in lines(config.run) if any(k.startswith("heldout") for k in line)]
    assert [line["step"] for line in held_out] == [3, 6]
    assert {key.split("@")[0] for key in held_out[0] if "@" in key} == {
        "heldout/t2v",
        "heldout/ti2v",
    }
    assert len(list((config.run / "samples").rglob("*.mp4"))) == 2
    page = next(config.run.glob("*.html")).read_text()
    assert "<b>square" not in page


def test_the_command_trains_and_continues(recipe, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(recipe))
    for until, words in ((2, "step 1 of 2"), (4, "resumed at step 2")):
        options = ("--config", file, "--until", until)
        done = Command("training", "train", *options, folder=tmp_path)
        assert done.wait() == 0, done.stderr
        assert words in done.stderr


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimiser.lr=1", "optimiser: Extra inputs"),
        ("data.tasks={t2v: 0.5}", "data: task shares sum to 0.5"),
        ("data.tasks={t2v: 0.5, inpaint: 0.5}", "inpaint"),
        ("steps=0", "steps: .*got 0"),
        ("model.size=huge", "huge"),
        ("data.streams.0.batch=x", "data.streams.0.batch"),
        ("masking.ratio=0.5", "nothing unmasks"),
        ("steps", "key=value"),
    ],
)
def test_a_bad_recipe_ends_in_one_line_before_any_work(override: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        load_config(ROOT / "training" / "recipes" / "nano.yaml", [override])
    assert "\n" not in str(error.value)


def test_missing_latents_are_named(tmp_path: Path) -> None:
    options = ("--set", f"data.latents={tmp_path}", "--set", f"run={tmp_path}")
    recipe = ("--config", "training/recipes/nano.yaml")
    done = Command("training", "train", *recipe, *options, folder=tmp_path / "output")
    assert done.wait() == 1
    assert done.stderr.strip().count("\n") == 0
    assert str(tmp_path) in done.stderr
