"""The form in which a network is cheapest to run: folded, channels-last."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from archs.contract import contract_of

Network = TypeVar("Network", bound=nn.Module)


def to_channels_last(network: Network) -> Network:
    """The network with its convolution kernels channels-last, in place: what channels-last images are fastest with."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def for_inference(network: nn.Module) -> nn.Module:
    """The network in the form that is cheapest to evaluate, with the same function.

    A network that is trained in another form (PlainUSR's branches) is folded; others are returned as they are.
    """
    return contract_of(network).for_inference()
