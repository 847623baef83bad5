"""Linear layers that take the fastest way there is, and their usual initial values.

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


def initialise_linear(layer: nn.Linear) -> None:
    """The initial values of Swin-like networks: weights normal (0.02, cut off at 2), the bias 0."""
    nn.init.trunc_normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
