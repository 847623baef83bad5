"""``base: common/hat.yml``: a file that says only what is its own, and names the files that say the rest.

Mappings are merged key by key, to any depth, and the including file has the last word; everything else (numbers,
texts, lists) is replaced. A mapping that names another ``type`` replaces the whole mapping of the base, whose other
keys belong to another class. Of several bases the later one wins. Each key keeps the place where it was written, so
that a mistake is reported with the file that holds it.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from config.document import MOST_ENTRIES, Document, file_text, parse
from utils.errors import InputError
from utils.scalars import PlainText, read_scalar
from utils.typed import KeyPath

KEY = "base"
_MOST_BASES = 100  # each is merged, which takes a moment


def load(path: str | Path) -> Document:
    """Read an option file with all the files that it is based on.

    Raises:
        InputError: a file is absent, no YAML or no mapping, or includes itself; the message names file and line.
    """
    return _Loading().load(Path(path), ())


def merge(base: Document, own: Document) -> Document:
    """``base`` with everything that ``own`` says put over it."""
    value = _merged(base.value, own.value)
    places = {path: place for path, place in base.places.items() if not _hidden(path, base.value, own.value)}
    mistakes = tuple(dict.fromkeys((*base.mistakes, *own.mistakes)))
    files = tuple(dict.fromkeys((*own.files, *base.files)))
    return Document(own.source, value, {**places, **own.places}, mistakes, files)


def written(path: Path) -> str:
    """The text of an option file; one that has bases is written out with them, so that it can stand alone.

    Raises:
        InputError: see :func:`load`.
    """
    document = load(path)
    if len(document.files) < 2:
        return file_text(path)
    return f"# merged from {', '.join(document.files)}\n" + dump(document)


def dump(document: Document) -> str:
    """A document as YAML: unquoted texts stay unquoted, quoted ones quoted."""
    return yaml.dump(document.value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Loading:
    """A reading of a file with its bases; one that is named by several of them is read once."""

    def __init__(self) -> None:
        self._loaded: dict[Path, Document] = {}
        self._named = 0

    def load(self, path: Path, above: tuple[Path, ...]) -> Document:
        """A file with its bases; ``above`` are the files that lead to it. Errors as :func:`load`."""
        return self._with_bases(path, above, file_text(path))

    def _with_bases(self, path: Path, above: tuple[Path, ...], text: str) -> Document:
        document = dataclasses.replace(parse(text, str(path)), files=(str(path),))
        merged: Document | None = None
        for place, name in _names(document):
            found = self._base(document, place, path.parent / name, (*above, path))
            merged = found if merged is None else merge(merged, found)
        own = dataclasses.replace(
            document,
            value={key: value for key, value in document.value.items() if key != KEY},
            places={place: where for place, where in document.places.items() if place[0] != KEY},
        )
        whole = own if merged is None else merge(merged, own)
        if len(whole.places) > MOST_ENTRIES:
            raise InputError(f"{path}: more than {MOST_ENTRIES} entries with those of its bases")
        return whole

    def _base(self, document: Document, place: KeyPath, base: Path, chain: tuple[Path, ...]) -> Document:
        """A base that a document names at a place."""
        self._named += 1
        if self._named > _MOST_BASES:
            raise InputError(str(document.mistake(place, f"more than {_MOST_BASES} bases, counting those of bases")))
        same = _same(base)
        known = [_same(file) for file in chain]
        if same in known:
            circle = " -> ".join(str(file) for file in (*chain[known.index(same) :], base))
            raise InputError(str(document.mistake(place, f"a file cannot be its own base: {circle}")))
        if same not in self._loaded:
            try:
                text = file_text(base)
            except InputError as error:
                raise InputError(str(document.mistake(place, str(error)))) from None
            self._loaded[same] = self._with_bases(base, chain, text)
        return self._loaded[same]


def _same(path: Path) -> Path:
    """The path without links: equal for one file. Of a link that leads to itself, the link."""
    return Path(os.path.realpath(path))


def _names(document: Document) -> list[tuple[KeyPath, Path]]:
    """The files that a document names as bases, with the keys that name them; ``~`` is the home folder."""
    if KEY not in document.value:
        return []
    value = document.value[KEY]
    named = [((KEY, i), item) for i, item in enumerate(value)] if isinstance(value, list) else [((KEY,), value)]
    result: list[tuple[KeyPath, Path]] = []
    for place, name in named:
        try:
            result.append((place, read_scalar(name, Path, ())))
        except ValueError:
            problem = "expected the path of an option file, or a list of them"
            raise InputError(str(document.mistake(place, problem))) from None
    return result


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in own.items():
        result[key] = _merged(base[key], value) if key in base and _merges(base[key], value) else value
    return result


def _merges(base: Any, own: Any) -> bool:
    """Whether two values of a key are merged; else the including file's stands alone."""
    if not isinstance(base, Mapping) or not isinstance(own, Mapping):
        return False
    return "type" not in own or "type" not in base or str(base["type"]) == str(own["type"])


def _hidden(path: KeyPath, base: Any, own: Any) -> bool:
    """Whether what a base says at a path is replaced as a whole by what the including file says above it."""
    for key in path:
        if not isinstance(own, Mapping) or key not in own:
            return False
        base, own = base[key], own[key]
        if not _merges(base, own):
            return True
    return False


class _Dumper(yaml.SafeDumper):
    """Writes unquoted texts as they were, whatever YAML would take them for."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal parts out instead of referring to each other."""
        return True

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        """Every unquoted scalar is a text, as our own loader reads it."""
        name = "seq" if kind is yaml.SequenceNode else "map" if kind is yaml.MappingNode else "str"
        return f"tag:yaml.org,2002:{name}"


def _represent_plain(dumper: yaml.SafeDumper, text: PlainText) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text))


def _represent_quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


def _represent_number(dumper: yaml.SafeDumper, number: float) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", repr(number))


def _represent_mapping(dumper: yaml.SafeDumper, mapping: Mapping[str, Any]) -> yaml.MappingNode:
    # Keys are plain names; as quoted texts they would read just as well, but not look like it.
    named = {PlainText(key) if key.replace("_", "").isalnum() else key: value for key, value in mapping.items()}
    return dumper.represent_mapping("tag:yaml.org,2002:map", named)


_Dumper.add_representer(PlainText, _represent_plain)
_Dumper.add_representer(str, _represent_quoted)
_Dumper.add_representer(int, _represent_number)
_Dumper.add_representer(float, _represent_number)
_Dumper.add_representer(dict, _represent_mapping)
