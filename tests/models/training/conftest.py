"""What tests of training share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import workplace


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures and option files, which is the current one."""
    folder = workplace(tmp_path)
    monkeypatch.chdir(folder)
    return folder
