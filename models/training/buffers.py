"""Buffers that a forward pass moves: running statistics of batch norms, the vectors of spectral norms.

Weights move at the end of an iteration, when all of it has been looked at; buffers move on the way. An iteration that
is left out puts them back.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class KeptBuffers:
    """The buffers of a network and what they were.

    Attributes:
        groups: one for each data type.
    """

    groups: tuple[_Group, ...]

    @classmethod
    def of(cls, network: nn.Module) -> KeptBuffers:
        """Those of a network, which stay the same objects from here on; :meth:`keep` has to come first."""
        by_kind: dict[torch.dtype, list[Tensor]] = {}
        for buffer in network.buffers():
            by_kind.setdefault(buffer.dtype, []).append(buffer)
        return cls(tuple(_Group.of(buffers) for buffers in by_kind.values()))

    @torch.no_grad()
    def keep(self) -> None:
        """Remember all values."""
        for group in self.groups:
            torch._foreach_copy_(group.views, group.buffers)

    @torch.no_grad()
    def put_back(self, where: Tensor | None = None) -> None:
        """Take back what has happened since :meth:`keep`; nothing is allocated, for it may be that memory is full.

        Args:
            where: a flag on the device; where it is False nothing is changed, and the host does not learn it. (With it,
                memory is allocated.)
        """
        for group in self.groups:
            group.put_back(where)


@dataclass(frozen=True)
class _Group:
    """Buffers of one data type and device, and as many values in one piece of memory."""

    buffers: list[Tensor]
    flat: Tensor
    views: list[Tensor]

    @classmethod
    def of(cls, buffers: list[Tensor]) -> _Group:
        flat = torch.empty(sum(buffer.numel() for buffer in buffers), dtype=buffers[0].dtype, device=buffers[0].device)
        return cls(buffers, flat, _split(flat, buffers))

    def put_back(self, where: Tensor | None) -> None:
        before = self.views
        if where is not None:
            now = torch.cat([buffer.reshape(-1) for buffer in self.buffers])
            before = _split(torch.where(where, self.flat, now), self.buffers)
        torch._foreach_copy_(self.buffers, before)


def _split(flat: Tensor, buffers: list[Tensor]) -> list[Tensor]:
    parts = flat.split([buffer.numel() for buffer in buffers])
    return [part.view(buffer.shape) for part, buffer in zip(parts, buffers, strict=True)]
