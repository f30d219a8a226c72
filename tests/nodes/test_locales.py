"""Every word of the nodes and widgets is there in every language, and nothing else is."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from ComfyUI_STIV.nodes import comfy_entrypoint

from scripts import locales

NODE = locales.find_node()
LANGUAGES = ("en", "ja", "ko", "zh")
OTHERS = LANGUAGES[1:]
COMPILED = re.compile(r"[@{}|]|%\{")  # what the front end's translator reads as syntax

needs_node = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")


@pytest.fixture(scope="module")
def nodes() -> dict[str, Any]:
    async def schemas() -> dict[str, Any]:
        listed = await (await comfy_entrypoint()).get_node_list()
        return {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in listed}

    # as the front end gets it: JSON has no tuples, and so on
    return json.loads(json.dumps(asyncio.run(schemas())))


@pytest.fixture(scope="module")
def english(nodes: dict[str, Any]) -> dict[str, locales.Words]:
    assert NODE is not None
    return locales.english(nodes, locales.front_end_tables(NODE), locales.read("en")["main"])


def test_the_languages() -> None:
    assert tuple(locales.languages()) == LANGUAGES


@needs_node
@pytest.mark.parametrize("file", locales.FILES)
def test_english_is_what_the_code_says(file: str, english: dict[str, locales.Words]) -> None:
    assert locales.read("en")[file] == english[file], "run: make locales"


@needs_node
@pytest.mark.parametrize("file", locales.FILES)
@pytest.mark.parametrize("language", OTHERS)
def test_a_translation_has_every_word_and_no_other(
    language: str, file: str, english: dict[str, locales.Words]
) -> None:
    assert locales.differences(english[file], locales.read(language)[file]) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_that_the_host_compiles_hold_no_syntax(language: str) -> None:
    files = locales.read(language)
    files["main"].pop("stiv")  # these the pack's own widgets read
    for words in files.values():
        assert [key for key, text in locales.flat(words) if COMPILED.search(text)] == []


@pytest.mark.parametrize("language", OTHERS)
def test_every_description_and_tooltip_is_translated(language: str) -> None:
    """Names may stay (fps, VAE); a sentence that is the English one was forgotten."""
    mine, en = (dict(locales.flat(locales.read(each))) for each in (language, "en"))
    same = [key for key, text in mine.items() if text == en[key] and text.count(" ") > 2]
    assert same == []


@pytest.mark.parametrize("language", OTHERS)
def test_a_word_for_the_same_thing_is_the_same(language: str) -> None:
    """One English text has one translation, wherever it stands."""
    said: dict[str, set[str]] = {}
    mine, en = (locales.read(each)["nodeDefs"] for each in (language, "en"))
    for (key, text), (_, source) in zip(locales.flat(mine), locales.flat(en), strict=True):
        said.setdefault((key.split(".")[-1] + source), set()).add(text)
    assert [source for source, texts in said.items() if len(texts) > 1] == []


def test_nodes_of_one_language_have_names_of_their_own() -> None:
    for language in LANGUAGES:
        names = [node["display_name"] for node in locales.read(language)["nodeDefs"].values()]
        assert len(set(names)) == len(names)


def test_every_node_has_a_description_tooltips_and_aliases(nodes: dict[str, Any]) -> None:
    for id_, node in nodes.items():
        if node["dev_only"]:
            continue
        assert node["description"] and node["search_aliases"], id_
        assert "stiv" in node["search_aliases"], id_
        words = locales.english({id_: node}, {"words": {}, "settings": [], "commands": []}, {})
        for part in ("inputs", "outputs"):
            for name, input_ in words["nodeDefs"][id_][part].items():
                assert input_.get("tooltip"), f"{id_}.{part}.{name}"


def test_categories_have_a_translation_of_the_host_or_ours(nodes: dict[str, Any]) -> None:
    hosts = {"loaders", "conditioning", "latent", "sampling"}
    ours = set(locales.read("en")["main"]["nodeCategories"])
    used = {
        part
        for node in nodes.values()
        if not node["dev_only"]
        for part in node["category"].split("/")
    }
    assert used - {"STIV"} - hosts == ours


@needs_node
def test_words_in_the_code_come_from_the_tables() -> None:
    """`t(key, fallback)` and `say(key)` name keys that a table has."""
    assert NODE is not None
    known = locales.front_end_tables(NODE)["words"]
    used = re.compile(r"""\b(?:t|say)\(\s*"([a-z_]+\.[A-Za-z_.]+)\"""")
    sources = [*locales.JS.rglob("*.js"), *locales.JS.rglob("*.mjs")]
    keys = {
        key: path
        for path in sources
        if path != locales.JS / "lib" / "words.mjs"
        for key in used.findall(Path(path).read_text(encoding="utf-8"))
    }
    assert {key: path.name for key, path in keys.items() if key not in known} == {}


def test_a_missing_a_surplus_and_a_changed_word_are_told() -> None:
    wanted = {"a": {"x": "{n} frames", "y": "left", "z": "right"}}
    found = {"a": {"x": "フレーム", "y": " ", "w": "?"}}
    problems = locales.differences(wanted, found)
    assert [problem.split(":")[0] for problem in problems] == [
        "empty", "missing", "places", "surplus",
    ]  # fmt: skip
