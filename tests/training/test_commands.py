"""The commands of `python -m training` on the bundled checkpoint and a tiny run."""

from __future__ import annotations

import signal
from pathlib import Path

import av
import pytest
import yaml
from PIL import Image
from safetensors import safe_open

from scripts.prepare import ROOT
from stiv import STIVConfig
from stiv.card import Card
from stiv.checkpoint import write_checkpoint
from stiv.public import EPSILON, LATENT_SPACES
from tests.models import random_model
from tests.training.conftest import refused, run
from training import commands
from training.cli import main
from training.data.loader import Loader
from training.export import export
from training.loop import Trainer


@pytest.fixture
def file(recipe, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_sample_renders_a_video_for_each_prompt(tmp_path: Path) -> None:
    picture = tmp_path / "first.png"
    Image.new("RGB", (100, 80), "navy").save(picture)
    prompts = ("--prompt", "a red circle moves left", "--prompt", "a blue square")
    run("sample", *prompts, "--image", picture, "--steps", 1, "--out", tmp_path / "out")
    videos = sorted((tmp_path / "out").glob("*.mp4"))
    assert len(videos) == 2
    for video in videos:
        with av.open(str(video)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == 16
        assert frames[0].shape == (64, 64, 3)
        red, _, blue = frames[0].mean((0, 1))
        assert blue > 80 > red  # the given picture is the first frame


def test_a_given_picture_is_seen_as_training_sees_it(tmp_path: Path) -> None:
    """Turned as its EXIF data says, what is transparent white; not as its file holds it."""
    left, see_through = (
        Image.new("RGB", (80, 40), "navy"),
        Image.new("RGBA", (40, 40), (0, 0, 0, 0)),
    )
    left.paste("red", (0, 0, 40, 40))
    turned = left.getexif()
    turned[0x0112] = 6  # to be shown turned clockwise
    left.save(tmp_path / "turned.png", exif=turned)
    see_through.save(tmp_path / "clear.png")
    picture = commands._picture(tmp_path / "turned.png")
    assert (picture.mode, picture.size) == ("RGB", (40, 80))
    assert picture.getpixel((20, 10)) == (255, 0, 0) and picture.getpixel((20, 70)) == (0, 0, 128)
    assert commands._picture(tmp_path / "clear.png").getpixel((20, 20)) == (255, 255, 255)
    (tmp_path / "broken.png").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"broken\.png: no picture that can be read"):
        commands._picture(tmp_path / "broken.png")


@pytest.mark.parametrize("words", [("sample", "--prompt", "a boat", "--out", "{out}"), ("score",)])
def test_a_model_that_predicts_noise_is_for_the_host(words, tmp_path: Path) -> None:
    """Before its missing VAE and text encoder are asked for."""
    sizes = {"text_width": 16, "pooled_width": 0, "null_text_tokens": 4}
    config = STIVConfig(width=48, depth=1, heads=3, **sizes)
    text = {"encoder": "custom", "width": 16, "pooled_width": 0, "max_tokens": 4}
    path, out = tmp_path / "imported.safetensors", tmp_path / "out"
    card = Card(config, LATENT_SPACES["sd"], text, sampling=EPSILON)
    write_checkpoint(path, card, random_model(config).state_dict())
    said = refused(*(word.format(out=out) for word in words), "--checkpoint", path)
    assert f"{path}: predicts noise" in said and "sample it in ComfyUI" in said
    assert not out.exists()


@pytest.mark.parametrize("tasks", [[], [{"task": "t2v", "frames": [4, 4]}]])
def test_a_card_without_sizes_asks_for_them(tasks: list, tmp_path: Path) -> None:
    config = STIVConfig(width=48, depth=1, heads=3, text_width=16, pooled_width=0)
    text = {"encoder": "custom", "width": 16, "pooled_width": 0, "max_tokens": 4}
    card = Card(config, LATENT_SPACES["sd"], text, tasks=tasks)
    path = tmp_path / "silent.safetensors"
    write_checkpoint(path, card, random_model(config).state_dict())
    options = ("--prompt", "a boat", "--out", tmp_path / "out", "--checkpoint", path)
    said = refused("sample", *options)
    assert f"{path}: its card does not say" in said and "give --frames, --height and" in said
    assert "--text-encoder" in refused(
        "sample", *options, "--frames", 4, "--height", 64, "--width", 64
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_what_follows_train_in_a_script_does_not_follow_ctrl_c(
    file: Path, monkeypatch, number: signal.Signals, code: int
) -> None:
    """SIGTERM comes from batch systems, and is no failure. The loader's workers end in both."""
    step, close, closed = Trainer.train_step, Loader.close, []

    def signalled(trainer: Trainer) -> dict:
        signal.raise_signal(number)
        return step(trainer)

    monkeypatch.setattr(Trainer, "train_step", signalled)
    monkeypatch.setattr(Loader, "close", lambda loader: closed.append(close(loader)))
    with pytest.raises(SystemExit) as end:
        main(["train", "--config", str(file)])
    assert (end.value.code, len(closed)) == (code, 1)


def test_a_lora_is_trained_and_exported_for_the_core_loader(tiny, recipe, tmp_path: Path) -> None:
    first = Trainer(tiny())
    first.start()
    first.run(1)
    card = export(first.config, tmp_path / "base.safetensors")
    values = {
        **recipe,
        "run": str(tmp_path / "lora"),
        "init": {"weights": str(tmp_path / "base.safetensors")},
        "lora": {"rank": 2, "alpha": 2.0, "base": "bf16"},
    }
    file = tmp_path / "lora.yaml"
    file.write_text(yaml.safe_dump(values))
    run("train", "--config", file, "--until", 2)
    run("train", "--config", file)  # goes on
    out = tmp_path / "lora.safetensors"
    run("lora-export", "--config", file, "--out", out)
    with safe_open(out, "pt") as opened:
        names = set(opened.keys())
        metadata = opened.metadata()
        moved = opened.get_tensor("diffusion_model.blocks.0.mlp.fc1.lora_B.weight")
    assert moved.abs().max() > 0
    assert all(name.startswith("diffusion_model.blocks.") for name in names)
    assert card.tensor_hash in str(metadata)
    assert "use lora-export" in refused("export", "--config", file, "--out", out)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train",), "name the recipe"),
        (("train", "--config", "nowhere.yaml"), "nowhere.yaml"),
        (("cache", "latents", "--config", "{file}"), "data.sets is empty"),
        (("export", "--config", "{file}", "--out", "x"), "holds no saved state: train first"),
        (("lora-export", "--config", "{file}", "--out", "x"), "the whole model: use export"),
        (("sample", "--prompt", "a", "--out", "x", "--frames", "8"), "together"),
        (("sample", "--prompt", "a", "--out", "x", "--checkpoint", "no.safetensors"), "no.safe"),
    ],
)
def test_mistakes_end_in_one_line(words, expected: str, file: Path) -> None:
    assert expected in refused(*(str(word).format(file=file) for word in words))


def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    file: Path, recipe, capsys: pytest.CaptureFixture
) -> None:
    run("train", "--config", file, "--dry-run")
    said = capsys.readouterr().out
    assert "parameters" in said
    assert not Path(recipe["run"]).exists()


def test_every_key_is_described(capsys: pytest.CaptureFixture) -> None:
    run("train", "--help-config")
    said = capsys.readouterr().out
    for key in ("image_dropout", "beta2_mode", "unmasked_steps", "heldout_every"):
        assert key in said


def test_the_bundled_recipe_is_the_shipped_files() -> None:
    from stiv.checkpoint import read_card
    from training.config import load_config

    config = load_config(ROOT / "training" / "recipes" / "nano_more.yaml")
    card = read_card(ROOT / "models" / "stiv_nano.safetensors")
    assert card.config == config.model.build()
    assert card.training["steps"] == config.steps
    assert card.sampling["shift"] == config.shift
