"""Every recipe loads, states the paper's numbers, and starts from what another one makes."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

from scripts.prepare import ROOT
from stiv.config import MODELS, STIVConfig
from stiv.convert.initialise import Aim, Temporal, grow
from stiv.shapes import expected_shapes
from stiv.windows import hierarchy_windows
from tests.training.launches import launched
from training.cli import parser
from training.config import TrainConfig, load_config
from training.estimate import activation_bytes, flops, parameters, state_bytes

RECIPES = ROOT / "training" / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
STAGES = {
    *("t2i_256", "t2i_512", "t2v_256", "t2v_512", "stiv_256", "stiv_512", "stiv_512x40", "v2v"),
    *("tup", "keyframes", "multiview", "sft", "unmask_sft", "lora", "low_memory", "nano"),
    "nano_more",
}

# What the paper states of a stage: frames, pixels, stride, batch, steps, of them unmasked, size.
PAPER = {
    "t2i_256": (1, 256, None, 4096, 450_000, 50_000, "xl"),
    "t2i_512": (1, 512, None, 4096, 450_000, 50_000, "xl"),
    "t2v_256": (20, 256, 3, 1024, 500_000, 100_000, "xl"),
    "t2v_512": (20, 512, 3, 1024, 500_000, 100_000, "xl"),
    "stiv_256": (20, 256, 3, 1024, 500_000, 100_000, "xl"),
    "stiv_512": (20, 512, 3, 1024, 500_000, 100_000, "xl"),
    "stiv_512x40": (40, 512, 3, 1024, 500_000, 100_000, "xl"),
    "v2v": (20, 256, 3, 1024, 400_000, None, "xxl"),
    "tup": (20, 256, 3, 1024, 400_000, None, "xl"),
    "keyframes": (20, 256, 20, None, None, None, "xl"),
    "multiview": (7, 320, None, None, 110_000, None, "xl"),
    "sft": (20, 512, 3, None, None, None, "xl"),
    "unmask_sft": (20, 512, 3, None, None, None, "xl"),
}
TASKS = {
    **{key: {"t2v": 1} for key in ("t2i_256", "t2i_512", "t2v_256", "t2v_512")},
    **{key: {"ti2v": 1} for key in ("stiv_256", "stiv_512", "stiv_512x40", "sft", "unmask_sft")},
    "v2v": {"v2v": 1},
    "tup": {"tup": 1},
    "keyframes": {"t2v": 0.5, "keyframes": 0.5},
    "multiview": {"multi_view": 1},
}


def recipe(name: str) -> TrainConfig:
    return load_config(RECIPES / f"{name}.yaml")


def test_there_is_a_recipe_for_every_stage() -> None:
    assert set(NAMES) >= STAGES


@pytest.mark.parametrize("name", NAMES)
def test_recipe_makes_a_model_that_its_text_and_files_fit(name) -> None:
    config = recipe(name)
    model = config.model.build()
    assert parameters(model) > 0
    if config.text.encoder == "clip_g":
        assert (model.text_width, model.pooled_width) == (1280, 1280)
        assert config.vae and config.text.file and config.data.sets
    for stream in config.data.streams:
        assert stream.batch % config.engine.accumulate == 0
    for spec in config.data.sets:
        assert all(side % (8 * model.patch) == 0 for size in spec.sizes for side in size)
        assert model.temporal_attention or spec.frames == [1]


@pytest.mark.parametrize("name", PAPER)
def test_numbers_are_the_papers(name) -> None:
    config, (frames, pixels, stride, batch, steps, unmasked, size) = recipe(name), PAPER[name]
    spec, stream = config.data.sets[0], config.data.streams[0]
    assert len(config.data.sets) == len(config.data.streams) == (2 if name == "keyframes" else 1)
    assert (spec.frames, spec.sizes) == ([frames], [(pixels, pixels)])
    assert config.model.size == size
    for found, stated in (
        (spec.stride, stride),
        (stream.batch, batch),
        (config.steps, steps),
        (config.masking.unmasked_steps, unmasked),
    ):
        assert stated is None or found == stated
    assert config.data.tasks_of(0) == TASKS[name]
    assert config.data.image_dropout == 0.08
    assert config.text.dropout == (1 if name == "multiview" else 0.1)
    assert config.masking.ratio == (0 if name in ("multiview", "unmask_sft") else 0.5)
    optimizer = config.optimizer
    assert (optimizer.kind, optimizer.beta1, optimizer.beta2) == ("adafactor", 0.9, 0.999)
    assert (optimizer.weight_decay, optimizer.clip, optimizer.ema) == (0, 1, 0.9999)
    if "sft" not in name:
        assert (optimizer.lr, optimizer.warmup, optimizer.cooldown) == (2e-4, 1000, 0)
    assert config.engine.checkpointing == "selective"
    assert config.watch.guidance_scale == (3.5 if name == "multiview" else 7.5)


@pytest.mark.parametrize("name", PAPER)
def test_rope_is_interpolated_to_what_the_first_stage_saw(name) -> None:
    config = recipe(name)
    model = config.model.build()
    for spec in config.data.sets:
        assert model.space_scale == 256 / spec.sizes[0][0]
        assert model.time_scale == (0.5 if spec.frames == [40] else 1)


# --- the commands in the recipes' comments -------------------------------------------------------


@cache
def commands(name: str) -> list:
    """The commands of a recipe's first comment, parsed by the real command line."""
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    head = "".join(line[1:] + "\n" for line in re.match(r"(#.*\n)*", text)[0].splitlines())
    lines = head.replace("\\\n", " ").splitlines()
    found = [shlex.split(line) for line in lines if line.strip().startswith("python -m training ")]
    return [parser().parse_args(words[3:]) for words in found]


@cache
def made() -> dict[str, TrainConfig]:
    """Every file that an export command of a recipe writes, and the config that it is made by."""
    return {
        str(args.out): load_config(ROOT / args.config, args.set)
        for name in NAMES
        for args in commands(name)
        if args.command in ("export", "lora-export")
    }


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("nano")])
def test_comment_says_how_to_run_it(name) -> None:
    own = [args for args in commands(name) if args.config == Path(f"training/recipes/{name}.yaml")]
    assert [args.command for args in own][-2:] in (["train", "export"], ["train", "lora-export"])
    cached = {
        str(load_config(ROOT / args.config, args.set).data.latents)
        for other in NAMES
        for args in commands(other)
        if args.command == "cache" and args.what == "latents"
    }
    assert str(recipe(name).data.latents) in cached


@pytest.mark.parametrize("name", NAMES)
def test_start_is_a_checkpoint_that_another_recipe_makes_and_that_fits(name) -> None:
    for config in [recipe(name), *(c for c in made().values() if c.name == recipe(name).name)]:
        if config.init is None:
            continue
        source = made_from(config.init.weights)
        temporal = config.init.temporal and made_from(config.init.temporal)
        assert source.text.encoder == config.text.encoder
        assert source.vae == config.vae
        assert source.model.size == config.model.size
        old, new = small(source.model.build()), small(config.model.build())
        other = temporal and small(temporal.model.build())
        aim = Aim(
            config=new,
            temporal=other and Temporal(tensors=zeros(other), config=other),
        )
        state = grow(zeros(old), old, aim)
        assert {key: tuple(value.shape) for key, value in state.items()} == expected_shapes(new)


def made_from(path: Path) -> TrainConfig:
    files = {str(Path(out).expanduser()): config for out, config in made().items()}
    assert str(path) in files, f"no recipe's comment exports {path}"
    return files[str(path)]


def small(config: STIVConfig) -> STIVConfig:
    return replace(config, width=32, depth=2, heads=2, text_width=8, pooled_width=8)


def zeros(config: STIVConfig) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in expected_shapes(config).items()}


def test_long_videos_are_learned_as_a_plan_makes_them() -> None:
    config = recipe("keyframes")
    windows = [*hierarchy_windows(20, 20, 21, 0)]
    for number, prefix in enumerate(("key", "seg")):
        spec, stream = config.data.sets[number], config.data.streams[number]
        made = next(window for window in windows if window.name.startswith(prefix))
        assert (spec.name, spec.frames, spec.stride) == (stream.set, [made.count], made.step)
    assert config.data.tasks_of(1) == {"first_last": 1}


def test_40_frames_span_the_time_of_the_model_they_start_from() -> None:
    long = recipe("stiv_512x40")
    short = made_from(long.init.weights)
    span = [c.data.sets[0].frames[0] * c.data.sets[0].stride for c in (short, long)]
    assert span[0] == span[1]
    assert long.model.build().time_scale == short.data.sets[0].frames[0] / 40
    assert short.data.latents != recipe("stiv_512").data.latents


@pytest.mark.parametrize("name", [name for name in PAPER if "sft" not in name])
def test_cost_in_the_comment_is_the_estimates(name) -> None:
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    stated = int(re.search(r"about ([\d,]+) H200-days at 40% of peak", text)[1])
    config = recipe(name)
    unmasked, kept = config.masking.unmasked_steps, 1 - config.masking.ratio
    model, work = config.model.build(), 0
    for spec, stream in zip(config.data.sets, config.data.streams, strict=True):
        shape = (spec.frames[0], *(side // 8 for side in spec.sizes[0]))
        step = (config.steps - unmasked) * flops(model, shape, kept=kept)
        step += unmasked * flops(model, shape)
        work += stream.batch * step / len(config.data.streams)
    days = work / (0.4 * 989e12 * 86400)
    assert stated == pytest.approx(days, rel=0.05, abs=1)


# --- launching -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["single", "ddp", "fsdp2", "hsdp"])
def test_accelerate_reads_its_config(name) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser
    from accelerate.utils import DistributedType

    path = str(ROOT / "training" / "accelerate" / f"{name}.yaml")
    config = load_config_from_file(path)  # refuses unknown keys
    assert config.distributed_type == {
        "single": DistributedType.NO,
        "ddp": DistributedType.MULTI_GPU,
    }.get(name, DistributedType.FSDP)
    args, environment = launched(name)
    assert args.mixed_precision == "no"  # `engine.precision` is the one place for it
    assert (args.use_fsdp, args.multi_gpu) == (name in ("fsdp2", "hsdp"), name == "ddp")
    values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    unknown = [
        key
        for section in ("fsdp_config", "parallelism_config")
        for key in values.get(section, {})
        if not hasattr(launch_command_parser().parse_args(["x"]), key)
    ]
    assert not unknown
    if name in ("fsdp2", "hsdp"):
        assert environment["FSDP_VERSION"] == "2"
        assert environment["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "STIVBlock"
    if name == "hsdp":
        sizes = [environment[f"PARALLELISM_CONFIG_DP_{k}_SIZE"] for k in ("REPLICATE", "SHARD")]
        assert int(sizes[0]) * int(sizes[1]) == config.num_processes
        assert int(sizes[0]) == config.num_machines


SBATCH = ROOT / "training" / "slurm" / "train.sbatch"

FAKE_SRUN = """#!/bin/bash
overlaps=$1
while [[ $1 == --* ]]; do shift; done
if [ "$overlaps" == --overlap ] && [ "$STIV_SLOW" == signalling ]; then "$@"; exec sleep 1; fi
exec "$@"
"""
FAKE_SCONTROL = """#!/bin/bash
echo "$@" >> "$STIV_TEST/scontrol.log"
if [ "$1" == show ]; then echo node1; fi
"""
FAKE_PYTHON = """#!/bin/bash
echo "$@" > "$STIV_TEST/launched"
bash -c 'trap "sleep 0.2; touch \\$STIV_TEST/saved; exit 0" TERM
         touch "$STIV_TEST/started"; while true; do sleep 0.05; done' -- training train &
wait $!
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Slurm is not there")
@pytest.mark.parametrize("slow", ["run", "signalling"])
def test_slurm_script_saves_before_the_limit_and_queues_again(tmp_path, slow: str) -> None:
    """The script itself, with stand-ins for Slurm's commands and for the launcher. slow: which of
    the run and of the step that signals it ends last."""
    subprocess.run(["bash", "-n", SBATCH], check=True)
    for name, text in (("srun", FAKE_SRUN), ("scontrol", FAKE_SCONTROL), ("python", FAKE_PYTHON)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    slurm = {
        "NNODES": "2",
        "NODEID": "0",
        "JOB_ID": "77",
        "JOB_NODELIST": "node[1-2]",
        "GPUS_ON_NODE": "4",
    }
    environment = {
        **os.environ,
        **{f"SLURM_{key}": value for key, value in slurm.items()},
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "STIV_TEST": str(tmp_path),
        "STIV_SLOW": slow,
        "TMPDIR": str(tmp_path),
    }
    job = subprocess.Popen(
        ["bash", SBATCH, "r.yaml", "--set", "steps=5"], env=environment, cwd=ROOT
    )
    try:
        deadline = time.monotonic() + 20
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline and job.poll() is None
            time.sleep(0.05)
        job.send_signal(signal.SIGTERM)
        assert job.wait(20) == 0
    finally:
        job.kill()
    assert (tmp_path / "saved").exists()
    assert "requeue 77" in (tmp_path / "scontrol.log").read_text()
    words = (tmp_path / "launched").read_text().split()
    assert words[:2] == ["-m", "accelerate.commands.launch"]
    assert words[-7:] == ["-m", "training", "train", "--config", "r.yaml", "--set", "steps=5"]
    for option, value in (
        ("--num_processes", "8"),
        ("--machine_rank", "0"),
        ("--main_process_ip", "node1"),
        ("--parallelism_config_dp_replicate_size", "2"),
        ("--parallelism_config_dp_shard_size", "4"),
    ):
        assert words[words.index(option) + 1] == value


# --- training/README.md --------------------------------------------------------------------------

README = (ROOT / "training" / "README.md").read_text(encoding="utf-8")


def test_readmes_commands_are_understood_and_its_links_lead_somewhere() -> None:
    whole = README.replace("\\\n", "")  # a command over several lines
    lines = [line.split("#")[0] for line in whole.splitlines()]
    words = [shlex.split(line) for line in lines if line.startswith("python -m training ")]
    assert len(words) >= 7
    for command in words:
        parser().parse_args(command[3:])
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert links and all((ROOT / "training" / link).exists() for link in links)
    assert {f"recipes/{name}.yaml" for name in NAMES} <= set(links)


def test_readmes_memory_is_the_estimates() -> None:
    for size in ("xl", "xxl", "m"):
        cells = re.search(rf"\| {size.upper()} \| (.*) \|", README)[1].split(" | ")
        model, shape = MODELS[size], (20, 32, 32)
        expected = [state_bytes(model, kind).total for kind in ("adafactor", "adamw")]
        expected += [activation_bytes(model, shape, how) for how in ("none", "selective", "full")]
        assert cells == [f"{value / 1e9:.1f} GB" for value in expected]
