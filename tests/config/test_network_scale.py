"""``--scale``: one number for the file and its network."""

from __future__ import annotations

from pathlib import Path

import pytest

from config import read
from config.bases import written
from config.command import number, parse_command
from tests.runs import ROOT
from utils.errors import InputError

ANY = ROOT / "options/test_esc_lte.yml"


def test_scale_flag_sets_the_factor_of_file_and_network() -> None:
    options = read(ANY, mode="test", scale=3.7)
    assert options.scale == options.network_g.arguments["upscaling_factor"] == 3.7
    assert read(ANY, mode="test").scale == 4
    assert read(ANY, ["scale=2", "network_g:upscaling_factor=2"], mode="test", scale=3.7).scale == 2


def test_a_network_of_whole_scales_refuses_a_broken_one() -> None:
    assert read(ROOT / "options/test_esc_x4.yml", mode="test", scale=3).network_g.arguments["upscaling_factor"] == 3
    with pytest.raises(InputError, match=r"upscaling_factor: expected a whole number, got .3\.7"):
        read(ROOT / "options/test_esc_x4.yml", mode="test", scale=3.7)


def test_training_takes_whole_scales_only(tmp_path: Path) -> None:
    text = written(ROOT / "options/train_esc_x2.yml").replace("scale: 2", "scale: 2.5")
    (tmp_path / "train.yml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"scale: expected a whole number"):
        read(tmp_path / "train.yml", mode="train")


def test_scale_flag_takes_numbers_from_1_on() -> None:
    assert parse_command(["-opt", "a.yml", "--scale", "3.7"], "test").scale == 3.7
    assert parse_command(["-opt", "a.yml"], "test").scale is None
    assert isinstance(number("4.0"), int)
    with pytest.raises(SystemExit):
        parse_command(["-opt", "a.yml", "--scale", "0.5"], "test")
    with pytest.raises(SystemExit):
        parse_command(["-opt", "a.yml", "--scale", "2"], "train")
