"""Weight files and their forms: read, chosen from, written, with no code from files.

``.pth`` files hold a state dict, alone or under ``params`` and ``params_ema`` (BasicSR), or below ``model: sd`` (LIIF);
``.safetensors`` files hold one. Everything is read with torch's weights-only loader. What else a training keeps is in
:mod:`models.training.checkpoint`.
"""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import archs
from config.schema import Pretrained
from models.weights.fit import LoadReport, fit
from utils.errors import InputError
from utils.files import atomic_write
from utils.log import get_logger


def load_weights(
    network: nn.Module,
    path: Path | str,
    key: str | None = "params_ema",
    strict: bool = True,
    *,
    resize_tables: bool = False,
) -> LoadReport:
    """Fill a network from a ``.pth`` (BasicSR's forms or a bare state dict) or ``.safetensors`` file.

    Args:
        network: filled in place, in its own dtype and on its own device.
        path: the file.
        key: entry of the checkpoint; where it is absent, ``params`` serves, and a bare state dict is taken as it is.
            None: the file itself is the state dict.
        strict: every tensor must fit; False leaves out those that do not, and reports them.
        resize_tables: tables of relative positions of another window are resized, and fit then.

    Returns:
        What was loaded, converted and left out (nothing when strict).

    Raises:
        InputError: the file cannot be read, or does not fit; says what would.
    """
    report = _fill(network, Path(path), key, strict, resize_tables)
    if report:
        get_logger().warning("%s was loaded in part: %s", path, report.summary())
    elif report.converted:
        get_logger().info("%s: %s", path, report.summary())
    return report


def _fill(network: nn.Module, path: Path, key: str | None, strict: bool, resize_tables: bool) -> LoadReport:
    tensors = select_weights(read_checkpoint(path), key, path)
    taken, report = fit(network, tensors, resize_tables=resize_tables)
    if report and strict:
        raise InputError(_misfit(path, network, tensors, report))
    try:
        network.load_state_dict(taken, strict=False)
    except RuntimeError as error:  # a stored table that does not follow from the network's arguments
        raise InputError(f"{path}: {str(error).strip().splitlines()[-1].strip()}") from error
    return report


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU; tensors and plain values only.

    Raises:
        InputError: absent, damaged, of another kind, or wanting to run code.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols of files that are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        _, _, reason = str(error).partition("WeightsUnpickler error: ")
        raise InputError(
            f"{path}: refused, because it is damaged or holds more than tensors and plain values "
            f"(loading it could run code): {reason.split('. Please')[0].split(' was not')[0] or first_line(error)}"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path}: not a readable checkpoint (damaged or cut off?): {first_line(error)}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    return dict(content)


def select_weights(content: Mapping[str, Any], key: str | None, path: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint's content, without any leading ``module.``.

    Raises:
        InputError: there is none under that key.
    """
    if key is not None and key in content:
        chosen = content[key]
    elif key is not None and "params" in content:
        get_logger().info('%s has no "%s"; using "params"', path, key)
        chosen = content["params"]
    elif isinstance(content.get("model"), Mapping) and "sd" in content["model"]:
        chosen = content["model"]["sd"]  # the form of LIIF and its successors
    else:
        chosen = content
    tensors = {
        name.removeprefix("module."): value for name, value in chosen.items() if isinstance(value, Tensor)
    } if isinstance(chosen, Mapping) else {}  # fmt: skip
    if not tensors:
        raise InputError(f'{path}: holds no weights under "{key}"; its entries: {", ".join(map(str, content))}')
    return tensors


def load_pretrained(network: nn.Module, start: Pretrained) -> LoadReport:
    """Fill a network from the weights that an option file names.

    Raises:
        InputError: the file cannot be read, or does not fit.
    """
    return load_weights(network, start.path, start.key, start.strict, resize_tables=start.resize_tables)


def load_pretrained_ema(ema: nn.Module, start: Pretrained) -> None:
    """Fill an EMA network, already a copy of the loaded network, from the file's own EMA weights.

    What the file lacks or holds in another shape stays a copy of the network, for which that was logged already.
    """
    if start.key is not None:
        _fill(ema, start.path, "params_ema", start.strict, start.resize_tables)


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


def _misfit(path: Path, network: nn.Module, tensors: Mapping[str, Tensor], report: LoadReport) -> str:
    message = f"{path}: does not fit {type(network).__name__}: {report}."
    held = archs.identify(tensors)
    if held is None:
        return message + " Its keys belong to no network known here."
    described = ", ".join(f"{key}: {value}" for key, value in held.items())
    return message + f" The file fits network_g: {{{described}}}."


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from error
