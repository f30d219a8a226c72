"""The host and the pack live in the test process under the names they have in ComfyUI."""

from __future__ import annotations

import sys
from pathlib import Path

import comfy.model_management
import comfy.samplers

import nodes as host_nodes
from scripts.prepare import ROOT


def test_the_module_nodes_is_the_hosts() -> None:
    assert "KSampler" in host_nodes.NODE_CLASS_MAPPINGS
    assert Path(host_nodes.__file__).parent != ROOT


def test_the_libraries_of_the_pack_are_the_checkouts() -> None:
    import stiv
    import training

    assert Path(stiv.__path__[0]) == ROOT / "stiv"
    assert Path(training.__path__[0]) == ROOT / "training"


def test_the_host_computes_on_the_cpu() -> None:
    assert comfy.model_management.get_torch_device().type == "cpu"
    assert "euler" in comfy.samplers.KSampler.SAMPLERS


def test_the_pack_is_a_package_of_its_own() -> None:
    import ComfyUI_STIV.nodes
    import ComfyUI_STIV.stiv

    assert Path(ComfyUI_STIV.nodes.__file__).parent == ROOT / "nodes"
    assert ComfyUI_STIV.stiv is not sys.modules.get("stiv")
