"""The report as a browser's parser sees it, and as a browser shows it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.hosting import find_chromium
from tests.training.data.numbered import read as read_number
from tests.training.data.numbered import write_video
from tests.training.engine.stats.sets import row, small_set
from training.cli import main
from training.engine.filter import Filter
from training.engine.rows import Row, write
from training.engine.stats.charts import Axis, number
from training.engine.stats.compare import read_figures
from training.engine.stats.parts import share
from training.engine.stats.report import write_report

RULES = Filter.model_validate(
    {
        "rules": [
            {"value": "motion.score", "min": 2, "max": 50},
            {"value": "clarity.score", "min": 100},
            {"value": "text.area", "max": 0.1, "missing": "keep"},
        ]
    }
)
EVIL = "</bdi></td></style><script>alert(1)</script><img src=x onerror=\"alert('2')\">&amp;\u202e"
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "nav", "section"),
    *("article", "h1", "h2", "h3", "h4", "p", "a", "dl", "dt", "dd", "div", "span", "small", "b"),
    *("em", "i", "bdi", "code", "ul", "li", "details", "summary", "table", "caption", "thead"),
    *("tbody", "tr", "th", "td", "figure", "figcaption", "svg", "g", "rect", "line", "text"),
    "circle",
}


class Page(HTMLParser):
    """Elements with their attributes, all text, and the cells of every table.

    tables: (caption, rows of cells) in their order.
    """

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.tables: list[tuple[str, list[list[str]]]] = []
        self._into = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append(("", []))
        elif tag == "tr":
            self.tables[-1][1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][1][-1].append("")
        if tag in ("td", "th", "caption"):
            self._into = tag

    def handle_endtag(self, tag) -> None:
        if tag == self._into:
            self._into = ""

    def handle_data(self, data) -> None:
        self.text += data
        if self._into == "caption":
            self.tables[-1] = (self.tables[-1][0] + data, self.tables[-1][1])
        elif self._into:
            self.tables[-1][1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def table(self, caption: str) -> list[list[str]]:
        """The rows of the one table with this caption."""
        (rows,) = (rows for name, rows in self.tables if name == caption)
        return rows


def report(rows: list[Row], out: Path, **options: Any) -> tuple[dict[str, Any], str]:
    """stats.json and report.html."""
    write_report(rows, out, **{"name": "a set", "rules": ("tight", RULES), **options})
    text = (out / "report.html").read_text(encoding="utf-8")
    return json.loads((out / "stats.json").read_text(encoding="utf-8")), text


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[dict[str, Any], str]:
    return report(small_set(), tmp_path_factory.mktemp("report"))


# --- numbers -------------------------------------------------------------------------------------


def test_rules_are_tried_on_rows_that_others_filtered(small) -> None:
    drops = small[0]["filter"]
    assert (drops["name"], drops["digest"]) == ("tight", RULES.digest())
    assert (drops["rows"], drops["kept"]) == (8, 4)
    counts = {r["rule"]: (r["first"], r["any"], r["only"]) for r in drops["rules"] if r["any"]}
    assert counts == {
        "motion.score below 2": (2, 2, 1),
        "motion.score above 50": (1, 1, 1),
        "clarity.score below 100": (1, 2, 1),
    }


def test_verdicts_of_the_same_rules_are_taken_as_stored(tmp_path) -> None:
    made_by = {"version": 1, "name": "tight", "rules": RULES.digest()}
    stored = {"keep": False, "reasons": ["not among the best"], "made_by": made_by}
    rows = [{**found, "filter": stored} for found in small_set()]
    drops = report(rows, tmp_path, size=0)[0]["filter"]
    assert drops["kept"] == 0 and drops["rules"][-1]["rule"] == "not among the best"


def test_the_page_tells_the_numbers_of_the_json(small) -> None:
    figures, text = small
    found = Page(text)
    funnel = {cells[0]: cells[2:] for cells in found.table("Clips that are left")[1:]}
    assert funnel.pop("all clips")[0] == "8 100.0 %"
    rules = [rule for rule in figures["filter"]["rules"] if rule["any"]]
    assert funnel == {
        r["rule"]: [
            f"{r['left']} {share(r['left'], 8)}",
            *(str(r[key]) for key in ("first", "any", "only")),
        ]
        for r in rules
    }
    measured = [m for m in figures["measures"].values() if m["count"]]
    shown = [rows for name, rows in found.tables if name == "Clips in each range"]
    assert len(shown) == len(measured) >= 8
    for (_, *bars), measure in zip(shown, measured, strict=True):
        histogram = measure["histogram"]
        kept = [*histogram["kept"], *(histogram[end]["kept"] for end in ("below", "above"))]
        dropped = [*histogram["dropped"], *(histogram[e]["dropped"] for e in ("below", "above"))]
        assert sum(int(cells[1]) for cells in bars) == sum(kept)
        assert sum(int(cells[2]) for cells in bars) == sum(dropped) == measure["count"] - sum(kept)
        assert f"Median{number(measure['quantiles']['0.5'])}" in found.text
    joint = dict(found.table("Clips by the two thresholds"))
    assert joint["dropped by both"].split()[0] == str(figures["joint"]["both"]) == "1"
    assert len(found.all("circle")) == len(figures["joint"]["points"]) == 8
    assert [cells[0] for cells in found.table("Categories of the clips")] == ["people", "nature"]


def test_bars_are_as_high_as_their_numbers(small) -> None:
    figures, text = small
    motion = figures["measures"]["motion.score"]["histogram"]
    svg = text.split('aria-labelledby="measure-1"')[1].split("</svg>")[0]
    heights = re.findall(r'<rect class="(kept|dropped)" [^>]* height="([\d.]+)"', svg)
    assert len(heights) == np.count_nonzero(motion["kept"]) + np.count_nonzero(motion["dropped"])
    unit = min(float(height) for _, height in heights)
    drawn = [round(float(height) / unit) for group, height in heights if group == "kept"]
    assert drawn == [count for count in motion["kept"] if count]
    lines = [float(x) for x in re.findall(r'class="cut" x1="([\d.]+)"', svg)]
    axis = Axis(motion["edges"][0], motion["edges"][-1], 46, 384, is_log=True)
    assert lines == [axis(2), axis(50)]


def test_same_rows_same_bytes(small, tmp_path) -> None:
    assert report(small_set(), tmp_path)[1] == small[1]
    (tmp_path / "again").mkdir()
    report(small_set(), tmp_path / "again")
    one, other = (tmp_path / folder / "stats.json" for folder in ("", "again"))
    assert one.read_bytes() == other.read_bytes()


def test_what_is_missing_is_named_with_its_command(small) -> None:
    page = Page(small[1])
    missing = page.text.split("Not measured yet")[1].split("The two scores")[0]
    assert "Aesthetic score: python -m training data features --clip FOLDER" in missing
    assert "DSG-Video_i: python -m training data dsg" in missing and "Motion" not in missing
    assert "No picture" in page.text  # without a media folder


def test_an_empty_set_and_one_without_scores_have_a_page(tmp_path) -> None:
    figures, text = report([], tmp_path, rules=None)
    assert figures["totals"]["rows"] == 0 and "python -m training data filter" in Page(text).text
    figures, text = report([row(1)], tmp_path, rules=None)
    assert next(card["id"] for card in Page(text).all("h3") if "id" in card) == "measure-0"


def test_two_runs_are_compared(small, tmp_path) -> None:
    looser = Filter.model_validate({"rules": [{"value": "motion.score", "min": 1.5}]})
    figures, text = report(small_set(), tmp_path, rules=("loose", looser), against=small[0])
    lines = {line["what"]: (line["before"], line["now"]) for line in figures["compared"]["lines"]}
    assert lines["clips kept"] == (4, 7) and lines["dropped: motion.score above 50"] == (1, None)
    assert lines["dropped: motion.score below 1.5"] == (None, 1)
    cells = {row[0]: row[1:] for row in Page(text).table("Figures before and now")}
    assert cells["clips kept"] == ["4", "7", "+3"]
    assert report(small_set(), tmp_path, against={"format": 1, "measures": 3})[0]["compared"]
    assert read_figures(tmp_path / "stats.json")["name"] == "a set"


@pytest.mark.parametrize("text", ["", "[1]", '{"format": 1}', '{"format": 2, "measures": {}}'])
def test_other_files_are_not_compared_with(text: str, tmp_path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"other\.json.* stats\.json"):
        read_figures(tmp_path / "other.json")


# --- strangers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "mark"),
    [
        (EVIL, "alert"),
        ("x" * 10_000, "xxx"),
        ("\u05e9\u05dc\u05d5\u05dd \u202e\u2067", "\u05e9"),
        ("a\0\x1b[31m\ud800\n\u2028b", "31m"),
    ],
)
def test_words_stay_words(words: str, mark: str, tmp_path) -> None:
    bad = row(
        1,
        file=words + ".mp4",
        motion={"score": 1.0, words[:20]: words},
        categorize={"category": words},
        captions_dense={"text": words, "model": words},
    )
    bad["text"] = {"error": words}
    bad["source"]["codec"] = words
    bad["filter"] = {"keep": False, "reasons": [words], "made_by": {words: words}}
    _, text = report([*small_set(), bad], tmp_path, name=words, rules=None)
    found = Page(text)
    assert {tag for tag, _ in found.elements} <= TAGS
    assert not found.all("script") and not found.all("img")
    assert text.encode()  # valid UTF-8
    assert not re.search(r"[\0-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\u2028]", text)
    assert max(map(len, re.findall(r"<bdi>(.*?)</bdi>", text))) <= 6 * 300
    attributes = [value for _, attrs in found.elements for value in attrs.values() if value]
    assert mark in found.text and not any(mark in value for value in attributes)
    assert not any(key.startswith("on") or key == "style" for _, a in found.elements for key in a)


def test_the_page_asks_for_nothing(small) -> None:
    text = small[1]
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = (m["content"] for m in Page(text).all("meta") if "http-equiv" in m)
    assert policy == f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'"
    assert "url(" not in style and "@import" not in style
    for _, attributes in Page(text).elements:
        for key in ("src", "href"):
            assert (attributes.get(key) or "#").startswith(("data:image/jpeg;base64,", "#"))


# --- pictures ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_pictures(tmp_path_factory) -> tuple[dict[str, Any], str]:
    """A work folder through the command: three clips of numbered frames, and two bad ones."""
    folder = tmp_path_factory.mktemp("set")
    media, work = folder / "media", folder / "work"
    media.mkdir()
    (work / "segments").mkdir(parents=True)
    (work / "engine.json").write_text(json.dumps({"format": 1, "media": str(media)}))
    write_video(media / "long.mp4", 48, 24, size=(96, 192))
    write_video(media / "high.mp4", 48, 24, size=(192, 96))
    (media / "broken.mp4").write_bytes(b"no video")
    write_video(folder / "outside.mp4", 24, 24)
    rows = []
    for place, name in enumerate(("long.mp4", "high.mp4", "broken.mp4", "../outside.mp4")):
        found = row(place, file=name, seconds=1.0, motion={"score": float(place)})
        found["source"] |= {"height": 96, "width": 192, "base": [1, 12288]}
        if name == "high.mp4":
            found["source"] |= {"height": 192, "width": 96}
        found["segment"] |= {"start": 512 * 24, "end": 512 * 48}
        rows.append(found)
    write(work / "segments" / "00000.jsonl", rows)
    with pytest.raises(SystemExit) as ended:
        main(["data", "stats", "--work", str(work), "--rules", "sft20k", "--clips", "4"])
    assert not ended.value.code
    out = work / "report"
    return json.loads((out / "stats.json").read_text()), (out / "report.html").read_text()


def test_pictures_are_frames_from_all_over_the_clip(with_pictures) -> None:
    figures, text = with_pictures
    images = {image["src"]: image for image in Page(text).all("img")}
    pictures = [Image.open(io.BytesIO(base64.b64decode(src.split(",")[1]))) for src in images]
    wide, high = sorted(pictures, key=lambda picture: -picture.width)
    assert (wide.size, high.size) == ((384, 192), (288, 192))
    cells = np.asarray(wide)
    height, width = cells.shape[0] // 2, cells.shape[1] // 2
    corners = [cells[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    assert [read_number(corner) for corner in corners] == [27, 33, 39, 45]
    parts = np.split(np.asarray(high), 3, axis=1)
    assert [read_number(part) for part in parts] == [28, 36, 44]
    assert all(re.fullmatch(r"Frames of clip \d+", image["alt"]) for image in images.values())
    assert figures["filter"]["name"] == "sft20k"


def test_clips_without_a_picture_say_why(with_pictures) -> None:
    text = Page(with_pictures[1]).text
    assert "No picture: path is '../outside.mp4', outside" in text
    assert "No picture: " in text.replace("No picture: path is", "")


# --- people --------------------------------------------------------------------------------------


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours, #rgb or #rrggbb."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        levels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_colours_can_be_told_apart_in_both_themes(small) -> None:
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w+)", block))
        for block in re.findall(r":root \{(.*?)\}", small[1], re.DOTALL)
    )
    for theme in (light, dark):
        for ground in ("page", "card"):
            for words in ("ink", "soft", "cut", "link"):
                assert contrast(theme[words], theme[ground]) >= 4.5, (words, ground)
        for chip in ("kept", "dropped"):
            assert contrast(theme[chip], theme["card"]) >= 3
            assert contrast(theme[chip], theme["well"]) >= 3


def test_structure_is_told_to_those_who_do_not_see_it(small) -> None:
    found = Page(small[1])
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for svg in found.all("svg"):
        assert svg.get("aria-hidden") == "true" or svg["aria-labelledby"] in ids
    for link in found.all("a"):
        assert link["href"][1:] in ids
    assert all(cell["scope"] in ("row", "col") for cell in found.all("th"))


@pytest.mark.browser
def test_a_browser_shows_it_from_half_to_twice_the_size(with_pictures, tmp_path) -> None:
    from playwright.sync_api import sync_playwright

    from tests.host.front_end import FLAGS

    bad = [
        row(n, file=EVIL, motion={"score": float(n)}, captions_dense={"text": EVIL * 9})
        for n in range(9)
    ]
    report(bad, tmp_path, name="x" * 300)
    (tmp_path / "pictures.html").write_text(with_pictures[1])
    asked: list[str] = []
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        for scheme in ("light", "dark"):
            tab = browser.new_context(color_scheme=scheme).new_page()
            tab.on("request", lambda request: asked.append(request.url[:5]))
            tab.on("console", lambda message: said.append(message.text))
            tab.on("dialog", lambda dialog: said.append(dialog.message))
            for name in ("report.html", "pictures.html"):
                tab.goto((tmp_path / name).as_uri())
                for width in (320, 2560):  # of a window of 1280 pixels: 400 and 50 %
                    tab.set_viewport_size({"width": width, "height": 900})
                    assert tab.evaluate("document.documentElement.scrollWidth") <= width
                    assert tab.evaluate(_CLIPPED) == []
            styled = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (styled == "rgb(18, 21, 23)") == (scheme == "dark")
        browser.close()
    assert said == [] and set(asked) <= {"file:", "data:"}


_CLIPPED = """() => [...document.querySelectorAll("svg.chart text")].filter(text => {
    const box = text.getBoundingClientRect(), svg = text.ownerSVGElement.getBoundingClientRect();
    return box.left < svg.left - 1 || box.right > svg.right + 1 || box.top < svg.top - 1;
}).map(text => text.textContent)"""
