"""`python -m training eval …`: the paper's measures, benchmarks and comparisons."""

from __future__ import annotations

import argparse
from argparse import Namespace
from pathlib import Path

PAIRED = ("psnr", "ssim", "lpips")
BETWEEN = ("fid", "fvd")


def add_eval(names) -> None:
    """Add `eval` and all below it to the commands of `python -m training`."""
    parser = names.add_parser(
        "eval",
        help="measure clips, sample benchmarks, compare recipes; a number's last line is JSON",
        description=__doc__,
    )
    what = parser.add_subparsers(dest="what", required=True)
    _add_measures(what)
    _add_vbench(what)
    _add_protocol(what)
    _add_ablate(what)


def _add_measures(what) -> None:
    texts = {
        "psnr": "peak signal to noise of clips with the same names in two folders",
        "ssim": "structural similarity of clips with the same names in two folders",
        "lpips": "perceptual distance of clips with the same names in two folders",
        "fid": "Fréchet distance of pictures or frames, by your Inception",
        "fvd": "Fréchet distance of videos, by your I3D",
        "is": "inception score of videos, by your C3D",
        "clip": "how well videos or pictures show their captions, by your CLIP",
        "motion": "share of videos in which something moves, by optical flow",
    }
    for name, text in texts.items():
        command = what.add_parser(name, help=text, description=text)
        command.set_defaults(run=measure)
        _add_inputs(command, name)
        command.add_argument("--seed", type=int, default=0, help="of the bootstrap")
        many = {"fid": 50, "fvd": 50, "is": 200}.get(name, 2000)
        text = f"of the bootstrap (default {many}); 0: no interval"
        command.add_argument("--resamples", type=int, default=many, help=text)
        command.add_argument("--json", type=Path, help="write the result here as well")


def _add_inputs(command: argparse.ArgumentParser, name: str) -> None:
    command.add_argument(
        "--made", type=Path, required=True, help="folder of videos, pictures or folders of frames"
    )
    if name in PAIRED + BETWEEN:
        command.add_argument("--true", type=Path, required=True, help="folder of the true ones")
    if name == "clip":
        command.add_argument(
            "--captions", type=Path, help="list of the files and their captions (.jsonl, .csv); "
            "default: the .txt beside each file"
        )  # fmt: skip
        command.add_argument("--clip", type=Path, help="folder of a CLIP, as transformers saves it")
    if name == "lpips":
        command.add_argument(
            "--backbone", type=Path, help="weights of torchvision's AlexNet or VGG"
        )
        command.add_argument("--net", choices=["alex", "vgg"], default="alex")
    if role := {"fid": "inception", "fvd": "i3d", "is": "c3d"}.get(name):
        command.add_argument(f"--{role}", type=Path, help="its TorchScript file")
        _add_range(command)
    if name in ("fid", "clip"):
        command.add_argument(
            "--per-file", type=int, default=8, help="frames of a video, spread evenly (default 8)"
        )
    else:
        default = 16 if name in ("fvd", "is") else None
        said = default or "all"
        command.add_argument(
            "--frames", type=int, default=default, help=f"of a clip (default {said})"
        )
        command.add_argument("--stride", type=int, default=1, help="take one frame of so many")
        if name in BETWEEN:
            command.add_argument("--true-stride", type=int, help="another stride for the true ones")
    command.add_argument(
        "--size", type=_size, metavar="HxW", help="scale and crop to it; default: all have one size"
    )
    command.add_argument("--count", type=int, help="files, at most")
    command.add_argument("--workers", type=int, default=2, help="decoding processes per folder")


def _add_vbench(what) -> None:
    from ..options import add_sampler_options

    text = "render the videos that VBench or VBench-I2V scores, or go on rendering"
    command = what.add_parser("vbench-export", help=text, description=text)
    command.set_defaults(run=vbench_export)
    command.add_argument("--prompts", type=Path, required=True, help="VBench's *_full_info.json")
    command.add_argument("--out", type=Path, required=True, help="folder of the videos")
    command.add_argument(
        "--dimension", nargs="+", default=[], help="only prompts for these (default: all)"
    )
    command.add_argument("--samples", type=int, default=5, help="videos of a prompt (default 5)")
    command.add_argument(
        "--flicker", type=int, default=5, help="of those for temporal flickering (VBench: 25)"
    )
    command.add_argument("--images", type=Path, help="VBench-I2V: folder of its pictures")
    command.add_argument(
        "--crop-info", type=Path, help="its i2v-bench-info.json, where --images are the originals"
    )
    command.add_argument("--ratio", default="1-1", help="crop of the pictures (default 1-1)")
    add_sampler_options(command, 7.5)
    command.add_argument("--renorm", action="store_true", help="CFG-Renorm")
    command.add_argument("--frames", type=int, help="default: the most it was trained for")
    command.add_argument("--size", type=_size, metavar="HxW", help="default: as it was trained")
    command.add_argument("--fps", type=float, default=8.0)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--batch", type=int, default=1, help="videos sampled at once")
    command.add_argument("--part", default="0/1", metavar="I/N", help="one of N at once")
    command.add_argument("--cpu", action="store_true", help="even where there is a GPU")
    text = "one score of the results that VBench wrote, beside the paper's; the last line is JSON"
    command = what.add_parser("vbench-import", help=text, description=text)
    command.set_defaults(run=vbench_import)
    command.add_argument(
        "results", type=Path, nargs="+", help="files *_eval_results.json, or folders of them"
    )
    command.add_argument("--benchmark", choices=["auto", "t2v", "i2v"], default="auto")
    command.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    command.add_argument("--json", type=Path, help="write the result here as well")


def vbench_export(args: Namespace) -> None:
    """Render."""
    from .vbench.export import export

    export(args)


def vbench_import(args: Namespace) -> None:
    """Read results."""
    from .vbench.results import import_results

    import_results(args)


def _add_protocol(what) -> None:
    from ..options import add_checkpoint_options

    text = "a benchmark's protocol: sample what it asks for and measure; go on where it was"
    command = what.add_parser("protocol", help=text, description=text)
    command.set_defaults(run=protocol)
    command.add_argument("recipe", type=Path, help="as in training/recipes/evaluation")
    command.add_argument("--true", type=Path, required=True, help="folder of the true videos")
    command.add_argument(
        "--captions", type=Path, help="list of them: .jsonl or .csv, or MSR-VTT's own .json"
    )
    command.add_argument("--out", type=Path, required=True, help="folder of all that is made")
    for role in ("i3d", "inception", "c3d"):
        command.add_argument(f"--{role}", type=Path, help="its TorchScript file")
    command.add_argument("--clip", type=Path, help="folder of a CLIP, as transformers saves it")
    _add_range(command)
    add_checkpoint_options(command)
    command.add_argument("--videos", type=int, help="fewer than the protocol's, to try")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--resamples", type=int, default=50, help="of FVD's and FID's bootstrap")
    command.add_argument("--batch", type=int, default=1, help="videos sampled at once")
    command.add_argument("--workers", type=int, default=2, help="decoding processes per folder")
    command.add_argument("--cpu", action="store_true", help="even where there is a GPU")


def protocol(args: Namespace) -> None:
    """Sample and measure."""
    from .protocol import run

    run(args)


def _add_ablate(what) -> None:
    text = "train and compare recipes at equal compute, or go on: tables as in the paper"
    command = what.add_parser("ablate", help=text, description=text)
    command.set_defaults(run=ablate)
    command.add_argument(
        "comparison", type=Path, nargs="+", help="YAML, as in training/recipes/miniature"
    )
    command.add_argument(
        "--cache",
        type=Path,
        default=Path("~/.cache/comfyui-stiv/miniature"),
        help="folder of sets, runs and scores, shared by all comparisons",
    )
    command.add_argument("--dry-run", action="store_true", help="say what would be done")
    command.add_argument("--arm", action="append", help="only this row; repeat for several")
    command.add_argument("--seeds", type=int, nargs="+", help="instead of the comparison's")
    command.add_argument("--steps", type=int, help="of the first row; all others in proportion")
    command.add_argument("--clips", type=int, help="held-out prompts of a score, at most")
    command.add_argument("--set-clips", type=int, help="clips of a set, at most")
    command.add_argument("--threads", type=int, help="CPU threads of a run")
    command.add_argument(
        "--workers", type=int, default=1, help="runs at a time, each in a process of its own"
    )
    command.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile what is trained: the same but for rounding (needs a C++ compiler)",
    )
    command.add_argument("--known", type=Path, help="file of results that need no training")
    command.add_argument(
        "--no-training", action="store_true", help="only what has results: nothing is computed"
    )
    command.add_argument("--record", type=Path, help="write all results of the cache to this file")
    command.add_argument("--markdown", type=Path, help="add the tables to this file")
    command.add_argument("--json", type=Path, help="write the results here as well")


def ablate(args: Namespace) -> int:
    """Train and compare."""
    from .ablate.command import ablate as run

    return run(args)


def _add_range(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--input-range",
        choices=["auto", "0-255", "0-1", "signed"],
        default="auto",
        help="what the networks take",
    )


def _size(text: str) -> tuple[int, int]:
    """256x256, height first."""
    try:
        height, width = map(int, text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HEIGHTxWIDTH, as 256x256") from None
    return height, width


def measure(args: Namespace) -> None:
    """Measure, print the number and its JSON."""
    from . import measures
    from .result import report

    made, how = _folder(args, args.made), {"seed": args.seed, "resamples": args.resamples}
    if args.what in PAIRED:
        files, per_frame = {}, getattr(measures, args.what, None)
        if args.what == "lpips":
            per_frame = measures.Lpips(args.backbone, args.net)
            files = {"backbone": per_frame.facts()}
        true = _folder(args, args.true)
        result = measures.compare(args.what, made, true, per_frame=per_frame, files=files, **how)
    elif args.what in BETWEEN:
        weights = args.inception if args.what == "fid" else args.i3d
        true = _folder(args, args.true, getattr(args, "true_stride", None))
        between = getattr(measures, args.what)
        result = between(made, true, weights, input_range=args.input_range, **how)
    elif args.what == "is":
        result = measures.inception_score(made, args.c3d, input_range=args.input_range, **how)
    elif args.what == "clip":
        from .clip_score import Clip, clip_score

        result = clip_score(made, Clip(args.clip), **how)
    else:
        result = measures.motion(made, **how)
    report([result], args.json)


def _folder(args: Namespace, path: Path, stride: int | None = None):
    from .inputs import Folder

    if args.what in ("fid", "clip"):
        cut = {"frames": 1, "extract": "uniform", "per_file": args.per_file}
    else:
        cut = {"frames": args.frames, "stride": stride or args.stride}
    return Folder(
        path,
        captions=getattr(args, "captions", None),
        size=args.size,
        count=args.count,
        workers=args.workers,
        **cut,
    )
