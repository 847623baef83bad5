"""The page on faults: its tests exist, its exit codes are those of the program, and it is where people look."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts import soak
from scripts.faults.disturbances import EXIT_CODES as OF_DISTURBANCES
from scripts.faults.record import BEGIN, END
from tests.pages import DOCS, PAGES, ROOT, text_of
from utils.command import run_command
from utils.signals import EXIT_CODES

PAGE = DOCS / "reliability.md"
OF_SIGNALS = {number.name: code for number, code in EXIT_CODES.items()}
CODES = {0, 1, 2, 141, *OF_SIGNALS.values()}  # 141: of a closed pipe


def rows(heading: str) -> Iterator[list[str]]:
    """The rows of every table with this heading, without it."""
    lines = text_of(PAGE).splitlines()
    for i, line in enumerate(lines):
        if line == heading:
            for row in lines[i + 2 :]:
                if not row.startswith("|"):
                    break
                yield [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


FAULTS = list(rows("| what happens | what the program does | exit code | how it is tested |"))


def test_every_fault_is_tested_by_a_test_that_exists() -> None:
    assert len(FAULTS) > 15
    missing = []
    known: dict[str, set[str]] = {}
    for row in FAULTS:
        assert len(row) == 4, row
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row[3])
        assert named, row
        assert re.sub(r"`[^`]*`|[, ]", "", row[3]) == "", row
        for file, test in named:
            if file not in known:
                path = ROOT / file
                tree = ast.parse(text_of(path)) if path.exists() else ast.Module([], [])
                known[file] = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            if not known[file] or (test and test not in known[file]):
                missing.append(f"{file}::{test}")
    assert not missing


def test_exit_codes_are_those_of_the_program() -> None:
    shown = list(rows("| exit code | meaning |"))
    assert {int(code) for code, _ in shown} == CODES
    of_signals = {re.search(r"SIG\w+", text)[0]: int(code) for code, text in shown if "SIG" in text}  # type: ignore[index]
    assert of_signals == OF_SIGNALS
    for row in FAULTS:
        assert {int(code) for code in re.findall(r"\d+", re.sub(r"`[^`]*`", "", row[2]))} <= CODES, row
    assert {code for codes in OF_DISTURBANCES.values() for code in codes if code >= 0} <= CODES


def test_other_pages_leave_the_table_to_this_one() -> None:
    for page in PAGES:
        if page != PAGE:
            assert "| what happens |" not in text_of(page), page.name
    for name in ("training.md", "quickstart.md"):
        assert "](reliability.md" in text_of(DOCS / name)


def test_the_page_has_a_place_for_the_record() -> None:
    text = text_of(PAGE)
    assert text.count(BEGIN) == text.count(END) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--minutes", "0"], "--minutes: expected a number above 0"),
        (["--seed", "-1"], "--seed, --round: expected a whole number"),
        (["--rounds", "0"], "--rounds: from 1 on"),
        (["--page", "none.md"], "no record of a soak"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_the_soak_refuses_what_makes_no_sense(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(soak.main, [*arguments, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
