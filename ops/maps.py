"""Maps of queries and keys [c, N, M] as matrix products give and take them, for c windows of one head at a time.

For backward passes of attention on a GPU: products of whole windows run at the speed of its arithmetic, also where only
a part of them is wanted, and maps of a few windows stay in its L2 cache from one step to the next. The heads are the
outer loop, so that the bias of a head, and the sum of its gradient over windows, stay there too.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MAP_BYTES = 32 << 20
"""Of one map in float32; two or three of them exist at a time."""


def parts(windows: int, heads: int, pairs: int) -> Iterator[tuple[slice, int]]:
    """Some windows and a head at a time, where a window has so many pairs of a query and a key."""
    step = windows_at_once(windows, pairs)
    for head in range(heads):
        for start in range(0, windows, step):
            yield slice(start, min(start + step, windows)), head


def windows_at_once(windows: int, pairs: int) -> int:
    """How many windows of a head have maps at a time."""
    return max(1, min(windows, MAP_BYTES // (4 * max(1, pairs))))


def multiply(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """``x @ y`` [c, N, M] into ``out``, which may be wider than the factors: half precision is summed in float32.

    It is converted where the device's products of half precision give nothing wider.
    """
    if x.dtype == out.dtype:
        return torch.bmm(x, y, out=out)
    if x.device.type == "cuda" and hasattr(torch.ops.aten.bmm, "dtype_out"):  # not in torch 2.6
        wide: Tensor = torch.ops.aten.bmm.dtype_out(x, y, out.dtype, out=out)
        return wide
    return torch.bmm(x.to(out.dtype), y.to(out.dtype), out=out)


def store(x: Tensor, y: Tensor, out: Tensor, scale: float = 1.0) -> None:
    """``scale * x @ y`` in place of what is in ``out``, for a map x and rows y, all of one type."""
    out.baddbmm_(x, y, beta=0, alpha=scale)
