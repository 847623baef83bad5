"""ATD: Transcending the Limit of Local Window: Advanced Super-Resolution Transformer with Adaptive Token Dictionary.

Zhang et al., CVPR 2024, arXiv 2401.08209. Kept from the published network: the function, the parameter names and
shapes, the initial values, the arguments. Better here: pixels of a category keep their order, which is left to the sort
of the machine in the published code; no mask and no map of windows or groups is stored; rows are gathered once;
half precision, export, activation checkpointing in all groups, and images of any size.

blocks.py holds the layer and its three attentions, network.py the network.
"""

from archs.atd.blocks import ATDLayer
from archs.atd.network import ATD, configuration_from_state

__all__ = ["ATD", "ATDLayer", "configuration_from_state"]
