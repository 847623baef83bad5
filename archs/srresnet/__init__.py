"""MSRResNet: the generator of SRGAN (Ledig et al., CVPR 2017, arXiv 1609.04802), modified as BasicSR has it.

The modifications: no batch normalisation, ReLU inside blocks, and the network adds to the bilinear upsampling of its
input. Kept from the published network: the function, the parameter names and shapes, the initial values, the arguments.
Better here: a scale that it cannot do is reported.

network.py holds all of it.
"""

from archs.srresnet.network import MSRResNet, ResidualBlock, configuration_from_state

__all__ = ["MSRResNet", "ResidualBlock", "configuration_from_state"]
