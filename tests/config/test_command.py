"""The command lines of train.py and test.py: what each takes, and what its help says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest

import config
from config.command import parse_command
from config.reader import only_sets
from tests.config.files import TEST, write
from tests.runs import TEST_FILE, run_here
from utils.errors import InputError


def help_of(mode: Literal["train", "test"], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as left:
        parse_command(["--help"], mode)
    assert left.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_of_a_test_speaks_of_tests(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("test", capsys)
    assert not re.search(r"\b(train|iterat|resume|batch|learning|state of|optim_g)", text), text
    for flag in ("-opt", "--force_yml", "--sets", "--scale", "--per_image", "--check", "--verbose", "--launcher"):
        assert flag in text
    assert parse_command(["-opt", "a.yml", "--auto_resume"], "test").auto_resume  # as BasicSR's program takes it


def test_help_of_a_training_speaks_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("train", capsys)
    for flag in ("--auto_resume", "--largest_batch", "--check", "--verbose", "--debug"):
        assert flag in text
    assert "--per_image" not in text
    assert "--sets" not in text


@pytest.mark.parametrize("mode", ["train", "test"])
def test_flags_that_belong_to_another(mode: Literal["train", "test"], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_command(["-opt", "a.yml", "--verbose"], mode)
    assert "--verbose belongs to --check" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "keys"),
    [((), ["test_10", "test_2"]), (("A",), ["test_10"]), (("b",), ["test_2"]), (("B", "a"), ["test_10", "test_2"])],
)
def test_sets_are_chosen_by_their_names(tmp_path: Path, names: tuple[str, ...], keys: list[str]) -> None:
    options = config.read(write(tmp_path, TEST.replace("name: tst", "name: tst\nis_train: false")), mode="test")
    chosen = only_sets(options, names)
    assert list(chosen.datasets) == keys
    assert chosen.notes == options.notes
    assert chosen.files == options.files


def test_sets_that_are_not_there_are_reported_with_those_that_are(tmp_path: Path) -> None:
    path = write(tmp_path, TEST.replace("name: B", "name: Urban100").replace("name: A", "name: Set5"))
    with pytest.raises(InputError) as caught:
        only_sets(config.read(path, mode="test"), ["Urban10", "Set5", "Manga109"])
    assert str(caught.value) == (
        f'--sets: there is no data set "Urban10" (did you mean "Urban100"?) and "Manga109"; {path} has Set5, Urban100'
    )


def test_sets_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, TEST_FILE, "test.yml")
    assert run_here("test.py", "-opt", "test.yml", "--sets", "Set5") == 2
    assert '--sets: there is no data set "Set5"; test.yml has HeldOut' in capsys.readouterr().err
