"""A training run as checked data: YAML in, unknown keys refused, every key documented."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from stiv.config import MODELS, STIVConfig

from .data.sources import DataSpec
from .section import Section, UserPath, parse_section, read_yaml
from .swap import check_count
from .tasks import TASK_NAMES

SOLIDS = "solids"
"""The set of view sets, and its folder below the latents of the shapes domain."""
GAPS, KEYS = "gaps", "keys"
"""Sets of slowed clips: what lies between their key frames, and the key frames themselves."""


class ModelSection(Section):
    """The network to train."""

    size: Literal[tuple(MODELS)] = Field("nano", description="entry of the MODELS table")
    changes: dict[str, Any] = Field({}, description="STIVConfig fields that differ from the table")

    def build(self) -> STIVConfig:
        """The network's config. Raises ValueError quoting a bad field."""
        config = STIVConfig.from_dict({**MODELS[self.size].to_dict(), **self.changes})
        if config.null_text_tokens:
            raise ValueError(
                f"null_text_tokens is {config.null_text_tokens}: expected 0, as training takes the "
                "text encoder's states of the empty prompt for no prompt; imported weights lose "
                "theirs by `python -m stiv.convert init`"
            )
        return config


class TextSection(Section):
    """Where the text condition comes from."""

    encoder: Literal["nano", "clip_g", "t5xxl"] = Field(
        "nano", description="nano: a small encoder trained with the model; others are frozen"
    )
    file: UserPath | None = Field(None, description="a frozen encoder's .safetensors, as ComfyUI's")
    tokenizer: UserPath | None = Field(None, description="folder of its tokenizer's files")
    cache: UserPath | None = Field(None, description="folder of `cache text`, for a frozen encoder")
    weights: UserPath | None = Field(
        None, description="nano: a checkpoint whose text encoder the run begins with"
    )
    width: int = Field(128, ge=16, le=4096, description="nano: token width")
    depth: int = Field(3, ge=1, le=64, description="nano: blocks")
    heads: int = Field(4, ge=1, le=64, description="nano: attention heads")
    max_tokens: int = Field(40, ge=8, le=512, description="nano: longest prompt in tokens")
    vocabulary: int = Field(
        4000, ge=1, le=100_000, description="nano on clips: most frequent words that are one token"
    )
    pretrain_steps: int = Field(
        0, ge=0, description="nano on shapes: steps of naming a caption's attributes"
    )
    lr_share: float = Field(
        1.0, gt=0, le=1, description="nano: its learning rate, as a share of the optimizer's"
    )
    dropout: float = Field(0.1, ge=0, le=1, description="share of captions emptied (paper 0.1)")

    @model_validator(mode="after")
    def _check_cache(self) -> TextSection:
        if self.encoder != "nano" and self.cache is None:
            raise ValueError(f"encoder {self.encoder!r} is frozen: name the folder of its cache")
        return self


class StreamSection(Section):
    """One stream of batches; a step takes its batch from one stream."""

    batch: int | dict[str, int] = Field(
        32, description="samples per step over all processes, or one number per bucket (TxHxW)"
    )
    weight: float = Field(1.0, gt=0, description="share of the steps, relative to other streams")
    still: bool = Field(False, description="one random frame of each clip, as an image (T2I)")
    repeats: int = Field(1, ge=1, description="times that an epoch goes through the samples")
    every: int | None = Field(
        None, ge=2, le=64, description="shapes: one frame of so many of the clips"
    )
    set: str = Field(
        "",
        description="name of the set it takes clips from, where sets have names; shapes: solids, "
        "for the view sets of training/solids, gaps or keys, for those of training/shapes/slow",
    )
    tasks: dict[str, float] | None = Field(
        None, description="its own conditioning tasks and their shares, instead of data.tasks"
    )

    @model_validator(mode="after")
    def _check_tasks(self) -> StreamSection:
        if self.tasks is not None:
            _check_shares(self.tasks)
        return self


class DataSection(Section):
    """What is trained on and how it is given to the model."""

    sets: list[DataSpec] = Field([], description="raw clips, for the cache commands")
    latents: UserPath = Field(description="folder of `cache latents`")
    kind: Literal["clips", "shapes"] = Field(
        "clips", description="shapes: the procedural clips of training/shapes"
    )
    streams: list[StreamSection] = Field([StreamSection()], min_length=1)
    tasks: dict[str, float] = Field(
        {"t2v": 1.0}, description="conditioning tasks and their shares, summing to 1"
    )
    image_dropout: float = Field(0.08, ge=0, le=1, description="given frames dropped (paper 0.08)")
    image_attention: Literal["instead", "beside"] | None = Field(
        None,
        description="ablation: the first frame, where it is given, is shown to cross-attention, "
        "instead of replacing the noised one or beside; needs model.changes.image_cross_attention",
    )
    reverse: bool = Field(False, description="shapes: also train on clips played backwards")
    workers: int = Field(0, ge=0, le=256, description="loader processes; 0: in this process")

    @model_validator(mode="after")
    def _check_tasks(self) -> DataSection:
        _check_shares(self.tasks)
        names = [spec.name for spec in self.sets]
        if len(set(names)) < len(names):
            raise ValueError(f"sets are named {names}: give each a name of its own")
        if self.kind == "shapes":
            names = ["", SOLIDS, GAPS, KEYS]
        for stream in self.streams if names else []:
            if stream.set not in names:
                raise ValueError(f"a stream takes set {stream.set!r}: expected one of {names}")
            if self.kind == "shapes" and stream.set == SOLIDS:
                _check_solids(stream)
        for stream in self.streams:
            if stream.every and (self.kind != "shapes" or stream.set):
                raise ValueError("a stream's `every` is of plain shapes: set the set's stride")
        return self

    def tasks_of(self, stream: int) -> dict[str, float]:
        """Tasks and shares of the stream of this number."""
        return self.streams[stream].tasks or self.tasks

    def folder(self, name: str) -> Path:
        """Where the latents of a set are: below `latents`, by its name if it has one."""
        if self.kind == "shapes" and name == KEYS:  # the clips themselves
            return self.latents
        return self.latents / name


def _check_shares(tasks: dict[str, float]) -> None:
    unknown = sorted(set(tasks) - set(TASK_NAMES))
    if unknown:
        raise ValueError(f"unknown task {unknown[0]!r}: expected some of {', '.join(TASK_NAMES)}")
    total = sum(tasks.values())
    if not tasks or min(tasks.values()) < 0 or abs(total - 1) > 1e-6:
        raise ValueError(f"task shares sum to {total}: expected 1")


def _check_solids(stream: StreamSection) -> None:
    if stream.still or stream.tasks != {"multi_view": 1.0}:
        raise ValueError(
            "a stream takes set 'solids', views without words or motion: set its tasks: "
            "{multi_view: 1.0} and still: false"
        )


class OptimizerSection(Section):
    """AdaFactor as in the paper, or AdamW."""

    kind: Literal["adafactor", "adamw"] = "adafactor"
    lr: float = Field(2e-4, gt=0, le=0.1, description="learning rate after warm-up")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    beta2_mode: Literal["constant", "debiased", "capped"] = Field(
        "capped", description="AdaFactor: how the first steps treat beta2"
    )
    momentum: Literal["fp32", "bf16"] = Field(
        "fp32", description="AdaFactor: dtype of its momentum"
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="AdamW only (paper: none)")
    clip: float = Field(1.0, gt=0, description="largest norm of the whole gradient")
    warmup: int = Field(1000, ge=0, description="steps of linear warm-up")
    cooldown: float = Field(0.0, ge=0, le=1, description="last share of the steps, lr falls to 0")
    ema: float = Field(0.9999, ge=0, lt=1, description="decay of the averaged weights")


class MaskingSection(Section):
    """MaskDiT: spatial tokens left out of the main blocks (paper section 3)."""

    ratio: float = Field(0.0, ge=0, lt=1, description="share of spatial tokens dropped (paper 0.5)")
    unmasked_steps: int = Field(0, ge=0, description="last steps of the run without masking")


class EngineSection(Section):
    """How the machine is used; changes speed and memory, and results only by rounding."""

    precision: Literal["fp32", "bf16"] = Field("fp32", description="of forward and backward")
    checkpointing: Literal["none", "selective", "full"] = Field(
        "none", description="activations recomputed; selective keeps attention outputs (paper)"
    )
    offload_activations: bool = Field(
        False, description="what blocks keep for backward waits in host memory (needs a GPU)"
    )
    swap_blocks: int = Field(
        0, ge=0, description="LoRA: blocks whose frozen weights wait in host memory (needs a GPU)"
    )
    compile: bool = Field(False, description="torch.compile every block (needs a C++ compiler)")
    accumulate: int = Field(1, ge=1, description="micro-batches per step")
    max_bad_steps: int = Field(10, ge=1, description="NaN steps in a row that stop the run")

    @model_validator(mode="after")
    def _check_compile(self) -> EngineSection:
        for key in ("swap_blocks", "offload_activations"):
            if self.compile and getattr(self, key):
                raise ValueError(f"{key} does not go with compile: set compile: false")
        return self


class SaveSection(Section):
    """When the whole state is written, besides at the end, on SIGTERM and Ctrl-C."""

    steps: int = Field(250, ge=1, description="steps between states")
    minutes: float = Field(15, gt=0, description="or minutes between states, whichever is first")
    keep: int = Field(2, ge=1, description="newest states that stay")


class WatchSection(Section):
    """What a run shows of itself."""

    log_every: int = Field(50, ge=1, description="steps between log lines")
    heldout_every: int = Field(0, ge=0, description="steps between held-out losses; 0: none")
    heldout_clips: int = Field(16, ge=1, description="clips that are kept out of training for it")
    samples_every: int = Field(0, ge=0, description="steps between sample videos; 0: none")
    prompts: list[str] = Field([], description="prompts of the sample videos")
    sample_steps: int = Field(20, ge=1, le=1000)
    guidance_scale: float = Field(7.5, gt=0, le=100)
    tensorboard: bool = Field(False, description="write TensorBoard scalars beside metrics.jsonl")


class LoraSection(Section):
    """Train a LoRA on frozen weights instead of the whole model."""

    rank: int = Field(16, ge=1, le=1024)
    alpha: float = Field(16.0, gt=0)
    targets: list[str] = Field(
        ["qkv", "proj", "q", "kv", "fc1", "fc2"], description="layers that are adapted, by name"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="share of the adapters' inputs dropped")
    base: Literal["fp32", "bf16", "fp8"] = Field("fp32", description="how the base is held")


class InitSection(Section):
    """Checkpoints that a new run starts from."""

    weights: UserPath = Field(
        description="a checkpoint; where its network is another than `model`, steps lead there: an "
        "image model becomes a video model, an imported one the paper's (see `train --dry-run`)"
    )
    text_encoder: bool = Field(
        True, description="take its small text encoder too; false: begin with a new one"
    )
    temporal: UserPath | None = Field(
        None, description="joint start: temporal attention from this checkpoint (paper, T2V-512)"
    )
    depth_map: list[Annotated[int, Field(ge=0)] | Literal["new"]] | None = Field(
        None,
        description="for each block of the model that block of the checkpoint, or new for one that "
        "changes nothing at first; without it their number has to be the same",
    )


class TrainConfig(Section):
    """Everything that determines a run."""

    name: str = Field(description="title of the exported model")
    notes: str = Field("", description="what a reader of the card should know of this run")
    license: str = Field("Apache-2.0", description="of the exported weights")
    seed: int = Field(0, ge=0, description="the run is a function of this seed and the data")
    steps: int = Field(ge=1, description="optimizer steps of the whole run")
    run: UserPath = Field(description="folder of the run: states, metrics, samples, report")
    init: InitSection | None = None
    vae: UserPath | None = Field(None, description="a VAE's .safetensors, as ComfyUI's")
    vae_space: Literal["sd", "sdxl", "sd3", "flux"] | None = Field(
        None, description="the VAE's latent space, where its file alone does not tell"
    )
    timesteps: Literal["uniform", "logit_normal"] = Field("uniform", description="of training")
    shift: float = Field(1.0, gt=0, description="> 1 trains more at high noise")
    shift_tokens: int | None = Field(
        None,
        ge=1,
        description="shift grows as sqrt(tokens / this number), from `shift`; the checkpoint's "
        "samplers take that of its longest clips",
    )
    model: ModelSection = ModelSection()
    text: TextSection = TextSection()
    data: DataSection
    optimizer: OptimizerSection = OptimizerSection()
    masking: MaskingSection = MaskingSection()
    engine: EngineSection = EngineSection()
    save: SaveSection = SaveSection()
    watch: WatchSection = WatchSection()
    lora: LoraSection | None = None

    @model_validator(mode="after")
    def _check_parts(self) -> TrainConfig:
        model = self.model.build()
        if self.masking.ratio and not model.mask_decoder_blocks:
            raise ValueError(
                "masking.ratio needs a model with mask_decoder_blocks: nothing unmasks"
            )
        if self.masking.unmasked_steps > self.steps:
            raise ValueError(
                f"masking.unmasked_steps is {self.masking.unmasked_steps}: more than the "
                f"{self.steps} steps of the run"
            )
        if self.text.encoder == "nano" and model.text_width != self.text.width:
            raise ValueError(
                f"text.width is {self.text.width}, but the model reads {model.text_width}"
            )
        if model.image_cross_attention != bool(self.data.image_attention):
            raise ValueError(
                f"data.image_attention is {self.data.image_attention!r}, but the model's "
                f"image_cross_attention is {model.image_cross_attention}: set both or neither"
            )
        if self.text.weights and self.text.encoder != "nano":
            raise ValueError(f"text.weights is of encoder nano: this run takes {self.text.encoder}")
        blocks = self.init.depth_map if self.init else None
        if blocks is not None and len(blocks) != model.depth:
            raise ValueError(
                f"init.depth_map names {len(blocks)} blocks: the model has {model.depth}"
            )
        if self.lora and self.init is None:
            raise ValueError("lora needs init.weights: the checkpoint that it is trained on")
        if self.lora and self.text.encoder == "nano" and not self.init.text_encoder:
            raise ValueError(
                "init.text_encoder is false, but a lora trains the transformer alone: the new "
                "text encoder would stay as it began; set init.text_encoder: true"
            )
        if self.engine.swap_blocks:
            if self.lora is None:
                raise ValueError(
                    "engine.swap_blocks moves frozen weights, and without lora all are trained: "
                    "use FSDP2 with fsdp_offload_params: true (training/accelerate/fsdp2.yaml)"
                )
            check_count(self.engine.swap_blocks, model.depth + model.mask_decoder_blocks)
        return self


def load_config(path: Path, overrides: list[str] = ()) -> TrainConfig:
    """A config from YAML with `a.b=value` overrides (values are YAML; lists take indices).

    Raises ValueError of one line naming the file and each bad key with its value.
    """
    values = read_yaml(path)
    for override in overrides:
        _override(values, override)
    return parse_config(values, str(path))


def parse_config(values: dict[str, Any], origin: str = "config") -> TrainConfig:
    """A config from plain values. Raises ValueError of one line that names every bad key."""
    return parse_section(TrainConfig, values, origin)


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError(f"override {override!r}: expected key=value, as in optimizer.lr=1e-4")
    target: Any = values
    *parents, last = key.split(".")
    try:
        for parent in parents:
            if isinstance(target, list):
                target = target[int(parent)]
            else:
                target = target.setdefault(parent, {})
        target[int(last) if isinstance(target, list) else last] = yaml.safe_load(text)
    except (TypeError, ValueError, IndexError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"override {override!r} cannot be applied: {error}") from None
