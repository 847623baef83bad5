"""RGT: Recursive Generalization Transformer for Image Super-Resolution (ICLR 2024, arXiv 2303.06373).

Kept from the published network: the function (with zeros that join the softmax where windows stick out of the image,
the rows and columns that global attention never sees, and the recursion count that depends on size and mode), the
parameter names and shapes, the initial values.
Better here: masks and index tables are made vectorised, kept for later calls and left out of checkpoints (published
files load, :func:`archs.layers.constants.published_state` writes them); images of any size; half precision; the
recursion is one convolution in evaluation; few representatives are folded into the projections; one forward that
compiles as one graph; misspelt and impossible arguments are reported at once.

recursion.py holds the rule of the recursion, attention.py the two attentions,
network.py blocks and network, convert.py what reads a configuration off weights.
"""

from archs.rgt.attention import RectangleWindowAttention, RecursiveGeneralizationAttention
from archs.rgt.convert import configuration_from_state
from archs.rgt.network import RGT
from archs.rgt.recursion import recursion_count

__all__ = [
    "RGT",
    "RectangleWindowAttention",
    "RecursiveGeneralizationAttention",
    "configuration_from_state",
    "recursion_count",
]
