"""How far each step of a work folder is."""

from __future__ import annotations

from collections import Counter, defaultdict

from .rows import seconds, sections
from .work import Work


def progress(work: Work) -> str:
    """A line for every step, with the rows that have it and that failed; for people."""
    lines = []
    for kind in ("files", "segments"):
        rows, length = 0, 0.0
        done: Counter[str] = Counter()
        failed: Counter[str] = Counter()
        versions: defaultdict[str, set[int]] = defaultdict(set)
        for row in work.rows(kind):
            rows += 1
            length += seconds(row)
            for name, section in sections(row).items():
                (failed if "error" in section else done)[name] += 1
                versions[name].add(section.get("made_by", {}).get("version", 0))
        lines.append(f"{kind}: {rows} in {len(work.shards(kind))} shards, {length / 3600:.2f} h")
        for name in sorted(done | failed):
            version = "/".join(map(str, sorted(versions[name])))
            bad = f", {failed[name]} failed" if failed[name] else ""
            lines.append(f"  {name} (version {version}): {done[name]}{bad}")
    return "\n".join(lines)
