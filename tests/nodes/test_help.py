"""Every node in the menu has a help page with a picture, and everything in it is there."""

from __future__ import annotations

import asyncio
import functools
import io
import re
from pathlib import Path

import pytest
import torch
from ComfyUI_STIV.nodes import comfy_entrypoint
from PIL import Image

from scripts.pictures import EXAMPLES, LARGEST, webp
from scripts.prepare import ROOT

DOCS = ROOT / "js" / "docs"
PAGES = sorted(DOCS.glob("*.md"))
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


@functools.cache
def in_the_menu() -> dict[str, str]:
    """Names by id of the nodes that an artist can add."""

    async def schemas() -> dict[str, str]:
        listed = await (await comfy_entrypoint()).get_node_list()
        found = [node.GET_SCHEMA() for node in listed]
        return {each.node_id: each.display_name for each in found if not each.is_dev_only}

    return asyncio.run(schemas())


def test_every_node_has_a_page_and_every_page_a_node() -> None:
    assert {path.stem for path in PAGES} == set(in_the_menu())


def test_every_node_has_an_example_for_its_picture() -> None:
    assert set(EXAMPLES) == set(in_the_menu())
    assert {path.stem for path in (DOCS / "pictures").iterdir()} == set(EXAMPLES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_names_its_node_and_shows_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {in_the_menu()[page.stem]}\n")
    (alt, picture), *_ = [(alt, target) for mark, alt, target in LINK.findall(text) if mark]
    assert picture == f"pictures/{page.stem}.webp" and alt
    with Image.open(DOCS / picture) as image:
        assert image.format == "WEBP" and image.width >= 400
    assert (DOCS / picture).stat().st_size <= LARGEST


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    """The help panel resolves pictures, but no links beside them: those must be whole addresses."""
    for mark, _, target in LINK.findall(page.read_text(encoding="utf-8")):
        if mark:
            assert (DOCS / target).is_file(), target
        else:
            assert target.startswith("https://"), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_nodes_that_a_page_names_are_there(page: Path) -> None:
    names = set(in_the_menu().values())
    named = set(re.findall(r"\*\*(STIV [A-Z][\w -]+)\*\*", page.read_text(encoding="utf-8")))
    assert named <= names


def test_a_picture_keeps_to_the_limit() -> None:
    noise = Image.fromarray(torch.randint(0, 256, (200, 200, 3), dtype=torch.uint8).numpy())
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    assert len(webp(buffer.getvalue(), largest=20_000)) <= 20_000
