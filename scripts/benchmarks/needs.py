"""What a machine may not be able to do, mostly tried once: compile, multiply in bfloat16, run ONNX files."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from utils.devices import native_precisions

Need = Literal["torch.compile", "bfloat16", "native bfloat16", "onnxruntime", "openvino"]
_SIDE = 16  # of the matrices that are tried


def missing(needs: Iterable[Need], device: str) -> str | None:
    """What of some needs a device lacks, in a few words; None where it can do all.

    Args:
        needs: of a piece of work.
        device: its type, such as "cpu".
    """
    return next((lack for lack in (lack(need, device) for need in needs) if lack is not None), None)


@functools.cache
def lack(need: Need, device: str) -> str | None:
    """Why the device cannot do it: mostly the error of trying."""
    if need in ("onnxruntime", "openvino"):
        return None if importlib.util.find_spec(need) is not None else f"{need} is not installed"
    if need == "native bfloat16":
        return None if "bf16" in native_precisions(device) else "no bfloat16 arithmetic: networks stay in float32"
    dtype = torch.bfloat16 if need == "bfloat16" else torch.float32
    try:
        x = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
        product = torch.compile(_product) if need == "torch.compile" else _product
        product(x).sum().item()
    except Exception as error:  # noqa: BLE001  compilers, drivers and back ends fail in as many ways as there are
        return f"{need} does not work here ({type(error).__name__})"
    return None


def _product(x: Tensor) -> Tensor:
    return (x @ x).relu() + 1
