"""What an ONNX file says of itself, read without running it and without a package for it.

The file is a protocol buffer: numbered fields, each with its length in front, so that weights are stepped over. A model
is data: operators that need a library of their own, and data in files of other folders, are refused here, before a
runtime sees the file.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from utils.errors import InputError
from utils.tensor_files.kinds import foreign_kind

SUFFIX = ".onnx"

# Fields of the messages of onnx.proto that are looked at; what is in a field of one of these messages is another one.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "opset", 14: "entry", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
_TEXTS = {"opset": (1,), "entry": (1, 2), "external": (1, 2), "node": (4,)}
_DEEPEST = 100  # graphs in branches of graphs
_LONGEST_TEXT = 2**20
_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_CONTEXT = "EPContext"  # an operator that has a runtime load a compiled program of another file


class Field(NamedTuple):
    """One field of a message: its number, where its content lies, and the number that it is where it is no content."""

    number: int
    start: int
    stop: int
    value: int


@dataclass
class OnnxFile:
    """What was found in a file.

    Attributes:
        metadata: the texts that its writer has left.
        domains: where its operators are defined.
        operators: their names.
        external: files that hold its weights, as it names them.
    """

    metadata: dict[str, str] = field(default_factory=dict)
    domains: set[str] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)
    external: set[str] = field(default_factory=set)


class _BrokenError(ValueError):
    """A file whose fields do not lie inside each other."""


def is_onnx(path: Path) -> bool:
    """Whether a file is to be read as an ONNX file: by its name, or because it holds a graph."""
    if path.suffix.lower() == SUFFIX:
        return True
    try:
        with path.open("rb") as file:
            if file.read(1) != b"\x08":  # the version, which comes first
                return False
        _read(path)
    except (OSError, _BrokenError):
        return False
    return True


def read_onnx(path: Path) -> OnnxFile:
    """What an ONNX file says, after it was found to be data and nothing else.

    Raises:
        InputError: it is absent, damaged or no ONNX file; it needs a library of operators, or files that lie elsewhere.
    """
    if not path.is_file():
        there = (
            "is a folder" if path.is_dir() else "is a pipe or a device" if path.exists() else "there is no such file"
        )
        made = "" if path.exists() else f" (python scripts/export.py -w WEIGHTS -o {path.name} writes one)"
        raise InputError(f"{path}: {there}{made}")
    try:
        found = _read(path)
    except _BrokenError:
        raise InputError(f"{path}: {_what_else(path)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    foreign = sorted(found.domains.difference(_KNOWN_DOMAINS))
    if foreign:
        raise InputError(
            f"{path}: has operators of {', '.join(foreign)}, which need a library of their own; none is loaded: "
            "export the network with the operators of ONNX"
        )
    if _CONTEXT in found.operators:
        raise InputError(
            f"{path}: is a wrapper around a program that was compiled for one device; export the network itself"
        )
    for name in sorted(found.external):
        _check_beside(path, name)
    return found


def fingerprint(path: Path, found: OnnxFile) -> str:
    """SHA-256 of a file and of those that hold its weights."""
    total = hashlib.sha256()
    for part in (path, *(path.parent / name for name in sorted(found.external))):
        with part.open("rb") as file:
            while block := file.read(2**20):
                total.update(block)
    return total.hexdigest()


def _check_beside(path: Path, name: str) -> None:
    """Raise InputError where a file that a model names is not in the model's folder."""
    folder = path.parent.resolve()
    there = (folder / name).resolve()
    if Path(name).is_absolute() or not there.is_relative_to(folder):
        raise InputError(f"{path}: its weights are in {name}, outside of its folder, where nothing is read; move them")
    if not there.is_file():
        raise InputError(f"{path}: its weights are in {name}, which is not beside it; copy both files together")


def _what_else(path: Path) -> str:
    """What is to be said of a file that is not a whole ONNX file."""
    with path.open("rb") as file:
        head = file.read(64)
    if head[:1] == b"\x08":
        return "is damaged or cut short; export the network again, or copy the file again"
    said = foreign_kind(path)
    return "is no ONNX file" if said is None else f"is no ONNX file but {said}"


def _read(path: Path) -> OnnxFile:
    """The content of a file.

    Raises:
        OSError: it cannot be read.
        _BrokenError: it is none.
    """
    found = OnnxFile()
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            raise _BrokenError
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            numbers = {item.number for item in _fields(data, 0, len(data))}
            if not {1, 7, 8} <= numbers:  # version, graph, sets of operators
                raise _BrokenError
            _walk(data, "model", 0, len(data), found, 0)
    return found


def _walk(data: mmap.mmap, kind: str, start: int, stop: int, found: OnnxFile, depth: int) -> None:
    """Look through one message."""
    if depth > 4 * _DEEPEST:
        raise _BrokenError
    texts: dict[int, str] = {}
    wanted = _TEXTS.get(kind, ())
    inside = _INSIDE.get(kind, {})
    for item in _fields(data, start, stop):
        if item.number in wanted and item.value < 0:
            stop_at = min(item.stop, item.start + _LONGEST_TEXT)  # programs leave whole logs there
            texts[item.number] = data[item.start : stop_at].decode("utf-8", "replace")
        elif item.number in inside and item.value < 0:
            _walk(data, inside[item.number], item.start, item.stop, found, depth + 1)
    if kind == "opset":
        found.domains.add(texts.get(1, ""))
    elif kind == "entry":
        found.metadata[texts.get(1, "")] = texts.get(2, "")
    elif kind == "node":
        found.operators.add(texts.get(4, ""))
    elif kind == "external" and texts.get(1) == "location":
        found.external.add(texts.get(2, ""))


def _fields(data: mmap.mmap, start: int, stop: int) -> Iterator[Field]:
    """The fields of a message.

    Raises:
        _BrokenError: they do not end where it ends.
    """
    at = start
    while at < stop:
        key, at = _number(data, at, stop)
        number, wire = key >> 3, key & 7
        value = -1
        begin = at
        if wire == 0:
            value, at = _number(data, at, stop)
        elif wire == 2:
            length, begin = _number(data, at, stop)
            at = begin + length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise _BrokenError
        if number == 0 or at > stop:
            raise _BrokenError
        yield Field(number, begin, at, value)


def _number(data: mmap.mmap, at: int, stop: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where it ends."""
    value = shift = 0
    while True:
        if at >= stop or shift > 63:
            raise _BrokenError
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
