"""Which layers stay in float32 when a network computes in float16, in the metadata of its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models.weights.files import read_checkpoint, write_checkpoint, write_safetensors
from utils.errors import InputError
from utils.tensor_files.kinds import is_safetensors

PRECISION = "precision"
"""Where weight files say what they need in half precision, beside their other options: ``{"float32": [...]}``."""


def write_with_keep(source: Path, target: Path, record: Mapping[str, Any]) -> None:
    """Copy a weight file, with what it needs in half precision beside all that it holds.

    Args:
        source: ``.pth`` or ``.safetensors``. A bare state dict becomes the entry ``params``.
        target: a name with the same ending; may be ``source``.
        record: names under "float32", and what is known about them.

    Raises:
        InputError: the file cannot be read, or the endings differ.
        StorageError: the disk is full or broken; what was there before is whole.
    """
    form = check_form(source, target)
    content = read_checkpoint(source)
    if form == ".safetensors":
        metadata = {**metadata_of(source), PRECISION: json.dumps(dict(record))}
        write_safetensors(target, content, metadata)
        return
    if content and all(isinstance(value, Tensor) for value in content.values()):
        content = {"params": content}
    about = content.get("focalsr")
    content["focalsr"] = {**(about if isinstance(about, Mapping) else {}), PRECISION: dict(record)}
    write_checkpoint(target, content)


def check_form(source: Path, target: Path) -> str:
    """The ending of a weight file's form, which a copy must have; InputError where it has another."""
    form = ".safetensors" if source.is_file() and is_safetensors(source) else ".pth"
    if target.suffix != form:
        raise InputError(f"{target}: {source} is copied as it is; choose a name that ends in {form}")
    return form


def metadata_of(weights: Path) -> dict[str, str]:
    """The texts that a ``.safetensors`` file carries beside its tensors."""
    from safetensors import safe_open

    with safe_open(weights, "pt") as file:
        return dict(file.metadata() or {})


def names_in(recorded: object) -> tuple[str, ...]:
    """The list in what a file says under :data:`PRECISION`; empty where that is nothing, or of another form."""
    names = recorded.get("float32") if isinstance(recorded, Mapping) else None
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()
