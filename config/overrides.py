"""``--force_yml a:b:c=value``: edits of an option file from the command line.

The value is read as it would be in the file, by the type of the option it is given to; ``[...]``, ``{...}``, quotes
and ``!!float x`` are YAML. Nothing is evaluated. An edit only replaces text, so all later checks apply to it as well.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from config.document import Builder, Document, Mistake, Place, compose
from utils.errors import InputError
from utils.scalars import PlainText, is_null
from utils.suggest import near_miss
from utils.typed import KeyPath

FLAG = "--force_yml"
_OWN_NAMES: tuple[KeyPath, ...] = (("datasets",), ("val", "metrics"))  # mappings whose keys people choose
_YAML_STARTS = ("[", "{", '"', "'", "!")


class _OverrideError(Exception):
    """Why an edit cannot be made."""


def apply_overrides(document: Document, overrides: Iterable[str]) -> Document:
    """The document with the edits made, in their order; an edit that cannot be made becomes a mistake."""
    for text in overrides:
        keys, equals, value = text.partition("=")
        try:
            document = _apply(document, keys, value.strip() if equals else None)
        except _OverrideError as error:
            mistake = Mistake(Place(0, _label(keys)), (), str(error))
            document = dataclasses.replace(document, mistakes=(*document.mistakes, mistake))
    return document


def _label(keys: str) -> str:
    """What messages call an edit; on one line, whatever was typed."""
    return f"{FLAG} {' '.join(keys.split())}"


def _apply(document: Document, path_text: str, value_text: str | None) -> Document:
    keys = tuple(key.strip() for key in path_text.split(":"))
    if value_text is None or not all(keys):
        raise _OverrideError("expected key:key=value")
    if len(keys) == 1 and value_text == str(Path("~").expanduser()):
        # "val=~" is an assignment to bash. No key at the top holds a path.
        problem = f"the shell has turned ~ into your home folder, {value_text}"
        raise _OverrideError(f"{problem}; for null write {keys[0]}=null")
    _check_parents(document, keys)
    _check_dropped(document, keys, value_text)
    place = Place(0, _label(path_text), keys)
    value, builder = _parse_value(value_text, keys, place)
    kept = {path: known for path, known in document.places.items() if path[: len(keys)] != keys}
    return dataclasses.replace(
        document,
        value=_replaced(document.value, keys, value),
        places={**kept, **builder.places, keys: place},
        mistakes=(*document.mistakes, *builder.mistakes),
    )


def _check_parents(document: Document, keys: tuple[str, ...]) -> None:
    """All keys but the last have to exist: a misspelt section would otherwise be a new one."""
    mapping: Any = document.value
    for depth, key in enumerate(keys):
        here = ":".join(keys[:depth])
        if not isinstance(mapping, Mapping):
            raise _OverrideError(f'"{here}" holds no keys; give it as a whole: {here}=...')
        if key in mapping:
            mapping = mapping[key]
        elif depth + 1 < len(keys):
            inside = f' in "{here}"' if here else ""
            whole = f"{':'.join(keys[: depth + 1])}={{{keys[depth + 1]}: ...}}"
            guess = near_miss(key, mapping) or f"; known: {', '.join(mapping)}; a new section is given whole: {whole}"
            raise _OverrideError(f'there is no "{key}"{inside}{guess}')
        elif "." in key:
            raise _OverrideError(f'keys are divided by ":", as in {key.replace(".", ":")}=...')


def _check_dropped(document: Document, keys: KeyPath, value_text: str) -> None:
    """What is dropped has to be there: ``datasets:test_33=null`` would otherwise leave test_3 in its place silently."""
    mapping = document.get(keys[:-1])
    if keys[:-1] not in _OWN_NAMES or not is_null(PlainText(value_text)) or not isinstance(mapping, Mapping):
        return
    if keys[-1] not in mapping:
        guess = near_miss(keys[-1], mapping) or f"; known: {', '.join(mapping)}"
        raise _OverrideError(f'there is no "{keys[-1]}" to leave out{guess}')


def _parse_value(text: str, keys: KeyPath, place: Place) -> tuple[Any, Builder]:
    builder = Builder(lambda _: place)
    if not text.startswith(_YAML_STARTS) or (text.startswith("{}") and text != "{}"):  # "{}x4" is a filename_tmpl
        return PlainText(text), builder
    text = re.sub(r"^!!float(?=\S)", "!!float ", text)  # BasicSR takes "!!float1e3"
    try:
        node = compose(text, lambda _: str(place))
        return (None if node is None else builder.build(node, keys)), builder
    except InputError as error:
        raise _OverrideError(str(error).removeprefix(f"{place}: ")) from None


def _replaced(mapping: Mapping[str, Any], keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of ``mapping`` with another value at the end of ``keys``."""
    first, *rest = keys
    return {**mapping, first: _replaced(mapping[first], tuple(rest), value) if rest else value}
