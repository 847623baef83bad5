"""Maps of queries and keys [c, N, M] as matrix products give and take them, for c windows of one head at a time.

For backward passes on a GPU: products of whole windows run at the speed of its arithmetic, also where only a part of
them is wanted. The heads are the outer loop, so that the sum of the gradient of a head's bias over windows stays in its
caches.

Between two products, PyTorch's operators or the kernels of ops/csrc/maps_cuda.cu do what is to be done row by row.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ops import build
from ops.registration import NAMESPACE

MAP_BYTES = 64 << 20
"""Of one map in float32; two of them exist at a time, in half precision two of its own as well.

Measured on an H100, where less is slower, also what its L2 cache would hold: layers of PFT that select take 3.6 ms with
64 MiB, 4.0 with 32, 5.8 with 16, and 16 with 4 (16 windows of 1024 tokens, 6 heads, width 40, float32).
"""


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


_MOST_CUDA_KEYS = 1024
"""kMostKeys of ops/csrc/maps_cuda.h."""


def has_kernels(q: Tensor, keys: int) -> bool:
    """Whether the operators below serve windows of so many keys, for queries like q."""
    served = q.device.type == "cuda" and keys <= _MOST_CUDA_KEYS
    return served and q.dtype in (torch.float32, torch.bfloat16, torch.float16) and build.cuda_extension("maps") is None


# Only called where nothing is traced: in operators, which need no other description of them.
for _name, _arguments in (
    (
        "map_focus",
        "Tensor products, Tensor? scores, Tensor? logits, Tensor log_sum, Tensor? grad_next, Tensor? lists, "
        "Tensor? kept, Tensor table, Tensor? regions, Tensor(a!)? d_logits, Tensor(b!) gradient, Tensor(c!) weights, "
        "int window, int first, int head, float scale",
    ),
    ("map_spread", "Tensor values, Tensor lists, Tensor(a!) map"),
    ("map_collect", "Tensor map, Tensor lists, Tensor(a!) values"),
):
    torch.library.define(f"{NAMESPACE}::{_name}", f"({_arguments}) -> ()")
