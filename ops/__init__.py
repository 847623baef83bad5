"""Functions with several implementations: one reference in plain PyTorch that defines them, and faster ones.

``explain()`` says which implementation runs here. ``FOCALSR_OPS=reference`` takes the references wherever a call leaves
the choice open; ``FOCALSR_OPS=native`` makes the lack of compiled kernels an error for operators that have some.
"""

from __future__ import annotations

from typing import Any

from ops import registry
from ops.convolution.conv3x3 import CONV3X3, call_of, conv3x3
from ops.convolution.importance import IMPORTANCE_GATE, POINTWISE_SOFT_POOL, importance_gate_, pointwise_soft_pool
from ops.depthwise import DEPTHWISE, depthwise_conv2d
from ops.focused.arguments import FocusState
from ops.focused.attention import FOCUSED_ATTENTION, focused_attention
from ops.memo import Memo
from ops.mlp.gelu_depthwise import DEPTHWISE_GELU, GELU_DEPTHWISE, depthwise_gelu, gelu_depthwise
from ops.mlp.linear import LINEAR, linear
from ops.mlp.linear_rows import LINEAR_ROWS, call_of_rows, linear_rows
from ops.observed import AttentionCall, observed_by
from ops.pixels.imresize import imresize
from ops.pixels.resample import RESAMPLE, resample
from ops.registry import Explanation, Operator
from ops.sparse.smm import SMM_AMV, SMM_QMK, smm_amv, smm_qmk
from ops.window.attention import WINDOW_ATTENTION, window_attention
from ops.window.image import IMAGE_ATTENTION, ImageWindows, image_attention, serves_image
from ops.window.region_mask import RegionMask
from ops.window.relative_bias import RelativeBias

__all__ = [
    "CONV3X3",
    "GELU_DEPTHWISE",
    "IMPORTANCE_GATE",
    "LINEAR_ROWS",
    "OPERATORS",
    "AttentionCall",
    "FocusState",
    "ImageWindows",
    "Memo",
    "RegionMask",
    "RelativeBias",
    "call_of",
    "call_of_rows",
    "conv3x3",
    "depthwise_conv2d",
    "depthwise_gelu",
    "explain",
    "focused_attention",
    "gelu_depthwise",
    "image_attention",
    "importance_gate_",
    "imresize",
    "linear",
    "linear_rows",
    "observed_by",
    "pointwise_soft_pool",
    "resample",
    "serves_image",
    "smm_amv",
    "smm_qmk",
    "window_attention",
]

OPERATORS: tuple[Operator[Any, Any], ...] = (
    WINDOW_ATTENTION,
    IMAGE_ATTENTION,
    FOCUSED_ATTENTION,
    SMM_QMK,
    SMM_AMV,
    DEPTHWISE,
    GELU_DEPTHWISE,
    DEPTHWISE_GELU,
    LINEAR,
    LINEAR_ROWS,
    CONV3X3,
    POINTWISE_SOFT_POOL,
    IMPORTANCE_GATE,
    RESAMPLE,
)


def explain() -> Explanation:
    """A table: operator, the backend that "auto" takes on this machine and why, and why not each of the others."""
    return registry.explain(OPERATORS)
