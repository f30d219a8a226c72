"""A file is verified on demand: what is found, and that it is read once until it changes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from ComfyUI_STIV.nodes.host.verify import verification_of
from safetensors.torch import load_file, save_file

from tests.nodes import tiny

FOLDER = "checkpoints"


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint in a folder of the host's."""
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, FOLDER, ([str(tmp_path)], {".safetensors"})
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tiny.write(tmp_path / "tiny.safetensors")


def verified(name: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while (found := verification_of(FOLDER, name))["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_sound_and_changed_tensors(checkpoint: Path) -> None:
    found = verified(checkpoint.name)
    assert found == {"state": "verified", "progress": 1.0, "message": ""}
    data = bytearray(checkpoint.read_bytes())
    data[-1] ^= 1
    checkpoint.write_bytes(data)
    assert verified(checkpoint.name)["state"] == "different"


def test_a_file_is_read_once(checkpoint: Path) -> None:
    assert verified(checkpoint.name)["state"] == "verified"
    assert verification_of(FOLDER, checkpoint.name)["state"] == "verified"  # at once


def test_without_a_hash_there_is_nothing_to_compare(checkpoint: Path) -> None:
    tensors = load_file(checkpoint)
    bare = {
        name.removeprefix("diffusion_model."): tensor
        for name, tensor in tensors.items()
        if name.startswith("diffusion_model.")
    }
    save_file(bare or tensors, checkpoint)
    assert verified(checkpoint.name)["state"] == "not_stated"


def test_a_broken_file_is_named_without_its_folder(checkpoint: Path) -> None:
    checkpoint.write_bytes(b"no checkpoint")
    found = verified(checkpoint.name)
    assert found["state"] == "failed"
    assert checkpoint.name in found["message"]
    assert str(checkpoint.parent) not in found["message"]


def test_only_files_that_the_loaders_offer(checkpoint: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"other\.safetensors"):
        verification_of(FOLDER, "other.safetensors")
    with pytest.raises(ValueError, match="folder is"):
        verification_of("vae", checkpoint.name)
