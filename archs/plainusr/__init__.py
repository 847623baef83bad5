"""PlainUSR: Chasing Faster ConvNet for Efficient Super-Resolution (ACCV 2024, arXiv 2409.13435).

Kept from the published network: the function, the two forms (train form with branches, folded form with plain
convolutions), the parameter names and shapes, the initial values except those of the scale generators (``se_init``).
Better here: it can be trained (no result is written into a tensor that the backward pass needs), and at about a third
of the cost of the branches, because each step folds the kernels and convolves once; one forward serves training and
evaluation; soft pooling neither overflows nor underflows; images smaller than 7 pixels work; folding is a pure
function in float64, can be undone, and leaves contiguous kernels that can be trained further.

blocks.py holds the pieces, folding.py the algebra of the two forms, network.py the six networks, convert.py reads and
converts state dicts.
"""

from archs.plainusr.blocks import LocalImportanceAttention, RepMBConv
from archs.plainusr.convert import configuration_from_state, fold_state, lift_state
from archs.plainusr.network import (
    PlainUSR,
    PlainUSRGeneral,
    PlainUSRGeneralInference,
    PlainUSRLarge,
    PlainUSRLargeInference,
    PlainUSRUltra,
    PlainUSRUltraInference,
    fold,
)

__all__ = [
    "LocalImportanceAttention",
    "PlainUSR",
    "PlainUSRGeneral",
    "PlainUSRGeneralInference",
    "PlainUSRLarge",
    "PlainUSRLargeInference",
    "PlainUSRUltra",
    "PlainUSRUltraInference",
    "RepMBConv",
    "configuration_from_state",
    "fold",
    "fold_state",
    "lift_state",
]
