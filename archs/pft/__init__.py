"""PFT: Progressive Focused Transformer for Single Image Super-Resolution (Long et al., CVPR 2025, arXiv 2503.20337).

Kept from the published network: the function, the parameter names and shapes, the initial values, the arguments.
Better here: it runs without a compiled extension, on any device, in any precision and for images of any size; attention
maps exist nowhere, neither between layers nor for the backward pass, whose sums are exact and repeatable; what layers
hand on is passed from one to the next, so that activation checkpointing works; gradients in evaluation too. The index
table that published files hold is checked and dropped when they are loaded;
``archs.layers.constants.published_state`` writes it.

attention.py holds the attention, blocks.py the layers, network.py the network, maps.py reads off what attends to what.
"""

from archs.pft.attention import ProgressiveFocusedAttention
from archs.pft.maps import AttentionMap, attention_maps
from archs.pft.network import PFT, configuration_from_state

__all__ = ["PFT", "AttentionMap", "ProgressiveFocusedAttention", "attention_maps", "configuration_from_state"]
