"""The content of a file of tensors, read without running anything that it says.

The content says which of the two forms a file has, not its name. torch files are read with torch's weights-only loader.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from utils.errors import InputError
from utils.tensor_files import numpy_values, trainer_values
from utils.tensor_files.kinds import foreign_kind, holds_module, is_safetensors
from utils.tensor_files.sums import compared, explained
from utils.wording import first_line

# What files may hold beside tensors and plain values.
_ALLOWED = [*numpy_values.ALLOWED, *trainer_values.ALLOWED]


@contextmanager
def tensor_content(path: Path, picture: Callable[[bytes], str | None] = lambda _head: None) -> Iterator[dict[str, Any]]:
    """What a file holds, tensors and plain values, on the CPU, while the file is compared with its checksums.

    Before the block ends, change nothing by it.

    Args:
        path: an existing file.
        picture: as in :func:`utils.tensor_files.kinds.foreign_kind`.

    Raises:
        InputError: damaged, of another kind, or wanting to run code; at the end of the block too, in place of what went
            wrong inside.
    """
    with explained(path):
        kind = foreign_kind(path, picture)
        safetensors = kind is None and is_safetensors(path)
    if kind is not None:
        raise InputError(f"{path}: not a readable checkpoint: {kind}")
    # Opened here: given a name, torch goes by its suffix.
    with _opened(path) as file, compared(file, path, safetensors=safetensors):
        yield _read_safetensors(path) if safetensors else _read_torch(file, path)


def _opened(path: Path) -> BinaryIO:
    with explained(path):
        return path.open("rb")


def _read_torch(file: BinaryIO, path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_ALLOWED):
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols of files that are refused anyway
            content = numpy_values.unwrapped(torch.load(file, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        raise InputError(_refusal(path, error)) from error
    except Exception as error:  # of any kind: a damaged pickle calls the loader's functions with anything
        raise InputError(f"{path}: not a readable checkpoint (damaged or cut off?): {first_line(error)}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    return dict(content)


def _refusal(path: Path, error: pickle.UnpicklingError) -> str:
    """Why the weights-only loader refuses a file, and how its owner makes one of its weights alone."""
    if holds_module(path):
        return (
            f"{path}: refused, because it holds a whole network as Python objects, which can run code when loaded; "
            "where you trust it and have its source, write the weights alone there: "
            "torch.save(torch.load('IN', weights_only=False).state_dict(), 'OUT.pth')"
        )
    _, _, text = str(error).partition("WeightsUnpickler error: ")
    reason = re.split(r"\. Please| was not|Check the documentation", text)[0].strip() or first_line(error)
    return (
        f"{path}: refused, because it is damaged or holds more than tensors and plain values (loading it could run "
        f"code): {reason}. Where you trust the file, write its weights alone into another one: torch.load(..., "
        "weights_only=False), then torch.save"
    )


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from error
