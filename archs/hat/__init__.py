"""HAT: Activating More Pixels in Image Super-Resolution Transformer (Chen et al., CVPR 2023, arXiv 2205.04437).

Kept from the published network: the function, the parameter names and shapes, the initial values, the arguments.
Better here: the mask of shifted windows is made once per size instead of at every block of every call, and the logits
are never stored; features stay channels-last from end to end; half precision, compilation and export work; arguments
and sizes that do not work are reported; activation checkpointing does what it says. The index tables that published
files hold are checked and dropped when they are loaded; ``archs.layers.constants.published_state`` writes them.

blocks.py holds the blocks, network.py the network.
"""

from archs.hat.blocks import HybridAttentionBlock, OverlappingCrossAttention, ResidualHybridAttentionGroup
from archs.hat.network import HAT, configuration_from_state

__all__ = [
    "HAT",
    "HybridAttentionBlock",
    "OverlappingCrossAttention",
    "ResidualHybridAttentionGroup",
    "configuration_from_state",
]
