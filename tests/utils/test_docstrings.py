"""Descriptions of arguments, read from docstrings."""

from __future__ import annotations

from utils.docstrings import argument_help


class Described:
    """A base class.

    Args:
        side: of a square.
        name: what it is called.
    """


class Derived(Described):
    """A class that says what is different.

    Args:
        name: what its user calls it.
    """

    def __init__(self, side: int, name: str, depth: int = 1) -> None:
        self.side, self.name, self.depth = side, name, depth


def test_a_class_has_the_descriptions_of_its_base_class_but_for_its_own() -> None:
    assert argument_help(Derived) == {"side": "of a square.", "name": "what its user calls it."}


def test_a_description_may_go_on_over_several_lines_and_name_a_type() -> None:
    def scaled(x: float, factor: float) -> float:
        """A product.

        Args:
            x: one
                factor.
            factor (float): the other.

        Returns:
            x: not an argument.
        """
        return x * factor

    assert argument_help(scaled) == {"x": "one factor.", "factor": "the other."}
