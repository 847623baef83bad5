"""Pieces of the sentences of messages."""

from __future__ import annotations

from pathlib import Path

from utils.wording import first_few, shortened


def test_the_first_names_stand_for_the_rest() -> None:
    assert first_few("abc") == "a, b, c"
    assert first_few(iter("abcd"), 3) == "a, b, c, ..."
    assert first_few([Path("x"), 7], 2) == "x, 7"
    assert first_few([]) == ""


def test_long_texts_are_shortened() -> None:
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd" * 1000, 3) == "abc... (4,000 characters)"
