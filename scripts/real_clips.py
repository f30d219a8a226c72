"""A small captioned data set of real clips, without a download.

ComfyUI's `comfyui-workflow-templates-*` packages (MIT) show what each template makes as an animated
.webp. `tests/data/real_clips.jsonl` pairs about a hundred of them with the prompt of their
workflow. Most are 350 pixels wide and have 25 to 303 frames: right for trying out training, no
basis for judging quality.

    python3 scripts/prepare.py run -m scripts.real_clips --out real_clips --count 16
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

FACTS = Path(__file__).resolve().parent.parent / "tests" / "data" / "real_clips.jsonl"
PACKAGES = "comfyui-workflow-templates"


class RealClipsError(Exception):
    """Why the data set cannot be built, and what to do."""


def read_facts() -> list[dict[str, Any]]:
    """Of each clip: webp (file name), frames, size [width, height], prompt."""
    with open(FACTS, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def installed_clips() -> dict[str, Path]:
    """Every animated or still .webp of the installed template packages, by file name."""
    found = {}
    for package in metadata.distributions():
        if not (package.name or "").lower().replace("_", "-").startswith(PACKAGES):
            continue
        for file in package.files or ():
            if file.suffix == ".webp":
                found[file.name] = Path(package.locate_file(file))
    return found


def build(out: Path, count: int | None = None) -> list[Path]:
    """Writes the first `count` clips (None = all) as x.webp with x.txt, and a metadata.jsonl.

    Returns the clips. Raises RealClipsError where the packages are not installed. Clips that the
    installed packages lack are passed over.
    """
    there = installed_clips()
    facts = [fact for fact in read_facts() if fact["webp"] in there][:count]
    if not facts:
        raise RealClipsError(
            f"{sys.executable} has no {PACKAGES}-* packages with the clips of {FACTS.name}: "
            f"run this with ComfyUI's Python, or pip install {PACKAGES}"
        )
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for fact in facts:
        clip = out / fact["webp"]
        shutil.copyfile(there[fact["webp"]], clip)
        clip.with_suffix(".txt").write_text(fact["prompt"] + "\n", encoding="utf-8")
        rows.append({"path": clip.name, "caption": fact["prompt"]})
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return [out / row["path"] for row in rows]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m scripts.real_clips", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--count", type=int, help="clips to take (default: all)")
    args = parser.parse_args(argv)
    if args.count is not None and args.count < 1:
        parser.error(f"--count is {args.count}: expected 1 or more")
    try:
        built = build(args.out, args.count)
    except RealClipsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.out}: {len(built)} clips")
    return 0


if __name__ == "__main__":
    sys.exit(main())
