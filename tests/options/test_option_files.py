"""The option files of the repository can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

import options

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path.relative_to(ROOT) for path in (ROOT / "options").rglob("*.yml"))


@pytest.mark.parametrize("file", FILES, ids=str)
def test_option_file(file: Path) -> None:
    if file.name.startswith("train"):
        found: options.Options = options.read(ROOT / file, mode="train")
    else:
        assert file.name.startswith("test"), "the name of an option file starts with train or test"
        found = options.read(ROOT / file, mode="test")
    assert found.notes == (), "a file of ours holds nothing without effect"
