"""The option files of the repository can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

import config
from config.bases import load

ROOT = Path(__file__).resolve().parents[2]
RUNS = [path for path in (ROOT / "options").rglob("*.yml") if path.parent.name not in ("common", "recipes")]
FILES = sorted(path.relative_to(ROOT) for path in RUNS)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_option_file_of_the_repository_is_read(file: Path) -> None:
    if file.name.startswith("train"):
        found: config.Options = config.read(ROOT / file, mode="train")
    else:
        assert file.name.startswith("test"), "the name of an option file starts with train or test"
        found = config.read(ROOT / file, mode="test")
    assert found.notes == (), "a file of ours holds nothing without effect"


def test_every_common_file_is_the_base_of_an_option_file() -> None:
    based_on = {Path(read).resolve() for file in FILES for read in load(ROOT / file).files}
    assert set((ROOT / "options/common").glob("*.yml")) <= based_on
