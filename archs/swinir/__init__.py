"""SwinIR: Image Restoration Using Swin Transformer (Liang et al., ICCV Workshops 2021, arXiv 2108.10257).

Kept from the published network: the function, the parameter names and shapes, the initial values, the arguments.
Better here: no mask is made for blocks that shift nothing, and one for all others; windows are never copied where a
kernel serves; misspelt arguments, and scales that a head does not have, are errors. The masks and index tables that
published files hold are checked and dropped when they are loaded; ``archs.layers.constants.published_state`` writes
them.

blocks.py holds the block, network.py the network.
"""

from archs.swinir.blocks import SwinBlock
from archs.swinir.network import SwinIR, configuration_from_state

__all__ = ["SwinBlock", "SwinIR", "configuration_from_state"]
