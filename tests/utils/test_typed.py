"""Reading of values by the type of the field that they are given to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import InputError
from utils.scalars import PlainText
from utils.typed import (
    INVALID,
    OneOf,
    Report,
    fields_of,
    key_text,
    option,
    read,
    read_arguments,
    type_name,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wheel:
    """A part with a required key and a range."""

    IGNORED: ClassVar[dict[str, str]] = {"colour": "wheels are black"}
    size: float = option("diameter in inches", minimum=10, maximum=30)
    spokes: int = option("how many", 32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bell:
    """An alternative."""

    tone: Literal["high", "low"] = option("its tone", "high")

    def __post_init__(self) -> None:
        if self.tone == "low":
            raise InputError("low bells are sold out")


PARTS = {"Wheel": Wheel, "Bell": Bell}
Part = Annotated[Any, OneOf(lambda: PARTS, "part")]


def problems(value: object, annotation: Any) -> list[tuple[str, str]]:
    """Key and message of each problem."""
    report = Report()
    result = read(value, annotation, report)
    assert (result is INVALID) == bool(report.problems)
    return [(key_text(path), message) for path, message in report.problems]


@pytest.mark.parametrize(
    ("text", "annotation", "expected"),
    [
        ("2e-4", float, 2e-4),
        ("1", float, 1.0),
        (".5", float, 0.5),
        ("-1_000", int, -1000),
        ("5e3", int, 5000),
        ("500000.0", int, 500000),
        ("yes", bool, True),
        ("OFF", bool, False),
        ("yes", str, "yes"),
        ("007", str, "007"),
        ("~", int | None, None),
        ("", float | None, None),
        ("none", str | None, None),
        ("3", int | str, 3),
        ("auto", int | Literal["auto"], "auto"),
        ("~/x", Path, Path("~/x").expanduser()),
        ("high", Literal["high", "low"], "high"),
        (".inf", float, float("inf")),
    ],
)
def test_plain_text_is_read_by_the_type_of_its_field(text: str, annotation: Any, expected: object) -> None:
    report = Report()
    value = read(PlainText(text), annotation, report)
    assert not report.problems
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (PlainText("yes"), float),
        (PlainText("1"), bool),
        ("true", bool),  # quoted: text
        ("1", int),
        (PlainText("1.5"), int),
        (PlainText("1e"), float),
        (PlainText(".nan"), float),
        (True, int),
        (PlainText("~"), str),
        (PlainText("x"), list[int]),
        ([1, 2, 3], tuple[float, float]),
        ({"a": 1}, float),
    ],
)
def test_values_that_do_not_fit_their_type_are_problems(value: object, annotation: Any) -> None:
    [(_, message)] = problems(value, annotation)
    assert message.startswith("expected ")


def test_lists_become_tuples_with_typed_items() -> None:
    assert read([PlainText("1"), PlainText("2e1")], tuple[int, ...], Report()) == (1, 20)
    assert read([PlainText("0.9"), PlainText("1")], tuple[float, float], Report()) == (0.9, 1.0)
    assert problems([1, "x", 3, "y"], tuple[int, ...]) == [
        ("[1]", 'expected a whole number, got "x"'),
        ("[3]", 'expected a whole number, got "y"'),
    ]


def test_all_mistakes_of_a_mapping_are_found_at_once() -> None:
    found = problems({"spoks": 3, "spokes": PlainText("many")}, Wheel)
    assert found == [
        ("spoks", 'unknown key (did you mean "spokes"?)'),
        ("spokes", 'expected a whole number, got "many"'),
        ("", 'the key "size" is missing; expected a number'),
    ]


def test_values_out_of_range_are_reported_with_the_bound() -> None:
    assert problems({"size": 9}, Wheel) == [("size", "expected at least 10, got 9")]
    assert problems({"size": 31}, Wheel) == [("size", "expected at most 30, got 31")]
    assert problems({"size": float("nan")}, Wheel) == [("size", "expected a number, got nan")]


def test_ignored_keys_are_notes() -> None:
    report = Report()
    assert read({"size": 20, "colour": "red"}, Wheel, report) == Wheel(size=20.0)
    assert report.notes == [(("colour",), "has no effect here: wheels are black")]


def test_a_type_picks_its_dataclass() -> None:
    report = Report()
    assert read({"type": PlainText("Wheel"), "size": 20}, Part, report) == Wheel(size=20.0)
    assert problems({"type": "wheel", "size": 20}, Part) == [("type", 'unknown part "wheel" (did you mean "Wheel"?)')]
    assert problems({"size": 20}, Part) == [("", 'the key "type" is missing; known part types: Wheel, Bell')]
    assert problems({"type": "Bell", "tone": "hihg"}, Part)[0][1].endswith('(did you mean "high"?)')


def test_errors_of_post_init_become_problems() -> None:
    assert problems({"type": "Bell", "tone": "low"}, Part) == [("", "low bells are sold out")]


def test_problems_inside_an_optional_mapping_are_reported_there() -> None:
    assert problems({"size": "x"}, Wheel | None) == [("size", 'expected a number, got "x"')]


def frame(size: float, *, tubes: tuple[int, ...] = (3, 4), name: str | None = None) -> None:
    """A frame.

    Args:
        size: in centimetres,
            measured somewhere.
        tubes: lengths.
        name: painted on it.
    """


def test_fields_of_a_function_come_from_its_signature() -> None:
    fields = fields_of(frame)
    assert [(field.name, field.required) for field in fields.values()] == [
        ("size", True),
        ("tubes", False),
        ("name", False),
    ]
    assert fields["size"].help == "in centimetres, measured somewhere."
    report = Report()
    assert read_arguments({"size": PlainText("54"), "tubes": [1]}, frame, report) == {"size": 54.0, "tubes": (1,)}
    read_arguments({"sise": 1}, frame, report, what="Frame")
    assert [message for _, message in report.problems] == [
        'unknown key of Frame (did you mean "size"?)',
        'the key "size" of Frame is missing; expected a number',
    ]


def test_all_problems_of_a_report_are_raised_together() -> None:
    report = Report()
    report.raise_problems("fine")
    report.problem(("a", 0, "b"), "wrong")
    with pytest.raises(InputError, match=r"^bike: a\[0\]\.b: wrong$"):
        report.raise_problems("bike")
    report.problem((), "worse")
    with pytest.raises(InputError, match=r"^bike:\n  a\[0\]\.b: wrong\n  worse$"):
        report.raise_problems("bike")


def test_types_are_described_in_words() -> None:
    assert type_name(Part) == "a mapping with a type (part)"
    assert type_name(tuple[float, float]) == "a list of 2 values, each a number"
    assert type_name(int | None) == "a whole number or null"
    assert type_name(Literal["a", None]) == "one of a, null"


@given(st.floats(allow_nan=False))
def test_any_float_reads_back_from_its_text(number: float) -> None:
    text = repr(number).replace("inf", ".inf")
    assert read(PlainText(text), float, Report()) == number


LEAVES = st.none() | st.booleans() | st.integers() | st.text()


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_reading_any_value_reports_instead_of_raising(value: object) -> None:
    for annotation in (Wheel, Part, int, tuple[float, ...], Wheel | None, dict[str, Part]):
        read(value, annotation, Report())
