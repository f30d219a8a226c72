"""VBench: the official formula on published tables, and videos and results there and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.training.conftest import refused, run
from training.data.media import Media
from training.evaluation.rendering import seed_of
from training.evaluation.vbench.export import jobs_of
from training.evaluation.vbench.prompts import Pictures, Prompt, read_prompts
from training.evaluation.vbench.results import benchmark_of, intervals, read_results
from training.evaluation.vbench.table import I2V, T2V

# Total, quality, semantic, then the dimensions in VBench's order, from its public leaderboard.
LEADERBOARD = {
    "Gen-3": "82.32 84.11 75.17 97.10 96.62 98.61 99.23 60.14 63.34 66.82 87.81 53.64 96.40 80.90 "
    "65.09 54.57 24.31 24.71 26.69",
    "Kling": "81.85 83.39 75.68 98.33 97.60 99.30 99.40 46.94 61.21 65.62 87.24 68.05 93.40 89.90 "
    "73.03 50.86 19.62 24.17 26.42",
    "CogVideoX-5B": "81.61 82.75 77.04 96.23 96.52 98.66 96.92 70.97 61.98 62.90 85.23 62.11 99.40 "
    "82.81 66.35 53.20 24.91 25.38 27.59",
    "Mira": "71.87 78.78 44.21 96.23 96.92 98.29 97.54 60.33 42.51 60.16 52.06 12.52 63.80 42.24 "
    "27.83 16.34 21.89 18.77 18.72",
}
# Total, image-to-video, quality, then the dimensions; of Step-Video-TI2V's report.
LEADERBOARD_I2V = {
    "motion 10": "87.98 95.11 80.86 48.15 97.44 98.45 95.62 96.92 99.08 48.78 61.74 70.17",
    "motion 5": "87.80 95.50 80.11 49.22 97.85 98.63 96.02 97.06 99.24 36.58 62.29 70.43",
    "OSTopA": "87.49 94.63 80.36 29.58 97.73 98.83 94.52 96.47 98.09 53.41 61.04 71.12",
}


def percent(row: str) -> list[float]:
    return [float(value) / 100 for value in row.split()]


@pytest.mark.parametrize("model", LEADERBOARD)
def test_totals_are_those_of_the_leaderboard(model: str) -> None:
    total, quality, semantic, *scores = percent(LEADERBOARD[model])
    found = T2V.totals(dict(zip(T2V.names, scores, strict=True)))
    expected = {"quality": quality, "semantic": semantic, "total": total}
    assert found == pytest.approx(expected, abs=0.8e-4)  # all are rounded to hundredths


@pytest.mark.parametrize("model", LEADERBOARD_I2V)
def test_image_to_video_totals_are_those_published(model: str) -> None:
    total, i2v, quality, *scores = percent(LEADERBOARD_I2V[model])
    found = I2V.totals(dict(zip(I2V.names, scores, strict=True)))
    assert found == pytest.approx({"quality": quality, "i2v": i2v, "total": total}, abs=0.8e-4)


def test_a_missing_dimension_makes_no_total() -> None:
    scores = dict.fromkeys(T2V.names[:7], 0.9)
    found = T2V.totals(scores)
    assert found["quality"] is not None and found["semantic"] is None is found["total"]


def test_papers_totals_are_of_its_groups() -> None:
    paper = I2V.paper
    assert (paper["quality"] + paper["i2v"]) / 2 == pytest.approx(paper["total"], abs=0.06)


# --- export ---------------------------------------------------------------------------------------

ROWS = [
    {"prompt_en": "a red square moves left", "dimension": ["color", "overall_consistency"]},
    {"prompt_en": "a still frame", "dimension": ["temporal_flickering"]},
    {"prompt_en": "a red square moves left", "dimension": ["aesthetic_quality"]},
]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "VBench_full_info.json"
    path.write_text(json.dumps(ROWS))
    return path


def test_prompts_are_read_once_with_all_their_dimensions(prompts) -> None:
    assert read_prompts(prompts) == [
        Prompt("a red square moves left", ("color", "overall_consistency", "aesthetic_quality")),
        Prompt("a still frame", ("temporal_flickering",)),
    ]
    (only,) = read_prompts(prompts, ["temporal_flickering"])
    assert only.text == "a still frame"
    with pytest.raises(ValueError, match="no dimension 'colour': expected some of aesthetic"):
        read_prompts(prompts, ["colour"])


def test_videos_have_the_names_counts_and_seeds_that_vbench_asks_for(prompts) -> None:
    jobs = jobs_of(read_prompts(prompts), seed=7, flicker=25)
    names = [job.name for job in jobs]
    assert names[:5] == [f"a red square moves left-{i}.mp4" for i in range(5)]
    assert names[5:] == [f"a still frame-{i}.mp4" for i in range(25)]
    assert len({job.seed for job in jobs}) == 30
    assert jobs[3].seed == seed_of(7, "a red square moves left", 3)
    assert jobs != jobs_of(read_prompts(prompts), seed=8, flicker=25)


def exported(prompts: Path, out: Path, checkpoint: Path, *more: object) -> None:
    words = ("--prompts", prompts, "--out", out, "--checkpoint", checkpoint, "--steps", 2, "--cpu")
    words += ("--precision", "fp32")
    run("eval", "vbench-export", *words, "--samples", 2, "--flicker", 3, *more)


def pixels(path: Path) -> np.ndarray:
    media = Media(path)
    return np.stack([np.asarray(image) for image in media.frames(media.timeline().pts)])


def test_export_goes_on_where_it_was_and_depends_on_nothing_but_seeds(
    prompts, checkpoint, tmp_path, capsys
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    exported(prompts, whole, checkpoint, "--batch", 3)
    assert "vbench evaluate" in capsys.readouterr().out
    videos = sorted(path.name for path in whole.glob("*.mp4"))
    assert videos == sorted([f"a red square moves left-{i}.mp4" for i in range(2)]
                            + [f"a still frame-{i}.mp4" for i in range(3)])  # fmt: skip
    media = Media(whole / videos[0]).timeline()
    assert (media.height, media.width, len(media.pts), media.fps) == (32, 32, 4, 8)
    exported(prompts, parts, checkpoint, "--part", "1/2")
    exported(prompts, parts, checkpoint, "--part", "0/2")
    (parts / videos[2]).unlink()
    kept = (parts / videos[0]).stat().st_mtime_ns
    exported(prompts, parts, checkpoint)
    assert (parts / videos[0]).stat().st_mtime_ns == kept
    for name in videos:
        off = np.abs(pixels(whole / name).astype(int) - pixels(parts / name).astype(int))
        assert off.mean() < 2, name  # batches round otherwise
    rows = [json.loads(line) for line in (whole / "videos.jsonl").read_text().splitlines()]
    assert {row["video"]: row["seed"] for row in rows}[videos[0]] == seed_of(0, videos[0][:-6], 0)


def test_a_folder_of_other_videos_is_refused_before_sampling(prompts, checkpoint, tmp_path) -> None:
    out = tmp_path / "videos"
    exported(prompts, out, checkpoint, "--dimension", "temporal_flickering")
    words = ("--prompts", prompts, "--out", out, "--checkpoint", checkpoint, "--cpu")
    words += ("--precision", "fp32")
    line = refused("eval", "vbench-export", *words, "--steps", 3)
    assert "made with steps 2, now it is 3" in line and "--out" in line


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Originals whose upper left part is the crop: blue, in a red picture."""
    folder = tmp_path / "origin"
    folder.mkdir()
    picture = np.full((64, 96, 3), (255, 0, 0), np.uint8)
    picture[:40, :40] = (0, 0, 255)
    Image.fromarray(picture).save(folder / "a box.jpg", quality=95)
    return folder


def test_image_to_video_starts_with_the_crop(pictures, checkpoint, tmp_path, capsys) -> None:
    prompts = tmp_path / "vbench2_i2v_full_info.json"
    row = {"prompt_en": "a box, camera pans left", "dimension": ["camera_motion"]}
    prompts.write_text(json.dumps([{**row, "image_name": "a box.jpg"}]))
    info = tmp_path / "i2v-bench-info.json"
    boxes = {"1-1": [4, 4, 32, 32], "16-9": [0, 0, 96, 54]}
    info.write_text(json.dumps([{"file_name": "a box.jpg", "diff_ratio_crop": boxes}]))
    found = np.asarray(Pictures.open(pictures, info, "1-1").read("a box.jpg"))
    assert found.shape == (32, 32, 3) and (found[..., 2] > 200).all() and (found[..., 0] < 60).all()
    out = tmp_path / "videos"
    exported(prompts, out, checkpoint, "--images", pictures, "--crop-info", info)
    assert "evaluate_i2v.py --ratio 1-1" in capsys.readouterr().out
    assert sorted(path.name for path in out.glob("*.mp4")) == [
        f"a box, camera pans left-{i}.mp4" for i in range(2)
    ]
    words = ("--prompts", prompts, "--out", tmp_path / "other", "--checkpoint", checkpoint)
    assert "crop/1-1" in refused("eval", "vbench-export", *words)
    more = ("--images", pictures, "--crop-info", info, "--ratio", "4-3")
    assert "no diff_ratio_crop of 4-3" in refused("eval", "vbench-export", *words, *more)
    (pictures / "a box.jpg").unlink()
    line = refused("eval", "vbench-export", *words, "--images", pictures)
    assert "lacks 'a box.jpg'" in line


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt_en": "a/b", "dimension": ["color"]}], "cannot be the name of a file"),
        ([{"prompt_en": "a" * 300, "dimension": ["color"]}], "255 bytes"),
        ([{"prompt_en": 5, "dimension": ["color"]}], "lacks prompt_en"),
        ([{"prompt_en": "a"}], "lacks prompt_en or dimension"),
        ({"prompt_en": "a"}, "no list of prompts"),
        ([{"prompt_en": "a", "dimension": ["i2v_subject"], "image_name": "../b.jpg"}], "outside"),
    ],
)
def test_prompts_of_strangers_are_refused_in_one_line(rows, said, checkpoint, tmp_path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(rows))
    words = ("--prompts", path, "--out", tmp_path / "out", "--checkpoint", checkpoint, "--cpu")
    more = ("--images", tmp_path) if "outside" in said else ()
    assert said in refused("eval", "vbench-export", *words, *more)
    assert not list(tmp_path.glob("out/*.mp4"))


# --- import ---------------------------------------------------------------------------------------


def write_results(folder: Path, scores: dict[str, float], *, percent_of: tuple[str, ...] = ()):
    """As VBench writes them: one file per dimension, with every video's own result."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, score in scores.items():
        own = np.clip(score + rng.normal(0, 0.02, (20, 5)), 0, 1)
        own += score - own.mean()
        scale = 100 if name in percent_of else 1
        rows = [
            {"video_path": f"videos/prompt {i}-{j}.mp4", "video_results": scale * float(own[i, j])}
            for i in range(20)
            for j in range(5)
        ]
        path = folder / f"results_{name}_eval_results.json"
        path.write_text(json.dumps({name: [score, rows]}))


def test_import_reads_what_the_package_writes(tmp_path, capsys) -> None:
    total, _, _, *scores = percent(LEADERBOARD["Gen-3"])
    write_results(tmp_path / "results", dict(zip(T2V.names, scores, strict=True)),
                  percent_of=("imaging_quality",))  # fmt: skip
    run("eval", "vbench-import", tmp_path / "results", "--json", tmp_path / "out.json")
    said = capsys.readouterr().out
    found = json.loads(said.splitlines()[-1])
    assert found == json.loads((tmp_path / "out.json").read_text())
    assert found["totals"]["total"] == pytest.approx(total, abs=1e-4)
    low, high = found["intervals"]["total"]
    assert low < total < high and high - low < 0.02
    assert set(found["intervals"]) == {*T2V.names, "quality", "semantic", "total"}
    assert "| **total** |  | 82.32 |" in said and "| 83.1 |" in said
    assert found["missing"] == [] and len(found["files"]) == 16


def test_import_of_some_dimensions_tells_what_is_missing(tmp_path, capsys) -> None:
    write_results(tmp_path / "results", {"i2v_subject": 0.97, "temporal_flickering": 0.9})
    run("eval", "vbench-import", tmp_path / "results")
    said = capsys.readouterr().out
    found = json.loads(said.splitlines()[-1])
    assert found["benchmark"] == "VBench-I2V" and found["totals"]["total"] is None
    assert "would count them as 0" in said and "not part of" in said
    assert benchmark_of(["dynamic_degree"]) is T2V


def test_intervals_are_over_prompts_and_only_of_what_sums_up(tmp_path) -> None:
    """A prompt's five videos are alike: they are no five samples."""
    rng = np.random.default_rng(0)
    means = np.clip(rng.normal(0.5, 0.1, 40), 0, 1)
    rows = [
        {"video_path": f"p{i}-{j}.mp4", "video_results": float(means[i])}
        for i in range(40)
        for j in range(5)
    ]
    path = tmp_path / "a_eval_results.json"
    path.write_text(json.dumps({"color": [float(means.mean()), rows], "scene": [0.2, rows]}))
    spread = intervals(read_results([path]), T2V)
    low, high = spread["color"]
    assert high - low == pytest.approx(2 * 1.96 * means.std() / 40**0.5, rel=0.15)
    assert "scene" not in spread  # 0.2 is not the mean of its videos


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no JSON"),
        ("[1]", "no table of dimensions"),
        ('{"color": [2.5, []]}', "expected a score from 0 to 1"),
        ('{"color": ["high", []]}', "expected a score"),
        ("{}", "no results"),
    ],
)
def test_results_of_strangers_are_refused(text, said, tmp_path) -> None:
    path = tmp_path / "x_eval_results.json"
    path.write_text(text)
    assert said in refused("eval", "vbench-import", path)


def test_results_that_disagree_are_refused(tmp_path) -> None:
    for name, score in (("a", 0.5), ("b", 0.6)):
        (tmp_path / f"{name}_eval_results.json").write_text(json.dumps({"color": [score, []]}))
    assert "color is 0.5000 in" in refused("eval", "vbench-import", tmp_path)
    assert "is not there" in refused("eval", "vbench-import", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no *_eval_results.json" in refused("eval", "vbench-import", tmp_path / "empty")
