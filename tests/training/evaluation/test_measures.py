"""The commands over folders: numbers against closed forms and other code, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import alexnet

from tests.training.conftest import refused, run
from tests.training.evaluation.conftest import noisy, write_folder
from tests.training.evaluation.networks import Clips, write_script
from training.evaluation import inputs
from training.evaluation.extractors import open_extractor
from training.evaluation.frechet import frechet_distance
from training.evaluation.measures import psnr, ssim
from training.evaluation.pictures import ssim as own_ssim
from training.video import write_lossless


def measured(capsys, *words: object) -> dict:
    """The JSON that `eval` ends with."""
    capsys.readouterr()
    run("eval", *words, "--workers", 1)
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def frames(clip: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(clip.copy()).movedim(-1, 1).float() / 255


def test_psnr_is_its_formula() -> None:
    a = torch.zeros(2, 3, 16, 16)
    b = torch.stack([torch.full((3, 16, 16), 0.1), torch.zeros(3, 16, 16)])
    assert psnr(a, b).tolist() == pytest.approx([20, 100])  # equal frames: the cap


def test_ssim_is_that_of_another_implementation(shapes) -> None:
    clip = shapes[0][0]
    values = ssim(frames(noisy(clip)), frames(clip)).numpy()
    assert values == pytest.approx(own_ssim(noisy(clip), clip), abs=1e-3)
    assert ssim(frames(clip), frames(clip)).numpy() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="11 pixels"):
        ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


def test_psnr_of_folders(folders, shapes, capsys) -> None:
    made, true = folders
    found = measured(capsys, "psnr", "--made", made, "--true", true, "--seed", 3)
    clips = shapes[0].astype(float)
    error = np.square(noisy(shapes[0]) - clips).mean((2, 3, 4))
    per_clip = (10 * np.log10(255**2 / error)).mean(1)
    assert found["value"] == pytest.approx(per_clip.mean(), abs=1e-3)
    low, high = found["interval"]
    assert per_clip.min() < low < found["value"] < high < per_clip.max()
    assert found["samples"] == {"pairs": 6} and found["seed"] == 3 and found["level"] == 0.95
    assert found["files"]["made"]["files"] == 6
    assert len(found["files"]["made"]["sha256"]) == 64
    assert found["files"]["made"] != found["files"]["true"]
    assert any("below 30" in warning for warning in found["warnings"])
    assert found["versions"]["torchmetrics"]


def test_fvd_of_folders(folders, shapes, i3d, capsys, tmp_path) -> None:
    made, true = folders
    out = tmp_path / "results" / "fvd.json"
    found = measured(
        capsys, "fvd", "--made", made, "--true", true, "--i3d", i3d, "--frames", 4, "--json", out
    )
    extractor = open_extractor(i3d, "i3d", shapes[0].shape[1:])
    expected = frechet_distance(extractor(noisy(shapes[0])), extractor(shapes[0]))
    assert found["value"] == pytest.approx(expected, rel=1e-4)
    assert found["samples"] == {"made": 6, "true": 6}
    assert found["interval"][0] <= found["value"] <= found["interval"][1]
    assert found["files"]["i3d"]["features"] == 5
    said = " ".join(found["warnings"])
    assert "the usual i3d 400" in said and "2,048" in said
    assert json.loads(out.read_text()) == found


def test_fid_of_folders_takes_frames_spread_evenly(folders, shapes, inception, capsys) -> None:
    made, true = folders
    found = measured(
        capsys, "fid", "--made", made, "--true", true, "--inception", inception, "--per-file", 2
    )
    extractor = open_extractor(inception, "inception", shapes[0].shape[2:])
    chosen = [
        extractor(clips[:, [0, 3]].reshape(-1, *clips.shape[2:]))
        for clips in (noisy(shapes[0]), shapes[0])
    ]
    assert found["value"] == pytest.approx(frechet_distance(*chosen), rel=1e-3)
    assert found["samples"] == {"made": 12, "true": 12}


def test_equal_folders_are_at_distance_zero(folders, i3d, capsys) -> None:
    _, true = folders
    words = ("fvd", "--made", true, "--true", true, "--i3d", i3d, "--frames", 4)
    found = measured(capsys, *words, "--resamples", 0)
    assert found["value"] == pytest.approx(0, abs=1e-5) and found["interval"] is None


def test_motion_of_folders(shapes, capsys, tmp_path) -> None:
    clips = shapes[0].copy()
    clips[:3] = clips[:3, :1]  # half of them stand still
    folder = write_folder(tmp_path / "clips", clips)
    found = measured(capsys, "motion", "--made", folder)
    assert found["value"] == 0.5
    assert found["more"]["motion score (% of the shorter side per second)"] > 0


def test_motion_refuses_clips_too_short_to_be_looked_at(shapes, tmp_path) -> None:
    (tmp_path / "fast").mkdir()
    write_lossless(tmp_path / "fast" / "a.mkv", shapes[0][0][:2], 50)
    line = refused("eval", "motion", "--made", tmp_path / "fast")
    assert "a.mkv has 2 frames at 50 a second: motion needs two at 8" in line


def test_one_file_alone_has_no_interval(folders, inception, capsys, tmp_path) -> None:
    """Its frames are not independent: nothing but itself could be drawn."""
    made, true = folders
    c3d = write_script(Clips(3), tmp_path / "c3d.pt")
    for more in (("--count", 1), ("--resamples", 0)):
        found = measured(capsys, "is", "--made", made, "--c3d", c3d, "--frames", 4, *more)
        assert found["interval"] is None and found["value"] >= 1
    words = ("fid", "--made", made, "--true", true, "--inception", inception, "--count", 1)
    found = measured(capsys, *words, "--per-file", 3)
    assert found["samples"] == {"made": 3, "true": 3}
    assert found["interval"] is None and not found["more"]


def test_lpips_of_folders_by_a_backbone_from_a_file(folders, shapes, capsys, tmp_path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "alexnet.pth"
    layers = alexnet(weights=None).features.state_dict()
    torch.save({f"features.{name}": tensor for name, tensor in layers.items()}, weights)
    made, true = folders
    words = ("lpips", "--true", true, "--backbone", weights, "--size", "64x64", "--count", 2)
    assert measured(capsys, *words, "--made", made)["value"] > 0
    assert measured(capsys, *words, "--made", true)["value"] == 0
    line = refused("eval", *words, "--made", made, "--size", "24x32")
    assert "frames are 32x24: LPIPS by alex needs sides of 31 pixels" in line
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(2)}, other)
    words = ("eval", "lpips", "--made", made, "--true", true, "--backbone")
    assert "lacks features." in refused(*words, other)
    other.write_bytes(b"\x80\x04cos\nsystem\n.")
    assert "not a file of weights alone" in refused(*words, other)
    assert "torchvision's alexnet" in refused(*words, tmp_path / "none")


# --- folders that cannot be measured --------------------------------------------------------------


def test_partners_are_found_by_name(folders, shapes, tmp_path) -> None:
    made, _ = folders
    true = write_folder(tmp_path / "true", shapes[0][:5])
    assert "has no 05 (1 are missing)" in refused("eval", "psnr", "--made", made, "--true", true)
    assert "has no 05" in refused("eval", "psnr", "--made", true, "--true", made)


def test_partners_are_found_in_whatever_order_folders_name_them(folders, capsys, tmp_path) -> None:
    made, true = folders
    listed = tmp_path / "listed"
    shutil.copytree(true, listed)
    rows = [{"path": path.name, "caption": "x"} for path in sorted(listed.glob("*.mkv"))]
    lines = (json.dumps(row) + "\n" for row in reversed(rows))
    (listed / "metadata.jsonl").write_text("".join(lines))
    found = measured(capsys, "psnr", "--made", listed, "--true", true)
    assert (found["samples"], found["value"]) == ({"pairs": 6}, 100)
    usual = measured(capsys, "psnr", "--made", made, "--true", true)
    found = measured(capsys, "psnr", "--made", made, "--true", listed)
    assert found["value"] == usual["value"] and found["files"] == usual["files"]
    few = measured(capsys, "psnr", "--made", made, "--true", listed, "--count", 2)
    assert few["samples"] == {"pairs": 2} and few["files"]["true"]["files"] >= 2


def test_a_partner_that_a_list_cannot_give_is_told_with_the_reason(folders, tmp_path) -> None:
    made, true = folders
    broken = tmp_path / "true"
    shutil.copytree(true, broken)
    (broken / "03.txt").write_bytes(b"\xff\xfe")
    line = refused("eval", "psnr", "--made", made, "--true", broken)
    assert "has no 03 (1 are missing)" in line and "not UTF-8" in line


@pytest.mark.parametrize(("frames", "is_cut"), [(3, True), (4, False)])
def test_files_longer_than_fits_into_memory_are_told(
    folders, capsys, monkeypatch, frames, is_cut
) -> None:
    made, true = folders
    monkeypatch.setattr(inputs, "_CLIP_BYTES", frames * 32 * 32 * 3)
    for words in (("psnr", "--made", made, "--true", true), ("motion", "--made", made)):
        found = measured(capsys, *words)
        said = " ".join(found["warnings"])
        assert (f"only the first {frames} frames are measured" in said) == is_cut
        cut = {"files": 6, "frames": frames} if is_cut else None
        assert found["files"]["made"].get("shortened") == cut
        found = measured(capsys, *words, "--frames", 4)  # as the warning says
        assert "shortened" not in found["files"]["made"]


def test_partners_of_other_lengths_or_sizes_are_named(folders, shapes, tmp_path) -> None:
    made, _ = folders
    true = write_folder(tmp_path / "short", shapes[0][:, :3])
    line = refused("eval", "psnr", "--made", made, "--true", true)
    assert "00 has 4 frames" in line and "3 frames" in line and "--frames" in line
    mixed = write_folder(tmp_path / "mixed", shapes[0][:1])
    write_folder(mixed / "sub", np.zeros((1, 4, 48, 32, 3), np.uint8))
    line = refused("eval", "motion", "--made", mixed)
    assert "sub/00.mkv: 32x48 pixels, the first file has 32x32: give --size" in line


def test_a_broken_file_takes_its_partner_with_it_and_is_told(folders, shapes, capsys, tmp_path):
    made, _ = folders
    true = write_folder(tmp_path / "true", shapes[0])
    (true / "02.mkv").write_bytes(b"no video" * 10)
    found = measured(capsys, "psnr", "--made", made, "--true", true)
    assert found["samples"] == {"pairs": 5}
    assert any("02.mkv" in warning for warning in found["warnings"])


def test_missing_folders_and_pictures_are_refused(tmp_path, shapes) -> None:
    assert "no such file or folder" in refused("eval", "motion", "--made", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "no videos or images" in refused("eval", "motion", "--made", tmp_path / "empty")
    pictures = write_folder(tmp_path / "pictures", shapes[0][:1, :1])
    assert "motion is of videos" in refused("eval", "motion", "--made", pictures)
    folder = Path(tmp_path / "bad-size")
    write_folder(folder, shapes[0][:1])
    assert "8 to 8192" in refused("eval", "motion", "--made", folder, "--size", "4x4")
    assert "count is 0" in refused("eval", "motion", "--made", folder, "--count", 0)
