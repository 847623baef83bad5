"""Networks by their published formulas, with the weights that this project's have at their start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from archs import build_network
from scripts.benchmarks.formulas.hat import PublishedHAT
from scripts.benchmarks.formulas.rgt import PublishedRGT

_NETWORKS: Mapping[object, type[nn.Module]] = {"HAT": PublishedHAT, "RGT": PublishedRGT}


def by_formulas(configuration: Mapping[str, Any]) -> nn.Module:
    """The network of a ``network_g`` mapping.

    Args:
        configuration: of a HAT or an RGT.
    """
    arguments = {key: value for key, value in configuration.items() if key != "type"}
    network = _NETWORKS[configuration["type"]](**arguments)
    network.load_state_dict(build_network(configuration).state_dict())
    return network
