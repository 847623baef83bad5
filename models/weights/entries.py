"""The weights inside a checkpoint: whatever a trainer wrote around the state dict or in front of its names.

A content is taken as one flat dictionary of dotted names: ``{"state_dict": {"model.head.weight": ...}}`` is
``state_dict.model.head.weight``. An *entry* is a prefix below which the names are those of a network; it is found by
taking leading parts away until a network appears. Its name is the prefix: ``params_ema``, ``state_dict.model``; empty
where the file itself is the state dict.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import archs
from utils.errors import InputError
from utils.wording import first_few

State = Mapping[str, Tensor]

# What wrappers of torch put in between, in the middle of names too: compiled, sharded, recomputed modules.
_WRAPPERS = re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
_USUAL = (
    "params", "state_dict", "model_state_dict", "model", "module", "net_g", "netG", "network_g", "generator", "net",
    "network", "weights", "sd",
)  # fmt: skip
_DEEPEST = 5  # leading parts that trainers put in front of names, at most
_WORDS = re.compile(r"[^A-Za-z]+|(?<=[a-z])(?=[A-Z])")
LISTED = 8
"""Entries of a file in a message: a bare state dict may have hundreds."""
_FEWEST = 3  # tensors of anything that might be a network

HOW_TO_CHOOSE = 'choose one by --key, or in an option file by "path: param_key_g"'


@dataclass(frozen=True)
class Entry:
    """Tensors that belong to one network.

    Attributes:
        name: where they are in the file; empty: the file itself is the state dict.
        tensors: the state dict, without what stood in front of the names.
        others: names of other entries that hold a network of this kind.
    """

    name: str
    tensors: dict[str, Tensor]
    others: tuple[str, ...] = ()

    @property
    def is_ema(self) -> bool:
        """Whether the name says that these are EMA weights."""
        return is_ema(self.name)


def is_ema(name: str) -> bool:
    """Whether an entry's name says EMA: ``params_ema``, ``ema_model``, ``model.ema``, ``modelEMA``, ``ema0.999``."""
    return "ema" in (word.lower() for word in _WORDS.split(name))


def entry_for(network: nn.Module, content: Mapping[str, Any], key: str | None, path: Path) -> Entry:
    """The entry that a network is filled from.

    Args:
        network: its names, and the shapes of its tensors, are what is looked for.
        content: of the file.
        key: the entry that is asked for; one of BasicSR's, ``params`` or ``params_ema``, gives way to another where
            there is none. None: the EMA weights where the file has some, else the only ones, else the usual name.
        path: the file, for messages.

    Raises:
        InputError: there are no weights, none under that key, or several and nothing says which.
    """
    flat = _flat(content)
    if not flat:
        raise InputError(f"{path}: holds no weights; {_entries_of(content, path)}")
    own = network.state_dict()
    fitting = [_entry(flat, name) for name in _prefixes_of(own, flat)]
    complete = [
        entry
        for entry in fitting
        if all(name in entry.tensors and entry.tensors[name].shape == value.shape for name, value in own.items())
    ]
    below = {} if key is None else _entry(flat, key).tensors
    for pool in (complete, fitting) if complete or fitting else (_identified(flat),):
        if found := _asked_for(pool, key, gives_way=not below):
            return _one_of(found, complete or pool, key, path)
    if key is not None and below:
        return Entry(key, below)  # what is asked for, although the network is another
    if key is not None and not _gives_way(key):
        raise InputError(f'{path}: has no entry "{key}"; {_entries_of(content, path, fitting)}')
    return _plain(flat)


def identified_entry(content: Mapping[str, Any], key: str | None, path: Path) -> tuple[Entry, dict[str, object]] | None:
    """The entry that holds a network that is known here, and its ``network_g``; None where there is none.

    Arguments and exceptions are those of :func:`entry_for`.
    """
    flat = _flat(content)
    if not flat:
        raise InputError(f"{path}: holds no weights; {_entries_of(content, path)}")
    known = _identified(flat)
    below = {} if key is None else _entry(flat, key).tensors
    found = _asked_for(known, key, gives_way=not below)
    if not found:
        if key is not None and not below and not _gives_way(key):
            raise InputError(f'{path}: has no entry "{key}"; {_entries_of(content, path, known)}')
        return None
    entry = _one_of(found, known, key, path)
    described = archs.identify(entry.tensors)
    return None if described is None else (entry, described)


def discriminator_in(content: Mapping[str, Any]) -> str | None:
    """The name of the discriminator whose weights these are, alone or in BasicSR's entry; None if they are not."""
    flat = _flat(content)
    held = archs.identify_discriminator(_plain(flat).tensors) if flat else None
    return None if held is None else str(held["type"])


def _flat(content: Mapping[Any, Any], prefix: str = "") -> dict[str, Tensor]:
    """All tensors by dotted names, without the parts that wrappers of torch add."""
    result: dict[str, Tensor] = {}
    for name, value in content.items():
        tensor = _tensor(value) if isinstance(name, str) else None
        if tensor is not None:
            result[_WRAPPERS.sub("", f"{prefix}{name}").removeprefix(".")] = tensor
        elif isinstance(name, str) and isinstance(value, Mapping):
            result.update(_flat(value, f"{prefix}{name}."))
    return result


def _tensor(value: Any) -> Tensor | None:
    """A value as a dense tensor: a tensor of any layout, or a NumPy array of numbers; None where it is neither."""
    if isinstance(value, Tensor):
        return value if value.layout == torch.strided else value.to_dense()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), copy=False))
    return None


def _entry(flat: State, name: str) -> Entry:
    start = f"{name}." if name else ""
    return Entry(name, {key[len(start) :]: value for key, value in flat.items() if key.startswith(start)})


def _prefixes_of(own: State, flat: State) -> list[str]:
    """Prefixes below which half of the names, or more, are the network's; or half of the network's are there."""
    matches: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for name in flat:
        parts = name.split(".")
        for depth in range(min(len(parts), _DEEPEST + 1)):
            prefix = ".".join(parts[:depth])
            sizes[prefix] += 1
            matches[prefix] += ".".join(parts[depth:]) in own
    most = max(matches.values())
    return [
        prefix
        for prefix, count in matches.items()
        if 2 * count >= min(len(own), sizes[prefix]) and 2 * count > most  # a part of the network may look like it
    ]


def _identified(flat: State) -> list[Entry]:
    """The entries that hold a network which is known here, found from the outside in."""
    level, found = [Entry("", dict(flat))], list[Entry]()
    for _ in range(_DEEPEST + 1):
        deeper: list[Entry] = []
        for entry in level:
            if len(entry.tensors) < _FEWEST:
                continue
            if archs.identify(entry.tensors) is not None:
                found.append(entry)
                continue
            inner: dict[str, dict[str, Tensor]] = {}
            for name, value in entry.tensors.items():
                head, dot, rest = name.partition(".")
                if dot:
                    inner.setdefault(head, {})[rest] = value
            start = f"{entry.name}." if entry.name else ""
            deeper += [Entry(start + head, tensors) for head, tensors in inner.items()]
        level = deeper
    return found


def _asked_for(entries: Sequence[Entry], key: str | None, *, gives_way: bool) -> list[Entry]:
    """The entries that a key names, by the whole name, or an outer or inner part of it; all where it may give way."""
    if key is None:
        return list(entries)
    exact = [entry for entry in entries if entry.name == key]
    inside = [entry for entry in entries if f".{key}." in f".{entry.name}."]
    return exact or inside or (list(entries) if gives_way and _gives_way(key) else [])


def _gives_way(key: str) -> bool:
    """BasicSR's own entries, which option files name by habit: another one serves where they are absent."""
    return key in ("params", "params_ema")


def _one_of(found: Sequence[Entry], known: Sequence[Entry], key: str | None, path: Path) -> Entry:
    """One of several entries: the EMA weights, unless the key says otherwise; then the one with the usual name."""
    preferred = [entry for entry in found if entry.is_ema != (key == "params")]
    left = preferred or list(found)
    ranks = {name: position for position, name in enumerate(("", "params_ema", *_USUAL))}
    ranked = sorted(left, key=lambda entry: _rank(entry, ranks))
    if len(ranked) > 1 and _rank(ranked[0], ranks) in (_rank(ranked[1], ranks), len(ranks)):
        names = _quoted([entry.name for entry in left])
        raise InputError(f"{path}: holds several networks that fit, {names}; {HOW_TO_CHOOSE}")
    others = tuple(entry.name for entry in known if entry.name != ranked[0].name)
    return Entry(ranked[0].name, ranked[0].tensors, others)


def _rank(entry: Entry, ranks: Mapping[str, int]) -> int:
    """How usual the innermost part of a name is; "module" in front of names says nothing."""
    return ranks.get(entry.name.removesuffix(".module").split(".")[-1], len(ranks))


def _plain(flat: State) -> Entry:
    """What a file of no known network most likely means: BasicSR's entries, or what all names share taken away."""
    for name in ("params_ema", "params"):
        if tensors := _entry(flat, name).tensors:
            return Entry(name, tensors)
    name, tensors = "", dict(flat)
    while len(heads := {key.split(".")[0] for key in tensors}) == 1 and all("." in key for key in tensors):
        name = f"{name}.{heads.pop()}".removeprefix(".")
        tensors = _entry(flat, name).tensors
    return Entry(name, tensors)


def _entries_of(content: Mapping[str, Any], path: Path, fitting: Sequence[Entry] = ()) -> str:
    """The end of a message: what the file holds, and how to name an entry."""
    if {"iter", "optimizers"} <= content.keys():
        weights = path.parent.parent / "models" / f"net_g_{content['iter']}.pth"
        return f"it is a training state, whose weights are in {weights}; its entries: {first_few(content, LISTED)}"
    if fitting:
        return f"entries that fit: {_quoted([entry.name for entry in fitting])}; {HOW_TO_CHOOSE}"
    return f"its entries: {first_few(content, LISTED) or 'none'}; {HOW_TO_CHOOSE}"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' if name else "the file itself" for name in names)
