"""Weight files and their forms: read, chosen from, written, with no code from files.

A torch file holds a state dict, alone or inside what its trainer writes (:mod:`models.weights.entries`); a safetensors
file holds one. The content says which of the two a file is, not its name. Everything is read with torch's weights-only
loader. What else a training keeps is in :mod:`models.training.checkpoint`.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import archs
from archs.contract import Discriminator
from config.values import Pretrained
from data.images.kinds import kind_of_content
from models.weights.entries import HOW_TO_CHOOSE, Entry, entry_for
from models.weights.fit import LISTED, LoadReport, fit
from models.weights.published import missing_weights
from utils.errors import InputError
from utils.files import atomic_write
from utils.log import get_logger
from utils.tensor_files.kinds import WANTED
from utils.tensor_files.reading import tensor_content
from utils.tensor_files.sums import SEAL_KEY, UNSEALED, sealed_archive, sealed_tensors
from utils.wording import first_few


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
    report = load_pretrained(network, Pretrained(Path(path), key, strict, resize_tables))
    log_loaded(report)
    return report


def log_loaded(report: LoadReport) -> None:
    """Log which weights of a file were loaded, and how; a warning where only a part was."""
    get_logger().info("weights: %s: %s", report.path, report.source())
    if report:
        get_logger().warning("%s was loaded in part: %s", report.path, report.summary())
    elif report.converted or report.bookkeeping:
        get_logger().info("%s: %s", report.path, report.summary())


@dataclass(frozen=True)
class _Fitted:
    """Tensors of a file that a network can take.

    Attributes:
        tensors: to be loaded.
        report: of what becomes of the file.
    """

    tensors: Mapping[str, Tensor]
    report: LoadReport

    def put_into(self, network: nn.Module) -> LoadReport:
        """Fill the network."""
        try:
            network.load_state_dict(self.tensors, strict=False)
        except RuntimeError as error:  # a stored table that does not follow from the network's arguments
            raise InputError(f"{self.report.path}: {str(error).strip().splitlines()[-1].strip()}") from error
        return self.report


def _fitted(network: nn.Module, entry: Entry, key: str | None, start: Pretrained) -> _Fitted:
    taken, report = fit(network, entry.tensors, resize_tables=start.resize_tables)
    if report and (swapped := _swapped(start.path, network, entry)):
        raise InputError(swapped)
    if report and start.strict:
        raise InputError(_misfit(start.path, network, entry, report))
    refuse_nonfinite(network, taken, entry.name, start.path)
    named = dataclasses.replace(report, entry=entry.name, others=entry.others, asked=key, path=start.path)
    return _Fitted(taken, named)


def refuse_nonfinite(network: nn.Module, tensors: Mapping[str, Tensor], entry: str, path: Path) -> None:
    """Raise InputError where tensors for a network hold NaN, or its parameters inf (a buffer may, as a mask)."""
    parameters = {name for name, _ in network.named_parameters()}
    bad = []
    for name, value in tensors.items():
        if value.is_floating_point() and not value.is_meta:
            numbers = value.float()
            if numbers.sum().isfinite():  # then all of them are; ten times as fast as to look at each
                continue
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
    with checkpoint_content(path) as content:
        return content


@contextmanager
def checkpoint_content(path: Path) -> Iterator[dict[str, Any]]:
    """The same, while the file is still being compared with its checksums: before the block ends, change nothing by it.

    Raises:
        InputError: as :func:`read_checkpoint`; at the end of the block too, in place of what went wrong inside.
    """
    if not path.is_file():
        raise InputError(missing_weights(path))
    with tensor_content(path, picture=_picture) as content:
        yield content


def _picture(head: bytes) -> str | None:
    """What to say of a file that begins as pictures and films do; None of others."""
    kind = kind_of_content(head)
    if kind is None:
        return None
    return f"a {'film' if kind.role == 'film' else 'picture'} ({kind.name}), not weights; {WANTED}"


def load_pretrained(network: nn.Module, start: Pretrained) -> LoadReport:
    """Fill a network from the weights that an option file names; :func:`log_loaded` logs the report.

    Raises:
        InputError: the file cannot be read, or does not fit.
    """
    with checkpoint_content(start.path) as content:
        fitted = _fitted(network, entry_for(network, content, start.key, start.path), start.key, start)
    return fitted.put_into(network)


def fill(network: nn.Module, content: Mapping[str, Any], start: Pretrained) -> LoadReport:
    """:func:`load_pretrained` of a content that :func:`read_checkpoint` has read already.

    Raises:
        InputError: it does not fit.
    """
    entry = entry_for(network, content, start.key, start.path)
    return _fitted(network, entry, start.key, start).put_into(network)


def load_pretrained_ema(ema: nn.Module, start: Pretrained) -> None:
    """Fill an EMA network, already a copy of the loaded network, from the file's own EMA weights where it has some.

    What the file lacks or holds in another shape stays a copy of the network, for which that was logged already.
    """
    with checkpoint_content(start.path) as content:
        entry = entry_for(ema, content, "params_ema", start.path)
        fitted = _fitted(ema, entry, "params_ema", start) if entry.is_ema else None
    if fitted is not None:
        fitted.put_into(ema)


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Save atomically, sealed (:mod:`utils.tensor_files.sums`).

    Raises:
        StorageError: the disk is full or broken; what was there before is whole.
    """
    # In memory first, because torch hides a full disk behind an error of its own.
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    _write(path, sealed_archive(buffer.getbuffer()))


def write_network(path: Path, content: Mapping[str, Any]) -> None:
    """The EMA weights of a network file, or the trained ones where there are none, as safetensors with the options.

    Raises:
        StorageError: the disk is full or broken; what was there before is whole.
    """
    about = content["focalsr"]
    metadata = {key: json.dumps(value) for key, value in about.items()}
    metadata["network_g"] = json.dumps(about["options"]["network_g"])
    write_safetensors(path, content.get("params_ema", content["params"]), metadata)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Save tensors atomically, sealed (:mod:`utils.tensor_files.sums`), with texts beside them.

    Raises:
        StorageError: the disk is full or broken; what was there before is whole.
    """
    from safetensors.torch import save

    _write(path, sealed_tensors(save(dict(tensors), {"format": "pt", **metadata, SEAL_KEY: UNSEALED})))


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    with atomic_write(path) as file:
        for part in parts:
            file.write(part)


def _misfit(path: Path, network: nn.Module, entry: Entry, report: LoadReport) -> str:
    message = f"{path}: does not fit {type(network).__name__}: {report}."
    section = "network_d" if isinstance(network, Discriminator) else "network_g"
    identify = archs.identify_discriminator if section == "network_d" else archs.identify
    held = identify(entry.tensors)
    if held is None:
        where = f' under "{entry.name}"' if entry.name else ""
        return f"{message} Its keys{where} belong to no network known here; if others are meant, {HOW_TO_CHOOSE}."
    described = ", ".join(f"{key}: {value}" for key, value in held.items())
    return message + f" The file fits {section}: {{{described}}}."


def _swapped(path: Path, network: nn.Module, entry: Entry) -> str | None:
    """What is wrong where the weights are those of the other player of an adversarial training."""
    name = type(network).__name__
    if isinstance(network, Discriminator):
        held = archs.identify(entry.tensors)
        place = f"the discriminator {name} of network_d; it belongs to path.pretrain_network_g"
        return None if held is None else f"{path}: holds a network for super-resolution ({held['type']}), not {place}"
    held = archs.identify_discriminator(entry.tensors)
    place = f"the {name} of network_g; it belongs to path.pretrain_network_d"
    return None if held is None else f"{path}: holds a discriminator ({held['type']}), not {place}"
