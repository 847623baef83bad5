"""VGGStyleDiscriminator: one logit for an image of a fixed size.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, c image channels, H W pixels, f width.
"""

from __future__ import annotations

from typing import Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from archs.contract import BaseDiscriminator
from utils.checked import check_choice

InputSize = Literal[128, 256]

LAST_SIDE = 4
"""Pixels of a side after the last stage."""
HIDDEN = 100


class VGGStyleDiscriminator(BaseDiscriminator):
    """Stages of two convolutions with batch normalisation, each of which halves the image, and two linear layers.

    Each pass in train mode normalises by the batch and moves the running averages.

    Args:
        num_in_ch: channels c of the image.
        num_feat: width f of the first stage; later ones have 2f, 4f and 8f channels.
        input_size: height and width of the images.
    """

    def __init__(self, num_in_ch: int, num_feat: int, input_size: InputSize = 128) -> None:
        super().__init__()
        check_choice("VGGStyleDiscriminator: input_size", input_size, InputSize)
        self.channels = num_in_ch
        self.input_size = input_size
        self.stages = (input_size // LAST_SIDE).bit_length() - 1
        before = num_in_ch
        for stage in range(self.stages):
            width = num_feat * min(2**stage, 8)
            self.add_module(f"conv{stage}_0", nn.Conv2d(before, width, 3, padding=1, bias=stage == 0))
            if stage > 0:
                self.add_module(f"bn{stage}_0", nn.BatchNorm2d(width))
            self.add_module(f"conv{stage}_1", nn.Conv2d(width, width, 4, stride=2, padding=1, bias=False))
            self.add_module(f"bn{stage}_1", nn.BatchNorm2d(width))
            before = width
        self.linear1 = nn.Linear(before * LAST_SIDE**2, HIDDEN)
        self.linear2 = nn.Linear(HIDDEN, 1)

    def check_size(self, height: int, width: int) -> str | None:
        """What is wrong with images of this size; None if nothing is."""
        if height == width == self.input_size:
            return None
        side = self.input_size
        return f"height and width must be input_size, {side}, for VGGStyleDiscriminator, got {height} x {width}"

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] -> logits [B, 1].

        Raises:
            InputError: the size does not fit.
        """
        self.require_size(x)
        for stage in range(self.stages):
            for half in (0, 1):
                x = self._layer(f"conv{stage}_{half}", x)
                if (stage, half) != (0, 0):  # there is no bn0_0
                    x = self._layer(f"bn{stage}_{half}", x)
                x = F.leaky_relu(x, 0.2, inplace=True)
        x = self.linear1(x.flatten(1))  # [B, 8f, 4, 4] in the order channel, row, column -> [B, 100]
        return cast("Tensor", self.linear2(F.leaky_relu(x, 0.2, inplace=True)))

    def _layer(self, name: str, x: Tensor) -> Tensor:
        return cast("Tensor", getattr(self, name)(x))
