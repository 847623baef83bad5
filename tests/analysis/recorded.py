"""Recorded values of analyses: the folder ``golden/analysis`` of the reference data."""

from __future__ import annotations

import json
from pathlib import Path

from tests.golden import Case


def case(shared: Path, name: str) -> Case:
    """One of them."""
    path = shared / "golden" / "analysis" / f"{name}.json"
    return Case(path, json.loads(path.read_text(encoding="utf-8")))
