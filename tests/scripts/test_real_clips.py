"""The data set of real clips: what the recorded facts say is what the installed files hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from scripts import real_clips
from scripts.real_clips import build, installed_clips, main, read_facts

needs_packages = pytest.mark.skipif(not installed_clips(), reason="template packages not installed")


def test_every_clip_is_listed_once_with_a_prompt() -> None:
    facts = read_facts()
    assert len({fact["webp"] for fact in facts}) == len(facts) > 90
    assert all(fact["prompt"].strip() and fact["frames"] > 1 for fact in facts)


@needs_packages
def test_clips_are_as_recorded(tmp_path: Path) -> None:
    clips = build(tmp_path, 3)
    facts = {fact["webp"]: fact for fact in read_facts()}
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [tmp_path / row["path"] for row in rows] == clips and len(clips) == 3
    for clip, row in zip(clips, rows, strict=True):
        fact = facts[clip.name]
        with Image.open(clip) as image:
            assert (image.n_frames, list(image.size)) == (fact["frames"], fact["size"])
        assert clip.with_suffix(".txt").read_text().strip() == fact["prompt"] == row["caption"]


def test_without_the_packages_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real_clips, "PACKAGES", "no-such-package")
    assert main(["--out", str(tmp_path / "out")]) == 1
    assert "pip install" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
