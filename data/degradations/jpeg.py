"""JPEG compression and back as tensors: what the round trip does to images, without a file.

Shapes: B images, N blocks of 8 x 8.
"""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from utils.checked import check_choice

Tables = Literal["published", "standard"]

# Quantisation tables K.1 and K.2 of ITU-T T.81, rows are vertical frequencies.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
_TO_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def jpeg(images: Tensor, quality: Tensor, tables: Tables = "published") -> Tensor:
    """What is left of images after JPEG compression with colour at half resolution.

    Args:
        images: float [B, 3, H, W] R G B in [0, 1]; what lies outside is cut off.
        quality: [B], above 0 and up to 100.
        tables: "published": the quantisation tables with rows and columns exchanged, as the published networks were
            trained; "standard": as an encoder has them.

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    B, _, H, W = images.shape
    device, kind = str(images.device), images.dtype
    around = functional.pad(images.clamp(0, 1) * 255, (0, -W % 16, 0, -H % 16))
    ycc = torch.einsum("ij,bjhw->bihw", _matrix(_TO_YCBCR, kind, device), around)
    factor = torch.where(quality < 50, 50 / quality, 2 - quality / 50).to(device, kind).view(B, 1, 1, 1)
    # Y between 0 and 255, and colours around 0: both 128 below what JPEG stores.
    y = _coded(ycc[:, :1] - 128, factor, _table(_LUMINANCE, tables, kind, device)) + 128
    small = functional.avg_pool2d(ycc[:, 1:], 2)
    colours = _coded(small, factor, _table(_CHROMINANCE, tables, kind, device))
    colours = colours.repeat_interleave(2, -1).repeat_interleave(2, -2)
    rgb = torch.einsum("ij,bjhw->bihw", _matrix(_TO_RGB, kind, device), torch.cat([y, colours], 1))
    return (rgb[..., :H, :W].clamp(0, 255) / 255).contiguous()


def _coded(planes: Tensor, factor: Tensor, table: Tensor) -> Tensor:
    """Planes [B, P, H, W] through the cosine transform, quantised by ``table`` * ``factor`` [B, 1, 1, 1], and back."""
    B, P, H, W = planes.shape
    transform = _cosines(planes.dtype, str(planes.device))
    blocks = planes.view(B, P, H // 8, 8, W // 8, 8).transpose(3, 4).reshape(B, -1, 8, 8)  # [B, N, 8, 8]
    step = (table * factor).clamp_min(1e-3)  # quality 100: nearly nothing is lost, instead of a division by 0
    levels = (transform @ blocks @ transform.T / step).round() * step  # torch rounds half to even
    back = transform.T @ levels @ transform
    return back.view(B, P, H // 8, W // 8, 8, 8).transpose(3, 4).reshape(B, P, H, W)


@functools.lru_cache(maxsize=8)
def _cosines(kind: torch.dtype, device: str) -> Tensor:
    """The orthonormal cosine transform of 8 values, [frequency, place]."""
    rows = [
        [math.cos((2 * x + 1) * u * math.pi / 16) * (math.sqrt(1 / 8) if u == 0 else 0.5) for x in range(8)]
        for u in range(8)
    ]
    return _matrix(tuple(map(tuple, rows)), kind, device)


@functools.lru_cache(maxsize=16)
def _table(rows: tuple[tuple[int, ...], ...], tables: Tables, kind: torch.dtype, device: str) -> Tensor:
    check_choice("jpeg: tables", tables, Tables)
    table = _matrix(rows, kind, device)
    return table.T.contiguous() if tables == "published" else table


@functools.lru_cache(maxsize=32)
def _matrix(rows: tuple[tuple[float, ...], ...], kind: torch.dtype, device: str) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=torch.float64).to(device, kind)
