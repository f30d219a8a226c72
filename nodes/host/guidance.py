"""The paper's guidance as patches of a MODEL, so that every sampler node follows it.

It works on velocities, so on any flow-matching model of the host; what differs from one to the
next is where a conditioning carries its given frames (`_given`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import comfy.model_sampling
import comfy.samplers
from torch import Tensor

from ...stiv.guidance import renormalize, separate_guidance
from .model import STIVModel
from .replacement import given_in

MODES = ("joint", "separate")
_MIDDLE = "stiv_image_only"

_STIV = ("image_latent", "image_mask")
_OTHERS = (
    "c_concat", "clip_fea", "image_cond", "ref_latent", "ref_latents", "reference_latent",
    "ref_latents_method", "time_dim_concat", "time_dim_replace", "vace_context", "vace_strength",
)  # fmt: skip
"""Where other models of the host have given pictures, and how to take them, among the conditions
they prepare."""


def require_flow(model: Any, node: str) -> None:
    """Raise ValueError, naming the node, unless a MODEL does flow matching or is one of ours.

    Of ours some predict noise: that is sigma times the noise of x - denoised, so that all below
    holds for them.
    """
    is_flow = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)
    if not (is_flow or isinstance(model.model, STIVModel)):
        raise ValueError(
            f"{node} needs a flow-matching model, such as STIV, Wan or LTXV, got "
            f"{type(model.model).__name__}: connect it to the sampler directly"
        )


def guide(model: Any, mode: str, image_scale: float, renorm: bool) -> Any:
    """A copy of the MODEL that samples with this guidance, instead of what an earlier node of
    ours has set; an interval stays. Raises ValueError for another mode."""
    if mode not in MODES:
        raise ValueError(f"guidance mode is {mode!r}: expected one of {', '.join(MODES)}")
    model = model.clone()
    separate = SeparateGuidance(image_scale) if mode == "separate" else None
    _forget_guidance(model.model_options)
    _let_predict(model, separate and separate.predict)
    if separate is not None:
        # At cfg 1 the host would leave out the negative, which the image scale still needs.
        model.set_model_sampler_cfg_function(separate.combine, disable_cfg1_optimization=True)
    if renorm:
        model.set_model_sampler_post_cfg_function(renormalized)
    return model


def guided_between(model: Any, start: float, end: float) -> Any:
    """A copy of the MODEL that is guided from `start` to `end` of the sampling only, in 0 … 1.

    Outside, the conditional prediction is taken as it is, and the passes of the unconditional one
    are left out. Raises ValueError unless 0 <= start < end <= 1.
    """
    if not 0 <= start < end <= 1:
        raise ValueError(
            f"guidance from {start:g} to {end:g} of the sampling: use a start of 0 or more that "
            "is below an end of at most 1"
        )
    model = model.clone()
    # Guidance of another kind, which another node has put there, goes on inside.
    interval = GuidanceInterval(start, end, model.model_options.get(_PREDICT))
    model.set_model_sampler_calc_cond_batch_function(interval)
    return model


_PREDICT, _COMBINE = "sampler_calc_cond_batch_function", "sampler_cfg_function"
_AFTER = "sampler_post_cfg_function"


def _forget_guidance(options: dict[str, Any]) -> None:
    """Take what `guide` combines predictions by out of a copy's options. That the host leaves out
    no negative at cfg 1 stays: others may have asked for it, too."""
    if _is_ours(options.get(_COMBINE)):
        del options[_COMBINE]
    others = [function for function in options.pop(_AFTER, ()) if not _is_ours(function)]
    if others:
        options[_AFTER] = others


def _let_predict(model: Any, predict: Callable | None) -> None:
    """Set how the passes of a step are made, within an interval that is there; with None as by
    other nodes, or by the host."""
    new = _replaced(model.model_options.pop(_PREDICT, None), predict)
    if new is not None:
        model.set_model_sampler_calc_cond_batch_function(new)


def _replaced(old: Callable | None, new: Callable | None) -> Callable | None:
    if isinstance(old, GuidanceInterval):
        return GuidanceInterval(old.start, old.end, _replaced(old.inner, new))
    return old if new is None and not _is_ours(old) else new


def _is_ours(function: Callable | None) -> bool:
    return function is renormalized or isinstance(
        getattr(function, "__self__", None), SeparateGuidance
    )


class GuidanceInterval:
    """Makes the passes of a step as `inner` does, or the host; outside the conditional one only."""

    def __init__(self, start: float, end: float, inner: Callable | None):
        self.start, self.end, self.inner = start, end, inner

    def __call__(self, args: dict[str, Any]) -> list[Tensor]:
        is_guided = self._is_guided(args)
        if is_guided and self.inner is not None:
            return self.inner(args)
        conds = args["conds"] if is_guided else args["conds"][:1]
        found = comfy.samplers.calc_cond_batch(
            args["model"], conds, args["input"], args["sigma"], args["model_options"]
        )
        return found if is_guided else [found[0]] * len(args["conds"])

    def _is_guided(self, args: dict[str, Any]) -> bool:
        to_sigma, sigma = args["model"].model_sampling.percent_to_sigma, float(args["sigma"].max())
        # The first step's noise may be above what the host says of the start, by rounding.
        has_begun = self.start <= 0 or sigma <= to_sigma(self.start)
        return has_begun and sigma > to_sigma(self.end)


class SeparateGuidance:
    """SIT-CFG: a third pass with the given frames and the negative prompt."""

    def __init__(self, image_scale: float):
        self.image_scale = image_scale

    def predict(self, args: dict[str, Any]) -> list[Tensor]:
        """The conditional and unconditional predictions; the middle one waits for `combine`."""
        positive, negative = args["conds"]
        x, sigma, options = args["input"], args["sigma"], args["model_options"]
        conds = [positive, negative]
        middle = image_only(positive, negative)
        if middle is not None:
            conds.append(middle)
        out = comfy.samplers.calc_cond_batch(args["model"], conds, x, sigma, options)
        # Without given frames the middle pass would repeat the unconditional one.
        options[_MIDDLE] = out[2] if middle is not None else out[1]
        return out[:2]

    def combine(self, args: dict[str, Any]) -> Tensor:
        guided = separate_guidance(
            args["uncond_denoised"],
            # A guider that does without `predict` has no middle.
            args["model_options"].pop(_MIDDLE, args["uncond_denoised"]),
            args["cond_denoised"],
            self.image_scale,
            args["cond_scale"],
        )
        return args["input"] - guided


def image_only(positive: list[dict], negative: list[dict]) -> list[dict] | None:
    """The negative conditioning with the given frames of the positive; None without one of them."""
    given = _given(positive)
    if not given or negative is None:
        return None
    middle = []
    for entry in negative:
        conds = {**entry["model_conds"], **given}
        # The same at every step: caches recognise a conditioning by its id.
        name = uuid.uuid5(entry["uuid"], _MIDDLE)
        middle.append({**entry, "model_conds": conds, "uuid": name})
    return middle


def _given(positive: list[dict]) -> dict[str, Any]:
    """The prepared conditions that carry given frames, by name; none where nothing is given."""
    given = given_in(positive)
    if given is not None:
        like = positive[0]["model_conds"]
        return {k: like[k]._copy_with(v) for k, v in zip(_STIV, given, strict=True)}
    prepared = [entry["model_conds"] for entry in reversed(positive)]  # the first entry counts
    return {key: conds[key] for conds in prepared for key in _OTHERS if key in conds}


def renormalized(args: dict[str, Any]) -> Tensor:
    """CFG-Renorm on denoised predictions: x - denoised is sigma times the velocity, up to sign."""
    x, given = args["input"], given_in(args["cond"])
    mask_BT = None if given is None else given[1][:, 0, :, 0, 0].expand(x.shape[0], -1)
    return x - renormalize(x - args["denoised"], x - args["cond_denoised"], mask_BT)
