"""The examples of the documentation run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "modules.md"
EXAMPLES = re.findall(r"^## `?(\w+)`?\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("title", "text"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_example(title: str, text: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks, "a block is shown in use"
    with torch.random.fork_rng(devices=[]):
        for block in blocks:
            exec(compile(block, f"{PAGE.name}, {title}", "exec"), {})


def test_every_listed_block_has_an_example() -> None:
    listed = re.findall(r"^\| `archs\.[\w.]+\.(\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == [title for title, _ in EXAMPLES]


def test_the_example_of_an_operator(capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / "adding_an_operator.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(compile(block, "adding_an_operator.md", "exec"), {})
    assert "window_attention" in capsys.readouterr().out
