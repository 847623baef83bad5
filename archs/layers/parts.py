"""The names of a network's groups and blocks in their order, read off the way in which its modules are arranged."""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import nn


class PartNames(NamedTuple):
    """Names of modules, as ``named_modules`` has them, from the image to the result.

    Attributes:
        groups: what holds several blocks; empty where blocks are not grouped.
        blocks: what follows one another inside the groups, or in the network.
        layers: the layers of the blocks that mix pixels, where a network says which they are.
    """

    groups: tuple[str, ...]
    blocks: tuple[str, ...]
    layers: tuple[str, ...] = ()


def matching(network: nn.Module, pattern: str) -> tuple[str, ...]:
    """The names of the modules that a regular expression describes as a whole, in the order of their registration."""
    return tuple(name for name, _ in network.named_modules() if re.fullmatch(pattern, name))


def stacked_parts(network: nn.Module) -> PartNames:
    """The parts of a network that does not say them itself.

    A stack is a list or a sequence of modules that are composed of others and are no containers of PyTorch. The members
    of the outermost stacks are the blocks; if some of them hold stacks themselves, they are the groups, and the members
    of these stacks the blocks. Of a network without stacks the composed modules directly below it are the blocks, or if
    there are less than two, its convolutions and linear layers, also those in lists and sequences.
    """
    members = _members(network)
    if not members:
        composed = tuple(name for name, child in network.named_children() if _is_composed(child))
        if len(composed) < 2:
            composed = tuple(_weighted(network))
        return PartNames((), composed)
    inner = {name: [f"{name}.{below}" for below in _members(network.get_submodule(name))] for name in members}
    if not any(inner.values()):
        return PartNames((), tuple(members))
    return PartNames(tuple(members), tuple(block for name in members for block in inner[name] or [name]))


def _members(module: nn.Module) -> list[str]:
    """The members of the outermost stacks below a module."""
    found = []
    for name, child in module.named_children():
        if _is_stack(child):
            found += [f"{name}.{number}" for number, _ in child.named_children()]
        else:
            found += [f"{name}.{below}" for below in _members(child)]
    return found


def _weighted(module: nn.Module) -> list[str]:
    """The modules directly below one, and in the containers there, that have a matrix of weights."""
    found = []
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.Sequential):
            found += [f"{name}.{below}" for below in _weighted(child)]
        elif any(parameter.ndim > 1 for parameter in child.parameters()):
            found.append(name)
    return found


def _is_stack(module: nn.Module) -> bool:
    children = list(module.children())
    return isinstance(module, nn.ModuleList | nn.Sequential) and bool(children) and all(map(_is_composed, children))


def _is_composed(module: nn.Module) -> bool:
    """Whether it is a module of somebody's own, with modules in it."""
    return not type(module).__module__.startswith("torch.nn.") and any(True for _ in module.children())
