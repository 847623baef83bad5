"""Discriminators of adversarial training: an image in, logits out (no sigmoid), above 0 for images taken to be real.

UNetDiscriminatorSN: Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data (Wang et al.,
ICCVW 2021, arXiv 2107.10833), a U-Net (Schönfeld et al., CVPR 2020, arXiv 2002.12655) with spectral normalisation.
VGGStyleDiscriminator: SRGAN (Ledig et al., CVPR 2017, arXiv 1609.04802), also that of ESRGAN (arXiv 1809.00219).

Kept from the published networks: the functions, the parameter and buffer names, shapes and their order, the initial
values, the power iteration in each pass of train mode. Better here: sizes of patches that do not fit are reported
before a training starts; spectral norms are computed in float32 under autocast, and compile; batches in pieces advance
buffers once (``archs.layers.spectral.held``).

They meet ``archs.contract.Discriminator``. unet.py and vgg.py hold one each, recognise.py reads a configuration off
the names and shapes of weights.
"""

from archs.discriminators.recognise import configuration_from_state
from archs.discriminators.unet import UNetDiscriminatorSN
from archs.discriminators.vgg import VGGStyleDiscriminator

__all__ = ["UNetDiscriminatorSN", "VGGStyleDiscriminator", "configuration_from_state"]
