"""The data sets of an option file, and the networks that take their images."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs import run_here, workplace


@pytest.mark.parametrize(("key", "more"), [("train", ()), ("train", ("--check",)), ("val", ("--check",))])
def test_images_of_other_channels_are_refused(
    key: str, more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    assert run_here("train.py", "-opt", "train.yml", *more, "--force_yml", f"datasets:{key}:color=y") == 2
    printed = capsys.readouterr().err
    assert f"datasets.{key}: the images of " in printed
    assert "are luminance (color: y), and network_g takes 3 channels; change color there" in printed
    assert not Path("experiments").exists()
