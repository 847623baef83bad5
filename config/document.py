"""A YAML file as nested mappings in which every key knows its line.

The text is composed into YAML nodes by PyYAML's safe loader and built into plain dicts and lists here, because the
places of keys are lost in PyYAML's own construction, and because there an unquoted scalar becomes a bool, a float or
a date before anyone knows which of them the option wants. Unquoted scalars stay text (:class:`utils.typed.PlainText`);
nothing in a file can name a Python object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from utils.errors import InputError
from utils.reading import read_regular, shown
from utils.scalars import PlainText, float_of
from utils.suggest import nearest
from utils.typed import KeyPath, key_text

_CORE = "tag:yaml.org,2002:"
_PLAIN = "plain scalar without a tag"
_MERGE_KEY = "<<"
# An option file has some hundred entries; aliases of aliases can multiply a few lines into billions.
MOST_ENTRIES = 20_000
_DEEPEST = 50
MOST_BYTES = 2**20  # the parser takes seconds for each million

_HINTS = {
    "'\\t'": "indent with spaces, not with tabs",
    "expected <block end>": "check the indentation of this line and of the ones above it",
    "mapping values are not allowed": "check the indentation; a text that holds ': ' needs quotes",
    "could not find expected ':'": "a key needs a colon and a space behind it",
    "undefined alias": "the anchor &name has to stand above its use *name",
    "expected a single document": "an option file holds one document, so it has no line '---' in the middle",
}


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """Where a value was given.

    Attributes:
        line: counted from 1; 0 where there are no lines.
        source: file or flag.
        names: the key that ``source`` itself names, which messages need not repeat.
    """

    line: int
    source: str
    names: KeyPath = ()

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclasses.dataclass(frozen=True)
class Mistake:
    """Something wrong with the value of a key, and where it was given."""

    place: Place
    path: KeyPath
    message: str

    def __str__(self) -> str:
        key = "" if self.path == self.place.names else f"{key_text(self.path)}: "
        return f"{self.place}: {key}{self.message}"


@dataclasses.dataclass(frozen=True)
class Document:
    """Nested options as written.

    Attributes:
        source: the file, for messages.
        value: key -> text, number, list or mapping.
        places: path of keys -> where that key was given.
        mistakes: what is wrong with the writing itself (keys given twice, ...).
        files: the file and those that it is based on.
    """

    source: str
    value: Mapping[str, Any]
    places: Mapping[KeyPath, Place]
    mistakes: tuple[Mistake, ...] = ()
    files: tuple[str, ...] = ()

    def place(self, path: KeyPath) -> Place:
        """The place of a key, or of the nearest mapping around it that was written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return Place(1, self.source)

    def get(self, path: KeyPath) -> Any:
        """The value at a path of keys; None where there is none."""
        value: Any = self.value
        for key in path:
            if not isinstance(value, Mapping) or key not in value:
                return None
            value = value[key]
        return value

    def mistake(self, path: KeyPath, message: str) -> Mistake:
        """A mistake at a key of this document."""
        return Mistake(self.place(path), path, message)


def parse(text: str, source: str) -> Document:
    """Read YAML text that holds one mapping."""
    node = compose(text, lambda line: str(Place(line, source)))
    if node is None:
        raise InputError(f"{source}: the file is empty; expected options such as 'name: ...'")
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{Place(_line(node), source)}: expected options as 'key: value' lines")
    builder = Builder(lambda node: Place(_line(node), source))
    value = builder.build(node, ())
    return Document(source, value, builder.places, tuple(builder.mistakes))


def compose(text: str, where: Callable[[int], str]) -> yaml.Node | None:
    """The YAML nodes of a text; ``where`` names a line (counted from 1) in the message of a syntax error."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(f"{where(line)}: not valid YAML: the character {chr(error.character)!r}") from None
    try:
        node: yaml.Node | None = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise InputError(f"{where(mark.line + 1 if mark else 1)}: not valid YAML: {what}{_hint(what)}") from None
    except _TooManyError:
        raise InputError(f"{where(loader.line + 1)}: more than {MOST_ENTRIES} entries") from None
    except (ValueError, OverflowError):
        raise InputError(f"{where(loader.line + 1)}: not valid YAML: this escape stands for no character") from None
    except RecursionError:
        raise InputError(f"{where(loader.line + 1)}: nested too deeply") from None
    finally:
        loader.dispose()
    return node


class _TooManyError(Exception):
    """A text with more nodes than an option file can have."""


class _Loader(yaml.SafeLoader):
    """Composes nodes whose scalars are marked as plain, quoted or explicitly tagged, without guessing their type."""

    nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node; an entry has two at most, its key and its value."""
        self.nodes += 1
        if self.nodes > 2 * MOST_ENTRIES:
            raise _TooManyError
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            return _PLAIN if implicit[0] else f"{_CORE}str"
        return f"{_CORE}seq" if kind is yaml.SequenceNode else f"{_CORE}map"


class Builder:
    """Builds dicts, lists and texts from YAML nodes; notes places and mistakes on the way.

    Args:
        place_of: the place to note for a node.
    """

    def __init__(self, place_of: Callable[[yaml.Node], Place]) -> None:
        self.places: dict[KeyPath, Place] = {}
        self.mistakes: list[Mistake] = []
        self._place_of = place_of
        self._open: set[int] = set()
        self._entries = 0

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        """The value of a node that stands at ``path``."""
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if id(node) in self._open:
            return self._mistake(node, path, "the alias stands inside of what it refers to")
        self._check_size(node)
        self._open.add(id(node))
        value = self._sequence(node, path) if isinstance(node, yaml.SequenceNode) else self._mapping(node, path)
        self._open.discard(id(node))
        return value

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        if node.tag == _PLAIN:
            return PlainText(node.value)
        kind = node.tag.removeprefix(_CORE)
        try:
            return _TAGGED[kind](node.value)
        except KeyError:
            known = ", ".join(f"!!{name}" for name in _TAGGED)
            return self._mistake(node, path, f"the tag {_tag_text(node)} is not allowed here; known: {known}")
        except ValueError:
            return self._mistake(node, path, f"{node.value!a} is no {_tag_text(node)}")

    def _sequence(self, node: yaml.SequenceNode, path: KeyPath) -> list[Any]:
        self._check_tag(node, path, "seq")
        result = []
        for index, item in enumerate(node.value):
            here = (*path, index)
            self.places[here] = self._place_of(item)
            result.append(self.build(item, here))
        return result

    def _mapping(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        self._check_tag(node, path, "map")
        result: dict[str, Any] = {}
        for key, item in self._own_entries(node, path):
            here = (*path, key.value)
            self.places[here] = self._place_of(key)
            result[key.value] = self.build(item, here)
        for merged in self._merged_mappings(node, path):
            self._merge(result, merged, path)
        return result

    def _own_entries(self, node: yaml.Node, path: KeyPath) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
        """The entries of a mapping but for ``<<``; keys that are no text or given twice become mistakes."""
        first: dict[str, yaml.Node] = {}
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._mistake(key, path, "expected a name as key, got a list or a mapping")
            elif key.value in first:
                lines = f"line {_line(first[key.value])}"
                self._mistake(key, (*path, key.value), f"given twice (first in {lines}); keep one of them")
            else:
                first[key.value] = key
                if not _is_merge(key):
                    yield key, item

    def _merged_mappings(self, node: yaml.Node, path: KeyPath) -> Iterator[yaml.MappingNode]:
        """What ``<<: *a`` or ``<<: [*a, *b]`` brings in; the first has precedence, own keys over all."""
        for item in (item for key, item in node.value if _is_merge(key)):
            for merged in item.value if isinstance(item, yaml.SequenceNode) else [item]:
                if isinstance(merged, yaml.MappingNode):
                    yield merged
                else:
                    self._mistake(merged, (*path, _MERGE_KEY), "expected mappings to merge, as in '<<: *anchor'")

    def _merge(self, result: dict[str, Any], merged: yaml.MappingNode, path: KeyPath) -> None:
        inner = Builder(self._place_of)
        inner._open, inner._entries = self._open, self._entries
        values = inner.build(merged, path)
        self._entries = inner._entries
        self.mistakes = list(dict.fromkeys((*self.mistakes, *inner.mistakes)))
        added = {key: value for key, value in (values or {}).items() if key not in result}
        result.update(added)
        self.places.update((at, place) for at, place in inner.places.items() if at[len(path)] in added)

    def _check_tag(self, node: yaml.Node, path: KeyPath, kind: str) -> None:
        if node.tag != _CORE + kind:
            self._mistake(node, path, f"the tag {_tag_text(node)} is not allowed here; remove it")

    def _check_size(self, node: yaml.Node) -> None:
        self._entries += len(node.value) + 1
        if self._entries > MOST_ENTRIES:
            raise InputError(f"{self._place_of(node)}: more than {MOST_ENTRIES} entries, counting aliases")
        if len(self._open) >= _DEEPEST:
            raise InputError(f"{self._place_of(node)}: nested too deeply")

    def _mistake(self, node: yaml.Node, path: KeyPath, message: str) -> None:
        self.mistakes.append(Mistake(self._place_of(node), path, message))


def _text(text: str) -> str:
    """Joins the halves of a character that JSON's escapes write as two; half of one is a ValueError."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16")


# Quoted scalars carry the tag of a string; the other tags are written by hand, as BasicSR's "!!float 2e-4".
_TAGGED: dict[str, Callable[[str], Any]] = {
    "str": _text,
    "float": float_of,
    "int": lambda text: int(text.replace("_", "")),
    "bool": PlainText,
    "null": PlainText,
}


def _is_merge(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.tag == _PLAIN and key.value == _MERGE_KEY


def _tag_text(node: yaml.Node) -> str:
    return str(node.tag).replace(_CORE, "!!")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _hint(problem: str) -> str:
    return next((f" ({hint})" for start, hint in _HINTS.items() if start in problem), "")


def file_text(path: Path) -> str:
    """The text of an option file.

    Raises:
        InputError: it is absent, cannot be read, is a pipe or a device, is too large, or holds no text.
    """
    try:
        data = read_regular(path, MOST_BYTES)
    except FileNotFoundError:
        siblings = {file.stem: file.name for file in path.parent.glob("*.y*ml")} if path.parent.is_dir() else {}
        found = nearest(path.stem, siblings)
        guess = "" if found is None else f' (did you mean "{siblings[found]}"?)'
        raise InputError(f"{shown(path)}: no such option file{guess}") from None
    except IsADirectoryError:
        raise InputError(f"{shown(path)}: expected an option file, this is a folder") from None
    except OSError as error:
        raise InputError(f"{shown(path)}: the option file cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{shown(path)}:{line}: not a text file in UTF-8") from None
