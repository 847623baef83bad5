"""Stochastic depth."""

from __future__ import annotations

from torch import Tensor, nn

from utils.errors import InputError


class DropPath(nn.Module):
    """In training, each sample loses its branch with this probability; those kept are scaled up to the same mean.

    Args:
        rate: probability to drop, in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise InputError(f"DropPath: the rate must be at least 0 and below 1, got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> [B, ...]."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * x.new_empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        """The rate, for printing."""
        return f"rate={self.rate:g}"


def drop_path_rates(rate: float, blocks: int) -> list[float]:
    """Rates of a network's blocks in their order: evenly spaced from 0 to ``rate``."""
    return [rate * block / max(1, blocks - 1) for block in range(blocks)]
