"""The command line of analyses: kinds, flags, mistakes."""

from __future__ import annotations

import pytest

from scripts import analyse
from utils.command import run_command


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the program says of bad input."""
    assert run_command(analyse.main, arguments) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def test_kinds_have_modules_with_flags() -> None:
    for kind in analyse.KINDS:
        module = analyse.module_of(kind)
        assert callable(module.run)
        with pytest.raises(SystemExit) as ended:
            analyse.parse([kind, "--help"])
        assert ended.value.code == 0


def test_help_lists_the_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        analyse.parse(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(kind in shown for kind in analyse.KINDS)


def test_an_unknown_kind_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no analysis 'lamm' (did you mean" in said(capsys, "lamm")


@pytest.mark.parametrize("kind", ["lam", "erf", "attention", "maps", "cka", "frequency"])
def test_tiles_are_refused_in_a_sentence(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = said(capsys, kind, "-w", "a.pth", "-i", "a.png", "-o", "out", "--tile", "64")
    assert "--tile has no meaning here" in message
    assert len(message.splitlines()) == 1
