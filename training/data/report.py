"""What became of every entry of a data set: kept, dropped or quarantined, and why."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

from ..names import one_line

_EXAMPLES = 5  # names that the summary quotes


class Report:
    """Counts and names, filled while a data set is read.

    quarantine: file that every unusable entry is appended to as a JSON line {path, reason}, as it
    is found, so that nothing is lost when the run ends early; None = only kept in `quarantined`.
    """

    def __init__(self, quarantine: Path | None = None):
        self.quarantine_file = quarantine
        self.sources = 0  # entries read, whatever became of them
        self.clips: Counter[str] = Counter()  # by bucket TxHxW in pixels
        self.skipped = 0  # clips that were not wanted, as they are cached
        self.drops: Counter[str] = Counter()  # sound files without a clip, by reason
        self.quarantined: list[tuple[str, str]] = []  # (path, reason)
        self.uncaptioned = 0
        self.examples: defaultdict[str, list[str]] = defaultdict(list)  # first names by reason

    def add_clip(self, bucket: tuple[int, int, int]) -> None:
        self.clips["x".join(map(str, bucket))] += 1

    def drop(self, name: str, reason: str, detail: str = "") -> None:
        """A file that is sound but gives no clip."""
        self.drops[reason] += 1
        self._example(reason, f"{name} ({detail})" if detail else name)

    def add_uncaptioned(self, name: str) -> None:
        self.uncaptioned += 1
        self._example("no caption", name)

    def quarantine(self, name: str, reason: str) -> None:
        """An entry that cannot be read, decoded or trusted."""
        self.quarantined.append((name, reason))
        if self.quarantine_file:
            self.quarantine_file.parent.mkdir(parents=True, exist_ok=True)
            line = json.dumps({"path": name, "reason": reason}, ensure_ascii=False)
            with open(self.quarantine_file, "a", encoding="utf-8", errors="replace") as file:
                file.write(line + "\n")

    def _example(self, reason: str, text: str) -> None:
        if len(self.examples[reason]) < _EXAMPLES:
            self.examples[reason].append(text)

    def summary(self) -> str:
        """A few lines for people."""
        total = self.clips.total()
        lines = [f"{total} clips from {self.sources} entries"]
        if self.skipped:
            lines[0] += f", {self.skipped} more were there already"
        lines += [f"  {bucket}: {count}" for bucket, count in sorted(self.clips.items())]
        for reason, count in self.drops.most_common():
            lines.append(f"dropped, {reason}: {count}, as {'; '.join(self.examples[reason])}")
        if self.uncaptioned:
            names = ", ".join(self.examples["no caption"])
            lines.append(f"without a caption: {self.uncaptioned}, as {names}")
        if self.quarantined:
            where = f" (all in {self.quarantine_file})" if self.quarantine_file else ""
            lines.append(f"quarantined: {len(self.quarantined)}{where}")
            lines += [f"  {name}: {reason}" for name, reason in self.quarantined[:_EXAMPLES]]
        return "\n".join(map(one_line, lines))
