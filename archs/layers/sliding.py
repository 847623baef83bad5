"""Windows that slide along an axis."""

from __future__ import annotations

import torch
from torch import Tensor

from ops.registry import tracing


def sliding(x: Tensor, dim: int, size: int, step: int) -> Tensor:
    """The windows of ``size`` along an axis, ``step`` apart: ``x.unfold(dim, size, step)``.

    While ``torch.jit.trace`` records, they are gathered: ONNX can unfold only what has a size that it knows.

    Args:
        x: [..., L, ...].
        dim: where L is, counted from the front.
        size: of the windows, at most L.
        step: from a window to the next.

    Returns:
        [..., n, ..., size] with n = (L - size) // step + 1; a view of ``x``, but for programs that are traced.
    """
    if not tracing():
        return x.unfold(dim, size, step)
    length, size = int(x.shape[dim]), int(size)  # tensors, while it records
    first = torch.arange(0, length - size + 1, step, device=x.device)
    places = first[:, None] + torch.arange(size, device=x.device)
    gathered: Tensor = x.index_select(dim, places.flatten()).unflatten(dim, (-1, size))
    return gathered.movedim(dim + 1, -1)
