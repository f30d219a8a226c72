"""Multi-view: the input view framed and given, its null image blank, doubts told."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy_extras.nodes_dataset
import pytest
import torch
from ComfyUI_STIV.nodes import views
from ComfyUI_STIV.nodes.drawing import draw_rig
from ComfyUI_STIV.nodes.views import STIVMultiView
from ComfyUI_STIV.stiv.frames import GivenFrames
from ComfyUI_STIV.stiv.subject import frame_subject
from ComfyUI_STIV.stiv.views import ZERO123PLUS, Rig, parse_cameras, turntable
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.nodes import scenes, tiny
from tests.nodes.scenes import Loaded, Scene
from tests.nodes.test_guidance import guidance
from tests.nodes.test_sampling import assert_given, close
from training.sampling import Sampler

SIZE = 64
SIX = {"rig": "zero123++"}


@pytest.fixture(scope="module")
def six_views(folders: dict[str, Path]) -> Loaded:
    """A model whose card says that it was trained for the paper's six views."""
    path = tiny.write(folders["checkpoints"] / "views.safetensors", task=("multi_view", 7))
    return scenes.load(path)


def disc() -> Tensor:
    """(1, 60, 80) 1 inside."""
    rows, columns = torch.arange(60)[:, None], torch.arange(80)
    return (((rows - 20) ** 2 + (columns - 50) ** 2) < 15**2).float()[None]


def photo() -> Tensor:
    return torch.rand(1, 60, 80, 3, generator=torch.Generator().manual_seed(3))


def multi_view(loaded: Loaded, image: Tensor | None = None, **inputs: Any) -> tuple:
    text = loaded.text("")
    settings = {"image": photo() if image is None else image, "rig": SIX, "size": SIZE}
    settings |= {"positive": text, "negative": text, "vae": loaded.vae, **inputs}
    return tiny.run("STIVMultiView", **settings)


def scene_of(loaded: Loaded, *out: Any) -> Scene:
    positive, negative, latent = out
    given = positive[0][1]["stiv_frames"]
    return Scene(loaded.model, positive, negative, latent, given.latents, given.mask)


def test_views_follow_the_framed_input(six_views: Loaded) -> None:
    positive, negative, latent = multi_view(six_views, mask=disc())
    assert latent["samples"].shape == (1, 4, 7, 8, 8)
    framed = frame_subject(photo()[0], disc()[0], SIZE)
    expected = six_views.vae.encode(framed[None])[:, :, 0]
    assert torch.allclose(latent["samples"][:, :, 0], expected, atol=1e-6)
    assert not latent["samples"][:, :, 1:].any()
    given, blank = (out[0][1]["stiv_frames"] for out in (positive, negative))
    assert given.mask.tolist() == blank.mask.tolist() == [True] + [False] * 6
    assert torch.equal(given.latents, latent["samples"])
    assert blank.is_blank and not blank.latents.any()


def test_it_is_frame_replacement(six_views: Loaded) -> None:
    """The positive and the latent are those of the other nodes, wired by hand."""
    positive, _, latent = multi_view(six_views, mask=disc())
    framed = frame_subject(photo()[0], disc()[0], SIZE)[None]
    by_hand = tiny.run(
        "STIVFrameReplacement",
        positive=six_views.text(""),
        negative=six_views.text(""),
        vae=six_views.vae,
        latent=tiny.run("STIVEmptyLatent", width=SIZE, height=SIZE, frames=7, batch_size=1),
        stiv_frames=GivenFrames().place(framed, "first"),
    )
    assert torch.equal(by_hand[2]["samples"], latent["samples"])
    one, other = (out[0][1]["stiv_frames"] for out in (positive, by_hand[0]))
    assert torch.equal(one.latents, other.latents) and torch.equal(one.mask, other.mask)


def test_frames_may_be_given_besides_the_input_view(six_views: Loaded) -> None:
    positive, negative, latent = multi_view(six_views, mask=disc())
    inputs = {"positive": positive, "negative": negative, "vae": six_views.vae, "latent": latent}
    placed = GivenFrames().place(torch.rand(1, SIZE, SIZE, 3), "last")
    out = tiny.run("STIVFrameReplacement", stiv_frames=placed, **inputs)
    scene = scene_of(six_views, *out)
    assert scene.mask.tolist() == [True] + [False] * 5 + [True]
    assert torch.equal(scene.clean[:, :, 0], latent["samples"][:, :, 0])
    assert_given(scene.sample(), scene)
    with pytest.raises(ValueError, match=r"^STIV Multi-View: .* at position 0 already, from"):
        multi_view(six_views, mask=disc(), positive=positive)


@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "dpmpp_2m_sde", "lcm"])
@pytest.mark.parametrize("cfg", [1.0, 3.5])
def test_the_input_view_comes_back_exactly(six_views: Loaded, sampler: str, cfg: float) -> None:
    scene = scene_of(six_views, *multi_view(six_views, mask=disc()))
    assert_given(scene.sample(sampler_name=sampler, cfg=cfg), scene)


def test_the_null_image_is_zeros_of_the_models_own_scale(six_views: Loaded) -> None:
    """As in training: the same latents as its sampler, whose null image is blank."""
    scene = scene_of(six_views, *multi_view(six_views, mask=disc()))
    sampler = Sampler.from_checkpoint(six_views.path, steps=4, guidance_scale=3.5, null="blank")
    assert sampler.shape == (4, 7, 8, 8)
    sampler.velocity.__self__["text_encoder"].half().float()  # as the host keeps it
    scale, shift = (
        torch.tensor(sampler.codec.latents[k]).view(1, -1, 1, 1, 1) for k in ("scale", "shift")
    )
    clean = (scene.clean - shift) * scale
    got = sampler.latents([""], clean, scene.mask[None], seed=7) / scale + shift
    assert close(got, scene.sample(cfg=3.5)) < 1e-5
    noised = replace(sampler, null="noised")
    other = noised.latents([""], clean, scene.mask[None], seed=7) / scale + shift
    assert close(got, other) > 1e-3


@pytest.mark.parametrize("mode", ["joint", "separate"])
@pytest.mark.parametrize("renorm", [False, True])
def test_guidance_modes(six_views: Loaded, mode: str, renorm: bool) -> None:
    scene = scene_of(six_views, *multi_view(six_views, mask=disc()))
    guided = scene.but(model=guidance(scene, mode, renorm)).sample(cfg=3.5)
    assert_given(guided, scene)
    if mode == "joint" and not renorm:
        assert torch.equal(guided, scene.sample(cfg=3.5))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"mask": disc()}, "cut out by the mask (white is the subject)"),
        ({"mask": 1 - disc()}, "cut out by the mask (white is the background)"),
        ({"mask": disc()[0]}, "cut out by the mask (white is the subject)"),
        ({"mask": 1 - disc(), "mask_shows": "subject"}, "(white is the subject)"),
        ({"image": torch.cat([photo(), disc()[..., None]], -1)}, "cut out by the image's alpha"),
        ({"image": 1 - disc()[..., None].expand(-1, -1, -1, 3)}, "even colour of the border"),
        ({"mask": torch.zeros(1, 64, 64)}, "subject not cut out: no mask, alpha or even back"),
        ({}, "taken as it is; 1 of 7 frames given, at 0; pictures of 80 × 60 cropped and resized"),
    ],
)
def test_how_the_subject_was_found_is_told(
    six_views: Loaded, caplog: pytest.LogCaptureFixture, inputs: dict, message: str
) -> None:
    with caplog.at_level(logging.INFO):
        multi_view(six_views, **inputs)
    assert "zero123++: 6 views; subject" in caplog.text and message in caplog.text


def test_ways_to_the_same_view(six_views: Loaded) -> None:
    by_mask = multi_view(six_views, mask=disc())[2]["samples"]
    with_alpha = torch.cat([photo(), disc()[..., None]], -1)
    for image, mask in ((photo(), 1 - disc()), (with_alpha, None), (with_alpha, disc())):
        assert torch.equal(multi_view(six_views, image, mask=mask)[2]["samples"], by_mask)
    grey = multi_view(six_views, mask=disc(), background="#808080", margin=0.3)[2]["samples"]
    assert not torch.allclose(grey[:, :, 0], by_mask[:, :, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("rig", "frames"),
    [
        ({"rig": "turntable", "views": 5, "elevation": 10.0}, 6),
        ({"rig": "custom", "cameras": "30,90; -20,120"}, 3),
    ],
)
def test_other_rigs(six_views: Loaded, rig: dict, frames: int) -> None:
    scene = scene_of(six_views, *multi_view(six_views, mask=disc(), rig=rig))
    assert_given(scene.sample(), scene)
    assert scene.latent["samples"].shape[2] == frames


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"size": 100}, "size is 100, not a multiple of 16: use 96 or 112"),
        ({"image": photo().repeat(2, 1, 1, 1)}, "the image is a batch of 2: give one object"),
        (
            {"image": photo()[..., :1]},
            r"the image has shape \(1, 60, 80, 1\): expected \(1, height",
        ),
        ({"mask": disc().repeat(3, 1, 1)}, "the mask is a batch of 3: give one object"),
        ({"rig": {"rig": "custom", "cameras": "30;"}}, r"camera 1 \('30'\) has 1 numbers"),
        (
            {"rig": {"rig": "turntable", "views": 0, "elevation": 1.0}},
            "a turntable of 0 views: use 1",
        ),
        ({"rig": {"rig": "dome"}}, "rig is 'dome': choose zero123"),
        ({"mask": disc(), "background": "snow storm"}, "background is 'snow storm': write a"),
        ({"mask": disc(), "margin": 0.5}, "margin is 0.5: use 0 to 0.45"),
        ({"vae": None}, "there is no VAE"),
    ],
)
def test_what_is_refused(six_views: Loaded, inputs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^STIV Multi-View: {message}") as error:
        multi_view(six_views, **inputs)
    assert "\n" not in str(error.value)


def test_a_model_of_another_size_names_the_node(six_views: Loaded) -> None:
    scene = scene_of(six_views, *multi_view(six_views, mask=disc()))
    with pytest.raises(ValueError, match="STIV Multi-View: made for 7 frames of 8 × 8 latents"):
        scene.but(latent={"samples": torch.zeros(1, 4, 5, 8, 8)}).sample()


def warnings_of(scene: Scene, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        scene.sample()
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_a_model_that_was_not_trained_for_it_warns_once_a_run(
    six_views: Loaded, loaded: Loaded, caplog: pytest.LogCaptureFixture
) -> None:
    assert warnings_of(scene_of(six_views, *multi_view(six_views)), caplog) == []
    (warning,) = warnings_of(scene_of(loaded, *multi_view(loaded)), caplog)
    assert warning == (
        "STIV Multi-View: this model's card does not say that it was trained for multi-view (it "
        "lists ti2v), so expect no good result: load a model trained for multi-view"
    )
    turntable_of_3 = {"rig": "turntable", "views": 3, "elevation": 0.0}
    out = multi_view(six_views, rig=turntable_of_3)
    (warning,) = warnings_of(scene_of(six_views, *out), caplog)
    assert "trained for multi-view with 7 frames, not 4: the other frames will be g" in warning
    assert warnings_of(loaded.scene("first"), caplog) == []


def test_model_info_names_what_is_missing(loaded: Loaded, six_views: Loaded) -> None:
    card = tiny.run("STIVModelInfo", model=loaded.model)
    assert "not trained for: t2v, v2v, tup, first_last, keyframes, multi_view\n" in card
    card = tiny.run("STIVModelInfo", model=six_views.model)
    assert "trained for: multi_view (64 × 64 px, 7 frames)" in card


def test_the_rig_and_the_framed_view_are_shown_on_the_node(six_views: Loaded) -> None:
    import folder_paths
    from PIL import Image

    text = six_views.text("")
    out = STIVMultiView.execute(text, text, six_views.vae, photo(), SIX, SIZE, mask=disc())
    shown = out.ui.as_dict()["images"]
    assert [entry["type"] for entry in shown] == ["temp", "temp"]
    paths = [Path(folder_paths.get_temp_directory()) / entry["filename"] for entry in shown]
    rig, view = (torch.tensor(list(Image.open(path).getdata())) for path in paths)
    assert len(rig) == len(view) == 512 * 512
    drawn = (draw_rig(ZERO123PLUS, 512).reshape(-1, 3) * 255).round().long()
    assert (rig - drawn).abs().max() <= 1
    assert view[0].tolist() == [255, 255, 255] and view[512 * 256 + 256].tolist() != view[0]


def test_the_preview_is_drawn_wherever_the_view_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """--gpu-only leaves pictures on the GPU."""
    drawn = draw_rig(ZERO123PLUS, 512)
    monkeypatch.setattr(views, "draw_rig", lambda *args: drawn)
    with FakeTensorMode(allow_non_fake_inputs=True):
        preview = views._preview(ZERO123PLUS, torch.zeros(SIZE, SIZE, 3, device="cuda"))
    assert preview.shape == (2, 512, 512, 3) and preview.device.type == "cpu"


@pytest.mark.parametrize(
    "rig",
    [ZERO123PLUS, turntable(1), turntable(256, -90), Rig("far", parse_cameras("90,0,999; 0,0,2"))],
)
def test_every_rig_can_be_drawn(rig: Rig) -> None:
    picture = draw_rig(rig, 128)
    assert picture.shape == (128, 128, 3) and picture.dtype == torch.float32
    assert torch.equal(picture, picture.clamp(0, 1))
    assert float(picture[:2].min()) == 1.0  # nothing is cut off at the top
    assert float(picture.mean()) < 0.995


def test_views_become_a_contact_sheet_by_the_cores_node(six_views: Loaded) -> None:
    scene = scene_of(six_views, *multi_view(six_views, mask=disc()))
    images = tiny.run("VAEDecode", vae=six_views.vae, samples={"samples": scene.sample()})
    views = images.reshape(-1, SIZE, SIZE, 3)
    assert len(views) == 7
    grid = comfy_extras.nodes_dataset.ImageGridNode
    (sheet,) = grid.execute(
        images=[views], columns=[4], cell_width=[SIZE], cell_height=[SIZE], padding=[0]
    ).result
    assert sheet.shape[1:3] == (2 * SIZE, 4 * SIZE)
    assert torch.allclose(sheet[0, :SIZE, :SIZE], views[0].clamp(0, 1), atol=1 / 255)
