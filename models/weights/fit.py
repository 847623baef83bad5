"""A file's tensors put into a network: all of them, or as far as they fit, and a report of what became of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from archs.contract import contract_of
from archs.layers.constants import constant_keys, published_state
from archs.layers.position_table import resized_tables
from utils.wording import first_few

Shape = tuple[int, ...]
Shapes = Mapping[str, tuple[Shape, Shape]]

LISTED = 4
"""Keys that are shown of each kind; their number says how many there are."""

# Counters that profilers and trainers leave among the weights: thop's, those of normalisation layers that the network
# lacks, those of EMA classes.
_BOOKKEEPING = frozenset({
    "total_ops", "total_params", "num_batches_tracked", "n_averaged", "num_updates", "decay", "step", "steps", "epoch",
    "global_step", "iter", "iteration",
})  # fmt: skip


@dataclass(frozen=True)
class LoadReport:
    """How a file's tensors met a network's. False where nothing was left out, as after a strict load.

    Attributes:
        missing: keys of the network that the file lacks.
        surplus: keys of the file that the network lacks.
        reshaped: key -> (shape in the file, shape in the network), of tensors left out because of it.
        converted: the same, of tensors that were made to fit: resampled for another scale, resized for another window.
        loaded: keys of the network that were filled, the converted ones among them.
        bookkeeping: keys of the file that are no weights, such as ``total_ops``; left out.
        entry: where in the file the weights are (``params_ema``); empty: the file itself is the state dict.
        others: other entries of the file that hold weights of such a network.
        asked: the entry that was asked for, if any.
        path: the file.
    """

    missing: tuple[str, ...]
    surplus: tuple[str, ...]
    reshaped: Shapes
    converted: Shapes = field(default_factory=dict)
    loaded: tuple[str, ...] = ()
    bookkeeping: tuple[str, ...] = ()
    entry: str = ""
    others: tuple[str, ...] = ()
    asked: str | None = None
    path: Path = Path()

    def __bool__(self) -> bool:
        return bool(self.missing or self.surplus or self.reshaped)

    def __str__(self) -> str:
        parts = [
            ("missing in the file", self.missing),
            ("not in the network", self.surplus),
            ("other shape", _described(self.reshaped)),
        ]
        return "; ".join(f"{len(keys)} {what}: {first_few(keys, LISTED)}" for what, keys in parts if keys)

    def summary(self) -> str:
        """Everything in one line: what was loaded, what converted, what left out."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        if self.converted:
            parts.append(f"{len(self.converted)} of them converted: {first_few(_described(self.converted), LISTED)}")
        if self.bookkeeping:
            parts.append(f"{len(self.bookkeeping)} bookkeeping keys left out: {first_few(self.bookkeeping, LISTED)}")
        return "; ".join([*parts, *([str(self)] if self else [])])

    def source(self) -> str:
        """Which entry of the file was read, and what else it offers."""
        named = f'entry "{self.entry}" was read' if self.entry else "the file itself is the state dict"
        if self.asked is not None and f".{self.asked}." not in f".{self.entry}.":
            named = f'no entry "{self.asked}", {named}'
        others = ", ".join(f'"{name}"' if name else "the file itself" for name in self.others)
        return f"{named} (there is also {others})" if others else named


def fit(
    network: nn.Module, tensors: Mapping[str, Tensor], *, resize_tables: bool = False
) -> tuple[dict[str, Tensor], LoadReport]:
    """What of a file's tensors the network can take, and a report. Neither argument is changed.

    A network's own ``adapt_state`` converts what depends on the scale (ESC's last convolution). Index tables and masks
    of published files are constants: they are looked at when the state dict is loaded.

    Args:
        network: the one to be filled.
        tensors: state dict of the file.
        resize_tables: position tables of another window are resized by bicubic interpolation.

    Returns:
        A state dict to be loaded with ``strict=False``, and what became of each tensor.
    """
    adapted = contract_of(network).adapt_state(tensors)
    if resize_tables:
        adapted.update(resized_tables(network, adapted))
    own, constants = network.state_dict(), constant_keys(network)
    reshaped = {
        name: (tuple(adapted[name].shape), tuple(own[name].shape))
        for name in own
        if name in adapted and adapted[name].shape != own[name].shape
    }
    converted = {
        name: (tuple(value.shape), tuple(own[name].shape))
        for name, value in tensors.items()
        if name in own and name not in reshaped and value.shape != own[name].shape
    }
    missing = tuple(name for name in own if name not in adapted)
    unknown = [name for name in adapted if name not in own and name not in constants]
    bookkeeping = tuple(name for name in unknown if name.split(".")[-1] in _BOOKKEEPING and adapted[name].numel() <= 1)
    surplus = tuple(name for name in unknown if name not in bookkeeping)
    taken = {name: value for name, value in adapted.items() if name not in reshaped and name not in unknown}
    loaded = tuple(name for name in taken if name in own)
    report = LoadReport(missing, surplus, reshaped, converted, loaded, bookkeeping)
    if reshaped or converted:  # another window: its constants are not ours, and say nothing against the rest
        taken = without_foreign_constants(network, taken, constants)
    return taken, report


def without_foreign_constants(
    network: nn.Module, tensors: Mapping[str, Tensor], constants: set[str]
) -> dict[str, Tensor]:
    """The tensors but for constants of another shape than the network's."""
    if not constants & tensors.keys():
        return dict(tensors)
    with torch.no_grad():
        expected = published_state(network)
    return {
        name: value for name, value in tensors.items() if name not in constants or value.shape == expected[name].shape
    }


def _described(shapes: Shapes) -> list[str]:
    return [f"{key} {list(file)} in the file, {list(net)} here" for key, (file, net) in shapes.items()]
