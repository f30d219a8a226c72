"""The real server loads the pack whole, and its driver reports what goes wrong."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.host import PACK_NAME, ComfyServer, HostError
from scripts.prepare import ROOT, find_host

NODES = (
    "STIVLoadModel",
    "STIVLoadCheckpoint",
    "STIVVideoVAE",
    "STIVTextEncode",
    "STIVEmptyLatent",
    "STIVPlaceFrames",
    "STIVTimeline",
    "STIVFrameReplacement",
    "STIVMultiView",
    "STIVGuidance",
    "STIVGuider",
    "STIVGuidanceInterval",
    "STIVCompile",
    "STIVFasterCPU",
    "STIVModelInfo",
    "STIVSaveCheckpoint",
    "STIVLongVideoPlan",
    "STIVPredictionPlan",
    "STIVInterpolationPlan",
    "STIVLongVideo",
    "STIVKeyFrames",
    "STIVSegment",
    "STIVJoinSegments",
)
IMPORT_LINE = re.compile(r"([\d.]+) seconds(.*): .*" + re.escape(PACK_NAME))


def test_pack_is_imported_whole(server: ComfyServer) -> None:
    found = IMPORT_LINE.search(server.log)
    assert found, server.tail()
    assert not found[2], server.tail()


@pytest.mark.parametrize("node", NODES)
def test_node_is_offered_and_documented(node: str, server: ComfyServer) -> None:
    info = server.object_info()
    assert node in info
    schema = info[node]
    assert schema["category"].split("/")[0] == "STIV"
    assert schema["description"]
    inputs = {**schema["input"].get("required", {}), **schema["input"].get("optional", {})}
    assert [name for name, spec in inputs.items() if not spec[1].get("tooltip")] == []
    tooltips = schema.get("output_tooltips") or []
    assert len([t for t in tooltips if t]) == len(schema["output"])


def test_a_refused_prompt_names_the_input(server: ComfyServer) -> None:
    prompt = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": -4, "height": 64, "batch_size": 1, "color": 0},
        },
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    with pytest.raises(HostError, match=r"EmptyImage #1: Value -4 smaller than min.*width"):
        server.run(prompt)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = ComfyServer(find_host(), base=tmp_path, cpu=True, arguments=["--no-such-option"])
    with pytest.raises(HostError, match=r"exit code 2(.|\n)*unrecognized arguments"), server:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_the_server_ends_with_its_driver(tmp_path: Path) -> None:
    """Even a driver that is killed outright leaves no server behind."""
    code = (
        "import sys, time; from pathlib import Path; from scripts import host, prepare\n"
        "class Quick(host.ComfyServer):\n"
        "    def _await_ready(self): print(self.pid, flush=True); time.sleep(60)\n"
        "Quick(prepare.find_host(), base=Path(sys.argv[1]), cpu=True).start()\n"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    pid = int(driver.stdout.readline())
    driver.kill()
    driver.communicate()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
