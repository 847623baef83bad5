"""ESC for any real scale: its encoder, and a decoder that is asked for the colour at a position.

The decoder is LTE (Lee and Jin, Local Texture Estimator for Implicit Representation Function, CVPR 2022, arXiv
2111.08918). On the grid of an image all that depends on positions is a product of rows and columns, so nothing of the
size of all queries is made before the MLP, which works through the rows in bands. The four neighbours of a position are
weighted along each axis; that differs from published on the last centre lines of odd whole scales alone.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W low-resolution pixels, C channels, n hidden channels; Y X pixels of the result.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.esc.blocks import AttentionType, Block, BlockSettings
from archs.esc.kernels import initial_kernel
from archs.esc.network import IMAGE_CHANNELS, Encoder, ESCNetwork
from archs.layers.conv import convolve
from archs.layers.window import Pair
from ops.registry import exporting
from utils.errors import InputError
from utils.scale import scaled_length

LARGEST_TRAINED = 4.0
"""The published network was trained with scales up to this; beyond, the size of a pixel that it is given grows."""

BAND = 30_000
"""Output pixels that the MLP takes at a time, of each image."""


class ESCEncoder(Encoder):
    """ESC without what makes the image.

    Args:
        settings: of the blocks.
    """

    def __init__(self, settings: BlockSettings, n_blocks: int, kernel_size: int) -> None:
        super().__init__(settings, n_blocks, kernel_size)
        self.plk_filter = nn.Parameter(initial_kernel(settings.pdim, kernel_size))
        self.proj = nn.Conv2d(IMAGE_CHANNELS, settings.dim, 3, padding=1)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(n_blocks))
        self.last = nn.Conv2d(settings.dim, settings.dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, H, W, C]."""
        return self.features(x)


class DecoderMLP(nn.Module):
    """Linear layers with ReLU between them.

    Args:
        widths: of the input, of what is between, and of the output.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for first, second in itertools.pairwise(widths):
            layers += [nn.Linear(first, second), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """[..., first width] -> [..., last width]."""
        return cast("Tensor", self.layers(x))


class Axis(NamedTuple):
    """One of the two neighbours along an axis, for each of the m output pixels.

    Attributes:
        pixel: [m] int64, the low-resolution pixel.
        offset: [m] float64, where the output pixel lies, seen from it; in low-resolution pixels times two.
        weight: [m] float64, of its colour; those of the two neighbours add up to 1.
    """

    pixel: Tensor
    offset: Tensor
    weight: Tensor


class ESCLTE(ESCNetwork):
    """ESC with the decoder LTE; the output may have any size.

    Args:
        hidden_dim: channels n of the decoder, even.
        hidden_list: widths inside the decoder's MLP.
        out_dim: channels of the image.
        upscaling_factor: the scale, any number from 1 on.
    """

    def __init__(
        self,
        dim: int,
        pdim: int,
        kernel_size: int,
        n_blocks: int,
        conv_blocks: int,
        window_size: int,
        num_heads: int,
        exp_ratio: float = 1.25,
        hidden_dim: int = 256,
        hidden_list: Sequence[int] = (256, 256, 256),
        out_dim: int = 3,
        upscaling_factor: float = 4,
        attn_type: AttentionType = "auto",
        use_ln: bool = False,
    ) -> None:
        settings = BlockSettings(
            dim, pdim, conv_blocks, window_size, num_heads, exp_ratio,
            norms=use_ln, decomposed=False, attn_type=attn_type,
        )  # fmt: skip
        if hidden_dim < 2 or hidden_dim % 2 or min([1, *hidden_list]) < 1:
            raise InputError(
                f"ESCLTE: hidden_dim must be even and at least 2, hidden_list hold numbers of at least 1; got "
                f"{hidden_dim} and {list(hidden_list)}"
            )
        if out_dim != IMAGE_CHANNELS:
            raise InputError(f"ESCLTE: out_dim must be {IMAGE_CHANNELS}, the channels of the image, got {out_dim}")
        if not (upscaling_factor >= 1 and math.isfinite(upscaling_factor)):
            raise InputError(f"ESCLTE: upscaling_factor must be a number of at least 1, got {upscaling_factor}")
        super().__init__(window_size)
        self.scale = int(upscaling_factor) if upscaling_factor == int(upscaling_factor) else upscaling_factor
        self.encoder = ESCEncoder(settings, n_blocks, kernel_size)
        self.coef = nn.Conv2d(dim, hidden_dim, 3, padding=1)
        self.freq = nn.Conv2d(dim, hidden_dim, 3, padding=1)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)
        self.imnet = DecoderMLP([hidden_dim, *hidden_list, out_dim])

    def forward(self, x: Tensor, output_size: Pair | None = None) -> Tensor:
        """Upscale images.

        Args:
            x: [B, 3, H, W] in [0, 1].
            output_size: (Y, X) of the result; by default the sides of x times the scale, rounded.

        Returns:
            [B, 3, Y, X], not clamped.
        """
        size = output_size or (scaled_length(x.shape[2], self.scale), scaled_length(x.shape[3], self.scale))
        x = x.contiguous(memory_format=torch.channels_last)
        normal = 2 * x - 1
        # A whole scale stays a number in graphs with free sizes.
        scale = self.scale if output_size is None and isinstance(self.scale, int) else size[0] / x.shape[2]
        image = self.decode(self.encoder(normal), size, scale)
        image = image + F.interpolate(normal, size=size, mode="bilinear")
        return image / 2 + 0.5

    def decode(self, features: Tensor, size: Pair, scale: float) -> Tensor:
        """[B, H, W, C], (Y, X) and Y / H -> [B, 3, Y, X], channels last."""
        coefficients, frequencies = convolve(self.coef, features), convolve(self.freq, features)
        _, H, W, _ = features.shape
        # Positions and phases need float32: half precision would be off by pixels.
        dtype = torch.promote_types(features.dtype, torch.float32)
        larger = max(scale / LARGEST_TRAINED, 1.0)
        # The size of an output pixel, in low-resolution pixels times two.
        cell = (2 * H / size[0] * larger, 2 * W / size[1] * larger)
        down, right = self.phase.weight.to(dtype).unbind(1)
        phase = down * cell[0] + right * cell[1]  # [n / 2]
        rows, columns = _neighbours(H, size[0], features.device), _neighbours(W, size[1], features.device)
        parts = [slice(None)]  # a graph for free sizes cannot count bands
        if not exporting():
            band = max(1, BAND // size[1])
            parts = [slice(start, start + band) for start in range(0, size[0], band)]
        bands = []
        for part in parts:
            few = [Axis(pixel[part], offset[part], weight[part]) for pixel, offset, weight in rows]
            bands.append(self._band(coefficients, frequencies, phase, few, columns))
        image = bands[0] if len(bands) == 1 else torch.cat(bands, 1)
        return image.to(features.dtype).permute(0, 3, 1, 2)

    def _band(
        self, coefficients: Tensor, frequencies: Tensor, phase: Tensor, rows: list[Axis], columns: list[Axis]
    ) -> Tensor:
        """[B, H, W, n] twice, [n / 2], two neighbours of m rows and of X columns -> [B, m, X, 3]."""
        dtype = phase.dtype
        total: Tensor | None = None
        for row, column in [(row, column) for row in rows for column in columns]:
            a = coefficients.index_select(1, row.pixel).index_select(2, column.pixel)  # [B, m, X, n]
            q = frequencies.index_select(1, row.pixel).index_select(2, column.pixel).to(dtype)
            along = row.offset.to(dtype)[:, None, None] * q[..., 0::2] + column.offset.to(dtype)[:, None] * q[..., 1::2]
            angle = math.pi * (along + phase)
            t = torch.cat([angle.cos(), angle.sin()], -1).to(a.dtype) * a
            weight = (row.weight[:, None] * column.weight).to(dtype)  # [m, X]
            colour = self.imnet(t).to(dtype) * weight[..., None]
            total = colour if total is None else total + colour
        assert total is not None
        return total


def _neighbours(length: int, wanted: int, device: torch.device) -> list[Axis]:
    """The nearest low-resolution pixels of positions half a pixel before and after, of an axis of ``wanted`` pixels.

    Positions run from -1 to 1 over the axis. The small numbers are the published ones. A neighbour's weight is the
    distance to the other one, over the sum of both. Published code weighs by areas instead, which are products of the
    distances along both axes: where those along one axis vanish (on the last centre line of odd whole scales, whose two
    neighbours are one pixel), all its areas are a rounding error, and the distances along the other axis are lost.
    """
    centre = (2 * torch.arange(wanted, device=device, dtype=torch.float64) + 1) / wanted - 1
    indices = []
    for side in (-1, 1):
        moved = (centre + side / length + 1e-6).clamp(-1 + 1e-6, 1 - 1e-6)
        indices.append((((moved + 1) * length - 1) / 2).round().clamp(0, length - 1))
    offsets = [(centre - ((2 * index + 1) / length - 1)) * length for index in indices]
    distances = [offset.abs() + 1e-9 for offset in offsets]
    total = distances[0] + distances[1]
    weights = [distances[1] / total, distances[0] / total]
    return [Axis(index.long(), offset, weight) for index, offset, weight in zip(indices, offsets, weights, strict=True)]
