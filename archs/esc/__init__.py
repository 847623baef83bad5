"""ESC: Emulating Self-attention with Convolution for Efficient Image Super-Resolution (ICCV 2025, arXiv 2503.06671).

Kept from the published networks: the function, the parameter names and shapes, the initial values, the arguments, the
loading of weights of another scale.
Better here: one path for training and evaluation, for any batch and any size; nothing is written to the input; the
position bias is the table's own windows, without index tables; the symmetric kernel is made once per call, and kept in
evaluation, whatever form a file stores it in; the linear maps around the large kernel are one; features are
channels-last from end to end; ESC-Real does the scale that it is asked for; positions are float32 in half precision.

kernels.py holds what is done with kernels, blocks.py the blocks, network.py the encoder, ESC and ESC-FP, real.py and
dysample.py ESC-Real, lte.py the network for any scale, convert.py what reads a configuration off weights.
"""

from archs.esc.blocks import ConvolutionalAttention
from archs.esc.convert import configuration_from_state, fold, fold_state
from archs.esc.kernels import initial_kernel, symmetric_kernel
from archs.esc.lte import ESCLTE
from archs.esc.network import ESC, ESCFP
from archs.esc.real import ESCReal, ESCRealM

__all__ = [
    "ESC",
    "ESCFP",
    "ESCLTE",
    "ConvolutionalAttention",
    "ESCReal",
    "ESCRealM",
    "configuration_from_state",
    "fold",
    "fold_state",
    "initial_kernel",
    "symmetric_kernel",
]
