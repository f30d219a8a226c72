"""Foreign files: what is read of them, what is refused, and what a stopped conversion leaves."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from stiv.checkpoint import CheckpointError
from stiv.convert.cli import main
from stiv.convert.source import open_source

from .releases import pixart

ROOT = Path(__file__).parents[3]


class Attack:
    """What a hostile pickle does when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"state_dict": pixart(), "extra": Attack(tmp_path / "run")}, tmp_path / "a.pth")
    with pytest.raises(
        CheckpointError, match=r"a\.pth: holds more than tensors \(\w+\.mkdir\).*could run code"
    ):
        open_source(tmp_path / "a.pth")
    assert not (tmp_path / "run").exists()
    with pytest.raises(pickle.UnpicklingError):  # it is what it seems: torch refuses it, too
        torch.load(tmp_path / "a.pth", weights_only=True)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
def test_weights_of_a_training_checkpoint(tmp_path: Path, suffix: str) -> None:
    raw, averaged = {"w": torch.zeros(2)}, {"w": torch.ones(2)}
    path = tmp_path / f"a{suffix}"
    torch.save({"state_dict": raw, "state_dict_ema": averaged, "epoch": 3, "optimizer": {}}, path)
    for weights, value, which in (("auto", 1.0, "ema"), ("ema", 1.0, "ema"), ("raw", 0.0, "raw")):
        source = open_source(path, weights)
        assert source.weights == which and source.tensors["w"].tolist() == [value, value]
    torch.save(raw, path)
    assert open_source(path).tensors["w"].tolist() == [0.0, 0.0]
    with pytest.raises(CheckpointError, match="no averaged weights"):
        open_source(path, "ema")


def test_tensors_are_mapped_anew_and_stay_right(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("stiv.convert.source._REMAP_BYTES", 100)
    state = {f"t{i}": torch.full((20,), float(i)) for i in range(9)}
    torch.save(state, tmp_path / "a.pth")
    tensors = open_source(tmp_path / "a.pth").tensors
    kept = [tensors[f"t{i}"] for i in range(9)]  # views of several mappings at once
    for i, tensor in enumerate(kept):
        assert torch.equal(tensor, state[f"t{i}"])


def old_format(path: Path) -> None:
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)


def compressed(path: Path) -> None:
    torch.save({"w": torch.ones(2000)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {e.filename: archive.read(e) for e in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def repeated(path: Path) -> None:
    torch.save({"w": torch.ones(1).expand(10**12)}, path)


def truncated(path: Path) -> None:
    torch.save({"w": torch.ones(2000)}, path)
    path.write_bytes(path.read_bytes()[:-500])


def no_table(path: Path) -> None:
    torch.save([1, 2], path)


def numbered(path: Path) -> None:
    torch.save({5: torch.ones(2)}, path)


def escaping(path: Path) -> None:
    torch.save({"\x1b[31mw": torch.ones(2)}, path)


def sparse(path: Path) -> None:
    torch.save({"w": torch.ones(3, 3).to_sparse()}, path)


def without_data(path: Path) -> None:
    torch.save({"w": torch.empty(3, device="meta")}, path)


def nested(path: Path) -> None:
    torch.save({"w": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}, path)


def of_odd_dtype(path: Path) -> None:
    torch.save({"w": torch.ones(2, dtype=torch.complex64)}, path)


class Gigabytes:
    """A few bytes in a file that torch's loader lets ask for any memory."""

    def __reduce__(self):
        return bytearray, (2**40,)


def swelling(path: Path) -> None:
    torch.save({"w": torch.ones(2), "x": Gigabytes()}, path)


def archive_of(path: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")


def open_ended(path: Path) -> None:
    archive_of(path, b"\x80\x02" + b"(" * 1000 + b".")


def unknown_instruction(path: Path) -> None:
    archive_of(path, b"\x80\x02\xff.")


def endless_lists(path: Path) -> None:
    archive_of(path, b"\x80\x02(" + b"]" * 10**7 + b"l.")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (old_format, "no archive of torch.save, or of a very old one"),
        (compressed, "is compressed"),
        (repeated, "is not stored as numbers"),
        (truncated, "no archive of torch.save|is damaged|cannot be read"),
        (no_table, "holds no table of tensors"),
        (numbered, "names a tensor 5"),
        (escaping, "names a tensor '.x1b.*expected a short printable text"),
        (sparse, "cannot be read|is not stored as numbers"),
        (without_data, "is not stored as numbers"),
        (nested, "is not stored as numbers"),
        (of_odd_dtype, "is not stored as numbers"),
        (swelling, r"holds more than tensors \(bytearray\)"),
        (open_ended, "cannot be read"),
        (unknown_instruction, "holds more than tensors"),
        (endless_lists, "larger than any model's"),
    ],
)
def test_what_is_refused(tmp_path: Path, write, message: str) -> None:
    write(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=rf"a\.pth: .*({message})") as raised:
        open_source(tmp_path / "a.pth")
    assert "\n" not in str(raised.value)


def test_shards_lie_beside_their_index(tmp_path: Path) -> None:
    outside, folder = tmp_path / "secret.safetensors", tmp_path / "model"
    folder.mkdir()
    save_file({"w": torch.ones(1)}, outside)
    index = folder / "model.safetensors.index.json"
    for name in ("../secret.safetensors", str(outside), "..\\secret.safetensors", "a.pth"):
        index.write_text(json.dumps({"weight_map": {"w": name}}))
        with pytest.raises(CheckpointError, match=r"expected a \.safetensors file beside it"):
            open_source(index)
    save_file({"v": torch.ones(1)}, folder / "a.safetensors")
    index.write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"a\.safetensors holds w, which it does not"):
        open_source(index)
    for text in ("[]", "{", '{"weight_map": {"w": 5}}'):
        index.write_text(text)
        with pytest.raises(CheckpointError):
            open_source(index)


def test_missing_files_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such file"):
        open_source(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="holds no diffusion_pytorch_model"):
        open_source(tmp_path)


KILLED_HALFWAY = """
import os, signal
from stiv.convert import cli, console

def kill(self, what, done, total):
    if what == "write" and done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)

console.ProgressLine.__call__ = kill
cli.main()
"""


def test_a_killed_conversion_leaves_no_half_file(tmp_path: Path) -> None:
    """Killed as it writes; what was there before is still whole."""
    source, out = tmp_path / "a.pth", tmp_path / "out.safetensors"
    torch.save(pixart(), source)
    out.write_bytes(b"before")
    command = ["import", str(source), "--heads", "2", "--overwrite", "--out", str(out)]
    killed = subprocess.run([sys.executable, "-c", KILLED_HALFWAY, *command], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    (half,) = tmp_path.glob(".out*.tmp")
    assert half.stat().st_size and out.read_bytes() == b"before"
    main(command)
    assert out.stat().st_size > half.stat().st_size
