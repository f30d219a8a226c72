"""Choosing segments by rules in YAML: every row gets `keep` and the reasons, none is deleted.

    rules:
      - {value: motion.score, min: 1, max: 120}
      - {value: text.area, max: 0.02}
      - {value: clip.aesthetic, min: 4.5, missing: keep}
      - {value: source.duplicate_of, empty: true}
      - {value: source.orientation, in: [landscape, square]}
    top: {count: 20000, by: {clip.aesthetic: 2, clarity.score: 1}, per_file: 3}

A rule looks at one value of a row, by its dotted path. Thresholds can be changed and the filter run
again as often as one likes: it reads and writes rows, no video. `presets/` has ready ones.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ..section import Section, load_section
from .rows import Row, seconds, value
from .select import Top, chosen, key
from .step import STEPS
from .work import Work

VERSION = 1
PRESETS = Path(__file__).parent / "presets"
NOT_CHOSEN = "not among the best"


class Rule(Section):
    """One rule; a row that breaks any of its conditions is not kept."""

    value: str = Field(description="dotted path of a value, as motion.score")
    min: float | None = Field(None, description="least number that is kept")
    max: float | None = Field(None, description="largest number that is kept")
    one_of: list[str | float | bool] | None = Field(None, alias="in", description="values kept")
    empty: bool | None = Field(None, description="true: nothing may be there; false: something has")
    missing: Literal["drop", "keep"] = Field(
        "drop", description="what becomes of rows that have no such value"
    )

    @model_validator(mode="after")
    def _check(self) -> Rule:
        conditions = (self.min, self.max, self.one_of, self.empty)
        if all(condition is None for condition in conditions):
            raise ValueError(f"{self.value}: expected min, max, in or empty")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"{self.value}: min is {self.min}, max {self.max}: nothing is between")
        start = self.value.split(".")[0]
        if start not in ("source", "segment", *STEPS) or "." not in self.value:
            raise ValueError(
                f"value is {self.value!r}: expected source, segment or a step, and what it found, "
                "as motion.score"
            )
        return self

    def reasons(self) -> list[str]:
        """All reasons for which the rule can drop a row."""
        found = [f"{self.value} below {self.min:g}"] if self.min is not None else []
        found += [f"{self.value} above {self.max:g}"] if self.max is not None else []
        if self.one_of is not None:
            found.append(f"{self.value} not in {', '.join(map(str, self.one_of))}")
        if self.empty is not None:
            found.append(f"{self.value} is {'there' if self.empty else 'not there'}")
        elif self.missing == "drop":
            found.append(f"{self.value} is not known")
        return found

    def broken(self, row: Row) -> str | None:
        """The reason for which a row is dropped, None where it is kept."""
        found = value(row, self.value)
        nothing = found is None or found in ("", [])
        if self.empty is not None:
            if nothing is not self.empty:
                return f"{self.value} is {'there' if self.empty else 'not there'}"
        elif nothing or (self._is_number() and not _number(found)):
            return f"{self.value} is not known" if self.missing == "drop" else None
        if self.min is not None and found < self.min:
            return f"{self.value} below {self.min:g}"
        if self.max is not None and found > self.max:
            return f"{self.value} above {self.max:g}"
        if self.one_of is not None and found not in self.one_of:
            return f"{self.value} not in {', '.join(map(str, self.one_of))}"
        return None

    def _is_number(self) -> bool:
        return self.min is not None or self.max is not None


class Filter(Section):
    """Rules, and which of the rows that pass them all are chosen."""

    about: str = Field("", description="what the set is for")
    rules: list[Rule] = Field(min_length=1)
    top: Top | None = Field(None, description="only the best of those that pass; null = all")

    def reasons(self) -> list[str]:
        """All reasons for which a row can be dropped, in the order in which they are looked at."""
        found = [reason for rule in self.rules for reason in rule.reasons()]
        return [*found, NOT_CHOSEN] if self.top else found

    def broken(self, row: Row) -> list[str]:
        """The reasons against a row, () where it passes all rules."""
        return [reason for rule in self.rules if (reason := rule.broken(row))]

    def thresholds(self) -> Iterator[tuple[str, str, Literal["below", "above"], float]]:
        """(reason, path of the value, which side is dropped, where) of rules about numbers."""
        for rule in self.rules:
            if rule.min is not None:
                yield f"{rule.value} below {rule.min:g}", rule.value, "below", rule.min
            if rule.max is not None:
                yield f"{rule.value} above {rule.max:g}", rule.value, "above", rule.max

    def digest(self) -> str:
        """Of the rules: what filtered rows were filtered by."""
        return hashlib.sha256(self.model_dump_json(by_alias=True).encode()).hexdigest()[:16]


def load_filter(name: str | Path) -> tuple[str, Filter]:
    """A preset by its name, or a YAML file; with what to call it. Raises ValueError naming file and
    key."""
    path = PRESETS / f"{name}.yaml"
    if not path.is_file() or Path(name).suffix:
        path = Path(name)
    if not path.is_file():
        known = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.yaml")))
        raise ValueError(f"{name}: no such file, and no preset: expected one of {known}")
    return path.stem, load_section(Filter, path)


@dataclass
class Kept:
    """What a filter did."""

    rows: int = 0
    kept: int = 0
    seconds: float = 0.0  # of the kept
    reasons: Counter[str] = field(default_factory=Counter)  # rows, by every reason against them
    unknown: Counter[str] = field(default_factory=Counter)  # rows without a rule's value

    def summary(self) -> str:
        """A few lines for people."""
        lines = [f"{self.kept} of {self.rows} segments kept ({self.seconds / 3600:.2f} h)"]
        lines += [f"  {count} {reason}" for reason, count in self.reasons.most_common()]
        never = [path for path, count in self.unknown.items() if count == self.rows and count]
        if never:
            lines.append(f"no row has {', '.join(never)}: was that step run?")
        return "\n".join(lines)


def run_filter(work: Work, name: str, rules: Filter) -> Kept:
    """Writes the section `filter` of every segment: keep, reasons, and by which rules.

    Raises ValueError naming a bad row.
    """
    best = chosen(work, rules.top, lambda row: not rules.broken(row)) if rules.top else None
    made_by = {"version": VERSION, "name": name, "rules": rules.digest()}
    done = Kept()
    for shard in work.shards("segments"):
        with shard.changing():
            shard.write(_filtered(row, rules, best, made_by, done) for row in shard.rows())
    return done


def _filtered(row: Row, rules: Filter, best: set[int] | None, made_by: dict, done: Kept) -> Row:
    reasons = rules.broken(row)
    if not reasons and best is not None and key(row["id"]) not in best:
        reasons = [NOT_CHOSEN]
    done.rows += 1
    done.reasons.update(reasons)
    done.unknown.update(
        rule.value for rule in rules.rules if rule.empty is None and value(row, rule.value) is None
    )
    if not reasons:
        done.kept += 1
        done.seconds += seconds(row)
    return {**row, "filter": {"keep": not reasons, "reasons": reasons, "made_by": made_by}}


def _number(found: Any) -> bool:
    return isinstance(found, (int, float)) and not isinstance(found, bool) and math.isfinite(found)
