"""Widths of texts and terminals; when there are colours."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from utils.command import run_command
from utils.errors import InputError
from utils.log import configure_logging
from utils.terminal import can_redraw, columns_of, cut_to, one_line, terminal_columns, wants_colours


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "columns"),
    [("", 0), ("abc", 3), ("写真", 4), ("e\u0301", 1), ("ﬁ", 1), ("🎬", 2), ("\u200bx", 1), ("Ａ", 2)],
)
def test_columns_of_a_text(text: str, columns: int) -> None:
    assert columns_of(text) == columns


@pytest.mark.parametrize(
    ("text", "columns", "cut"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("写真集", 5, "写真…"),
        ("写真集", 4, "写…"),
        ("abc", 1, "…"),
        ("abc", 0, ""),
    ],
)
def test_what_is_cut_off_leaves_an_ellipsis(text: str, columns: int, cut: str) -> None:
    assert cut_to(text, columns) == cut


def test_a_line_holds_nothing_that_moves_the_cursor() -> None:
    assert one_line("a\tb\nc\x1b[2Jd写") == "a?b?c?[2Jd写"


def test_columns_of_a_terminal_are_those_of_the_variable_or_80(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "44")
    assert terminal_columns(io.StringIO()) == 44
    for value in ("", "0", "wide"):
        monkeypatch.setenv("COLUMNS", value)
        assert terminal_columns(io.StringIO()) == 80


@pytest.mark.parametrize(
    ("variables", "terminal", "colours"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, True, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
    ],
)
def test_colours_are_for_terminals_unless_a_variable_says_otherwise(
    variables: dict[str, str], terminal: bool, colours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, **variables)
    stream = Terminal() if terminal else io.StringIO()
    assert wants_colours(stream) is colours
    assert can_redraw(stream) is (terminal and variables.get("TERM") != "dumb")


def set_variables(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    """Only these of the variables that colours depend on."""
    for name, value in {"TERM": "xterm", **variables}.items():
        monkeypatch.setenv(name, value)
    for name in {"NO_COLOR", "FORCE_COLOR"} - variables.keys():
        monkeypatch.delenv(name, raising=False)


def test_log_levels_are_coloured_on_a_terminal_and_never_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch)
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    logger = configure_logging(tmp_path / "run.log")
    logger.info("started")
    logger.warning("an ERROR: in the text")
    logger.error("stopped")
    plain, warning, error = (line.split(" ", 2)[2] for line in stream.getvalue().splitlines())
    assert plain == "INFO: started"
    assert warning == "\x1b[1;33mWARNING:\x1b[0m an ERROR: in the text"
    assert error == "\x1b[1;31mERROR:\x1b[0m stopped"
    assert "\x1b" not in (tmp_path / "run.log").read_text()


@pytest.mark.parametrize("terminal", [True, False])
def test_an_error_of_a_command_without_a_log_is_coloured_on_a_terminal(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch)
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(logging.getLogger("focalsr"), "handlers", [])

    def main(argv: object) -> None:
        raise InputError("a.png: no picture")

    assert run_command(main, []) == 2
    mark = "\x1b[1;31merror:\x1b[0m" if terminal else "error:"
    assert stream.getvalue() == f"{mark} a.png: no picture\n"
