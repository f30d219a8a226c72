"""VAEs from the files that ComfyUI's users have give the latents that ComfyUI gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stiv.checkpoint import read_checkpoint
from stiv.header import CheckpointError
from stiv.public import LATENT_SPACES
from tests.training.vaes import diffusers_vae
from training.encoders.taesd import TinyVAE, encoder_hash, vae_from_state
from training.encoders.vae import open_vae
from training.vae import to_images

NANO = Path(__file__).parents[3] / "models" / "stiv_nano.safetensors"
TOLERANCE = 2e-5  # of the host's largest value: the same float32 sums in another order


def random_frames(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small VAE in diffusers' names."""
    path = tmp_path_factory.mktemp("vae") / "small.safetensors"
    save_file(diffusers_vae().state_dict(), path)
    return path


def host_network(channels: int, quant: bool) -> torch.nn.Module:
    """The host's SD, or without quant convolutions its SD3 and Flux VAE, randomly initialised."""
    pytest.importorskip("comfy", reason="needs ComfyUI")
    from comfy.ldm.models.autoencoder import AutoencoderKL, AutoencodingEngine

    torch.manual_seed(1)
    config = {
        "double_z": True, "z_channels": channels, "resolution": 256, "in_channels": 3, "out_ch": 3,
        "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [],
        "dropout": 0.0,
    }  # fmt: skip
    model = "comfy.ldm.modules.diffusionmodules.model"
    if quant:
        network = AutoencoderKL(ddconfig=config, embed_dim=channels)
    else:
        network = AutoencodingEngine(
            encoder_config={"target": f"{model}.Encoder", "params": config},
            decoder_config={"target": f"{model}.Decoder", "params": config},
            regularizer_config={
                "target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"
            },
        )
    for p in network.parameters():  # the host leaves its layers uninitialised
        torch.nn.init.normal_(p, std=1 / p[0].numel() ** 0.5) if p.ndim > 1 else None
    for name, p in network.named_parameters():
        if p.ndim == 1:
            torch.nn.init.normal_(p, mean=float("norm" in name and "weight" in name), std=0.1)
    return network


@pytest.mark.parametrize(
    ("channels", "quant", "prefix", "others", "space"),
    [
        (4, True, "first_stage_model.", "conditioner.embedders.0.x", "sdxl"),
        (16, False, "", None, "flux"),
    ],
    ids=["SD layout in a full checkpoint", "Flux layout alone"],
)
def test_the_hosts_numbers(
    tmp_path: Path, channels: int, quant: bool, prefix: str, others: str | None, space: str
) -> None:
    network = host_network(channels, quant)
    import comfy.sd

    state = {name: tensor.half() for name, tensor in network.state_dict().items()}
    file = {prefix + name: tensor for name, tensor in state.items()}
    if others:
        file[others] = torch.zeros(1)
    path = tmp_path / "vae.safetensors"
    save_file(file, path)

    host = comfy.sd.VAE(sd=dict(state))
    host.throw_exception_if_invalid()
    vae = open_vae(path, latents=None if others else space)
    frames = random_frames(1, 1, 32, 32)
    theirs = host.encode(torch.from_numpy(frames[0]).float() / 255)
    ours = vae.encode(frames)
    assert ours.shape == (1, channels, 1, 4, 4)
    assert (ours[:, :, 0] - theirs).abs().max() <= TOLERANCE * theirs.abs().max()
    assert theirs.std() > 1e-3
    pixels = host.decode(theirs)  # (1, 32, 32, 3) in [0, 1]
    assert (vae.decode(ours)[0] / 255 - pixels).abs().max() <= 0.5 / 255 + 1e-3
    assert vae.latents == LATENT_SPACES[space]


def test_old_and_new_names_of_the_same_weights(tmp_path: Path, small: Path) -> None:
    """diffusers' own conversion, the other way round by hand for a small VAE."""
    state, old = load_file(small), {}
    mid = "mid_block.attentions.0"
    table = [
        ("encoder.down_blocks.", "encoder.down."),
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        (f"{mid}.group_norm", "mid.attn_1.norm"),
        (f"{mid}.to_q", "mid.attn_1.q"),
        (f"{mid}.to_k", "mid.attn_1.k"),
        (f"{mid}.to_v", "mid.attn_1.v"),
        (f"{mid}.to_out.0", "mid.attn_1.proj_out"),
        (".resnets.", ".block."),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("conv_norm_out", "norm_out"),
        ("conv_shortcut", "nin_shortcut"),
    ]
    for name, tensor in state.items():
        for new, ldm in table:
            name = name.replace(new, ldm)
        for i in range(4):
            name = name.replace(f"decoder.up_blocks.{i}.", f"decoder.up.{3 - i}.")
        is_attention = "attn_1" in name and tensor.ndim == 2
        old[name] = tensor[:, :, None, None].contiguous() if is_attention else tensor
    path = tmp_path / "old.safetensors"
    save_file(old, path)
    frames = random_frames(1, 1, 32, 32)
    new, ldm = open_vae(small, latents="sd"), open_vae(path, latents="sd")
    assert torch.equal(new.encode(frames), ldm.encode(frames))
    assert new.hash == ldm.hash

    save_file({**old, "loss.logvar": torch.zeros(1), "model_ema.decay": torch.zeros(1)}, path)
    assert open_vae(path, latents="sd").hash == ldm.hash  # what some released files carry along
    save_file({**old, "encoder.mid.attn_1.extra": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"1 unknown \(encoder.mid_block.attentions.0.extra"):
        open_vae(path, latents="sd")
    save_file({**old, "encoder.something.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"1 tensors unknown .*encoder.something.weight"):
        open_vae(path, latents="sd")
    save_file({n: t for n, t in old.items() if n != "quant_conv.bias"}, path)
    with pytest.raises(CheckpointError, match=r"1 missing \(quant_conv.bias\)"):
        open_vae(path, latents="sd")


def test_chunks_of_frames_do_not_change_the_latents(small: Path) -> None:
    frames = random_frames(2, 5, 32, 24)
    whole = open_vae(small, latents="sd", frames_at_once=64)
    parts = open_vae(small, latents="sd", frames_at_once=3)
    a, b = whole.encode(frames), parts.encode(frames)
    assert a.shape == (2, 4, 5, 4, 3)
    assert (a - b).abs().max() < 1e-5 * a.abs().max()
    one = whole.encode(frames[1:, 2:3])  # clip 1, frame 2 alone: no mixing of clips and frames
    assert (a[1, :, 2] - one[0, :, 0]).abs().max() < 1e-5 * a.abs().max()
    assert (whole.decode(a).int() - parts.decode(a).int()).abs().max() <= 1


def test_the_hash_is_the_encoders(tmp_path: Path, small: Path) -> None:
    state, path = load_file(small), tmp_path / "vae.safetensors"
    before = open_vae(small, latents="sd").hash
    save_file({**state, "decoder.conv_out.bias": state["decoder.conv_out.bias"] + 1}, path)
    assert open_vae(path, latents="sd").hash == before
    save_file({**state, "encoder.conv_out.bias": state["encoder.conv_out.bias"] + 1}, path)
    assert open_vae(path, latents="sd").hash != before


def test_the_nanos_vae_inside_its_checkpoint() -> None:
    card, parts = read_checkpoint(NANO)
    reference = vae_from_state(parts["vae"], card.training.get("vae"))
    vae = open_vae(NANO)
    frames = random_frames(2, 3, 32, 48)
    expected = reference.encode(to_images(frames)).unflatten(0, (2, 3)).movedim(2, 1)
    assert torch.allclose(vae.encode(frames), expected.detach(), atol=1e-5)
    assert vae.latents == card.latents and vae.hash == encoder_hash(reference)
    widths = {m.in_channels for m in vae.network.modules() if isinstance(m, torch.nn.Conv2d)}
    assert 64 not in widths or card.training.get("vae")  # at the narrow speed


def test_taesd_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    narrow, path = TinyVAE((8, 8, 16, 16), 4, 1), tmp_path / "tiny.safetensors"
    recipe = {"widths": [8, 8, 16, 16], "blocks": 1}
    save_file(narrow.export(), path, {"vae.training": json.dumps(recipe)})
    frames = random_frames(1, 2, 16, 16)
    vae = open_vae(path)
    assert vae.latents == {
        "name": "custom", "channels": 4, "scale": 1.0, "shift": 0.0, "downscale": 8
    }  # fmt: skip
    expected = narrow.encode(to_images(frames)).detach()
    assert torch.allclose(vae.encode(frames)[0].movedim(1, 0), expected, atol=1e-6)

    lie = {"widths": [8, 8, 8, 8], "blocks": 1}  # would cut off weights that are not zero
    save_file(narrow.export(), path, {"vae.training": json.dumps(lie)})
    assert torch.allclose(open_vae(path).encode(frames)[0].movedim(1, 0), expected, atol=1e-6)

    public = {**narrow.export(), "vae_scale": torch.tensor(0.13025)}  # as the host stores them
    save_file(public, path)
    assert open_vae(path).latents == LATENT_SPACES["sdxl"]

    save_file({n: t for n, t in public.items() if n != "taesd_encoder.0.bias"}, path)
    with pytest.raises(CheckpointError, match=r"1 missing \(taesd_encoder.0.bias\)"):
        open_vae(path)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model.x": (1,)}, "holds no VAE"),
        ({"decoder.conv_in.weight": (4, 4, 3, 3)}, "a VAE's decoder without its encoder"),
        ({"taesd_decoder.1.weight": (64, 4, 3, 3)}, "a VAE's decoder without its encoder"),
        ({"encoder.conv_in.weight": (32, 3, 3, 3)}, "a VAE of 0 levels of 0 blocks"),
    ],
)
def test_what_is_no_vae(tmp_path: Path, tensors: dict, message: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, path)
    with pytest.raises(CheckpointError, match=message) as error:
        open_vae(path, latents="sd")
    assert str(path) in str(error.value)


def test_refusals(tmp_path: Path, small: Path) -> None:
    with pytest.raises(ValueError, match="which latents it makes; set vae_space to sd or sdxl"):
        open_vae(small)
    with pytest.raises(ValueError, match="latents is 'wan': expected one of sd, sdxl"):
        open_vae(small, latents="wan")
    with pytest.raises(ValueError, match="4 channels, 8 pixels each; latents flux says 16"):
        open_vae(small, latents="flux")
    with pytest.raises(CheckpointError, match="is a pickle by its name"):
        open_vae(tmp_path / "vae.ckpt", latents="sd")
    vae = open_vae(small, latents="sd")
    with pytest.raises(ValueError, match="20 x 32 pixels: expected multiples of 8"):
        vae.encode(random_frames(1, 1, 20, 32))
    with pytest.raises(ValueError, match=r"expected uint8 \(n, T, H, W, 3\)"):
        vae.encode(np.zeros((1, 1, 16, 16, 3), np.float32))
    state = load_file(small)
    huge = {**state, "encoder.conv_in.weight": torch.zeros(64, 3, 3, 3)}
    save_file(huge, tmp_path / "odd.safetensors")
    with pytest.raises(CheckpointError, match=r"1 of the wrong shape \(encoder.conv_in.weight is"):
        open_vae(tmp_path / "odd.safetensors", latents="sd")
