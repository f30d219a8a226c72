"""The network as ComfyUI calls it: its time, its sign, its attention and its wrappers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.ops
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor, nn

from ...stiv.config import STIVConfig
from ...stiv.layers import SelfAttention
from ...stiv.model import STIVTransformer

# 1 - sigma in float32 moves the embedded time by up to 3e-5 of its 1000, ten times the rounding
# of all else; not every device can count more finely.
_HAVE_DOUBLE = ("cpu", "cuda")
_FORWARD = comfy.ops.disable_weight_init.Linear.forward
_BRINGS = comfy.ops.disable_weight_init.Linear.forward_comfy_cast_weights
_CHOSEN = "optimized_attention_override"
_HEADS_AT_ONCE = 2**15  # CUDA kernels count heads in a grid that ends at 65535


class HostTransformer(STIVTransformer):
    """STIVTransformer with the host's calling convention and unchanged parameter names.

    The host counts noise down: x = sigma * noise + (1 - sigma) * data, and expects noise - data.
    From a network that predicts the noise (`Card.prediction`) it expects just that.
    """

    def __init__(
        self,
        stiv_config: STIVConfig,
        image_model: str = "stiv",
        prediction: str = "velocity",
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        operations: Any = None,
    ):
        super().__init__(stiv_config, operations=operations, device=device, dtype=dtype)
        for module in self.modules():
            if isinstance(module, SelfAttention):
                module.last_outputs = last_outputs
        self.sign = -1.0 if prediction == "velocity" else 1.0

    def forward(
        self,
        x: Tensor,
        timestep: Tensor,
        context: Tensor,
        text_mask: Tensor | None = None,
        pooled: Tensor | None = None,
        micro: Tensor | None = None,
        image_latent: Tensor | None = None,
        image_mask: Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """noise - data, or the noise, (B, C, T, H, W).

        x: noised latents; timestep: (B,) sigma in [0, 1]; context: (B, L, text width);
        micro: (B, 5) height, width, top, left, stride; image_latent, image_mask: the given frames,
        zeros elsewhere, and where (B, 1, T, H, W) they replace those of x.
        """
        options = transformer_options or {}
        # Always a new tensor: caches write into their input, which is the sampler's own state.
        x = x.clone() if image_latent is None else torch.where(image_mask.bool(), image_latent, x)
        executor = WrapperExecutor.new_class_executor(
            self._predict, self, get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        )
        return executor.execute(
            x, timestep, context, text_mask, pooled, micro, image_latent, options
        )

    def _predict(
        self, x, sigma_B, context, text_mask, pooled, micro, image_latent, transformer_options
    ) -> Tensor:
        if micro is not None:  # the frames of this pass: fewer than the video's in a context window
            micro = F.pad(micro, (0, 1), value=x.shape[2])
        predicted = super().forward(
            x,
            1 - (sigma_B.double() if sigma_B.device.type in _HAVE_DOUBLE else sigma_B),
            context,
            text_mask=text_mask,
            pooled=pooled,
            micro=micro,
            image=image_latent[:, :, 0] if self.config.image_cross_attention else None,
            attention=partial(
                attend,
                # On its own, so that compiled code knows another one (`speed.compiled`).
                chosen=transformer_options.get(_CHOSEN),
                transformer_options=transformer_options,
            ),
        )
        return self.sign * predicted


def last_outputs(layer: nn.Module, count: int, x: Tensor) -> Tensor:
    """layer(x)[..., -count:], without the other outputs where all that the host does to a layer is
    to bring its weight: cast, moved and with what LoRAs add."""
    forward = getattr(layer.forward, "__func__", None)
    brings = getattr(type(layer), "forward_comfy_cast_weights", None)
    if forward is not _FORWARD or brings is not _BRINGS or layer._forward_hooks:
        return layer(x)[..., -count:]
    weight, bias, stream = comfy.ops.cast_bias_weight(layer, x, offloadable=True)
    out = F.linear(x, weight[-count:], bias[-count:])
    comfy.ops.uncast_bias_weight(layer, weight, bias, stream)
    return out


def attend(
    q_BHND: Tensor,
    k_BHND: Tensor,
    v_BHND: Tensor,
    *,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    chosen: Callable | None = None,
    transformer_options: dict[str, Any],
) -> Tensor:
    """The attention that the user chose for ComfyUI; on the CPU torch's own, which is faster.

    chosen: the host's override among the transformer_options.
    """
    if q_BHND.device.type == "cpu" and chosen is None:
        return F.scaled_dot_product_attention(
            q_BHND, k_BHND, v_BHND, attn_mask=attn_mask, is_causal=is_causal
        )
    if chosen is not None:  # to compiled code it is the one in here that counts
        transformer_options = {**transformer_options, _CHOSEN: chosen}
    if is_causal:
        attn_mask = q_BHND.new_ones(q_BHND.shape[2], k_BHND.shape[2], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        # Not every attention of the host takes a boolean mask; all of them add a floating one.
        bias = torch.zeros_like(attn_mask, dtype=q_BHND.dtype)
        attn_mask = bias.masked_fill_(~attn_mask, float("-inf"))
    parts = [
        optimized_attention(
            q, k, v, q.shape[1], mask=attn_mask, skip_reshape=True, skip_output_reshape=True,
            transformer_options=transformer_options,
        )
        for q, k, v in zip(
            *(z.split(_HEADS_AT_ONCE, dim=1) for z in (q_BHND, k_BHND, v_BHND)), strict=True
        )
    ]  # fmt: skip
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
