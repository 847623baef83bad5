"""The sections ``network_g`` and ``network_d``: the constructor of the network says what they may hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from archs import DISCRIMINATORS, NETWORKS, discriminator_class, network_class
from archs.limits import argument_problems
from config.document import Document
from config.schema import NetworkOptions, generator_class
from config.values import ONNX, SCALE_KEYS
from utils.errors import InputError
from utils.scalars import is_null
from utils.scale import as_scale
from utils.typed import INVALID, KeyPath, Report, fields_of, read, read_arguments


def read_network(document: Document, report: Report) -> Any:
    """``network_g``, its arguments checked against the constructor of the network that ``type`` names."""
    found = _read_section(document, ("network_g",), generator_class, report)
    if isinstance(found, NetworkOptions) and found.type:
        network = generator_class(found.type)
        _check_scale(document, found.type, network, found.arguments, report)
        found = dataclasses.replace(found, arguments={**_largest_scale(document, network), **found.arguments})
    return found


def is_file(document: Document) -> bool:
    """Whether ``network_g`` is an ONNX file."""
    section = document.value.get("network_g")
    return isinstance(section, Mapping) and section.get("type") == ONNX


def check_file(document: Document, report: Report, *, training: bool) -> None:
    """Report what contradicts a network that is an ONNX file: training, and weights of their own."""
    if not is_file(document):
        return
    if training:
        advice = "train the network that it is made from, and export that"
        report.problem(("network_g", "type"), f"an ONNX file has no gradient and cannot be trained; {advice}")
    for path in (("precision",), ("val", "precision")):
        if not training and read(document.get(path), str | None, Report()) not in (None, "fp32"):
            report.problem(path, "what an ONNX file computes in was chosen when it was exported; leave the key out")
    for key in ("pretrain_network_g", "param_key_g"):
        if not training and not is_null(document.get(("path", key))):
            report.note(("path", key), "has no effect here: an ONNX file (network_g) holds its weights")


def read_discriminator(document: Document, report: Report) -> Any:
    """``network_d``, its arguments checked likewise."""
    return _read_section(document, ("network_d",), discriminator_class, report)


def same_network(one: NetworkOptions, other: NetworkOptions) -> bool:
    """Whether two sections ``network_d`` describe the same network, defaults of its constructor included."""
    if one.type != other.type or one.type not in DISCRIMINATORS:
        return False
    defaults = {name: field.default for name, field in fields_of(discriminator_class(one.type)).items()}
    return {**defaults, **one.arguments} == {**defaults, **other.arguments}


def _read_section(document: Document, path: KeyPath, find: Callable[[str], type], report: Report) -> Any:
    section = document.get(path)
    if not isinstance(section, Mapping):
        return section  # typed reading reports it
    name = read(section["type"], str, report, (*path, "type")) if "type" in section else None
    if name is None:
        report.problem(path, 'the key "type" is missing; expected the name of a network')
    if name is None or name is INVALID:
        return NetworkOptions("", {})
    arguments = {key: value for key, value in section.items() if key != "type"}
    try:
        network = find(name)
    except InputError as error:
        report.problem((*path, "type"), str(error))
        return NetworkOptions("", arguments)
    values = read_arguments(arguments, network, report, path, name)
    for key, problem in argument_problems(values):
        report.problem((*path, key), problem)
    return NetworkOptions(name, values)


def _largest_scale(document: Document, network: type) -> dict[str, Any]:
    """Of a file with a range of scales, the network's factor where it has none of its own: the upper end."""
    scales = read(document.value.get("scale", 1), tuple[float, float], Report())
    key = next((key for key in SCALE_KEYS if key in fields_of(network)), None)
    return {} if scales is INVALID or key is None else {key: as_scale(scales[1])}


def scale_edits(document: Document, scale: float) -> list[str]:
    """The edits that set the factor of a file and of its network, and take back ``val.scales``."""
    section = document.value.get("network_g")
    given = [key for key in SCALE_KEYS if isinstance(section, Mapping) and key in section]
    name = read(section.get("type"), str, Report()) if isinstance(section, Mapping) else None
    known = fields_of(network_class(name)) if isinstance(name, str) and name in NETWORKS else {}
    keys = given or [key for key in SCALE_KEYS if key in known]
    only = [] if is_null(document.get(("val", "scales"))) else ["val:scales=null"]
    return [f"scale={scale}", *(f"network_g:{key}={scale}" for key in keys), *only]


def _check_scale(document: Document, name: str, network: type, values: Mapping[str, Any], report: Report) -> None:
    """The network and the file have to agree on the factor."""
    fields = fields_of(network)
    key = next((key for key in SCALE_KEYS if key in fields), None)
    wanted = read(document.value.get("scale", 1), int | float, Report())
    if key is None or wanted is INVALID:
        return
    given = values.get(key, fields[key].default)
    if given not in (wanted, None, INVALID):
        absent = "" if "scale" in document.value else ' (the key "scale" is absent)'
        how = "" if key in values else f", the default of {name}"
        report.problem(("network_g", key), f'expected the "scale" of the file, {wanted}{absent}, got {given}{how}')
