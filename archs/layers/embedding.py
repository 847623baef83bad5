"""The normalisation of the first features, under the name that Swin-like networks have for it."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class PatchEmbedding(nn.Module):
    """A layer norm; what the published networks call patch embedding merges no pixels.

    Args:
        channels: C.
        patch_norm: normalise; else the features pass as they are.
    """

    def __init__(self, channels: int, patch_norm: bool) -> None:
        super().__init__()
        self.norm: nn.Module = nn.LayerNorm(channels) if patch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> [B, H, W, C]."""
        return cast("Tensor", self.norm(x))
