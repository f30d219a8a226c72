"""An imported PixArt-alpha is the host's own, under both of its namings, and diffusers' too."""

from __future__ import annotations

from pathlib import Path

import comfy.ops
import comfy.utils
import pytest
import torch
from comfy.ldm.pixart.pixartms import PixArtMS
from safetensors.torch import save_file
from torch import Tensor

from stiv import STIVTransformer
from stiv.convert.cli import main
from stiv.convert.foreign import Settings, import_weights
from stiv.convert.source import open_source
from stiv.convert.weights import Weights
from tests.stiv.convert.releases import pixart

WIDTH, DEPTH, HEADS, TEXT = 64, 3, 4, 48


@pytest.fixture(scope="module")
def host() -> PixArtMS:
    """With learned variance, as all released weights."""
    torch.manual_seed(0)
    model = PixArtMS(
        hidden_size=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        caption_channels=TEXT,
        micro_condition=False,
        operations=comfy.ops.disable_weight_init,
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval().requires_grad_(False)


def in_diffusers_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """By the host's own table of names."""
    named = {}
    table = comfy.utils.pixart_to_diffusers({"depth": DEPTH, "hidden_size": WIDTH})
    for theirs, ours in table.items():
        name, rows = (ours[0], slice(ours[1][1], sum(ours[1][1:]))) if type(ours) is tuple else (
            ours, slice(None),
        )  # fmt: skip
        if name in state:
            named[theirs] = state[name][rows].contiguous()
    return named


def imported(state: dict[str, Tensor], names: str, folder: Path) -> Weights:
    if names == "diffusers":
        state = in_diffusers_names(state)
    elif names == "in a checkpoint":
        state = {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}
    save_file(state, folder / "a.safetensors")
    return import_weights(open_source(folder / "a.safetensors"), Settings(size=512, heads=HEADS))


@pytest.mark.parametrize(
    ("names", "size"),
    [
        ("original", (64, 64)),
        ("original", (64, 96)),
        ("diffusers", (64, 64)),
        ("in a checkpoint", (64, 64)),
    ],
    ids=str,
)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_equals_the_hosts(
    host: PixArtMS, tmp_path: Path, names: str, dtype: torch.dtype, limit: float, size
) -> None:
    weights = imported(host.state_dict(), names, tmp_path)
    host.to(dtype)
    ours = STIVTransformer(weights.card.config, dtype=dtype).requires_grad_(False)
    ours.load_state_dict(weights.diffusion_model)
    x, text = torch.randn(1, 4, *size, dtype=dtype), torch.randn(1, 7, TEXT, dtype=dtype)
    for step in (0.0, 17.0, 500.0, 803.0, 999.0):
        timestep = torch.full((1,), step, dtype=dtype)
        expected = host(x, timestep, text)
        t = 1 - timestep.double() / 1000
        actual = ours(x[:, :, None], t, text)[:, :, 0]
        error = (actual - expected).norm() / expected.norm()
        assert error < limit, f"step {step}: relative error {error:.2e}"


@pytest.mark.parametrize("pixels", [256, 512])
def test_an_exported_folder_is_the_same_in_diffusers(tmp_path: Path, pixels: int) -> None:
    """diffusers reads the positions of 256 pixels right, which the host does not."""
    from diffusers import PixArtTransformer2DModel

    source, ours_path = tmp_path / "a.pth", tmp_path / "a.safetensors"
    torch.save({"state_dict": pixart(pixels)}, source)
    main(["import", str(source), "--heads", "2", "--out", str(ours_path)])
    main(["export", str(ours_path), "--to", "diffusers", "--out", str(tmp_path / "folder")])
    theirs = PixArtTransformer2DModel.from_pretrained(tmp_path / "folder").double()
    weights = import_weights(open_source(tmp_path / "folder"))
    ours = STIVTransformer(weights.card.config, dtype=torch.float64)
    ours.load_state_dict(weights.diffusion_model)
    x, text = torch.randn(2, 4, 32, 32).double(), torch.randn(2, 5, 12).double()
    step = torch.tensor([3.0, 720.0], dtype=torch.float64)
    with torch.no_grad():
        conditions = {"resolution": None, "aspect_ratio": None}
        expected = theirs(x, text, timestep=step, added_cond_kwargs=conditions).sample[:, :4]
        actual = ours(x[:, :, None], 1 - step / 1000, text)[:, :, 0]
    # its positions and times are rounded to float32
    assert (actual - expected).norm() / expected.norm() < 1e-6
