"""`sample` for the paper's models, whose text encoder and VAE lie in files of their own."""

from __future__ import annotations

import json
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import av
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from stiv import STIVConfig
from stiv.card import Card
from stiv.checkpoint import write_checkpoint
from stiv.public import LATENT_SPACES, TEXT_ENCODERS
from tests.conftest import HOST
from tests.models import random_model
from tests.training.conftest import refused, run
from tests.training.towers import save_tower
from tests.training.vaes import diffusers_vae
from training import prompts as module
from training.caches.text import TextCache, cache_text
from training.encoders.text import FrozenText, open_text_encoder
from training.networks import Networks
from training.sampling import Sampler

pytestmark = pytest.mark.skipif(HOST is None, reason="the tokenizers are ComfyUI's")

PROMPTS = ["a red circle moves left", "Ünïcode, 狐 & dots…"]
WIDTH = 64
PYTHON = Path(sys.executable).name
SIZES = {"frames": [2, 3], "height": [32, 32], "width": [40, 40], "stride": [1, 1]}


@pytest.fixture(autouse=True)
def tokenizers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(HOST))


@pytest.fixture(scope="module", params=["clip_g", "t5xxl"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A checkpoint of the SD latent space, its text encoder and its VAE."""
    folder, kind = tmp_path_factory.mktemp("files"), request.param
    pooled = WIDTH if kind == "clip_g" else 0
    config = STIVConfig(width=48, depth=1, heads=3, text_width=WIDTH, pooled_width=pooled)
    text = {**TEXT_ENCODERS[kind], "width": WIDTH, "pooled_width": pooled}
    card = Card(config, LATENT_SPACES["sd"], text, [{"task": "ti2v", **SIZES}])
    model = {n: t.half() for n, t in random_model(config, std=0.1).state_dict().items()}
    write_checkpoint(folder / "model.safetensors", card, model)
    save_file(diffusers_vae().state_dict(), folder / "vae.safetensors")
    return SimpleNamespace(
        kind=kind,
        model=folder / "model.safetensors",
        vae=folder / "vae.safetensors",
        text=save_tower(kind, folder / f"{kind}.safetensors"),
    )


def sampler_of(files: SimpleNamespace) -> Sampler:
    return Sampler.from_checkpoint(
        files.model, vae=files.vae, text_encoder=files.text, prompts=PROMPTS, steps=2
    )


def test_a_video_is_rendered(files: SimpleNamespace, tmp_path: Path) -> None:
    Image.new("RGB", (90, 80), "navy").save(tmp_path / "first.png")
    run(
        "sample", "--checkpoint", files.model, "--vae", files.vae, "--text-encoder", files.text,
        "--prompt", PROMPTS[0], "--prompt", PROMPTS[1], "--image", tmp_path / "first.png",
        "--steps", 1, "--out", tmp_path / "out",
    )  # fmt: skip
    videos = sorted((tmp_path / "out").glob("*.mp4"))
    assert len(videos) == 2
    with av.open(str(videos[0])) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(32, 40, 3)] * 3


def test_a_score_takes_the_same_files(files: SimpleNamespace, capsys) -> None:
    model = ("score", "--checkpoint", files.model, "--vae", files.vae, "--count", 2, "--steps", 1)
    assert "by --text-encoder" in refused(*model)
    run(*model, "--text-encoder", files.text)
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {task: scores["clips"] for task, scores in results.items()} == dict.fromkeys(
        ("text_to_video", "image_to_video", "interpolation", "prediction"), 2
    )


def test_the_states_are_those_of_the_cache_that_it_was_trained_on(
    files: SimpleNamespace, tmp_path: Path
) -> None:
    cache_text(PROMPTS, open_text_encoder(files.kind, files.text, any_size=True), tmp_path)
    sampler = sampler_of(files)
    networks = Networks.from_checkpoint(files.model, TextCache(tmp_path))
    trained = Sampler(networks.velocity, sampler.codec, sampler.shape, steps=2)
    made = sampler.latents(PROMPTS)
    assert torch.equal(made, trained.latents(PROMPTS))
    assert not torch.allclose(made, trained.latents(PROMPTS[::-1]), atol=1e-3)
    weak = Sampler(networks.velocity, sampler.codec, sampler.shape, steps=2, guidance_scale=1.0)
    assert not torch.allclose(made, weak.latents(PROMPTS), atol=1e-3)  # "" takes part


def test_the_text_encoder_is_gone_when_the_networks_are_there(
    files: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    towers: list[weakref.ref] = []

    def opened(*args: object, **settings: object) -> FrozenText:
        encoder = open_text_encoder(*args, **settings)
        (tower,) = (c.cell_contents for c in encoder._run.__closure__)
        towers.append(weakref.ref(tower))
        return encoder

    def load(*args: object) -> Networks:
        assert len(towers) == 1 and towers[0]() is None
        return networks(*args)

    networks = Networks.from_checkpoint
    monkeypatch.setattr(module, "open_text_encoder", opened)
    monkeypatch.setattr(Networks, "from_checkpoint", load)
    assert sampler_of(files).shape == (4, 3, 4, 5)


def test_other_files_are_refused_before_work(files: SimpleNamespace, tmp_path: Path) -> None:
    def sample(**options: Path) -> str:
        named = {"checkpoint": files.model, "vae": files.vae, "text-encoder": files.text}
        given = [word for k, v in {**named, **options}.items() if v for word in (f"--{k}", v)]
        return refused("sample", *given, "--prompt", "a", "--out", tmp_path / "out")

    other = "t5xxl" if files.kind == "clip_g" else "clip_g"
    wanted = f"was trained with {files.kind}, {WIDTH} wide"
    said = sample(**{"text-encoder": save_tower(other, tmp_path / "other.safetensors")})
    assert "other.safetensors is " + other in said and wanted in said
    said = sample(**{"text-encoder": save_tower(files.kind, tmp_path / "wide.safetensors", 128)})
    assert f"wide.safetensors is {files.kind}, 128 wide" in said and wanted in said
    said = sample(**{"text-encoder": files.vae})
    assert f"{files.vae} is no text encoder" in said and wanted in said
    assert f"text encoder ({files.kind}, {WIDTH} wide" in sample(**{"text-encoder": None})
    assert "its VAE (sd) is not inside: name the file by --vae" in sample(vae=None)
    save_file(diffusers_vae(channels=16).state_dict(), tmp_path / "flux.safetensors")
    assert "flux.safetensors" in (said := sample(vae=tmp_path / "flux.safetensors"))
    assert "16 channels" in said and "says 4" in said
    sdxl = {f"first_stage_model.{n}": t for n, t in diffusers_vae().state_dict().items()}
    sdxl["conditioner.embedders.0.x"] = torch.zeros(1)
    save_file(sdxl, tmp_path / "sdxl.safetensors")
    said = sample(vae=tmp_path / "sdxl.safetensors")
    assert "sdxl.safetensors: its VAE makes sdxl latents" in said and "sd ones are wanted" in said
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(files, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    said = refused(
        "sample", "--checkpoint", files.model, "--vae", files.vae, "--text-encoder", files.text,
        "--prompt", "a", "--out", tmp_path / "out",
    )  # fmt: skip
    assert said.endswith(
        "the package diffusers is missing: " + f"{PYTHON} -m pip install diffusers"
    )


def test_a_model_with_its_own_text_encoder_takes_no_other(files, tmp_path: Path) -> None:
    said = refused(
        "sample", "--text-encoder", files.text, "--prompt", "a", "--out", tmp_path / "out"
    )
    assert "stiv_nano.safetensors has its text encoder inside: leave out --text-encoder" in said
