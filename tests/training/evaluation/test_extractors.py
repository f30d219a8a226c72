"""Networks of the user's: how they are called, and what is said of those that cannot be used."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from tests.training.evaluation.networks import Plain, write_script
from training.evaluation.extractors import open_extractor

PICTURE, CLIP = (32, 32, 3), (4, 32, 32, 3)


def test_usual_arguments_are_given_and_the_file_is_named(inception) -> None:
    extractor = open_extractor(inception, "inception", PICTURE)
    facts = extractor.facts()
    assert facts["sha256"] == hashlib.sha256(inception.read_bytes()).hexdigest()
    assert (facts["range"], facts["options"]) == ("0-255", {"return_features": True})
    assert facts["features"] == extractor.width == 6
    (warning,) = extractor.warnings()
    assert "6 features" in warning and "2048" in warning


def test_features_are_the_networks(inception, i3d, shapes) -> None:
    clips, _ = shapes
    pictures = torch.from_numpy(clips[:, 0]).permute(0, 3, 1, 2).float()
    expected = open_extractor(inception, "inception", PICTURE).module(
        pictures, return_features=True
    )
    found = open_extractor(inception, "inception", PICTURE)(clips[:, 0])
    assert found == pytest.approx(expected.detach().numpy(), rel=1e-4, abs=1e-5)
    videos = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float()
    module = open_extractor(i3d, "i3d", CLIP).module
    expected = module(videos, rescale=True, resize=True, return_features=True)
    found = open_extractor(i3d, "i3d", CLIP)(clips)
    assert found == pytest.approx(expected.detach().numpy(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "low", "high"), [("0-255", 0, 255), ("0-1", 0, 1), ("signed", -1, 1)]
)
def test_numbers_are_given_as_the_user_says(given, low, high, tmp_path) -> None:
    path = write_script(Plain(), tmp_path / "plain.pt")
    extractor = open_extractor(path, "inception", PICTURE, input_range=given)
    white, black = np.full((1, *PICTURE), 255, np.uint8), np.zeros((1, *PICTURE), np.uint8)
    assert extractor(white)[0] == pytest.approx([high] * 3)
    assert extractor(black)[0] == pytest.approx([low] * 3)


def test_a_network_that_does_not_tell_its_range_is_asked_for_it(tmp_path) -> None:
    path = write_script(Plain(), tmp_path / "plain.pt")
    with pytest.raises(ValueError, match="give --input-range"):
        open_extractor(path, "inception", PICTURE)


@pytest.mark.parametrize(
    ("kind", "said"),
    [("nan", "finite: False"), ("blind", "same features"), ("batch", "evaluation mode")],
)
def test_a_network_that_measures_nothing_is_refused(kind, said, tmp_path) -> None:
    path = write_script(Plain(kind), tmp_path / "plain.pt")
    with pytest.raises(ValueError, match=said):
        open_extractor(path, "inception", PICTURE, input_range="0-1")


def test_missing_and_damaged_files_are_told_with_where_to_get_them(tmp_path, i3d) -> None:
    with pytest.raises(ValueError, match=r"name the file by --i3d: .*StyleGAN-V"):
        open_extractor(None, "i3d", CLIP)
    with pytest.raises(ValueError, match=r"is not there: --inception names .*stylegan2"):
        open_extractor(tmp_path / "none.pt", "inception", PICTURE)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(i3d.read_bytes()[:500])
    with pytest.raises(ValueError, match="no TorchScript file"):
        open_extractor(broken, "i3d", CLIP)


def test_a_clip_network_is_not_taken_for_pictures(i3d) -> None:
    with pytest.raises(ValueError, match="cannot be given"):
        open_extractor(i3d, "inception", PICTURE)
