"""The report as a browser's parser sees it: the numbers are the run's, texts stay texts."""

from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from training.watch.chart import MOST_POINTS, line_chart, thinned
from training.watch.metrics import Metrics
from training.watch.report import write_report
from training.watch.samples import write_samples

EVIL = "</td></table><script>alert(1)</script><img src=x onerror=\"alert('2')\">&amp;"

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "div", "p", "span", "i"),
    *("svg", "text", "line", "polyline", "circle", "table", "tr", "th", "td"),
}


class Page(HTMLParser):
    """Elements with their attributes, and all text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.cells: list[str] = []
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self._in_cell = True
            self.cells.append("")

    def handle_endtag(self, tag) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data) -> None:
        self.text += data
        if self._in_cell:
            self.cells[-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def rows(self) -> dict[str, str]:
        return dict(zip(self.cells[::2], self.cells[1::2], strict=True))


def page_of(folder: Path, config: dict) -> Page:
    return Page(write_report(folder, config).read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    metrics = Metrics(tmp_path)
    for step in (10, 20, 30):
        loss = {10: 1.0, 20: 0.1, 30: 0.01}[step]
        metrics.add(step, {"loss": loss, "lr": 1e-4, "grad_norm": step, "tokens": step * 1000})
    metrics.add(30, {"heldout/ti2v@0.1": 0.5, "heldout/ti2v@0.9": 0.7, "heldout/t2v@0.1": 0.9})
    metrics.add(40, {"loss": float("nan"), "skipped": 1, "tokens": 41_234})
    metrics.close()
    return tmp_path


def test_numbers_come_from_the_metrics(run: Path) -> None:
    page = page_of(run, {"name": "tiny", "steps": 4000, "optimizer": {"lr": 1e-4, "betas": [0, 1]}})
    rows = page.rows()
    assert rows["Steps"] == "40 of 4,000"
    assert rows["Tokens"] == "41,234"
    assert rows["Skipped steps"] == "1"
    assert rows["Last loss"] == "0.01"
    assert rows["Last held-out loss"] == "0.7"
    assert rows["optimizer.lr"] == "0.0001"
    assert rows["optimizer.betas"] == "[0, 1]"
    lines = {line["data-name"]: line["points"].split() for line in page.all("polyline")}
    assert set(lines) == {"loss", "lr", "grad_norm", "t = 0.1", "t = 0.9"}
    x, y = zip(*(map(float, point.split(",")) for point in lines["loss"]), strict=True)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.02)  # steps 10, 20, 30; 40 has none
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.02) and y[0] < y[2]  # 1, 0.1, 0.01
    titles = [svg["aria-label"] for svg in page.all("svg")]
    assert titles == ["Loss", "Learning rate", "Gradient norm", "ti2v", "t2v"]


def test_texts_stay_texts(run: Path) -> None:
    config = {"name": EVIL, EVIL: {"watch": {"prompts": [EVIL]}}, "path": Path(EVIL)}
    with open(run / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 50, "heldout/<script>x</script>@\\"><b>": 1, "loss": "<b>"}\n')
    page = page_of(run, config)
    assert not page.all("script") and not page.all("img") and not page.all("b")
    tags = {tag for tag, _ in page.elements}
    assert tags <= TAGS
    # title, heading, and of the settings: name, key and value of the prompts, path
    assert page.text.count("alert(1)") == 6
    assert page.rows()["name"] == json.dumps(EVIL)
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)


def test_the_page_is_one_file(run: Path) -> None:
    for step in (10, 20, 30, 40):
        clip = np.full((1, 2, 32, 32, 3), step, np.uint8)
        write_samples(clip, ["a cat"], run / "samples", step, fps=8)
    page = page_of(run, {})
    sources = [image["src"] for image in page.all("img")]
    assert [image["alt"] for image in page.all("img")] == ["Step 40", "Step 30", "Step 20"]
    for source, step in zip(sources, (40, 30, 20), strict=True):
        head, _, data = source.partition(",")
        assert head == "data:image/png;base64"
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert picture.getpixel((10, 30)) == (step, step, step)
    for _, attributes in page.elements:
        for key in ("href", "src", "xlink:href", "data"):
            assert (attributes.get(key) or "data:").startswith("data:")
    assert "url(" not in (run / "report.html").read_text()
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_a_run_without_anything_has_a_page(tmp_path: Path) -> None:
    page = page_of(tmp_path, {"name": "empty", "notes": "\ud800"})
    assert page.rows()["Steps"] == "no metrics yet"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@given(
    st.lists(
        st.tuples(st.integers(0, 10**7), st.floats() | st.none()), min_size=1, max_size=30
    ).map(lambda points: sorted(points, key=lambda point: point[0])),
    st.booleans(),
)
@example([(0, -1.7120886998688722e308)], False)
@settings(max_examples=100, deadline=None)
def test_any_curve_stays_within_its_chart(points: list, is_log: bool) -> None:
    svg = line_chart("Loss", {"loss": points}, is_log=is_log)
    finite = [y for _, y in points if y is not None and abs(y) < float("inf")]
    assert bool(svg) == bool(finite)
    if not svg:
        return
    (line,) = Page(svg).all("polyline")
    pixels = [tuple(map(float, point.split(","))) for point in line["points"].split()]
    assert len(pixels) == len(finite)
    assert all(64 <= x <= 624 and 34 <= y <= 230 for x, y in pixels)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000))
@settings(max_examples=20, deadline=None)
def test_long_curves_are_means_of_neighbours(values: list[float]) -> None:
    points = list(enumerate(values))
    short = thinned(points)
    assert len(short) <= MOST_POINTS
    if len(points) <= MOST_POINTS:
        assert short == points
    assert min(values) - 1e-3 <= min(y for _, y in short)
    assert max(values) + 1e-3 >= max(y for _, y in short)
    size = -(-len(points) // MOST_POINTS)
    assert f"loss: {values[-1]:.5g}" in line_chart("Loss", {"loss": points})  # not a mean
    assert short[0][1] == pytest.approx(sum(values[:size]) / size, abs=1e-6)
