"""Typed reading of mappings: a dataclass or a function signature says which keys exist and what their values are.

Option files, ``--force_yml`` edits and the mappings given to ``build_network`` all pass through :func:`read`, so that
one rule decides how ``1e-4``, ``yes`` or ``~`` is understood: the type of the field it stands for.

Mistakes are collected in a :class:`Report` instead of raised one by one; each carries the path of keys that leads to
it, which the reader of option files turns into ``file:line``.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import math
import operator
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from utils.docstrings import argument_help
from utils.errors import InputError
from utils.scalars import PlainText, is_null, plain_value, read_scalar
from utils.suggest import near_miss
from utils.wording import shortened

_MOST_UNKNOWN = 30  # keys of a mapping that are reported: finding what each may have meant takes a moment
_LARGEST = 10**15  # whole numbers of options that say no other bound: far beyond sense, and exact as a float
_FITS = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}
Key = str | int
KeyPath = tuple[Key, ...]


class Remark(NamedTuple):
    """A message for the user about one key."""

    path: KeyPath
    message: str


class Report:
    """What reading a mapping found: ``problems`` forbid its use, ``notes`` are logged once."""

    def __init__(self) -> None:
        self.problems: list[Remark] = []
        self.notes: list[Remark] = []

    def problem(self, path: KeyPath, message: str) -> None:
        """Add something that forbids the use of the mapping."""
        self.problems.append(Remark(path, message))

    def note(self, path: KeyPath, message: str) -> None:
        """Add something that the user should know."""
        self.notes.append(Remark(path, message))

    def raise_problems(self, subject: str) -> None:
        """Raise one InputError that lists all problems, if there are any; ``subject`` opens its message."""
        if self.problems:
            lines = [f"{key_text(path)}: {message}" if path else message for path, message in self.problems]
            raise InputError("\n  ".join([f"{subject}:", *lines]) if len(lines) > 1 else f"{subject}: {lines[0]}")


class Invalid:
    """The value of a key whose text could not be understood (the problem is in the report)."""

    def __repr__(self) -> str:
        return "INVALID"


INVALID = Invalid()


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Marks an annotation: the mapping's key ``type`` picks one of these dataclasses.

    Attributes:
        table: returns name -> dataclass; a function, so that nothing is imported before it is needed.
        what: what the entries are, for messages ("loss", "scheduler").
        default_type: the entry used when ``type`` is absent, or None where it is required.
    """

    table: Callable[[], Mapping[str, type]]
    what: str
    default_type: str | None = None


@dataclasses.dataclass(frozen=True)
class Field:
    """One key that a dataclass or a function accepts."""

    name: str
    annotation: Any
    default: Any
    required: bool
    help: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    infinite: bool = False

    def bounds(self) -> list[tuple[str, float]]:
        """The bounds in words, each with its number: ("at least", 0)."""
        found = {"at least": self.minimum, "above": self.above, "at most": self.maximum, "below": self.below}
        return [(words, limit) for words, limit in found.items() if limit is not None]


def option(
    help: str,
    default: Any = dataclasses.MISSING,
    *,
    default_factory: Any = dataclasses.MISSING,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    infinite: bool = False,
) -> Any:
    """A dataclass field that explains itself; without a default the key is required.

    Args:
        help: one sentence for the documentation, with units and range.
        default: the value when the key is absent.
        default_factory: as in ``dataclasses.field``.
        minimum: smallest value accepted.
        maximum: largest value accepted.
        above: values have to be larger than this.
        below: values have to be smaller than this.
        infinite: infinity is accepted.
    """
    metadata = {
        "help": help, "minimum": minimum, "maximum": maximum, "above": above, "below": below, "infinite": infinite,
    }  # fmt: skip
    return dataclasses.field(default=default, default_factory=default_factory, metadata=metadata)


def remark(default: Any) -> Any:
    """A dataclass field that is no key: something about where the values come from, which copies keep."""
    return dataclasses.field(default=default, compare=False, repr=False, metadata={"remark": True})


def option_fields(target: Any) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass that are keys."""
    return [field for field in dataclasses.fields(target) if field.init and not field.metadata.get("remark")]


def fields_of(target: Callable[..., Any]) -> Mapping[str, Field]:
    """The keys that a dataclass, or the parameters that a function or class, accepts, in order."""
    return _fields_of(target)


@functools.cache  # found anew for each mapping and each object, they were a third of the time to read a file
def _fields_of(target: Callable[..., Any]) -> Mapping[str, Field]:
    return types.MappingProxyType(
        _dataclass_fields(target) if dataclasses.is_dataclass(target) else _parameters(target)
    )


def _parameters(target: Callable[..., Any]) -> dict[str, Field]:
    function = target.__init__ if inspect.isclass(target) else target
    hints = typing.get_type_hints(function, include_extras=True)
    helps = argument_help(target)
    result = {}
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        required = parameter.default is parameter.empty
        default = None if required else parameter.default
        result[name] = Field(name, hints.get(name, Any), default, required, helps.get(name, ""))
    return result


def _dataclass_fields(target: Any) -> dict[str, Field]:
    hints = typing.get_type_hints(target, include_extras=True)
    result = {}
    for field in option_fields(target):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = None
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        elif not required:
            default = field.default
        meta = field.metadata
        result[field.name] = Field(
            field.name, hints[field.name], default, required,
            meta.get("help", ""), meta.get("minimum"), meta.get("maximum"), meta.get("above"), meta.get("below"),
            bool(meta.get("infinite")),
        )  # fmt: skip
    return result


def key_text(path: KeyPath) -> str:
    """The path of a key as people write it: ``train.optim_g.lr``, ``datasets.val.metrics``, ``milestones[2]``."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def type_name(annotation: Any) -> str:
    """What a value must be, in words: 'a whole number', 'one of mean, sum', 'a list of numbers'."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        marker = _one_of(annotation)
        return f"a mapping with a type ({marker.what})" if marker else type_name(arguments[0])
    if origin is Literal:
        return "one of " + ", ".join("null" if value is None else str(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(member) for member in arguments))
    if origin is tuple and Ellipsis not in arguments:
        kinds = list(dict.fromkeys(map(type_name, arguments)))
        return f"a list of {len(arguments)} values, {'each ' if len(kinds) == 1 else ''}{' and '.join(kinds)}"
    if origin in (list, tuple, Sequence, collections.abc.Sequence):
        return f"a list, each {type_name(arguments[0])}"
    if origin in (dict, Mapping, collections.abc.Mapping) or dataclasses.is_dataclass(annotation):
        return "a mapping"
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "text",
        Path: "a path",
        types.NoneType: "null",
    }
    return names.get(annotation, "a value")


def read(value: object, annotation: Any, report: Report, path: KeyPath = ()) -> Any:
    """``value`` as the annotation wants it; on a mistake, INVALID, with the problem in the report.

    Args:
        value: a Python value, or one whose unquoted texts are PlainText.
        annotation: bool, int, float, str, Path, None, Literal, a union, list, tuple, mapping, dataclass,
            ``Annotated[Base, OneOf(...)]`` or Any. In a mapping of mappings an entry that is null is as good as absent:
            ``test_3: ~`` drops a data set.
        report: receives problems and notes.
        path: where ``value`` stands, for messages.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is typing.Annotated:
        marker = _one_of(annotation)
        if marker is None:
            return read(value, arguments[0], report, path)
        base = arguments[0]
        if isinstance(base, type) and dataclasses.is_dataclass(base) and isinstance(value, base):
            return value  # built in Python already
        return _read_variant(value, marker, report, path)
    if annotation in (Any, object):
        return plain_value(value)
    if origin in (Union, types.UnionType):
        return _read_union(value, annotation, arguments, report, path)
    if origin in (list, tuple, Sequence, collections.abc.Sequence):
        return _read_sequence(value, annotation, report, path)
    if origin in (dict, Mapping, collections.abc.Mapping):
        if not isinstance(value, collections.abc.Mapping):
            return _mismatch(value, annotation, report, path)
        kept = {key: item for key, item in value.items() if not _means_absent(item, arguments[1])}
        return _valid({str(key): read(item, arguments[1], report, (*path, key)) for key, item in kept.items()})
    if dataclasses.is_dataclass(annotation):
        return _read_dataclass(value, annotation, report, path)
    try:
        return read_scalar(value, annotation, arguments if origin is Literal else ())
    except (ValueError, OverflowError):
        return _mismatch(value, annotation, report, path)


def read_arguments(
    value: Mapping[str, object], target: Callable[..., Any], report: Report, path: KeyPath = (), what: str = ""
) -> dict[str, Any]:
    """The keyword arguments for ``target`` (dataclass, class or function) that a mapping holds.

    Unknown keys, missing required ones and values of the wrong type become problems; absent optional keys stay
    absent, so that the target's own defaults apply, as do optional mappings that are null. ``what`` names the target in
    messages.
    """
    fields = fields_of(target)
    ignored: Mapping[str, str] = getattr(target, "IGNORED", {})
    label = f" of {what}" if what else ""
    result: dict[str, Any] = {}
    unknown = 0
    for key, item in value.items():
        here = (*path, key)
        if key in fields:
            if not fields[key].required and _means_absent(item, fields[key].annotation):
                continue
            result[key] = read_field(item, fields[key], report, here)
        elif key in ignored:
            report.note(here, f"has no effect here: {ignored[key]}")
        elif (unknown := unknown + 1) <= _MOST_UNKNOWN:
            known = ", ".join(fields)
            guess = near_miss(key, fields) or near_miss(key, ignored)
            report.problem(here, f"unknown key{label}{guess or f'; known: {known}'}")
    if unknown > _MOST_UNKNOWN:
        report.problem(path, f"{unknown - _MOST_UNKNOWN:,} more unknown keys{label}")
    for name, field in fields.items():
        if field.required and name not in value:
            report.problem(path, f'the key "{name}"{label} is missing; expected {type_name(field.annotation)}')
    return result


def read_field(value: object, field: Field, report: Report, path: KeyPath = ()) -> Any:
    """``value`` as the field wants it, its range checked; on a mistake, INVALID, with the problem in the report."""
    return _checked(read(value, field.annotation, report, path), field, report, path)


def _one_of(annotation: Any) -> OneOf | None:
    return next((item for item in get_args(annotation)[1:] if isinstance(item, OneOf)), None)


def _valid(value: Any) -> Any:
    """``value`` itself, or INVALID when any part of it is."""
    parts = value.values() if isinstance(value, dict) else value
    return INVALID if any(part is INVALID for part in parts) else value


def _shown(value: object) -> str:
    if isinstance(value, collections.abc.Mapping):
        return "a mapping"
    if value is None or (isinstance(value, PlainText) and value == ""):
        return "nothing (null)"
    if isinstance(value, list | tuple):
        return f"the list {shortened(str(plain_value(value)))}"
    return f'"{shortened(value)}"' if isinstance(value, str) else shortened(repr(value))


def _mismatch(value: object, annotation: Any, report: Report, path: KeyPath) -> Invalid:
    guess = ""
    if get_origin(annotation) is Literal and isinstance(value, str):
        guess = near_miss(value, [item for item in get_args(annotation) if isinstance(item, str)])
    report.problem(path, f"expected {type_name(annotation)}, got {_shown(value)}{guess}")
    return INVALID


def _read_union(value: object, annotation: Any, members: tuple[Any, ...], report: Report, path: KeyPath) -> Any:
    """The first member that reads without a problem; null first, text last: ``~`` and ``3`` keep their sense."""
    ordered = sorted(members, key=lambda member: 0 if member is types.NoneType else 2 if member in (str, Path) else 1)
    structured = isinstance(value, collections.abc.Mapping | list | tuple)
    attempts = []
    for member in ordered:
        attempt = Report()
        result = read(value, member, attempt, path)
        if not attempt.problems:
            report.notes.extend(attempt.notes)
            return result
        attempts.append((member, attempt))
    # A mapping or list fits one member at most: its own problems say more than "none of these".
    deep = [attempt for member, attempt in attempts if structured and any(p.path != path for p in attempt.problems)]
    if len(deep) == 1:
        report.problems.extend(deep[0].problems)
        return INVALID
    variants = [attempt for member, attempt in attempts if structured and _is_structure(member)]
    if len(variants) == 1:
        report.problems.extend(variants[0].problems)
        return INVALID
    return _mismatch(value, annotation, report, path)


def _is_structure(member: Any) -> bool:
    return dataclasses.is_dataclass(member) or get_origin(member) is typing.Annotated


def _means_absent(value: object, annotation: Any) -> bool:
    """Whether a null stands where only a mapping can."""
    mapping = _is_structure(annotation) or get_origin(annotation) in (dict, Mapping, collections.abc.Mapping)
    return mapping and is_null(value)


def _read_sequence(value: object, annotation: Any, report: Report, path: KeyPath) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if not isinstance(value, list | tuple):
        return _mismatch(value, annotation, report, path)
    if origin is tuple and Ellipsis not in arguments:
        if len(value) != len(arguments):
            return _mismatch(value, annotation, report, path)
        kinds = arguments
    else:
        kinds = (arguments[0],) * len(value)
    items = _valid(
        [read(item, kind, report, (*path, i)) for i, (item, kind) in enumerate(zip(value, kinds, strict=True))]
    )
    return items if items is INVALID or origin is list else tuple(items)


def _read_variant(value: object, marker: OneOf, report: Report, path: KeyPath) -> Any:
    if not isinstance(value, collections.abc.Mapping):
        report.problem(path, f"expected a mapping with a type ({marker.what}), got {_shown(value)}")
        return INVALID
    table = marker.table()
    name = value.get("type", marker.default_type)
    if name is None:
        report.problem(path, f'the key "type" is missing; known {marker.what} types: {", ".join(table)}')
        return INVALID
    if not isinstance(name, str) or name not in table:
        guess = near_miss(name, table)
        known = f"; known: {', '.join(table)}"
        report.problem((*path, "type"), f"unknown {marker.what} {_shown(name)}{guess or known}")
        return INVALID
    rest = {key: item for key, item in value.items() if key != "type"}
    return _read_dataclass(rest, table[str(name)], report, path, what=str(name))


def _read_dataclass(value: object, target: Any, report: Report, path: KeyPath, what: str = "") -> Any:
    if dataclasses.is_dataclass(value) and isinstance(value, target):
        return value
    if not isinstance(value, collections.abc.Mapping):
        return _mismatch(value, target, report, path)
    before = len(report.problems)
    arguments = read_arguments(value, target, report, path, what)
    if len(report.problems) > before:
        return INVALID
    try:
        return target(**arguments)
    except InputError as error:  # what only the keys together can show, from __post_init__
        report.problem(path, str(error))
        return INVALID


def _checked(value: Any, field: Field, report: Report, path: KeyPath) -> Any:
    """``value``, after the range of its field was checked."""
    for number in _numbers(value):
        problem = _out_of_range(number, field)
        if problem is not None:
            report.problem(path, problem)
            return INVALID
    return value


def _numbers(value: Any) -> Iterator[int | float]:
    """The numbers of a value, also those in lists in lists."""
    if isinstance(value, tuple | list):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _out_of_range(number: int | float, field: Field) -> str | None:
    """What is wrong with the size of a number; None where nothing is."""
    shown = number_text(number)
    if isinstance(number, float) and not math.isfinite(number) and not field.infinite:
        return f"expected a finite number, got {shown}"
    for words, limit in field.bounds():
        if not _FITS[words](number, limit):
            expected = f"{words} {number_text(limit)}"
            return f"expected {expected if words.startswith('at') else f'a number {expected}'}, got {shown}"
    if isinstance(number, int) and abs(number) > _LARGEST and field.maximum is None:
        return f"expected at most {number_text(_LARGEST)}, got {shown}"
    return None


def number_text(number: int | float) -> str:
    """A number in a message: whole ones with all digits, as far as they can be read."""
    if isinstance(number, float) and number.is_integer() and abs(number) < _LARGEST:
        number = int(number)
    return shortened(f"{number:g}" if isinstance(number, float) else str(number), 30)
