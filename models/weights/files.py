"""Weight files and their forms: read, chosen from, written, with no code from files.

A torch file holds a state dict, alone or inside what its trainer writes (:mod:`models.weights.entries`); a safetensors
file holds one. The content says which of the two a file is, not its name. Everything is read with torch's weights-only
loader. What else a training keeps is in :mod:`models.training.checkpoint`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import archs
from config.schema import Pretrained
from models.weights import numpy_values, trainer_values
from models.weights.entries import HOW_TO_CHOOSE, Entry, entry_for
from models.weights.fit import LISTED, LoadReport, fit
from models.weights.kinds import foreign_kind, holds_module, is_safetensors
from models.weights.published import missing_weights
from utils.errors import InputError
from utils.files import atomic_write
from utils.log import get_logger
from utils.wording import first_few

# What files may hold beside tensors and plain values.
_ALLOWED = [*numpy_values.ALLOWED, *trainer_values.ALLOWED]


def load_weights(
    network: nn.Module,
    path: Path | str,
    key: str | None = "params_ema",
    strict: bool = True,
    *,
    resize_tables: bool = False,
) -> LoadReport:
    """Fill a network from a torch or safetensors file, and log what was read.

    Args:
        network: filled in place, in its own dtype and on its own device.
        path: the file.
        key: entry of the checkpoint; ``params_ema`` and ``params`` give way, with a line in the log, to what the file
            has instead. None: the EMA weights where it has some, else the only weights or those under a usual name.
        strict: every tensor must fit; False leaves out those that do not, and reports them.
        resize_tables: tables of relative positions of another window are resized, and fit then.

    Returns:
        What was loaded, converted and left out (nothing when strict).

    Raises:
        InputError: the file cannot be read, does not fit (the message says what would), or holds NaN or inf.
    """
    report = fill(network, read_checkpoint(Path(path)), key, Path(path), strict=strict, resize_tables=resize_tables)
    log_loaded(report)
    return report


def log_loaded(report: LoadReport) -> None:
    """Log which weights of a file were loaded, and how; a warning where only a part was."""
    get_logger().info("weights: %s: %s", report.path, report.source())
    if report:
        get_logger().warning("%s was loaded in part: %s", report.path, report.summary())
    elif report.converted or report.bookkeeping:
        get_logger().info("%s: %s", report.path, report.summary())


def fill(
    network: nn.Module,
    content: Mapping[str, Any],
    key: str | None,
    path: Path,
    *,
    strict: bool = True,
    resize_tables: bool = False,
) -> LoadReport:
    """The same for a content that is read already; nothing is logged. ``path`` is for messages."""
    return _fill_from(network, entry_for(network, content, key, path), key, path, strict, resize_tables)


def _fill_from(
    network: nn.Module, entry: Entry, key: str | None, path: Path, strict: bool, resize_tables: bool
) -> LoadReport:
    taken, report = fit(network, entry.tensors, resize_tables=resize_tables)
    if report and strict:
        raise InputError(_misfit(path, network, entry, report))
    refuse_nonfinite(network, taken, entry.name, path)
    try:
        network.load_state_dict(taken, strict=False)
    except RuntimeError as error:  # a stored table that does not follow from the network's arguments
        raise InputError(f"{path}: {str(error).strip().splitlines()[-1].strip()}") from error
    return dataclasses.replace(report, entry=entry.name, others=entry.others, asked=key, path=path)


def refuse_nonfinite(network: nn.Module, tensors: Mapping[str, Tensor], entry: str, path: Path) -> None:
    """Raise InputError where tensors for a network hold NaN, or its parameters inf (a buffer may, as a mask)."""
    parameters = {name for name, _ in network.named_parameters()}
    bad = []
    for name, value in tensors.items():
        if value.is_floating_point() and not value.is_meta:
            numbers = value.float()
            wrong = ~numbers.isfinite() if name in parameters else numbers.isnan()
            if wrong.any():
                bad.append(f"{name} ({int(wrong.sum()):,} of {wrong.numel():,} values)")
    if bad:
        named = first_few(bad, LISTED)
        where = f' under "{entry}"' if entry else ""
        raise InputError(
            f"{path}: {len(bad)} of {len(tensors)} tensors{where} hold NaN or inf: {named}; the training that wrote "
            "them had diverged, or the file is damaged: take an earlier checkpoint, or download it again"
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU; tensors and plain values only.

    Raises:
        InputError: absent, damaged, of another kind, or wanting to run code.
    """
    if not path.is_file():
        raise InputError(missing_weights(path))
    try:
        kind = foreign_kind(path)
        if kind is None and is_safetensors(path):
            return _read_safetensors(path)
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read: {error.strerror or error}") from error
    if kind is not None:
        raise InputError(f"{path}: not a readable checkpoint: {kind}")
    try:
        # Opened here: given a name, torch goes by its suffix.
        with warnings.catch_warnings(), torch.serialization.safe_globals(_ALLOWED), path.open("rb") as file:
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols of files that are refused anyway
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(_refusal(path, error)) from error
    except Exception as error:  # of any kind: a damaged pickle calls the loader's functions with anything
        raise InputError(f"{path}: not a readable checkpoint (damaged or cut off?): {first_line(error)}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    plain: dict[str, Any] = numpy_values.unwrapped(content)
    return plain


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


def load_pretrained(network: nn.Module, start: Pretrained) -> LoadReport:
    """Fill a network from the weights that an option file names; :func:`log_loaded` logs the report.

    Raises:
        InputError: the file cannot be read, or does not fit.
    """
    content = read_checkpoint(start.path)
    return fill(network, content, start.key, start.path, strict=start.strict, resize_tables=start.resize_tables)


def load_pretrained_ema(ema: nn.Module, start: Pretrained) -> None:
    """Fill an EMA network, already a copy of the loaded network, from the file's own EMA weights where it has some.

    What the file lacks or holds in another shape stays a copy of the network, for which that was logged already.
    """
    entry = entry_for(ema, read_checkpoint(start.path), "params_ema", start.path)
    if entry.is_ema:
        _fill_from(ema, entry, "params_ema", start.path, start.strict, start.resize_tables)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Save atomically.

    Raises:
        StorageError: the disk is full or broken; what was there before is whole.
    """
    # In memory first, because torch hides a full disk behind an error of its own.
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def write_safetensors(path: Path, content: Mapping[str, Any]) -> None:
    """Save the EMA weights, or the trained ones where there are none, with the options as metadata; atomic.

    Raises:
        StorageError: the disk is full or broken; what was there before is whole.
    """
    from safetensors.torch import save

    about = content["focalsr"]
    metadata = {key: json.dumps(value) for key, value in about.items()}
    metadata["network_g"] = json.dumps(about["options"]["network_g"])
    weights = content.get("params_ema", content["params"])
    with atomic_write(path) as file:
        file.write(save(weights, {"format": "pt", **metadata}))


def check_sums(path: Path) -> None:
    """Compare a file with the checksums inside it; torch itself does not look at them.

    Raises:
        InputError: they differ.
    """
    if not zipfile.is_zipfile(path):
        return  # a form older than the checksums
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise InputError(f"{path}: damaged: the checksum of its part {damaged} is wrong")


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the name of its class where it has none."""
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _misfit(path: Path, network: nn.Module, entry: Entry, report: LoadReport) -> str:
    message = f"{path}: does not fit {type(network).__name__}: {report}."
    held = archs.identify(entry.tensors)
    if held is None:
        where = f' under "{entry.name}"' if entry.name else ""
        return f"{message} Its keys{where} belong to no network known here; if others are meant, {HOW_TO_CHOOSE}."
    described = ", ".join(f"{key}: {value}" for key, value in held.items())
    return message + f" The file fits network_g: {{{described}}}."


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from error
