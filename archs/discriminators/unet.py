"""UNetDiscriminatorSN: a logit for each pixel.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, c image channels, H W pixels, f width.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from archs.contract import BaseDiscriminator
from archs.layers.spectral import SpectralConv2d

FACTOR = 8
"""Three times, the image is halved and doubled again."""


class UNetDiscriminatorSN(BaseDiscriminator):
    """U-Net with spectral normalisation of all convolutions but the first and the last.

    Args:
        num_in_ch: channels c of the image.
        num_feat: width f.
        skip_connection: add the features of each level to those that come back to it; then height and width must be
            multiples of 8.
    """

    def __init__(self, num_in_ch: int, num_feat: int = 64, skip_connection: bool = True) -> None:
        super().__init__()
        self.channels = num_in_ch
        self.skip_connection = skip_connection
        f = num_feat
        self.conv0 = nn.Conv2d(num_in_ch, f, 3, padding=1)
        self.conv1 = SpectralConv2d(f, 2 * f, 4, stride=2, padding=1)
        self.conv2 = SpectralConv2d(2 * f, 4 * f, 4, stride=2, padding=1)
        self.conv3 = SpectralConv2d(4 * f, 8 * f, 4, stride=2, padding=1)
        self.conv4 = SpectralConv2d(8 * f, 4 * f, 3, padding=1)
        self.conv5 = SpectralConv2d(4 * f, 2 * f, 3, padding=1)
        self.conv6 = SpectralConv2d(2 * f, f, 3, padding=1)
        self.conv7 = SpectralConv2d(f, f, 3, padding=1)
        self.conv8 = SpectralConv2d(f, f, 3, padding=1)
        self.conv9 = nn.Conv2d(f, 1, 3, padding=1)

    def check_size(self, height: int, width: int) -> str | None:
        """What is wrong with images of this size; None if nothing is."""
        if self.skip_connection and (height % FACTOR or width % FACTOR):
            rule = f"multiples of {FACTOR} for UNetDiscriminatorSN with skip_connection"
        elif min(height, width) < FACTOR:
            rule = f"at least {FACTOR} for UNetDiscriminatorSN"
        else:
            return None
        return f"height and width must be {rule}, got {height} x {width}"

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] -> logits [B, 1, H', W'], H' = 8 * floor(H / 8).

        Raises:
            InputError: the size does not fit.
        """
        self.require_size(x)
        x0 = _activated(self.conv0(x))  # [B, f, H, W]
        x1 = _activated(self.conv1(x0))  # [B, 2f, H/2, W/2]
        x2 = _activated(self.conv2(x1))  # [B, 4f, H/4, W/4]
        x3 = _activated(self.conv3(x2))  # [B, 8f, H/8, W/8]
        x4 = self._joined(_activated(self.conv4(_doubled(x3))), x2)
        x5 = self._joined(_activated(self.conv5(_doubled(x4))), x1)
        x6 = self._joined(_activated(self.conv6(_doubled(x5))), x0)
        return cast("Tensor", self.conv9(_activated(self.conv8(_activated(self.conv7(x6))))))

    def _joined(self, x: Tensor, level: Tensor) -> Tensor:
        return x + level if self.skip_connection else x


def _activated(x: Tensor) -> Tensor:
    """Of a convolution's output, whose own gradient does not need it: in place."""
    return F.leaky_relu(x, 0.2, inplace=True)


def _doubled(x: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, C, 2h, 2w], bilinear between centres of pixels."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
