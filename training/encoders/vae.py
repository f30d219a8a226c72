"""The frozen image VAE of a data set's latents, from the file that ComfyUI's users have.

The paper encodes video frame by frame with an image VAE (section 3.1). Three kinds of file open:
a SD, SDXL, SD3 or Flux VAE in the names of its first release (alone, or inside a full checkpoint
under `first_stage_model.`), the same in diffusers' names, and TAESD files such as the nano's own
VAE, alone or inside an all-in-one STIV checkpoint. The latents are the host's: the mean of the
posterior, raw, neither scaled nor shifted.

Shapes: n clips, T frames, C latent channels, h, w latent pixels; frames are 8h x 8w pixels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stiv.checkpoint import read_checkpoint, tensor_hash
from stiv.header import CheckpointError, Header, parse_json
from stiv.public import LATENT_SPACES
from stiv.shapes import some

from .files import (
    Path_,
    cast,
    check_dtypes,
    check_names,
    load_weights,
    on_meta,
    open_header,
    read_tensors,
)
from .taesd import TAESD_WIDTH, TinyVAE, encoder_hash, vae_from_state

DOWNSCALE = 8
_LEVELS = 4  # of which each but the last halves the picture

_PREFIXES = ("first_stage_model.", "vae.")
_UNUSED = ("loss.", "model_ema.")  # left over from training in some released files
_RENAMED = {"decoder.post_quant_conv.": "post_quant_conv.", "encoder.quant_conv.": "quant_conv."}
_FAMILIES = {  # tensor names of a full checkpoint that tell whose latents its VAE makes
    "sdxl": r"^conditioner\.embedders\.",
    "sd": r"^cond_stage_model\.",
    "sd3": r"(^|\.)joint_blocks\.",
    "flux": r"(^|\.)double_blocks\.",
}


class FrameVAE:
    """A frozen image VAE that takes clips, a few frames at a time.

    Attributes:
        latents: the latent space as in `stiv.public.LATENT_SPACES`: name, channels, scale, shift,
            downscale.
        hash: SHA-256 over the encoder's tensors; other weights give another hash.
        recipe: how the VAE was trained, where its file tells (TAESD files of this pack).
    """

    def __init__(
        self,
        network: nn.Module,
        latents: Mapping[str, Any],
        digest: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        frames_at_once: int = 8,
    ) -> None:
        if frames_at_once < 1:
            raise ValueError(f"frames_at_once is {frames_at_once}: expected at least 1")
        self.network = network.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self.latents, self.hash = dict(latents), digest
        self.device, self.dtype = torch.device(device), dtype
        self.frames_at_once = frames_at_once
        self.recipe: dict[str, Any] | None = None

    @torch.inference_mode()
    def encode(self, frames: np.ndarray | Tensor) -> Tensor:
        """Raw latents (n, C, T, h, w), float32 on the CPU, of uint8 frames (n, T, 8h, 8w, 3).

        Raises:
            ValueError: for another dtype or shape, or sides that are no multiples of 8.
        """
        frames = torch.as_tensor(frames)
        if frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3:
            raise ValueError(
                f"frames are {frames.dtype} {tuple(frames.shape)}: expected uint8 (n, T, H, W, 3)"
            )
        if frames.shape[2] % DOWNSCALE or frames.shape[3] % DOWNSCALE:
            raise ValueError(
                f"frames are {frames.shape[2]} x {frames.shape[3]} pixels: expected multiples of "
                f"{DOWNSCALE}; cut them to a bucket first"
            )
        pictures_BHWC = frames.flatten(0, 1)
        latents_BCHW = torch.cat(
            [
                self.network.encode(self._to_pixels(part)).float().cpu()
                for part in pictures_BHWC.split(self.frames_at_once)
            ]
        )
        return latents_BCHW.unflatten(0, frames.shape[:2]).movedim(1, 2).contiguous()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """uint8 frames (n, T, 8h, 8w, 3) of raw latents (n, C, T, h, w)."""
        if latents.ndim != 5 or latents.shape[1] != self.latents["channels"]:
            raise ValueError(
                f"latents are {tuple(latents.shape)}: expected (n, {self.latents['channels']}, T, "
                "h, w)"
            )
        n, _, t = latents.shape[:3]
        flat_BCHW = latents.movedim(2, 1).flatten(0, 1)
        frames = torch.cat(
            [
                self._to_bytes(self.network.decode(part.to(self.device, self.dtype)))
                for part in flat_BCHW.split(self.frames_at_once)
            ]
        )
        return frames.unflatten(0, (n, t))

    def _to_pixels(self, part_BHWC: Tensor) -> Tensor:
        pixels = part_BHWC.to(self.device).movedim(-1, 1).float()
        return (pixels / 255 * 2 - 1).to(self.dtype)  # in this order, as the host does

    @staticmethod
    def _to_bytes(image_BCHW: Tensor) -> Tensor:
        image = ((image_BCHW.float() + 1) / 2).clamp(0, 1)
        return (image * 255).round().to(torch.uint8).movedim(1, -1).cpu()


@dataclass(frozen=True)
class _Stored:
    """A VAE's tensors as they lie in a file, and what the file tells about them."""

    state: dict[str, Tensor]
    family: str | None = None
    """Latent space that the rest of the file tells."""
    latents: Mapping[str, Any] | None = None
    recipe: dict[str, Any] | None = None


def open_vae(
    path: Path_,
    *,
    latents: str | Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    frames_at_once: int = 8,
) -> FrameVAE:
    """Opens the VAE of a .safetensors file.

    Args:
        path: a VAE, a full checkpoint that holds one, or an all-in-one STIV checkpoint.
        latents: the latent space, a name in `LATENT_SPACES` or a table like its values. Needed
            for a SD/SDXL or SD3/Flux VAE that stands alone: the files are built alike, only the
            scale differs. For TAESD files without a card the default is "custom" with scale 1,
            shift 0.
        device, dtype: where and in what to compute. float32 gives what the host gives on a CPU;
            the host takes bfloat16 on most GPUs.
        frames_at_once: frames per forward pass; bounds the memory.

    Raises:
        CheckpointError: when the file holds no VAE that can be read; missing and unknown tensors
            are named.
        ValueError: when the latent space is unknown, does not fit, or is another than the file
            tells.
    """
    header = open_header(path)
    stored = _read(path, header)
    is_tiny = any(name.startswith(("taesd_encoder.", "taesd_decoder.")) for name in stored.state)
    network, digest, guess = (_open_tiny if is_tiny else _open_kl)(path, stored, dtype)
    channels = _channels(path, stored.state, is_tiny)
    space = _space(path, latents, stored, guess, channels)
    vae = FrameVAE(
        network, space, digest, device=device, dtype=dtype, frames_at_once=frames_at_once
    )
    vae.recipe = stored.recipe
    return vae


def _read(path: Path_, header: Header) -> _Stored:
    if any(key.startswith("stiv.") and key != "stiv.cache" for key in header.metadata):
        card, parts = read_checkpoint(path)
        if not parts["vae"]:
            raise CheckpointError(
                path, "is a STIV checkpoint without a VAE; give the file of the VAE that it was "
                f"trained with ({card.latents['name']})",
            )  # fmt: skip
        return _Stored(parts["vae"], None, card.latents, card.training.get("vae"))

    prefix = next((p for p in _PREFIXES if any(n.startswith(p) for n in header.tensors)), "")
    names: dict[str, str] = {}
    for stored in header.tensors:
        if stored.startswith(prefix) and not stored.removeprefix(prefix).startswith(_UNUSED):
            name = stored.removeprefix(prefix)
            for old, new in _RENAMED.items():
                name = new + name.removeprefix(old) if name.startswith(old) else name
            names[name] = stored
    if not any(name.startswith(("encoder.", "taesd_encoder.")) for name in names):
        raise CheckpointError(path, _no_vae(names))
    check_dtypes(path, header, names.values())
    family = None
    if prefix:
        matches = (f for f, p in _FAMILIES.items() if any(re.search(p, n) for n in header.tensors))
        family = next(matches, None)
    recipe = _recipe(path, header.metadata.get("vae.training"))
    return _Stored(read_tensors(path, names), family, None, recipe)


def _no_vae(names: Mapping[str, str]) -> str:
    if any(name.startswith(("decoder.", "taesd_decoder.")) for name in names):
        return "holds a VAE's decoder without its encoder; choose the whole VAE"
    return "holds no VAE (no tensor named encoder.… or taesd_encoder.…); choose a VAE file"


def _recipe(path: Path_, text: str | None) -> dict[str, Any] | None:
    try:
        recipe = parse_json(text or "null")
    except ValueError as error:
        raise CheckpointError(path, f"vae.training is no valid JSON: {error}") from None
    return recipe if isinstance(recipe, dict) else None


def _channels(path: Path_, state: Mapping[str, Tensor], is_tiny: bool) -> int:
    return state["taesd_decoder.1.weight" if is_tiny else "decoder.conv_in.weight"].shape[1]


# TAESD -----------------------------------------------------------------------------------------


def _open_tiny(path: Path_, stored: _Stored, dtype: torch.dtype):
    """The network, its hash, and the latent space that its own scale and shift tell."""
    found = {name: tuple(tensor.shape) for name, tensor in stored.state.items()}
    shape = found.get("taesd_decoder.1.weight", ())
    channels = shape[1] if len(shape) == 4 and 1 <= shape[1] <= 256 else 4
    with torch.device("meta"):
        full = TinyVAE(TAESD_WIDTH, channels).state_dict()
    optional = {"vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}
    state = {**optional, **stored.state}
    expected = {name: tuple(tensor.shape) for name, tensor in full.items()}
    check_names(path, expected, {n: tuple(t.shape) for n, t in state.items()}, "TAESD VAE")
    vae = _as_narrow(state, stored.recipe) or vae_from_state(state, None)
    scale, shift = float(vae.vae_scale), float(vae.vae_shift)
    names = (
        name
        for name, space in LATENT_SPACES.items()
        if space["channels"] == channels
        and abs(space["scale"] - scale) < 1e-4
        and abs(space["shift"] - shift) < 1e-3
    )
    guess = {"name": "custom", "channels": channels, "scale": 1.0, "shift": 0.0, "downscale": 8}
    return vae, encoder_hash(vae), LATENT_SPACES.get(next(names, ""), guess)


def _as_narrow(state: Mapping[str, Tensor], recipe: Mapping[str, Any] | None) -> TinyVAE | None:
    """The narrow network that a recipe speaks of, if it is the same function as the file's."""
    if recipe is None:
        return None
    try:
        vae = vae_from_state(dict(state), dict(recipe))
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError):
        return None  # a recipe of another shape: the file's own width is always right
    same = all(torch.equal(t, state[name].float()) for name, t in vae.export().items())
    return vae if same else None


# AutoencoderKL: SD, SDXL, SD3, Flux --------------------------------------------------------------


def _open_kl(path: Path_, stored: _Stored, dtype: torch.dtype):
    """The network, its hash, and None: an AutoencoderKL does not tell its latent space."""
    from diffusers import AutoencoderKL

    old_names = "encoder.down.0.block.0.conv1.weight" in stored.state
    config = _kl_config(path, stored.state, old_names)
    module = on_meta(lambda: AutoencoderKL.from_config(config))
    state = _from_old_names(path, stored.state, config) if old_names else dict(stored.state)
    digest = tensor_hash(
        {n: t for n, t in state.items() if n.startswith(("encoder.", "quant_conv."))}
    )
    load_weights(path, module, cast(state, dtype), "VAE")
    return _KL(module), digest, None


class _KL(nn.Module):
    """diffusers' AutoencoderKL, deterministic."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def encode(self, image_BCHW: Tensor) -> Tensor:
        # The host takes the mode too, never a sample: the same picture is always the same latent.
        return self.module.encode(image_BCHW).latent_dist.mode()

    def decode(self, z_BCHW: Tensor) -> Tensor:
        return self.module.decode(z_BCHW).sample


def _kl_config(path: Path_, state: Mapping[str, Tensor], old_names: bool) -> dict[str, Any]:
    """The constructor's settings, read off the shapes."""
    level, block = ("encoder.down", "block") if old_names else ("encoder.down_blocks", "resnets")

    def count(pattern: str) -> int:
        found = (re.match(pattern, name) for name in state)
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    levels = count(rf"{re.escape(level)}\.(\d{{1,3}})\.")
    layers = count(rf"{re.escape(level)}\.0\.{block}\.(\d{{1,3}})\.")
    if levels != _LEVELS or not 1 <= layers <= 8:
        raise CheckpointError(
            path, f"is a VAE of {levels} levels of {layers} blocks, expected {_LEVELS} levels "
            f"({DOWNSCALE} pixels per latent) as in SD, SDXL, SD3 and Flux; choose one of those",
        )  # fmt: skip
    needed = [f"{level}.{i}.{block}.0.conv1.weight" for i in range(levels)]
    needed += ["encoder.conv_in.weight", "decoder.conv_in.weight"]
    for name in needed:
        if name not in state or state[name].ndim != 4:
            raise CheckpointError(path, f"tensor {name} of the VAE is missing; get the file again")
    widths = [state[name].shape[0] for name in needed[:levels]]
    if any(width % 32 or not 32 <= width <= 4096 for width in widths):
        raise CheckpointError(path, f"its widths are {widths}, expected multiples of 32 to 4096")
    return {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": widths,
        "layers_per_block": layers,
        "latent_channels": state["decoder.conv_in.weight"].shape[1],
        "norm_num_groups": 32,
        "use_quant_conv": "quant_conv.weight" in state,
        "use_post_quant_conv": "post_quant_conv.weight" in state,
    }


def _from_old_names(path: Path_, state: Mapping[str, Tensor], config: dict) -> dict[str, Tensor]:
    """The tensors under diffusers' names, by diffusers' own table; leftovers are an error."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    # The table forgets names that it does not know, so it is asked with stand-ins, and what it
    # gives back is traced to what it was given.
    convert: Callable[..., dict[str, Tensor]] = convert_ldm_vae_checkpoint
    with torch.inference_mode(False), torch.no_grad():
        given = {name: torch.empty(t.shape, device="meta") for name, t in state.items()}
        origin = {id(stand_in): name for name, stand_in in given.items()}
        converted = convert(given, config)
    source = {new: origin[id(t if t._base is None else t._base)] for new, t in converted.items()}
    if left := sorted(set(state) - set(source.values())):
        raise CheckpointError(
            path, f"holds {len(left)} tensors unknown in a VAE ({some(left)}); choose a "
            "SD, SDXL, SD3 or Flux VAE",
        )  # fmt: skip
    return {new: state[old].reshape(converted[new].shape) for new, old in source.items()}


def _space(
    path: Path_,
    given: str | Mapping[str, Any] | None,
    stored: _Stored,
    guess: Mapping[str, Any] | None,
    channels: int,
) -> dict[str, Any]:
    """The latent space: what the caller says, else what the file tells, else an error."""
    if isinstance(given, str) and given not in LATENT_SPACES:
        raise ValueError(
            f"latents is {given!r}: expected one of {', '.join(LATENT_SPACES)}, or a table with "
            "name, channels, scale, shift and downscale"
        )
    told = stored.latents or LATENT_SPACES.get(stored.family or "") or guess
    if isinstance(given, str) and told and told["name"] not in (given, "custom"):
        raise ValueError(
            f"{path}: its VAE makes {told['name']} latents, as the file tells, and {given} ones "
            f"are wanted: give the VAE of a {given} model"
        )
    space = (LATENT_SPACES[given] if isinstance(given, str) else given) or told
    if space is None:
        fitting = [name for name, s in LATENT_SPACES.items() if s["channels"] == channels]
        remedy = f"set vae_space to {' or '.join(fitting)}" if fitting else "choose another VAE"
        raise ValueError(
            f"{path}: nothing in this VAE's file tells which latents it makes; {remedy}"
        )
    if missing := {"name", "channels", "scale", "shift", "downscale"} - set(space):
        raise ValueError(f"latents {json.dumps(dict(space))}: {sorted(missing)[0]} is missing")
    if space["channels"] != channels or space["downscale"] != DOWNSCALE:
        raise ValueError(
            f"{path}: makes latents of {channels} channels, {DOWNSCALE} pixels each; latents "
            f"{space['name']} says {space['channels']} and {space['downscale']}: choose another"
        )
    return dict(space)
