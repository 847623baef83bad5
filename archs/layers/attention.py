"""Channel attention.

Shapes: B images, H W pixels, C channels.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from utils.errors import InputError


class ChannelAttention(nn.Module):
    """Weigh each channel by a gate read from the means of all channels over the whole image.

    In HAT's paper: CA, the channel attention at the end of a CAB.

    Args:
        channels: C.
        squeeze_factor: C divided by the channels between the two layers of the gate.
    """

    def __init__(self, channels: int, squeeze_factor: int = 16) -> None:
        super().__init__()
        if squeeze_factor < 1 or channels < squeeze_factor:
            raise InputError(
                f"ChannelAttention: {channels} channels squeezed by {squeeze_factor} leave none; "
                f"give a factor from 1 to {channels}"
            )
        hidden = channels // squeeze_factor
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )  # fmt: skip

    def gate(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, 1, 1], in (0, 1)."""
        return cast("Tensor", self.attention(x))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        return x * self.gate(x)
