"""Linear layers that take the fastest way there is.

Shapes: any leading dimensions, K channels in, C channels out.
"""

from __future__ import annotations

from torch import Tensor, nn

from ops import linear


class Linear(nn.Linear):
    """``torch.nn.Linear``, by :func:`ops.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., C]."""
        return linear(x, self.weight, self.bias)

    def with_gelu(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., C], GELU of the result."""
        return linear(x, self.weight, self.bias, gelu=True)
