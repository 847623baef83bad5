"""The two-layer MLP of transformers, under its usual names."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from archs.layers.linear import Linear


class Mlp(nn.Module):
    """Linear, GELU (the exact one), linear; dropout after both.

    Args:
        channels: of input and output.
        hidden: channels between the layers.
        drop: dropout rate.
    """

    def __init__(self, channels: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(channels, hidden)
        self.fc2 = Linear(hidden, channels)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        """[..., channels] -> [..., channels]."""
        return cast("Tensor", self.drop(self.fc2(self.drop(self.fc1.with_gelu(x)))))
