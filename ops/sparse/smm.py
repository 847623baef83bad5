"""Sparse matrix products of PFT: scores at listed keys, and sums of listed values.

PFT (Long et al., CVPR 2025, arXiv 2503.20337) keeps for every query of a window a short list of keys.

Shapes: B batch items (images x windows x heads), N queries, M keys, K slots of a list, C channels of a head. A list may
name a key twice; each slot counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ops import build
from ops.autocast import as_autocast
from ops.registry import Backend, Operator, exporting
from ops.sparse import library as smm_library
from utils.errors import InputError

CHECK_INDEX = "FOCALSR_CHECK_INDEX"
_TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_INDEX_TYPES = (torch.int16, torch.int32, torch.int64)
_CHUNK = 1 << 23  # elements of [B, N, M] that a reference holds at once: 32 MiB of float32


def smm_qmk(q: Tensor, k_t: Tensor, index: Tensor, backend: str = "auto") -> Tensor:
    """Scores at listed keys: ``out[b, n, k] = sum_c q[b, n, c] * k_t[b, c, index[b, n, k]]``.

    Any layout is taken; keys stored one per row (``k_t = k.mT``) are the fastest. Half precision is summed in float32.
    Under autocast q and k_t are taken in its type. An entry of ``index`` outside [0, M) is an error; on CUDA it is only
    found where ``FOCALSR_CHECK_INDEX=1`` asks for the look, and reads no foreign memory otherwise.

    Args:
        q: [B, N, C], float64, float32, float16 or bfloat16.
        k_t: [B, C, M], type of ``q``.
        index: [B, N, K], int16, int32 or int64, entries in [0, M); carries no gradient.
        backend: "auto", "native" or "reference" (see :func:`ops.explain`).

    Returns:
        [B, N, K], type of ``q`` (of autocast, under autocast). Differentiable once; gradients do not depend on the
        number of threads, and two runs agree bit for bit.

    Raises:
        InputError: shapes, types, devices or entries do not fit, or the chosen backend cannot serve this call.
    """
    (q, k_t), context = as_autocast(q, k_t)
    _check("smm_qmk", ("q", q), ("k_t", k_t), index)
    if q.shape[2] != k_t.shape[1]:
        raise InputError(f"smm_qmk: q is {_shape(q)} and k_t {_shape(k_t)}, expected [B, N, C] and [B, C, M]")
    with context:
        return _run(SMM_QMK, q, k_t, index, k_t.shape[2], backend)


def smm_amv(attn: Tensor, v: Tensor, index: Tensor, backend: str = "auto") -> Tensor:
    """Sums of listed values: ``out[b, n, c] = sum_k attn[b, n, k] * v[b, index[b, n, k], c]``.

    Args:
        attn: [B, N, K], float64, float32, float16 or bfloat16.
        v: [B, M, C], type of ``attn``.
        index: [B, N, K], int16, int32 or int64, entries in [0, M); carries no gradient.
        backend: "auto", "native" or "reference" (see :func:`ops.explain`).

    Returns:
        [B, N, C], type of ``attn``; all else as :func:`smm_qmk`.

    Raises:
        InputError: shapes, types, devices or entries do not fit, or the chosen backend cannot serve this call.
    """
    (attn, v), context = as_autocast(attn, v)
    _check("smm_amv", ("attn", attn), ("v", v), index)
    if attn.shape != index.shape:
        raise InputError(f"smm_amv: attn is {_shape(attn)}, expected the shape of index, {_shape(index)}")
    with context:
        return _run(SMM_AMV, attn, v, index, v.shape[1], backend)


def reference_qmk(q: Tensor, k_t: Tensor, index: Tensor) -> Tensor:
    """All scores, then those that are listed; the definition of :func:`smm_qmk`."""
    dtype = torch.promote_types(q.dtype, torch.float32)

    def part(q: Tensor, k_t: Tensor, index: Tensor) -> Tensor:
        return (q.to(dtype) @ k_t.to(dtype)).gather(2, index.long()).to(q.dtype)

    return _by_chunks(part, q, k_t, index, k_t.shape[2])


def reference_amv(attn: Tensor, v: Tensor, index: Tensor) -> Tensor:
    """A full matrix of weights, zero where nothing is listed, times all values; the definition of :func:`smm_amv`."""
    dtype = torch.promote_types(attn.dtype, torch.float32)

    def part(attn: Tensor, v: Tensor, index: Tensor) -> Tensor:
        dense = torch.zeros(*attn.shape[:2], v.shape[1], dtype=dtype, device=attn.device)
        return (dense.scatter_add(2, index.long(), attn.to(dtype)) @ v.to(dtype)).to(attn.dtype)

    return _by_chunks(part, attn, v, index, v.shape[1])


Product = Callable[[Tensor, Tensor, Tensor], Tensor]


class SmmCall(NamedTuple):
    """What the choice of a backend depends on."""

    device: str
    double: bool = False


def _run(operator: Operator[SmmCall, Product], x: Tensor, y: Tensor, index: Tensor, keys: int, backend: str) -> Tensor:
    chosen = operator.choose(SmmCall(x.device.type, x.dtype == torch.float64), backend)
    if torch.compiler.is_compiling():
        return chosen.run(x, y, index)
    # The native CPU kernels look while they read.
    native_cpu = chosen.name == "native" and x.device.type == "cpu"
    if not native_cpu and (x.device.type == "cpu" or os.environ.get(CHECK_INDEX) == "1"):
        _check_index(operator.name, index, keys)
    try:
        return chosen.run(x, y, index)
    except IndexError as error:
        raise InputError(f"{operator.name}: {error}") from None


def _by_chunks(part: Product, x: Tensor, y: Tensor, index: Tensor, keys: int) -> Tensor:
    """The products of a few batch items at a time; traced graphs, whose sizes may be unknown, take them together."""
    step = max(1, _CHUNK // max(1, x.shape[1] * keys))
    if torch.compiler.is_compiling() or x.shape[0] <= step:
        return part(x, y, index)
    return torch.cat([part(*few) for few in zip(x.split(step), y.split(step), index.split(step), strict=True)])


def _check(name: str, first: tuple[str, Tensor], second: tuple[str, Tensor], index: Tensor) -> None:
    (x_name, x), (y_name, y) = first, second
    if x.ndim != 3 or y.ndim != 3 or index.ndim != 3:
        raise InputError(
            f"{name}: {x_name}, {y_name}, index are {_shape(x)}, {_shape(y)}, {_shape(index)}, "
            "expected three dimensions each, the batch first"
        )
    if y.shape[0] != x.shape[0] or index.shape[:2] != x.shape[:2]:
        raise InputError(
            f"{name}: {x_name}, {y_name}, index are {_shape(x)}, {_shape(y)}, {_shape(index)}, "
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


def _check_index(name: str, index: Tensor, keys: int) -> None:
    """Looks at every entry; on CUDA this waits for the device."""
    if index.numel() == 0:
        return
    low, high = (int(bound) for bound in index.aminmax())
    if low < 0 or high >= keys:
        raise InputError(f"{name}: index holds {low} to {high}, expected 0 to {keys - 1} for {keys} keys")


def _shape(x: Tensor) -> str:
    return str(list(x.shape))


def _native_refusal(call: SmmCall) -> str | None:
    if exporting():
        return "an exported program must run without this project's kernels"
    if call.device not in ("cpu", "cuda"):
        return f"there are kernels for cpu and cuda only, and the tensors are on {call.device}"
    if call.device == "cuda" and call.double:
        return "the tensors are float64, and the CUDA kernels sum in float32"
    return None


def _missing(call: SmmCall) -> str | None:
    return build.cuda_extension("smm") if call.device == "cuda" else build.cpu_extension("smm")


def _examples() -> Mapping[str, SmmCall]:
    return {device: SmmCall(device) for device in (["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])}


def _operator(name: str, native: Product, reference: Product) -> Operator[SmmCall, Product]:
    return Operator(
        name=name,
        backends=(
            Backend(
                "native",
                native,
                refusal=_native_refusal,
                remark="compiled kernels of this project; nothing of the size N x M exists",
                missing=_missing,
            ),
            Backend(
                "reference",
                reference,
                refusal=lambda call: None,
                remark="computes all N x M products; slower, and it needs more memory",
            ),
        ),
        examples=_examples,
    )


SMM_QMK = _operator("smm_qmk", smm_library.qmk, reference_qmk)
SMM_AMV = _operator("smm_amv", smm_library.amv, reference_amv)
