from __future__ import annotations

from archs.layers.numbering import count_numbered


def test_numbers_are_counted_from_zero_to_the_largest() -> None:
    keys = ["layers.0.conv.weight", "layers.11.conv.weight", "layers.2.norm.weight", "head.weight"]
    assert count_numbered(keys, r"layers\.(\d+)\.") == 12
    assert count_numbered(keys, r"layers\.(\d+)\.norm") == 3


def test_nothing_counts_as_none() -> None:
    assert count_numbered(["body.layers.0.weight"], r"layers\.(\d+)\.") == 0
