"""The model under the host's samplers, schedulers, patches and caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_model_advanced import (
    ModelSamplingAuraFlow,
    ModelSamplingFlux,
    ModelSamplingSD3,
    RescaleCFG,
)
from ComfyUI_STIV.stiv.checkpoint import read_checkpoint
from ComfyUI_STIV.stiv.flow import euler_sample
from ComfyUI_STIV.stiv.frames import replace_frames
from ComfyUI_STIV.stiv.guidance import joint_guidance
from ComfyUI_STIV.stiv.model import STIVTransformer
from torch import Tensor

from tests.nodes import tiny
from tests.nodes.scenes import Loaded, Scene, load
from tests.nodes.waits import Waits

SAMPLERS = comfy.samplers.KSampler.SAMPLERS


def assert_given(samples: Tensor, scene: Scene) -> None:
    """The given frames came out to the last bit, and the others did something."""
    given = scene.clean.expand_as(samples)[:, :, scene.mask]
    assert torch.equal(samples[:, :, scene.mask], given)
    assert torch.isfinite(samples).all()
    assert samples[:, :, ~scene.mask].std() > 0.01


def close(a: Tensor, b: Tensor) -> float:
    """Largest difference over the size of the values."""
    return float((a - b).abs().max() / b.abs().max())


def shapes_of_forwards(model: Any) -> tuple[Any, list[torch.Size]]:
    """A copy of the model and a list that fills with the shapes that its network sees."""
    seen: list[torch.Size] = []

    def note(executor, x, *args, **kwargs):
        seen.append(x.shape)
        return executor(x, *args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "test", note)
    return model, seen


@torch.no_grad()
@pytest.mark.parametrize("positions", ["", "first", "first,last"])
def test_the_host_samples_what_the_paper_says(loaded: Loaded, positions: str) -> None:
    """KSampler with Euler equals the paper's formulas on the bare network: time, sign, latents."""
    scene = loaded.scene(positions)
    card, parts = read_checkpoint(loaded.path)
    network = STIVTransformer(card.config)
    network.load_state_dict(parts["diffusion_model"])
    shape = (1, 4, tiny.FRAMES, tiny.SIDE, tiny.SIDE)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    scale, shift = (torch.tensor(card.latents[k]).view(1, -1, 1, 1, 1) for k in ("scale", "shift"))
    clean, mask = torch.zeros(shape), torch.zeros(1, tiny.FRAMES, dtype=torch.bool)
    if scene.clean is not None:
        clean, mask = (scene.clean - shift) * scale, scene.mask[None]

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        def run(conditioning, x):
            ((text, extra),) = conditioning
            text_mask, pooled = extra["attention_mask"], extra["pooled_output"]
            return network(x, t, text, text_mask=text_mask, pooled=pooled)

        conditional = run(scene.positive, replace_frames(x, clean, mask))
        return joint_guidance(run(scene.negative, x), conditional, 3.0)

    expected = euler_sample(velocity, noise, 4, clean=clean, frame_mask=mask) / scale + shift
    assert close(scene.sample(), expected) < 1e-5


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_keeps_given_frames(scene: Scene, sampler: str) -> None:
    assert_given(scene.sample(sampler_name=sampler), scene)


@pytest.mark.parametrize("scheduler", comfy.samplers.KSampler.SCHEDULERS)
def test_every_scheduler_keeps_given_frames(scene: Scene, scheduler: str) -> None:
    assert_given(scene.sample(scheduler=scheduler), scene)


@pytest.mark.parametrize("positions", ["last", "first,last", "0,2", "0,1,2", "-2"])
def test_frames_may_be_given_anywhere(loaded: Loaded, positions: str) -> None:
    scene = loaded.scene(positions)
    assert_given(scene.sample(), scene)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "uni_pc"])
def test_two_stages_equal_one(scene: Scene, sampler: str) -> None:
    whole = scene.sample(start_at_step=0, end_at_step=6, steps=6, sampler_name=sampler)
    first = scene.sample(
        start_at_step=0,
        end_at_step=3,
        steps=6,
        sampler_name=sampler,
        return_with_leftover_noise="enable",
    )
    assert not torch.equal(first[:, :, 0], scene.clean[:, :, 0])  # still noised
    second = scene.but(latent={"samples": first}).sample(
        start_at_step=3, end_at_step=6, steps=6, sampler_name=sampler, add_noise="disable"
    )
    assert_given(second, scene)
    if sampler == "euler":  # the others remember steps, which a second stage starts without
        assert close(second, whole) < 1e-5


def test_denoise_starts_from_a_video(scene: Scene) -> None:
    video = torch.randn(1, 4, tiny.FRAMES, tiny.SIDE, tiny.SIDE)
    scene = scene.but(latent={"samples": replace_frames(video, scene.clean, scene.mask[None])})
    samples = scene.sample(denoise=0.5)
    assert_given(samples, scene)
    assert close(samples, video) < close(scene.sample(), video)


def test_a_second_video_of_a_batch_has_noise_of_its_own(loaded: Loaded) -> None:
    scene = loaded.scene("first", batch=3)
    samples = scene.sample()
    assert_given(samples, scene)
    assert not torch.equal(samples[0], samples[1])
    alone = loaded.scene("first").sample()
    assert close(samples[:1], alone) < 1e-5


def test_positive_and_negative_run_as_one_batch(scene: Scene) -> None:
    model, seen = shapes_of_forwards(scene.model)
    scene.but(model=model).sample()
    assert [shape[0] for shape in seen] == [2] * 4


def test_prompts_of_unequal_length_run_one_after_the_other(loaded: Loaded, scene: Scene) -> None:
    model, seen = shapes_of_forwards(scene.model)
    long = loaded.text("a red circle moves left " * 4)
    assert long[0][0].shape[1] > tiny.MAX_TOKENS
    scene.but(model=model, negative=long).sample()
    assert [shape[0] for shape in seen] == [1] * 8


def test_at_cfg_1_only_the_positive_runs(scene: Scene) -> None:
    model, seen = shapes_of_forwards(scene.model)
    assert_given(scene.but(model=model).sample(cfg=1.0), scene)
    assert [shape[0] for shape in seen] == [1] * 4


@pytest.mark.parametrize(
    ("node", "settings"),
    [
        (ModelSamplingSD3, {"shift": 3.0}),
        (ModelSamplingFlux, {"max_shift": 1.15, "base_shift": 0.5, "width": 64, "height": 64}),
        (RescaleCFG, {"multiplier": 0.7}),
    ],
)
def test_sampling_patches_change_the_video(scene: Scene, node: type, settings: dict) -> None:
    patched = scene.but(model=tiny.run(node, model=scene.model, **settings))
    samples = patched.sample()
    assert_given(samples, scene)
    assert close(samples, scene.sample()) > 1e-3


def test_the_cards_shift_is_the_models_own(scene: Scene, folders: dict[str, Path]) -> None:
    """A checkpoint that was trained with a shift is sampled with it, unless a node says other."""
    path = tiny.write(folders["checkpoints"] / "shifted.safetensors", shift=3.0)
    model = tiny.run("STIVLoadCheckpoint", ckpt_name=path.name)[0]
    patched = tiny.run(ModelSamplingSD3, model=scene.model, shift=3.0)
    expected = scene.but(model=patched).sample()
    assert torch.equal(scene.but(model=model).sample(), expected)
    back = tiny.run(ModelSamplingSD3, model=model, shift=1.0)
    assert torch.equal(scene.but(model=back).sample(), scene.sample())


def test_time_counted_to_1_is_the_same_time(scene: Scene) -> None:
    """AuraFlow's sampling passes sigma itself, SD3's 1000 times as much."""
    sd3 = scene.but(model=tiny.run(ModelSamplingSD3, model=scene.model, shift=2.0)).sample()
    aura = scene.but(model=tiny.run(ModelSamplingAuraFlow, model=scene.model, shift=2.0)).sample()
    assert close(aura, sd3) < 1e-5


@pytest.mark.parametrize("node", [EasyCacheNode, LazyCacheNode])
def test_caches_skip_steps_and_keep_given_frames(scene: Scene, node: type) -> None:
    settings = {"reuse_threshold": 10.0, "start_percent": 0.1, "end_percent": 0.95}
    cached = tiny.run(node, model=scene.model, verbose=False, **settings)
    model, seen = shapes_of_forwards(cached)
    assert_given(scene.but(model=model).sample(steps=8), scene)
    assert len(seen) < 8


def test_context_windows_cut_the_video_and_its_given_frames(loaded: Loaded) -> None:
    scene = loaded.scene("first,last", frames=10)
    windowed = tiny.run(
        ContextWindowsManualNode,
        model=scene.model,
        context_length=6,
        context_overlap=2,
        context_schedule="standard_static",
        context_stride=1,
        closed_loop=False,
        fuse_method="pyramid",
        dim=2,
        freenoise=False,
        cond_retain_index_list="0",
        latent_retain_index_list="0",
        causal_window_fix=True,
    )
    model, seen = shapes_of_forwards(windowed)
    assert_given(scene.but(model=model).sample(), scene)
    assert {shape[2] for shape in seen} <= {6, 7}  # the window, and a frame before it


def test_prompts_for_areas_and_times(loaded: Loaded, scene: Scene) -> None:
    def area(prompt: Any, x: int) -> Any:
        size = {"width": 32, "height": 64, "x": x, "y": 0, "strength": 1.0}
        return tiny.run("ConditioningSetArea", conditioning=prompt, **size)

    def times(prompt: Any, start: float, end: float) -> Any:
        return tiny.run("ConditioningSetTimestepRange", conditioning=prompt, start=start, end=end)

    blue = loaded.text("a blue square")
    plain = scene.sample()
    left = [*area(scene.positive, 0), *area(blue, 32), *scene.positive]
    early = [*times(scene.positive, 0.0, 0.5), *times(blue, 0.5, 1.0)]
    for positive in (left, early, [*scene.positive, *blue]):
        samples = scene.but(positive=positive).sample()
        assert_given(samples, scene)
        assert close(samples, plain) > 1e-3


@pytest.mark.parametrize("frames", [1, 3, 5])
def test_any_number_of_frames(loaded: Loaded, frames: int) -> None:
    assert loaded.scene(frames=frames).sample().shape == (1, 4, frames, tiny.SIDE, tiny.SIDE)


def test_a_picture_from_the_core_empty_latent(loaded: Loaded, scene: Scene) -> None:
    latent = tiny.run("EmptyLatentImage", width=64, height=64, batch_size=2)
    plain = loaded.scene()
    assert plain.but(latent=latent).sample().shape == (2, 4, 1, tiny.SIDE, tiny.SIDE)


def test_previews_show_the_middle_frame(scene: Scene) -> None:
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod, args

    latent_format = scene.model.model.latent_format
    for method in LatentPreviewMethod:
        args.preview_method = method
        try:
            previewer = latent_preview.get_previewer(torch.device("cpu"), latent_format)
        finally:
            args.preview_method = LatentPreviewMethod.NoPreviews
        assert (previewer is None) == (method == LatentPreviewMethod.NoPreviews)
    video = torch.zeros(1, 4, 5, 6, 8)
    dark = previewer.decode_latent_to_preview(video)
    assert dark.size == (8, 6)
    video[:, :3, 2] = 1.0
    assert previewer.decode_latent_to_preview(video).getpixel((0, 0)) > dark.getpixel((0, 0))


@pytest.mark.parametrize("space", ["sd", "sdxl", "sd3", "flux"])
def test_public_latent_spaces(folders: dict, space: str) -> None:
    path = tiny.write(folders["checkpoints"] / f"{space}.safetensors", space)
    loaded = load(path)
    scene = loaded.scene("first")
    samples = scene.sample()
    assert_given(samples, scene)
    assert samples.shape[1] == (16 if space in ("sd3", "flux") else 4)
    decoded = tiny.run("VAEDecode", samples={"samples": samples}, vae=loaded.vae)
    assert decoded.shape == (tiny.FRAMES, 64, 64, 3)
    assert loaded.scene().sample().shape == samples.shape  # from an empty latent of 4 channels


@pytest.mark.parametrize(
    "switches",
    [
        {"temporal_attention": False, "temporal_patch": 1, "mask_decoder_blocks": 0},
        {"temporal_causal": True},
        {"pooled_width": 0},
        {"micro_conditions": False},
        {"image_cross_attention": True},
        {"position": "sincos", "shared_adaln": False, "qk_norm": False, "sandwich_norm": False},
    ],
    ids=lambda switches: next(iter(switches)),
)
def test_ablations_sample_too(folders: dict, switches: dict) -> None:
    path = tiny.write(folders["checkpoints"] / "ablation.safetensors", **switches)
    loaded = load(path)
    scene = loaded.scene("first")
    assert_given(scene.sample(), scene)


def test_frames_stride_and_size_are_conditions(loaded: Loaded, scene: Scene) -> None:
    plain = scene.sample()
    for settings in ({"stride": 20}, {"original_width": 512}, {"crop_top": 40}):
        (text, extra), *_ = loaded.text("a red circle moves left", **settings)
        positive = [[text, {**scene.positive[0][1], "stiv_micro": extra["stiv_micro"]}]]
        assert close(scene.but(positive=positive).sample(), plain) > 1e-4
    (_, extra), *_ = loaded.text("", original_width=64, original_height=64)
    positive = [[scene.positive[0][0], {**scene.positive[0][1], "stiv_micro": extra["stiv_micro"]}]]
    assert torch.equal(scene.but(positive=positive).sample(), plain)  # 0 means the video's size


def test_the_cards_stride_is_the_models_own(folders: dict[str, Path]) -> None:
    """For a prompt of a core node, which says none, and of STIV Text Encode where it says 0."""
    loaded = load(tiny.write(folders["checkpoints"] / "strided.safetensors", stride=3))

    def encoded(text: str, **settings: int) -> dict:
        return {"positive": loaded.text(text, **settings), "negative": loaded.text("", **settings)}

    def core(text: str) -> Any:
        return tiny.run("CLIPTextEncode", clip=loaded.clip, text=text)

    scene, text = loaded.scene(), "a red circle moves left"
    own = scene.but(positive=core(text), negative=core("")).sample()
    for settings in ({"stride": 3}, {"stride": 0}, {}):
        assert torch.equal(own, scene.but(**encoded(text, **settings)).sample())
    assert close(own, scene.but(**encoded(text, stride=1)).sample()) > 1e-4


@pytest.mark.parametrize("guidance", ["cfg", "joint", "separate"])
def test_no_step_waits_for_the_device(scene: Scene, guidance: str) -> None:
    """All waiting is before and after the steps; on a GPU they are queued without a pause."""
    if guidance != "cfg":
        settings = {"mode": guidance, "image_scale": 1.5, "renorm": True}
        scene = scene.but(model=tiny.run("STIVGuidance", model=scene.model, **settings))

    def waits(steps: int) -> int:
        with Waits() as seen:
            scene.sample(steps=steps, scheduler="kl_optimal")  # computes all sigmas at once
        return seen.count

    assert waits(2) == waits(5) > 0
