"""Names and values that option files share with what is run without one, which need not load all options."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

Precision = Literal["fp32", "fp16", "bf16"]

ONNX = "onnx"
"""``network_g.type`` of a network that is an ONNX file."""

SCALE_KEYS = ("scale", "upscale", "upscaling_factor")
"""What networks call the super-resolution factor."""


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights that a network starts from.

    Attributes:
        path: the file.
        key: its entry; None: the EMA weights where the file has some, else the only weights.
        strict: every tensor must fit.
        resize_tables: tables of relative positions of another window are resized, and fit then.
    """

    path: Path
    key: str | None
    strict: bool
    resize_tables: bool
