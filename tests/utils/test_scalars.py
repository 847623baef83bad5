"""Single values of option files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from utils.scalars import PlainText, float_of, is_null, plain_value, read_scalar


def test_values_of_unknown_type_follow_yaml() -> None:
    read_back = plain_value({"a": [PlainText("1e-4"), PlainText("no"), PlainText("~"), PlainText("x"), "1"]})
    assert read_back == {"a": [1e-4, False, None, "x", "1"]}


def test_null_is_what_yaml_takes_for_it_without_quotes() -> None:
    assert all(is_null(value) for value in (None, PlainText("~"), PlainText("Null"), PlainText("")))
    assert not any(is_null(value) for value in ("~", "", PlainText("0"), 0, False))


def test_numbers_of_yaml_are_read_with_infinity_and_without_nan() -> None:
    assert float_of("-.INF") == -math.inf
    assert math.isnan(float_of(".nan"))
    assert read_scalar(PlainText("1_000.5"), float, ()) == 1000.5
    for value in (PlainText(".nan"), math.nan, PlainText("nan"), PlainText("inf")):
        with pytest.raises(ValueError, match=r"^$"):
            read_scalar(value, float, ())


@pytest.mark.parametrize("text", ["", "~", "a\0b", "a\ud800b", "x" * 256, "x/" * 2_049, "~nobody-of-that-name/x"])
def test_what_no_file_can_be_called_is_no_path(text: str) -> None:
    with pytest.raises(ValueError):
        read_scalar(text, Path, ())


def test_paths_are_long_where_a_file_can_be() -> None:
    for text in ("x" * 255, "ü" * 127, "x/" * 2_000):
        assert read_scalar(text, Path, ()) == Path(text)
    assert read_scalar("~/x", Path, ()) == Path.home() / "x"
