"""Constants in published weight files: index tables and masks that follow from a network's arguments.

Our networks neither keep nor save them, accept files that hold them, and can write such files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class PublishedConstants(nn.Module):
    """A module whose published weights hold constants among the parameters.

    Loading a state dict drops them, strict or not, after a look at their values: others would mean another network.
    """

    def published_constants(self) -> Mapping[str, Tensor]:
        """The constants on the CPU by their names in this module, in the published order; nobody writes to them."""
        raise NotImplementedError

    def is_constant(self, name: str, found: Tensor) -> bool:
        """Whether what a file holds under a name is what these weights were trained with."""
        return same_values(found, self.published_constants()[name])

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        for name in self.published_constants():
            found = state_dict.pop(prefix + name, None)
            if isinstance(found, Tensor) and not self.is_constant(name, found):
                error_msgs.append(
                    f"{prefix}{name}, {list(found.shape)}, is not what follows from the arguments of this network; "
                    "the weights belong to other arguments"
                )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def constant_keys(network: nn.Module) -> set[str]:
    """Keys of constants that published files of this network hold and its own state dict does not."""
    return {
        f"{path}.{name}" if path else name
        for path, module in network.named_modules()
        if isinstance(module, PublishedConstants)
        for name in module.published_constants()
    }


def published_state(network: nn.Module) -> dict[str, Tensor]:
    """The network's state dict as its authors' code writes and reads it: with the constants, in the published order."""
    own = network.state_dict()
    state: dict[str, Tensor] = {}
    for path, module in network.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        local = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        state.update({prefix + name: own[prefix + name] for name, _ in local if prefix + name in own})
        if isinstance(module, PublishedConstants):
            state.update({prefix + name: value.clone() for name, value in module.published_constants().items()})
    return state


def same_values(found: Tensor, expected: Tensor) -> bool:
    """Whether a constant of a file is the expected one, in whatever type it is stored; without values, its shape."""
    if found.is_meta or expected.is_meta:
        return found.shape == expected.shape
    return torch.equal(found.to(expected), expected)
