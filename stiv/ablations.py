"""The rows of the paper's ablation tables, each as a network and the way it was trained.

T2I is a ladder: a row changes one thing of the row before it, from PixArt-alpha to the final image
model. A row of T2V or TI2V changes one thing of that table's first row. Where the paper does not
tell, this is what we chose:

- The ladder begins with PixArt-alpha in the paper's XL (18 heads instead of 16) and with an AdaLN
  in every block: PixArt-alpha itself shares one, which is a later row of the ladder.
- Its text encoder is PixArt-alpha's, T5-XXL, until CLIP bigG takes its place; its optimizer is
  AdamW until AdaFactor does.
- The two decoder blocks of MaskDiT enter with it, and stay where a video row masks nothing.
- T2V and TI2V are trained as the last row of T2I is, as far as nothing else is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, Literal

from .config import MODELS, STIVConfig

METRICS = {
    "t2i": "COCO FID, lower is better",
    "t2v": "VBench total, higher is better",
    "ti2v": "average score, higher is better",
}
"""What the paper's figure is, by table."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a row's network was trained and sampled; the defaults are the final model's."""

    prediction: Literal["epsilon", "velocity"] = "velocity"
    """What the network learns: the noise of a diffusion, or the velocity of the flow."""
    optimizer: Literal["adamw", "adafactor"] = "adafactor"
    lr: float = 2e-4
    """Learning rate after warm-up."""
    spatial_mask: float = 0.5
    """Share of the spatial tokens that the main blocks do not see in training (MaskDiT)."""
    temporal_mask: bool = False
    """Tokens are left out along time, too."""
    renorm: bool = True
    """CFG-Renorm in sampling."""
    text_encoder: Literal["t5xxl", "clip_g"] = "clip_g"
    """clip_g (OpenCLIP bigG) has the sizes of the paper's own."""
    captions: Literal["original", "synthetic"] = "synthetic"
    frame_replacement: bool = False
    """TI2V: the given frame takes the place of its noisy latent."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One row of a table."""

    name: str
    """The table and the row: "t2i/rope"."""
    title: str
    """As the paper names it."""
    figure: float
    """What the paper measured, see `METRICS`."""
    config: STIVConfig
    setup: Setup
    base: str | None = None
    """The row that it is compared with; None for the first of a table."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `config` that differ from the base's."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `setup` that differ from the base's."""

    @property
    def table(self) -> str:
        """t2i, t2v or ti2v."""
        return self.name.partition("/")[0]

    def step(
        self,
        name: str,
        title: str,
        figure: float,
        network: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> Ablation:
        """The row that differs from this one in these fields alone."""
        return Ablation(
            name=f"{self.table}/{name}",
            title=title,
            figure=figure,
            config=replace(self.config, **network),
            setup=replace(self.setup, **settings),
            base=self.name,
            network=network,
            settings=settings,
        )


_BASELINE = Ablation(
    name="t2i/baseline",
    title="baseline",
    figure=26.17,
    config=STIVConfig(
        text_width=4096,
        pooled_width=0,
        qk_norm=False,
        sandwich_norm=False,
        condition_norm=False,
        shared_adaln=False,
        position="sincos",
        micro_conditions=False,
        temporal_patch=1,
        temporal_attention=False,
        mask_decoder_blocks=0,
    ),
    setup=Setup(
        prediction="epsilon",
        optimizer="adamw",
        lr=1e-4,
        spatial_mask=0.0,
        renorm=False,
        text_encoder="t5xxl",
        captions="original",
    ),
)
_BIGG = {"text_width": 1280, "pooled_width": 1280}
_LADDER = (
    ("qk_norm", "+ QK norm", 25.60, {"qk_norm": True}, {}),
    ("sandwich_norm", "+ sandwich norm", 25.76, {"sandwich_norm": True}, {}),
    ("condition_norm", "+ condition norm", 25.58, {"condition_norm": True}, {}),
    ("lr", "learning rate 1e-4 to 2e-4", 26.35, {}, {"lr": 2e-4}),
    ("flow", "+ flow", 24.96, {}, {"prediction": "velocity"}),
    ("renorm", "+ renorm", 21.16, {}, {"renorm": True}),
    ("adafactor", "+ AdaFactor", 20.26, {}, {"optimizer": "adafactor"}),
    ("maskdit", "+ MaskDiT", 23.85, {"mask_decoder_blocks": 2}, {"spatial_mask": 0.5}),
    ("shared_adaln", "+ shared AdaLN", 22.83, {"shared_adaln": True}, {}),
    ("micro_conditions", "+ micro conditions", 20.02, {"micro_conditions": True}, {}),
    ("rope", "+ RoPE", 18.40, {"position": "rope"}, {}),
    ("vae_8", "+ VAE of 8 channels", 19.57, {"latent_channels": 8}, {}),
    ("clip_bigg", "+ CLIP bigG", 17.97, _BIGG, {"text_encoder": "clip_g"}),
    ("captions", "+ synthetic captions", 18.04, {}, {"captions": "synthetic"}),
)
_VIDEO = replace(MODELS["xl"], latent_channels=8)
_T2V = Ablation(name="t2v/base", title="base", figure=78.25, config=_VIDEO, setup=Setup())
_T2V_STEPS = (
    ("patch_1", "temporal patch 1", 79.07, {"temporal_patch": 1}, {}),
    ("patch_4", "temporal patch 4", 77.61, {"temporal_patch": 4}, {}),
    ("causal", "causal temporal attention", 74.30, {"temporal_causal": True}, {}),
    ("temporal_gate", "temporal scale-shift-gate", 78.04, {"temporal_gate": "own"}, {}),
    ("temporal_mask", "temporal mask", 75.25, {}, {"temporal_mask": True}),
    ("no_spatial_mask", "no spatial mask", 78.52, {}, {"spatial_mask": 0.0}),
)
_CROSS = {"image_cross_attention": True}
_TI2V = Ablation(
    name="ti2v/frame_replacement",
    title="frame replacement",
    figure=77.3,
    config=_VIDEO,
    setup=Setup(frame_replacement=True),
)
_TI2V_STEPS = (
    ("cross_attention", "image cross-attention", 73.0, _CROSS, {"frame_replacement": False}),
    ("both", "both", 77.1, _CROSS, {}),
)


def _rows() -> Iterable[Ablation]:
    row = _BASELINE
    yield row
    for step in _LADDER:
        row = row.step(*step)
        yield row
    for first, steps in ((_T2V, _T2V_STEPS), (_TI2V, _TI2V_STEPS)):
        yield first
        yield from (first.step(*step) for step in steps)


ABLATIONS: dict[str, Ablation] = {row.name: row for row in _rows()}
"""Every row by its name, in the order of the tables."""


def ablation(name: str) -> Ablation:
    """The row of a name such as "t2i/rope". Raises ValueError naming the nearest, or all."""
    if name not in ABLATIONS:
        near = get_close_matches(name, ABLATIONS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(ABLATIONS)}"
        raise ValueError(f"there is no ablation {name!r}: {hint}")
    return ABLATIONS[name]
