"""Sparse matrix products of PFT: scores at listed keys, and sums of listed values.

PFT (Long et al., CVPR 2025, arXiv 2503.20337) keeps for every query of a window a short list of keys.

Shapes: B batch items (images x windows x heads), N queries, M keys, K slots of a list, C channels of a head. A list may
name a key twice; each slot counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ops.autocast import takes_autocast
from ops.registry import NATIVE, Operator, recording
from ops.sparse import native, reference
from ops.sparse.arguments import Amv, Qmk, SmmCall, check, check_index, shape_text
from utils.devices import types_here, without_values
from utils.errors import InputError

CHECK_INDEX = "FOCALSR_CHECK_INDEX"


@takes_autocast("q", "k_t")
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
    arguments = Qmk(q, k_t, index)
    check("smm_qmk", arguments)
    if q.shape[2] != k_t.shape[1]:
        raise InputError(f"smm_qmk: q is {shape_text(q)} and k_t {shape_text(k_t)}, expected [B, N, C] and [B, C, M]")
    return _run(SMM_QMK, arguments, k_t.shape[2], backend)


@takes_autocast("attn", "v")
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
    arguments = Amv(attn, v, index)
    check("smm_amv", arguments)
    if attn.shape != index.shape:
        raise InputError(f"smm_amv: attn is {shape_text(attn)}, expected the shape of index, {shape_text(index)}")
    return _run(SMM_AMV, arguments, v.shape[1], backend)


SmmOperator = Operator[SmmCall, Callable[[Any], Tensor]]


def _run(operator: SmmOperator, arguments: Qmk | Amv, keys: int, backend: str) -> Tensor:
    x, _, index = arguments
    chosen = operator.choose(SmmCall(x.device.type, x.dtype == torch.float64), backend)
    if recording() or without_values(x.device):
        return chosen.run(arguments)
    # The native CPU kernels look while they read.
    native_cpu = chosen.name == NATIVE and x.device.type == "cpu"
    if not native_cpu and (x.device.type == "cpu" or os.environ.get(CHECK_INDEX) == "1"):
        check_index(operator.name, index, keys)
    try:
        return chosen.run(arguments)
    except IndexError as error:
        raise InputError(f"{operator.name}: {error}") from None


def _examples() -> Mapping[str, SmmCall]:
    return {device: SmmCall(device) for device in types_here()}


SMM_QMK: SmmOperator = Operator(
    name="smm_qmk",
    backends=(native.backend(native.native_qmk), reference.backend(reference.reference_qmk)),
    examples=_examples,
)
SMM_AMV: SmmOperator = Operator(
    name="smm_amv",
    backends=(native.backend(native.native_amv), reference.backend(reference.reference_amv)),
    examples=_examples,
)
