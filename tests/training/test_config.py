"""A recipe's own mistakes, told in one short line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.config import load_config, parse_config


def test_a_value_that_unfolds_without_end_is_told_in_a_short_line(tmp_path: Path) -> None:
    """Thirty lists of two, each naming the one before twice, are a billion values."""
    lists = ["- &l0 [1, 1]", *(f"- &l{i} [*l{i - 1}, *l{i - 1}]" for i in range(1, 30))]
    recipe = tmp_path / "bomb.yaml"
    recipe.write_text("name:\n" + "\n".join(f"  {line}" for line in lists), encoding="utf-8")
    with pytest.raises(ValueError, match=r"bomb\.yaml: name: .*string.*got \[\[1, 1\]") as caught:
        load_config(recipe)
    assert len(str(caught.value)) < 1000


def test_a_null_text_of_the_models_own_is_not_trained(recipe: dict[str, Any]) -> None:
    recipe["model"]["changes"]["null_text_tokens"] = 120
    with pytest.raises(ValueError, match=r"null_text_tokens is 120: expected 0.*convert init"):
        parse_config(recipe)
