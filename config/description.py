"""Options back to plain mappings and to YAML: for checkpoints, logs, and to run the same again."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from config.schema import NetworkOptions, Options, TrainOptions
from data import DegradationOptions
from utils.scalars import PlainText, plain_value
from utils.typed import OneOf, fields_of


def to_dict(options: Options) -> dict[str, Any]:
    """The options as nested dicts and lists of texts and numbers, with the keys of an option file."""
    result: dict[str, Any] = to_plain(options, type(options))
    if isinstance(options, TrainOptions) and options.degradations is None:  # these keys are about something else
        for field in dataclasses.fields(DegradationOptions):
            if getattr(options, field.name) == field.default:
                del result[field.name]
    return result


def describe(options: Options) -> str:
    """The options as the text of an option file, everything included; reading it gives equal options."""
    return yaml.dump(to_dict(options), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def to_plain(value: Any, annotation: Any = Any) -> Any:
    """A value of an option as dicts, lists, texts and numbers; the annotation gives its key ``type``."""
    if isinstance(value, NetworkOptions):
        return to_plain(value.as_mapping(), Any)
    if dataclasses.is_dataclass(value):
        fields = fields_of(type(value)).values()  # which are known; finding the annotations takes milliseconds
        own = {field.name: to_plain(getattr(value, field.name), field.annotation) for field in fields}
        return {**_variant(value, annotation), **own}
    if isinstance(value, Mapping):
        inner = get_args(annotation)[1] if get_args(annotation) else Any
        return {str(key): to_plain(item, inner) for key, item in value.items()}
    if isinstance(value, list | tuple):
        arguments = get_args(annotation)
        inner = arguments[0] if arguments[1:] == (Ellipsis,) else Any
        return [to_plain(item, inner) for item in value]
    return str(value) if isinstance(value, Path) else value


def _variant(value: Any, annotation: Any) -> dict[str, str]:
    """The key ``type`` of a dataclass that was chosen by it."""
    tables = (marker.table() for marker in markers(annotation))
    return next(({"type": name} for table in tables for name, kind in table.items() if type(value) is kind), {})


def markers(annotation: Any) -> Iterator[OneOf]:
    """The markers in an annotation, also in one member of a union."""
    for part in get_args(annotation):
        if isinstance(part, OneOf):
            yield part
        else:
            yield from markers(part)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that our reader could take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write equal parts out instead of referring to each other."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    safe = text.isprintable() and plain_value(PlainText(text)) == text
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if safe else '"')


_Dumper.add_representer(str, _represent_text)
