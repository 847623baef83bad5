"""HiT-SR: Hierarchical Transformer for Efficient Image Super-Resolution (Zhang et al., ECCV 2024, arXiv 2407.05878).

Kept from the published networks: the function, the parameter names and shapes, the initial values, the arguments.
Better here: the position bias is averaged before it is gathered, and kept in evaluation; correlations, which have no
softmax, are multiplied in the order that needs no map of all pairs; images of any size; half precision, export,
activation checkpointing; misspelt arguments are errors.

blocks.py holds the block and its parts, context.py what windows know of their neighbours in HiT-SNG, network.py the
networks.
"""

from archs.hit.blocks import HierarchicalBlock, SpatialChannelCorrelation
from archs.hit.network import HiTSIR, HiTSNG, HiTSRF, configuration_from_state

__all__ = [
    "HiTSIR",
    "HiTSNG",
    "HiTSRF",
    "HierarchicalBlock",
    "SpatialChannelCorrelation",
    "configuration_from_state",
]
