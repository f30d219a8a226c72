"""The workflows that the pack ships; tests are parametrised on the files that are there."""

from __future__ import annotations

from scripts.prepare import ROOT

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
NAMES = [path.stem for path in WORKFLOWS]
