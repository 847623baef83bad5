"""The pages about option files, made from the dataclasses: Markdown for people, a JSON schema for editors."""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import types
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from config.bases import KEY as BASE
from config.checks import UNSUPPORTED_KEYS, UNSUPPORTED_MODEL_TYPES
from config.description import markers, to_plain
from config.schema import MODEL_TYPES, Networks, Options, TestOptions, TrainOptions
from config.terms import Origin
from utils.typed import Field, fields_of, key_text, number_text, type_name

_INTRODUCTION = """\
# Options

<!-- Generated from the option dataclasses by scripts/make_docs.py; a test fails when it is stale. -->

Every key of an option file. Check a file, and print it with all defaults:

```bash
python scripts/prepare_demo_data.py
python train.py -opt options/demo/train_plainusr_x4.yml --check --verbose
```

Option files are YAML with BasicSR's keys. `python train.py -opt FILE` needs a training file (sections `train` and
`datasets: train:`), `python test.py -opt FILE` a test file. Editors that know JSON schemas complete and check the files
with [options.schema.json](options.schema.json).

- The type of a key decides how its text is read: `2e-4`, `0.0002` and `!!float 2e-4` are the same number, `yes` is true
  where true or false is wanted and a text elsewhere, `~`, `null` and nothing at all are null. `5e3` is a whole number.
- Unknown, misspelt or doubled keys and values that do not fit are mistakes. All of them are reported at once, as
  `file:line: key: what is wrong`, and nothing is run (exit code 2). Keys of BasicSR that have no effect here are
  [accepted](#accepted-without-effect), and reported once.
- `~` at the start of a path is the home folder. Other relative paths start from the current folder.
- Anchors (`&name`, `*name`) and merging (`<<: *name`) work. Nothing in a file or on the command line is evaluated.
- An option file is a regular file of at most a megabyte, 20,000 entries with its bases, and 100 bases; a pipe, which
  `-opt <(command)` would be, is refused, because a run reads its option file again: write it to a file first. Numbers
  have to be finite, and sizes of networks have bounds far beyond those that are published.
- What no training can be meant by (a learning rate of 0, `eta_min` above it, a loss weight below 0) is a mistake.
  What hardly is (milestones beyond `total_iter`, a validation without metrics) is reported once.

`base: common/hat.yml`, or a list of files, names files that say what this one does not; their paths start from the
folder of the file that names them, and they may have bases of their own. Mappings are merged key by key, lists and
texts are replaced, the including file wins, and of several bases the later one. A mapping that names another `type`
replaces the base's as a whole. `--check --verbose` prints the result with all defaults; the copy that a run keeps is
merged.

On the command line, `--force_yml train:optim_g:lr=1e-4 name=trial` changes keys: all but the last have to exist, and
the value is read as it would be in the file; lists, mappings and quoted texts are YAML
(`train:optim_g:betas=[0.9, 0.99]`). `datasets:test_3=null`, or `test_3: ~` in a file, leaves out a data set of the file
or of its base, and so with a metric, a section or any mapping that may be absent; `val=null` rather than `val=~`,
because bash puts the home folder in the place of that `~`. `python test.py -opt FILE --sets Set5 Set14` tests on the
sets of these names. A name that holds `debug`, or the flag `--debug`, which puts it there, makes a training a short
trial run: validation and checkpoints every 8 iterations, a log line for each, no TensorBoard.
"""

_SCHEMA_BOUNDS = {
    "at least": "minimum", "above": "exclusiveMinimum", "at most": "maximum", "below": "exclusiveMaximum",
}  # fmt: skip
_SHARED_FROM = 150  # letters of a part of the schema that is written once
_BASE_SCHEMA = {
    "description": "option files, as seen from this one, that say what this one does not; of several, the later wins",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}


class Section(NamedTuple):
    """One mapping of an option file: its path, the names its key ``type`` may have, and what describes it."""

    path: str
    types: tuple[str, ...]
    target: Callable[..., Any]


def markdown() -> str:
    """The page ``docs/options.md``."""
    parts = [_INTRODUCTION]
    groups: dict[tuple[tuple[str, ...], Any], list[str]] = {}  # what is the same at several places is said once
    for path, types_, target in sections():
        groups.setdefault((types_, target), []).append(path)
    for (types_, target), paths in groups.items():
        parts.append("\n".join([f"## {_title(paths, types_)}", "", _summary(target), "", *_table(target)]))
    parts.append("\n".join(["## Accepted without effect", "", *_ignored_table()]))
    parts.append("\n".join(["## Not supported", "", *_unsupported_table()]))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def json_schema() -> dict[str, Any]:
    """The schema ``docs/options.schema.json`` (draft 7), for training and test files alike."""
    schema = _object_schema(TrainOptions)
    schema["properties"]["model_type"]["enum"] = list(MODEL_TYPES)
    schema["properties"]["num_gpu"] = {"anyOf": [{"const": "auto"}, schema["properties"]["num_gpu"]]}
    schema["required"] = [key for key in schema["required"] if key not in ("train", *Options.FILLED_IN)]
    partial = _without_required(schema)
    partial["properties"] = {BASE: _BASE_SCHEMA, **partial["properties"]}
    definitions: dict[str, Any] = {}
    whole = _shared({"if": {"required": [BASE]}, "then": partial, "else": schema}, definitions)
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Option file of FocalSR"}
    return {**head, **whole, "definitions": definitions}


def _shared(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema with references in the place of larger parts that occur several times, which go into definitions."""
    texts: dict[int, str] = {}  # of each part, by its identity
    pending = [schema]
    while pending:
        part = pending.pop()
        texts[id(part)] = json.dumps(part)
        pending.extend(_parts(part))
    counts = Counter(texts.values())
    names: dict[str, str] = {}

    def replaced(part: dict[str, Any]) -> dict[str, Any]:
        text = texts[id(part)]
        if counts[text] < 2 or len(text) < _SHARED_FROM:
            return _with_parts(part, replaced)
        if text not in names:
            names[text] = f"shared_{len(names) + 1}"
            definitions[names[text]] = _with_parts(part, replaced)
        return {"$ref": f"#/definitions/{names[text]}"}

    return replaced(schema)


def _parts(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The schemas directly inside one."""
    found: list[dict[str, Any]] = []

    def collected(part: dict[str, Any]) -> dict[str, Any]:
        found.append(part)
        return part

    _with_parts(schema, collected)
    return found


def _with_parts(schema: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """A copy with the schemas directly inside it changed."""
    result = dict(schema)
    for key, value in schema.items():
        if key == "properties":
            result[key] = {name: change(part) for name, part in value.items()}
        elif key in ("allOf", "anyOf"):
            result[key] = [change(part) for part in value]
        elif key in ("items", "additionalProperties", "if", "then", "else") and isinstance(value, dict):
            result[key] = change(value)
    return result


def _without_required(schema: Any) -> Any:
    """A copy that accepts mappings with keys missing, since a base may hold them."""
    if isinstance(schema, list):
        return [_without_required(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # "required" also is a condition, under "if": which class a mapping describes.
    return {
        key: value if key == "if" else _without_required(value)
        for key, value in schema.items()
        if key != "required" or not isinstance(value, list)
    }


def sections() -> Iterator[Section]:
    """All mappings of an option file, from the outside in."""
    yield Section("", (), TrainOptions)
    yield from _inner_sections("", TrainOptions)


def _inner_sections(path: str, target: Callable[..., Any]) -> Iterator[Section]:
    for name, field in fields_of(target).items():
        yield from _sections_of(f"{path}.{name}" if path else name, field.annotation)


def _sections_of(path: str, annotation: Any) -> Iterator[Section]:
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        yield Section(path, (), annotation)
        yield from _inner_sections(path, annotation)
    elif networks := _networks(annotation):
        yield from _network_sections(path, networks)
    elif marker := next(markers(annotation), None) if get_origin(annotation) is typing.Annotated else None:
        for kind, names in _names_by_class(marker.table()).items():
            yield Section(path, names, kind)
            yield from _inner_sections(path, kind)
    elif get_origin(annotation) in (Mapping, collections.abc.Mapping):
        yield from _sections_of(f"{path}.NAME", get_args(annotation)[1])
    else:
        for member in get_args(annotation):
            yield from _sections_of(path, member)


def _networks(annotation: Any) -> Networks | None:
    """The networks that a section may name, where it describes one."""
    return next((part for part in get_args(annotation) if isinstance(part, Networks)), None)


def _network_sections(path: str, networks: Networks) -> Iterator[Section]:
    """Networks that take the same arguments share a section."""
    groups: dict[str, list[str]] = {}
    for name in networks.names:
        groups.setdefault("\n".join(_table(networks.find(name))), []).append(name)
    for names in groups.values():
        yield Section(path, tuple(names), networks.find(names[0]))


def _names_by_class(table: Mapping[str, type]) -> dict[type, tuple[str, ...]]:
    result: dict[type, tuple[str, ...]] = {}
    for name, kind in table.items():
        # Of a term of the losses, the keys beside those of the loss itself, which have sections of their own.
        origin = getattr(kind, "ORIGIN", None)
        own = origin.beside if isinstance(origin, Origin) else kind
        result[own] = (*result.get(own, ()), name)
    return result


def _title(paths: Sequence[str], types_: Sequence[str]) -> str:
    if paths == [""]:
        return "Top level"
    where, names = (", ".join(f"`{name}`" for name in listed) for listed in (paths, types_))
    return where + (f" of type {names}" if names else "")


def _summary(target: Callable[..., Any]) -> str:
    """The first paragraph of a docstring, on one line."""
    if target is TrainOptions:
        return "What a file may hold. `train` and `logger` belong to training files only."
    return " ".join((target.__doc__ or "").strip().split("\n\n")[0].split()).replace("``", "`")


def _table(target: Callable[..., Any]) -> list[str]:
    fields = fields_of(target)
    if not fields:
        return ["No further keys."]
    rows = [
        (f"`{name}`", _kind_text(field), _default_text(field), field.help.removesuffix("."))
        for name, field in fields.items()
    ]
    return _markdown_table(("key", "value", "default", "meaning"), rows)


def _ignored_table() -> list[str]:
    rows: list[tuple[str, str]] = []
    for section in [*sections(), Section("", (), TestOptions)]:
        ignored: Mapping[str, str] = getattr(section.target, "IGNORED", {})
        rows.extend((f"`{section.path}.{key}`".replace("`.", "`"), reason) for key, reason in ignored.items())
    return _markdown_table(("key", "why"), list(dict.fromkeys(rows)))


def _unsupported_table() -> list[str]:
    keys = [(f"`{key_text(path)}`", reason) for path, reason in UNSUPPORTED_KEYS.items()]
    models = [(f"`model_type: {name}`", reason) for name, reason in UNSUPPORTED_MODEL_TYPES.items()]
    return _markdown_table(("key", "why"), [*keys, *models])


def _markdown_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [header, ("---",) * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _kind_text(field: Field) -> str:
    limits = [f"{words} {number_text(limit)}" for words, limit in field.bounds()]
    return ", ".join([type_name(field.annotation), *limits])


def _default_text(field: Field) -> str:
    if field.name in Options.FILLED_IN:
        return Options.FILLED_IN[field.name]
    if field.required:
        return "required"
    if dataclasses.is_dataclass(field.default) or field.default == {}:
        return "see below"
    return f"`{_yaml_text(to_plain(field.default))}`"


def _yaml_text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_yaml_text, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _object_schema(target: Callable[..., Any], **fixed: Any) -> dict[str, Any]:
    """The schema of a mapping with the keys of a dataclass or constructor; ``fixed`` are further properties."""
    fields = fields_of(target)
    ignored: Mapping[str, str] = getattr(target, "IGNORED", {})
    properties = {name: _field_schema(field) for name, field in fields.items()}
    unused = {name: {"description": f"accepted without effect: {reason}"} for name, reason in ignored.items()}
    required = [name for name, field in fields.items() if field.required]
    return {
        "type": "object",
        "properties": {**fixed, **properties, **unused},
        "required": required,
        "additionalProperties": False,
    }


def _field_schema(field: Field) -> dict[str, Any]:
    schema = _schema_of(field.annotation) if field.required else _or_null(_schema_of(field.annotation))
    numbers = schema["items"] if schema.get("type") == "array" and isinstance(schema["items"], dict) else schema
    for words, limit in field.bounds():
        numbers[_SCHEMA_BOUNDS[words]] = limit
    if field.help:
        schema["description"] = field.help
    if not field.required and not dataclasses.is_dataclass(field.default):
        schema["default"] = to_plain(field.default)
    return schema


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A mapping that may be left out may be null as well."""
    return {**schema, "type": ["object", "null"]} if schema.get("type") == "object" else schema


def _schema_of(annotation: Any) -> dict[str, Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if networks := _networks(annotation):
        return _variants_schema({name: networks.find(name) for name in networks.names})
    if origin is typing.Annotated:
        marker = next(markers(annotation), None)
        return _variants_schema(marker.table(), marker.default_type) if marker else _schema_of(arguments[0])
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        members = [member for member in arguments if member is not type(None)]
        inner = _schema_of(members[0])
        if len(members) == 1 and inner.get("type") == "object":
            return _or_null(inner)
        return {"anyOf": [_schema_of(member) for member in arguments]}
    if origin in (list, tuple, collections.abc.Sequence):
        size = (
            {}
            if origin is not tuple or Ellipsis in arguments
            else dict.fromkeys(("minItems", "maxItems"), len(arguments))
        )
        kinds = [_schema_of(argument) for argument in dict.fromkeys(arguments) if argument is not Ellipsis]
        return {"type": "array", "items": kinds[0] if len(kinds) == 1 else {"anyOf": kinds}, **size}
    if origin in (dict, collections.abc.Mapping):
        return {"type": "object", "additionalProperties": _or_null(_schema_of(arguments[1]))}
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _object_schema(annotation)
    names = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string", type(None): "null"}
    return {"type": names[annotation]} if annotation in names else {}


def _variants_schema(table: Mapping[str, type], default: str | None = None) -> dict[str, Any]:
    """A mapping whose key ``type`` decides what else it holds."""
    choices = [
        {
            "if": {
                "type": "object",  # null has no type
                "properties": {"type": {"const": name}},
                "required": [] if name == default else ["type"],
            },
            "then": _object_schema(kind, type={"const": name}),
        }
        for name, kind in table.items()
    ]
    required = [] if default else ["type"]
    return {"type": "object", "properties": {"type": {"enum": list(table)}}, "required": required, "allOf": choices}
