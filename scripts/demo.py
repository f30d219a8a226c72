"""Run a workflow of the pack on a real ComfyUI server; the last line is the path of its video.

make demo
python3 scripts/prepare.py run -m scripts.demo workflows/text_to_video.json --image cat.png
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.host import ComfyServer, HostError, Run, checkout_base
from scripts.prepare import ROOT, PrepareError, need_host

VIDEO = (".mp4", ".webm", ".mkv", ".mov")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts.demo", description=__doc__.splitlines()[0])
    parser.add_argument(
        "workflow", nargs="?", type=Path, default=ROOT / "workflows" / "image_to_video.json"
    )
    parser.add_argument("--image", type=Path, help="picture to use instead of the workflow's own")
    parser.add_argument("--output", type=Path, default=ROOT / "output", help="output folder")
    parser.add_argument("--cpu", action="store_true", help="leave the accelerator alone")
    options = parser.parse_args(arguments)
    for path in filter(None, (options.workflow, options.image)):
        if not path.is_file():
            parser.error(f"{path} does not exist")
    return options


class Progress:
    """One line per node, with the sampler's steps counted on it."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.line = ""

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "executing" and data["node"]:
            # ids of expanded nodes are "parent.child": the artist's node is the first part
            self.show(self.names.get(data["node"].split(".")[0], data["node"]))
        elif kind == "progress" and data["max"] > 1 and data["value"] == data["max"]:
            self.show(f"{self.line.split(':')[0]}: {data['max']} steps")

    def show(self, line: str) -> None:
        if line != self.line:
            print(f"  {line}", flush=True)
        self.line = line


def give_picture(prompt: dict[str, Any], name: str) -> None:
    """Have every LoadImage load `name`; without one, place a new one's picture in the video."""
    loaders = [node for node in prompt.values() if node["class_type"] == "LoadImage"]
    places = [node for node in prompt.values() if node["class_type"] == "STIVPlaceFrames"]
    if not loaders and not places:
        raise HostError("--image: the workflow takes no picture")
    for node in loaders:
        node["inputs"]["image"] = name
    if not loaders:
        prompt["picture"] = {"class_type": "LoadImage", "inputs": {"image": name}}
        for node in places:
            node["inputs"]["frames"] = ["picture", 0]


def run(server: ComfyServer, options: argparse.Namespace) -> Run:
    workflow = json.loads(options.workflow.read_text(encoding="utf-8"))
    prompt = server.to_prompt(workflow)
    if options.image:
        give_picture(prompt, server.put_input(options.image))
    names = {id_: node["class_type"] for id_, node in prompt.items()}
    return server.wait(server.queue(prompt, workflow), timeout=3600, on_event=Progress(names))


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is ended too
    try:
        comfyui = need_host()
        print(f"starting ComfyUI for {options.workflow.name}", flush=True)
        start = time.monotonic()
        server = ComfyServer(
            comfyui,
            base=checkout_base(),
            cpu=options.cpu or None,
            output=options.output,
        )
        with server:
            print(f"server ready after {time.monotonic() - start:.1f} s", flush=True)
            result = run(server, options)
            peak = server.memory("VmHWM")
    except (HostError, PrepareError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    memory = f", peak memory of the server {peak / 2**30:.2f} GiB" if peak else ""
    print(f"rendered in {result.seconds:.1f} s{memory}")
    videos = [file for file in result.files if file.suffix in VIDEO] or result.files
    if not videos:
        print("error: the workflow saved no file", file=sys.stderr)
        return 1
    print(videos[-1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
