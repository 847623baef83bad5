"""Which modules of a network stay in float32 when it computes in half precision.

A list of names says it. A name stands for the module and everything inside; with "!" in front, for what is in half
precision again. Of several that fit a module the longest decides, and "." is the network as a whole::

    [layers.0.residual_group.blocks.3, "!layers.0.residual_group.blocks.3.attn"]
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import nn

from utils.errors import InputError
from utils.suggest import near_miss

ROOT = "."
"""The network itself, in lists of names."""
BACK = "!"
"""In front of a name: half precision again."""


def types_of(network: nn.Module, dtype: torch.dtype, keep: Collection[str] = ()) -> dict[str, torch.dtype]:
    """Module name ("" for the network) -> the type in which its own operations compute.

    Args:
        network: whose modules are named.
        dtype: of what is not named.
        keep: see the top of this file.

    Raises:
        InputError: the network has no module of a name.
    """
    names = [name for name, _ in network.named_modules(remove_duplicate=False)]
    rules = _rules(keep, names, type(network).__name__)
    types: dict[str, torch.dtype] = {}
    for name in names:
        above = dtype if not name else types[name.rpartition(".")[0]]
        rule = rules.get(name)
        types[name] = above if rule is None else torch.float32 if rule else dtype
    return types


def kept_list(inside: Mapping[str, bool]) -> tuple[str, ...]:
    """The shortest list of names for what each module is to be.

    Args:
        inside: module name ("" for the network) -> whether its own operations stay in float32; a module that is not
            named is as the one around it.
    """
    kept: list[str] = []
    for name in sorted(inside, key=lambda name: name.split(".") if name else []):
        around = name
        while around:
            around = around.rpartition(".")[0]
            if around in inside:
                break
        above = bool(name) and inside.get(around, False)
        if inside[name] != above:
            kept.append(f"{'' if inside[name] else BACK}{name or ROOT}")
    return tuple(kept)


def _rules(keep: Iterable[str], names: Collection[str], network: str) -> dict[str, bool]:
    """Module name -> whether the list keeps it (True) or takes it back (False)."""
    rules: dict[str, bool] = {}
    for item in keep:
        written = item.removeprefix(BACK)
        name = "" if written == ROOT else written
        if name not in names:
            raise InputError(f'layers in float32: {network} has no module "{written}"{near_miss(name, names)}')
        rules[name] = not item.startswith(BACK)
    return rules
