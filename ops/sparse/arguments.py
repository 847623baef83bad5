"""The arguments of the sparse products as they travel, and their checks. Shapes as in ops/sparse/smm.py."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from utils.errors import InputError

_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_INDEX_TYPES = (torch.int16, torch.int32, torch.int64)


class Qmk(NamedTuple):
    """The arguments of :func:`ops.smm_qmk`."""

    q: Tensor  # [B, N, C]
    k_t: Tensor  # [B, C, M], type of q
    lists: Tensor  # [B, N, K], the index of the function


class Amv(NamedTuple):
    """The arguments of :func:`ops.smm_amv`."""

    attn: Tensor  # [B, N, K]
    v: Tensor  # [B, M, C], type of attn
    lists: Tensor  # [B, N, K], the index of the function


class QmkBackward(NamedTuple):
    """The arguments of the gradient of :class:`Qmk`."""

    grad: Tensor  # [B, N, K]
    q: Tensor
    k_t: Tensor
    lists: Tensor
    wants_q: bool
    wants_k: bool


class AmvBackward(NamedTuple):
    """The arguments of the gradient of :class:`Amv`."""

    grad: Tensor  # [B, N, C]
    attn: Tensor
    v: Tensor
    lists: Tensor
    wants_attn: bool
    wants_v: bool


class SmmCall(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    double: bool = False


def check(name: str, arguments: Qmk | Amv) -> None:
    """Dimensions, types and devices of the operands of an operator fit.

    Raises:
        InputError: with the values, and what was expected.
    """
    x_name, y_name = ("q", "k_t") if isinstance(arguments, Qmk) else ("attn", "v")
    x, y, index = arguments
    if x.ndim != 3 or y.ndim != 3 or index.ndim != 3:
        raise InputError(
            f"{name}: {x_name}, {y_name}, index are {shape_text(x)}, {shape_text(y)}, {shape_text(index)}, "
            "expected three dimensions each, the batch first"
        )
    if y.shape[0] != x.shape[0] or index.shape[:2] != x.shape[:2]:
        raise InputError(
            f"{name}: {x_name}, {y_name}, index are {shape_text(x)}, {shape_text(y)}, {shape_text(index)}, "
            f"expected {x.shape[0]} batch items each, and {x.shape[1]} queries in index"
        )
    if x.dtype not in _TYPES or y.dtype != x.dtype:
        raise InputError(
            f"{name}: {x_name} is {x.dtype} and {y_name} {y.dtype}, expected one type of "
            + ", ".join(str(dtype) for dtype in _TYPES)
        )
    if index.dtype not in _INDEX_TYPES:
        raise InputError(f"{name}: index is {index.dtype}, expected " + ", ".join(str(dtype) for dtype in _INDEX_TYPES))
    for other_name, other in ((y_name, y), ("index", index)):
        if other.device != x.device:
            raise InputError(f"{name}: {other_name} is on {other.device}, expected {x.device}, where {x_name} is")


def check_index(name: str, index: Tensor, keys: int) -> None:
    """Look at every entry of a list; on CUDA this waits for the device."""
    if index.numel() == 0:
        return
    low, high = (int(bound) for bound in index.aminmax())
    if low < 0 or high >= keys:
        raise InputError(f"{name}: index holds {low} to {high}, expected 0 to {keys - 1} for {keys} keys")


def shape_text(x: Tensor) -> str:
    """A shape as messages print it."""
    return str(list(x.shape))
