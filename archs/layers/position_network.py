"""Position bias from a tiny network that maps relative positions to one number per head.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: h w sides of the window, T = h*w its tokens, R = (2h-1)(2w-1) relative positions, P width of the network,
n heads, E networks computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.layers.window import Pair
from ops.autocast import without_autocast
from ops.cache import cached_constant
from utils.devices import without_values


@cached_constant(64)
def relative_offsets(window: Pair, device: torch.device) -> Tensor:
    """The relative positions of a window's tokens in the order of the table's rows, [R, 2] float32: down, right."""
    h, w = window
    down, right = torch.arange(1 - h, h, device=device), torch.arange(1 - w, w, device=device)
    return torch.cartesian_prod(down, right).view(-1, 2).float()


class PositionNetwork(nn.Module):
    """The table of position biases as a function of the relative position; it does not look at the image.

    In the published files of RGT and HiT-SR: ``pos``.

    Args:
        width: P.
        heads: n.
        window: (h, w).
    """

    in_float32: ClassVar[bool] = True
    """It stays in float32 where a network is converted to half precision: its table is computed once."""

    def __init__(self, width: int, heads: int, window: Pair) -> None:
        super().__init__()
        self.window = window
        self.pos_proj = nn.Linear(2, width)
        self.pos1 = _stage(width, width)
        self.pos2 = _stage(width, width)
        self.pos3 = _stage(width, heads)

    @property
    def stages(self) -> tuple[tuple[nn.LayerNorm, nn.Linear], ...]:
        """Norm and linear map of each stage; a ReLU is between them."""
        stages = (self.pos1, self.pos2, self.pos3)
        return tuple((cast("nn.LayerNorm", stage[0]), cast("nn.Linear", stage[2])) for stage in stages)

    def forward(self) -> Tensor:
        """-> [R, n]."""
        return position_tables([self])[0]

    def step_by_step(self) -> Tensor:
        """The same table by the layers as they are, [R, n]."""
        first = self.pos_proj.weight
        z = self.pos_proj(relative_offsets(self.window, first.device).to(first.dtype))
        for stage in (self.pos1, self.pos2, self.pos3):
            z = stage(z)
        return cast("Tensor", z)


def _stage(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, out))


def position_tables(networks: Sequence[PositionNetwork]) -> list[Tensor]:
    """The tables of several networks, each [R, n], with four batched products for all networks of one shape.

    One by one, the calls would cost far more than the arithmetic. Half precision is computed as it is stored, but
    autocast is ignored: there is nothing to win.
    """
    if networks and without_values(networks[0].pos_proj.weight.device):
        return [network.step_by_step() for network in networks]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for position, network in enumerate(networks):
        shape = (network.pos_proj.out_features, network.stages[-1][1].out_features, *sorted(network.window))
        by_shape.setdefault(shape, []).append(position)
    tables: dict[int, Tensor] = {}
    for positions in by_shape.values():
        stacked = _stacked_tables([networks[position] for position in positions])
        tables.update(zip(positions, stacked.unbind(), strict=True))
    return [tables[position] for position in range(len(networks))]


def _stacked_tables(networks: Sequence[PositionNetwork]) -> Tensor:
    """The tables of networks of equal shape, [E, R, n]."""
    first = networks[0].pos_proj.weight
    with without_autocast(first.device):
        offsets = torch.stack([relative_offsets(network.window, first.device) for network in networks])
        z = _linear(offsets.to(first.dtype), [network.pos_proj for network in networks])  # [E, R, P]
        for stage in zip(*(network.stages for network in networks), strict=True):
            norms, linears = zip(*stage, strict=True)
            scale, shift = (torch.stack([getattr(norm, name) for norm in norms]) for name in ("weight", "bias"))
            normal = F.layer_norm(z, z.shape[-1:], eps=norms[0].eps)
            z = _linear(torch.addcmul(shift[:, None], normal, scale[:, None]).relu(), linears)
        return z


def _linear(x: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """[E, R, .] -> [E, R, .], each slice through its own layer."""
    weight, bias = (torch.stack([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    return torch.baddbmm(bias[:, None], x, weight.transpose(-2, -1))
