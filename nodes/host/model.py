"""STIV as a native MODEL."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import comfy.context_windows
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from comfy.conds import CONDNoiseShape, CONDRegular
from comfy.model_base import BaseModel, ModelType
from comfy.supported_models_base import BASE
from torch import Tensor

from ...stiv.checkpoint import Card, read_checkpoint
from ...stiv.config import STIVConfig
from ...stiv.convert.foreign import open_foreign
from ...stiv.quantised import dequantise, quantised_layers, with_format
from .latents import VideoLatents
from .network import HostTransformer
from .null_text import EMPTY, TOKENS
from .replacement import FRAMES, CleanFrames, add_frame_replacement

MICRO = "stiv_micro"
"""Key of (height, width, crop top, crop left, stride) in a conditioning; size 0: as the latent,
stride 0: as the card says."""

WEIGHT_DTYPES: dict[str, torch.dtype | None] = {
    "default": None,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e4m3fn_fast": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
_KEEPS_SCALES = ("default", "fp8_e4m3fn", "fp8_e4m3fn_fast")
DIFFUSION_STEPS = 1000
_IN_TIME = ("image_latent", "image_mask")


class STIVModelConfig(BASE):
    """What the host wants to know of a model before it is built."""

    unet_extra_config: dict[str, Any] = {}  # noqa: RUF012 (the host's class attribute)
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]  # noqa: RUF012

    def __init__(self, card: Card):
        self.card = card
        self.latent_format = partial(VideoLatents, card.latents)  # the base class calls it
        super().__init__(
            {"image_model": "stiv", "stiv_config": card.config, "prediction": card.prediction}
        )
        self.sampling_settings = _sampling_settings(card)
        self.memory_usage_factor = memory_usage_factor(card.config)

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> STIVModel:
        return STIVModel(self, device=device)

    def inpaint_model(self) -> bool:
        return False


def _sampling_settings(card: Card) -> dict[str, Any]:
    if card.prediction == "velocity":
        return {"shift": card.sampling["shift"], "multiplier": 1000}
    first, last = card.sampling["betas"]
    # what the host calls sqrt_linear is the variances themselves growing linearly
    schedule = {"beta_schedule": "sqrt_linear", "linear_start": first, "linear_end": last}
    return {**schedule, "timesteps": DIFFUSION_STEPS}


def memory_usage_factor(config: STIVConfig) -> float:
    """The host's measure of peak memory per latent pixel and frame.

    At its widest a block holds ten copies of a token (its input, q, k and v before and after norm
    and rotation) or four and the FFN's hidden layer; a fifth is for what attentions of the host
    need besides. The host multiplies by 0.01 MiB and the size of the dtype.
    """
    per_token = 1.2 * max(10, 4 + config.mlp_ratio) * config.width
    tokens_per_latent = 1 / (config.patch**2 * config.temporal_patch)
    return per_token * tokens_per_latent / (0.01 * 2**20)


class STIVModel(BaseModel):
    """STIV behind every sampler, scheduler, cache and patch of the host."""

    def __init__(self, model_config: STIVModelConfig, device: Any = None):
        self.card = model_config.card
        kind = ModelType.FLOW if self.card.prediction == "velocity" else ModelType.EPS
        super().__init__(model_config, kind, device=device, unet_model=HostTransformer)

    @property
    def replaces_frames(self) -> bool:
        """Whether given frames take the place of noised ones, as in training."""
        return self.card.image_attention != "instead"

    def process_timestep(self, timestep: Tensor, **kwargs: Any) -> Tensor:
        """The time of any flow sampling (0 … 1000, or 0 … 1) as sigma; a diffusion's step
        likewise as its share of all steps, which is what the network embeds."""
        if self.card.prediction == "epsilon":
            return timestep / DIFFUSION_STEPS
        return timestep / getattr(self.model_sampling, "multiplier", 1.0)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """What each forward pass gets besides latents and time.

        The same keys for every conditioning, so that all of them can run as one batch.
        Raises ValueError, before sampling, for a conditioning that is not this model's.
        """
        check_text(self.card, kwargs.get("cross_attn"), kwargs.get("pooled_output"))
        kwargs |= self._null_text(kwargs)
        out = super().extra_conds(**kwargs)
        config, noise = self.card.config, kwargs["noise"]
        text, device = kwargs["cross_attn"], kwargs["device"]

        # Not padded by repetition like the text itself: unequal lengths run one after the other.
        mask = _fit_mask(kwargs.get("attention_mask"), text)
        out["text_mask"] = CONDRegular(mask.to(device))
        if config.pooled_width:
            pooled = kwargs.get("pooled_output")
            pooled = text.new_zeros(1, config.pooled_width) if pooled is None else pooled
            out["pooled"] = CONDRegular(pooled.to(device))
        if config.micro_conditions:
            micro = self._micro(kwargs.get(MICRO), noise)
            out["micro"] = CONDRegular(micro.to(device))

        frames: CleanFrames | None = kwargs.get(FRAMES)
        if frames is None:
            clean = noise.new_zeros(1, *noise.shape[1:])
            given = noise.new_zeros(1, 1, *noise.shape[2:])
        else:
            frames.check(noise.shape, self.latent_format.latent_channels)
            given = frames.spread().to(noise)
            clean = frames.latents.to(noise)
            if not frames.is_blank:  # zeros of the model's own scale stay zeros
                clean = self.process_latent_in(clean) * given
            if not self.replaces_frames:  # the picture in its cross-attention is all it gets
                given = torch.zeros_like(given)
        out["image_latent"] = CONDNoiseShape(clean.to(device))
        out["image_mask"] = CONDNoiseShape(given.to(device))
        return out

    def _null_text(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """The model's own text states for a prompt that is none, where it has such.

        As many as the prompt has that is guided against it, which is how it was trained.
        """
        if not (self.card.config.null_text_tokens and kwargs.get(EMPTY)):
            return {}
        rows = self.diffusion_model.null_text.detach()[: kwargs.get(TOKENS)]
        return {"cross_attn": rows[None].to(kwargs["cross_attn"]), "attention_mask": None}

    def resize_cond_for_context_window(
        self, cond_key, cond_value, window, x_in, device, retain_index_list=()
    ) -> Any:
        """Given frames follow a context window; nothing else is cut, whatever its shape."""
        if cond_key not in _IN_TIME:
            return cond_value
        return comfy.context_windows.slice_cond(
            cond_value, window, x_in, device, temporal_dim=window.dim,
            retain_index_list=list(retain_index_list),
        )  # fmt: skip

    def _micro(self, values: tuple[int, ...] | None, noise: Tensor) -> Tensor:
        """(1, 5) integers, which the host does not round to a short float."""
        height, width, top, left, stride = values or (0, 0, 0, 0, 0)
        side = self.latent_format.spacial_downscale_ratio
        height, width = height or side * noise.shape[-2], width or side * noise.shape[-1]
        stride = stride or self.card.stride
        return torch.tensor([[height, width, top, left, stride]], dtype=torch.int32)


def check_text(card: Card, text: Tensor | None, pooled: Tensor | None) -> None:
    """Raise ValueError unless the encoded prompt comes from a text encoder of the right widths."""
    wanted = f"this model takes {card.text['encoder']}"
    if text is None:
        raise ValueError(f"the conditioning holds no text, {wanted}: use STIV Text Encode")
    if text.shape[-1] != card.config.text_width:
        raise ValueError(
            f"the prompt was encoded {text.shape[-1]} wide, {wanted} of width "
            f"{card.config.text_width}: {_remedy(card)}"
        )
    width = card.config.pooled_width
    if width and pooled is not None and pooled.shape[-1] != width:
        raise ValueError(
            f"the pooled prompt is {pooled.shape[-1]} wide, {wanted} with a pooled width of "
            f"{width}: {_remedy(card)}"
        )


def _remedy(card: Card) -> str:
    if "vocab" in card.text:
        return "connect the CLIP of STIV Load Checkpoint, where the model came from"
    return f"load {card.text['encoder']} alone with Load CLIP"


def _fit_mask(mask: Tensor | None, text_BLD: Tensor) -> Tensor:
    """(B, L) mask of real tokens; all of them where an encoder or a core node says nothing."""
    B, L = text_BLD.shape[:2]
    if mask is None:
        return text_BLD.new_ones(B, L)
    mask = mask.to(text_BLD.device, text_BLD.dtype)[:, :L]
    # Core nodes join prompts without joining their masks.
    return torch.nn.functional.pad(mask, (0, L - mask.shape[1]), value=1.0)


def load_model(path: str, weight_dtype: str = "default", disable_dynamic: bool = False) -> Any:
    """The patcher (MODEL) of a file: a STIV checkpoint, or an ancestor's weights, which are the
    same network under other names. Raises CheckpointError, ValueError."""
    foreign = open_foreign(path)
    if foreign:
        card, tensors = foreign.card, dict(foreign.diffusion_model)
    else:
        card, parts = read_checkpoint(path, as_stored=True)
        tensors = parts["diffusion_model"]
    return build_model(path, card, tensors, weight_dtype, disable_dynamic)


def build_model(
    path: str,
    card: Card,
    state_dict: dict[str, Tensor],
    weight_dtype: str = "default",
    disable_dynamic: bool = False,
) -> Any:
    """The patcher (MODEL) of tensors that were read from `path`, in the host's usual steps.

    Layers of scaled float8 stay so, for the host's own operations, unless `weight_dtype` asks for
    another dtype.
    """
    for note in card.inferred:
        logging.warning("%s: %s", path, note)
    management = comfy.model_management
    load_device, offload_device = management.get_torch_device(), management.unet_offload_device()
    config = STIVModelConfig(card)
    has_float8 = not management.is_device_mps(load_device)
    is_quantised = (
        bool(quantised_layers(state_dict)) and weight_dtype in _KEEPS_SCALES and has_float8
    )
    if is_quantised:
        config.quant_config = {"mixed_ops": True}
        if weight_dtype == "fp8_e4m3fn_fast":
            state_dict = with_format(state_dict, full_precision=False)
    else:
        state_dict = dict(dequantise(state_dict))
    dtype = None if is_quantised else WEIGHT_DTYPES[weight_dtype]
    if dtype is None:
        dtype = management.unet_dtype(
            model_params=comfy.utils.calculate_parameters(state_dict),
            supported_dtypes=config.supported_inference_dtypes,
            weight_dtype=None if is_quantised else comfy.utils.weight_dtype(state_dict),
        )
    if dtype in (torch.float8_e4m3fn, torch.float8_e5m2) and not has_float8:
        raise ValueError(f"weight_dtype {weight_dtype}: this Mac's GPU has no float8: choose fp16")
    cast = management.unet_manual_cast(
        None if is_quantised else dtype, load_device, config.supported_inference_dtypes
    )
    config.set_inference_dtype(dtype, cast, device=load_device)
    config.optimizations["fp8"] = not is_quantised and weight_dtype == "fp8_e4m3fn_fast"

    model = config.get_model(state_dict)
    # Looked up now: the host exchanges the class when it starts.
    dynamic = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    patcher_class = comfy.model_patcher.ModelPatcher if disable_dynamic else dynamic
    patcher = patcher_class(model, load_device=load_device, offload_device=offload_device)
    if not management.is_device_cpu(offload_device):
        model.to(offload_device)
    model.load_model_weights(dict(state_dict), "", assign=patcher.is_dynamic())
    add_frame_replacement(patcher)
    patcher.cached_patcher_init = (load_model, (path, weight_dtype))
    return patcher


def require_stiv(model: Any, node: str) -> STIVModel:
    """The STIV model behind a MODEL. Raises ValueError, naming the node, for any other."""
    if not isinstance(model.model, STIVModel):
        raise ValueError(
            f"{node} needs a STIV model, got {type(model.model).__name__}: "
            "load one with STIV Load Model or STIV Load Checkpoint"
        )
    return model.model
