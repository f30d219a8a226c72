"""Write the English words of locales/ from the nodes and widgets, and say what translations lack.

make locales

The host reads locales/<language>/{nodeDefs,settings,commands,main}.json. English is what the code
says; a translation has the same keys.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scripts.host import ComfyServer, HostError
from scripts.prepare import ROOT, PrepareError, need_host

LOCALES, JS = ROOT / "locales", ROOT / "js"
FILES = ("nodeDefs", "settings", "commands", "main")
PLACE = re.compile(r"\{\w+\}")
Words = dict[str, Any]  # nested, with texts as leaves

_TABLES = """
const [settings, ...widgets] = process.argv.slice(1);
const words = await Promise.all(widgets.map(async (path) => (await import(path)).words));
const { settings: all, commands } = await import(settings);
console.log(JSON.stringify({ words: Object.assign({}, ...words), settings: all, commands }));
"""


def read(language: str) -> dict[str, Words]:
    """A language's files by name; one that is missing is empty."""
    paths = {name: LOCALES / language / f"{name}.json" for name in FILES}
    return {
        name: json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for name, path in paths.items()
    }


def languages() -> list[str]:
    return sorted(path.name for path in LOCALES.iterdir() if path.is_dir())


def find_node() -> str | None:
    """Node.js, which reads the tables of the front end."""
    return shutil.which("node")


def front_end_tables(node: str) -> dict[str, Any]:
    """`words` of every widget by their keys, and the lists `settings` and `commands`."""
    widgets = sorted(path for path in JS.glob("*/words.mjs") if path.parent.name != "lib")
    paths = [path.as_uri() for path in (JS / "settings" / "table.mjs", *widgets)]
    command = [node, "--input-type=module", "-e", _TABLES, "--", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


def english(nodes: Mapping[str, Any], tables: Mapping[str, Any], main: Words) -> dict[str, Words]:
    """What the code says, in the files' form.

    nodes: schemas of the pack by id, as the host's /object_info answers them. tables: see
    `front_end_tables`. main: main.json, of which all but the widgets' words is kept.
    """
    widgets: Words = {}
    for key, text in sorted(tables["words"].items()):
        widget, name = key.split(".", 1)
        widgets.setdefault(widget, {})[name] = text
    settings, commands = tables["settings"], tables["commands"]
    return {
        "nodeDefs": {id_: _node(node) for id_, node in nodes.items() if not node.get("dev_only")},
        "settings": {_key(s["id"]): {"name": s["name"], "tooltip": s["tooltip"]} for s in settings},
        "commands": {_key(c["id"]): {"label": c["label"]} for c in commands},
        "main": {**main, "stiv": widgets},
    }


def _key(id_: str) -> str:
    return id_.replace(".", "_")  # as the host does: a dot would be a level of its own


def _node(node: Mapping[str, Any]) -> Words:
    tooltips = node.get("output_tooltips") or [None] * len(node["output_name"])
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": dict(_inputs(node["input"])),
        "outputs": {
            str(index): _named(name, tooltip)
            for index, (name, tooltip) in enumerate(zip(node["output_name"], tooltips, strict=True))
        },
    }


def _inputs(inputs: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Words]]:
    for kind in ("required", "optional"):
        for name, (type_, *rest) in inputs.get(kind, {}).items():
            options = rest[0] if rest else {}
            yield _key(prefix + name), _named(options.get("display_name") or name, options)
            if type_ == "COMFY_DYNAMICCOMBO_V3":
                for choice in options["options"]:
                    yield from _inputs(choice["inputs"], f"{prefix}{name}.")


def _named(name: str, tooltip: Mapping[str, Any] | str | None) -> Words:
    text = tooltip.get("tooltip") if isinstance(tooltip, Mapping) else tooltip
    return {"name": name, **({"tooltip": text} if text else {})}


def flat(words: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every text with its keys joined by dots."""
    for key, value in words.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def differences(wanted: Words, found: Words) -> list[str]:
    """What a translation lacks, has too much, or says with other places than the English words."""
    here, there = dict(flat(wanted)), dict(flat(found))
    problems = [f"missing: {key} ({here[key]!r})" for key in here if key not in there]
    problems += [f"surplus: {key}" for key in there if key not in here]
    for key in here.keys() & there.keys():
        places = sorted(PLACE.findall(here[key]))
        if not isinstance(there[key], str) or not there[key].strip():
            problems.append(f"empty: {key}")
        elif places != sorted(PLACE.findall(there[key])):
            problems.append(f"places: {key} has {' '.join(places) or 'none'} in English")
    return sorted(problems)


def main() -> int:
    try:
        node = find_node()
        if node is None:
            raise PrepareError("Node.js is not installed: it reads the widgets' words")
        with (
            tempfile.TemporaryDirectory(prefix="stiv-locales-") as base,
            ComfyServer(need_host(), base=Path(base), cpu=True) as server,
        ):
            info = server.object_info()
    except (HostError, PrepareError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    nodes = {id_: schema for id_, schema in info.items() if id_.startswith("STIV")}
    wanted = english(nodes, front_end_tables(node), read("en")["main"])
    for name, words in wanted.items():
        text = json.dumps(words, ensure_ascii=False, indent=2)
        (LOCALES / "en" / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    problems = [
        f"{language}/{name}.json: {problem}"
        for language in languages()
        for name, words in read(language).items()
        for problem in differences(wanted[name], words)
    ]
    print("\n".join(problems or ["every language has every word"]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
