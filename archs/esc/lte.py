"""ESC for any real scale: its encoder, and a decoder that is asked for the colour at a position.

The decoder is LTE (Lee and Jin, Local Texture Estimator for Implicit Representation Function, CVPR 2022, arXiv
2111.08918). On the grid of an image all that depends on positions is a product of rows and columns, so nothing of the
size of all queries is made before the MLP, which works through the rows in bands. Training asks for single points, of
another scale in each image. The four neighbours of a position are weighted along each axis; that differs from published
on the last centre lines of odd whole scales alone.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W low-resolution pixels, C channels, n hidden channels; Y X pixels of the result, Q points.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.esc.blocks import AttentionType, Block, BlockSettings
from archs.esc.kernels import initial_kernel
from archs.esc.network import IMAGE_CHANNELS, Encoder, ESCNetwork
from archs.layers.conv import convolve
from archs.layers.window import Pair
from ops.registry import divisor, exporting, free
from utils.errors import InputError
from utils.scale import as_scale, scaled_length

BAND = 30_000
"""Output pixels that the MLP takes at a time, of each image."""

Pick = Callable[[Tensor, Tensor, Tensor], Tensor]


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
    """One of the two neighbours along an axis: [m] for each of m output pixels, or [B, Q] for points.

    Attributes:
        pixel: int64, the low-resolution pixel.
        offset: where the output pixel lies, seen from it; in low-resolution pixels times two.
        weight: of its colour; those of the two neighbours add up to 1.
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
        upscaling_factor: the scale of whole images, any number from 1 on.
        scale_max: the largest scale of the training. Beyond it, the size of an output pixel that the decoder is given
            stays that of this scale.
    """

    takes_queries = True

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
        scale_max: float = 4,
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
        for key, value in (("upscaling_factor", upscaling_factor), ("scale_max", scale_max)):
            if not (value >= 1 and math.isfinite(value)):
                raise InputError(f"ESCLTE: {key} must be a number of at least 1, got {value}")
        super().__init__(window_size)
        self.scale = as_scale(upscaling_factor)
        self.scale_max = float(scale_max)
        self.encoder = ESCEncoder(settings, n_blocks, kernel_size)
        self.coef = nn.Conv2d(dim, hidden_dim, 3, padding=1)
        self.freq = nn.Conv2d(dim, hidden_dim, 3, padding=1)
        self.phase = nn.Linear(2, hidden_dim // 2, bias=False)
        self.imnet = DecoderMLP([hidden_dim, *hidden_list, out_dim])

    def at_scale(self, scale: float) -> ESCLTE:
        """The same network, sharing all weights, with another scale of whole images."""
        other = copy.copy(self)
        other.scale = as_scale(scale)
        return other

    def forward(
        self, x: Tensor, output_size: Pair | None = None, queries: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Upscale images, or tell the colours of some points of the upscaled images.

        Args:
            x: [B, 3, H, W] in [0, 1].
            output_size: (Y, X) of the result; by default the sides of x times the scale, rounded.
            queries: of points (:class:`data.patches.points.Queries`): their coordinates [B, Q, 2] as (row, column),
                -1 to 1 from edge to edge of the image, and the size of an output pixel in such units, [B, 2]; each
                float32 or float64. Half precision would be off by pixels.

        Returns:
            [B, 3, Y, X], or [B, 3, Q, 1] of points; not clamped.

        Raises:
            ValueError: ``queries`` are of another type or shape.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        normal = 2 * x - 1
        features = self.encoder(normal)
        if queries is not None:
            return self.at_points(features, normal, *queries) / 2 + 0.5
        size = output_size or (scaled_length(x.shape[2], self.scale), scaled_length(x.shape[3], self.scale))
        # A whole scale stays a number in graphs with free sizes.
        whole = self.scale if output_size is None and isinstance(self.scale, int) else None
        image = self.decode(features, size, whole)
        image = image + F.interpolate(normal, size=size, mode="bilinear")
        return image / 2 + 0.5

    def decode(self, features: Tensor, size: Pair, scale: int | None = None) -> Tensor:
        """[B, H, W, C] and (Y, X), a whole scale times (H, W) if there is one -> [B, 3, Y, X], channels last."""
        coefficients, frequencies = convolve(self.coef, features), convolve(self.freq, features)
        _, H, W, _ = features.shape
        phase = self._phase(*self._cell(size, (H, W), scale))  # [n / 2]
        dtype = torch.promote_types(features.dtype, torch.float32)
        rows, columns = (
            _neighbours_of_grid(wanted, length, dtype, features.device)
            for wanted, length in zip(size, (H, W), strict=True)
        )
        parts = [slice(None)]  # a graph for free sizes cannot count bands
        if not exporting():
            band = max(1, BAND // size[1])
            parts = [slice(start, start + band) for start in range(0, size[0], band)]
        bands = []
        for part in parts:
            few = [Axis(*(values[part, None] for values in row)) for row in rows]  # each [m, 1]
            bands.append(self._blended(_of_grid, coefficients, frequencies, phase, few, columns))
        image = bands[0] if len(bands) == 1 else torch.cat(bands, 1)
        return image.to(features.dtype).permute(0, 3, 1, 2)

    def at_points(self, features: Tensor, normal: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """[B, H, W, C], the image in [-1, 1] and the two tensors of ``queries`` -> [B, 3, Q, 1] in [-1, 1]."""
        _check_queries(coord, cell, len(normal))
        coefficients, frequencies = convolve(self.coef, features), convolve(self.freq, features)
        _, H, W, _ = features.shape
        larger = (2 / (cell[:, :1] * H) / self.scale_max).clamp(min=1)  # [B, 1]
        phase = self._phase(cell[:, :1] * H * larger, cell[:, 1:] * W * larger)[:, None]  # [B, 1, n / 2]
        rows, columns = _neighbours(coord[..., 0], H), _neighbours(coord[..., 1], W)
        colours = self._blended(_of_points, coefficients, frequencies, phase, rows, columns)  # [B, Q, 3]
        grid = coord.flip(-1)[:, :, None].to(colours.dtype)  # as (column, row)
        skip = F.grid_sample(normal.to(colours.dtype), grid, padding_mode="border", align_corners=False)
        return (colours.permute(0, 2, 1)[..., None] + skip).to(features.dtype)

    def _cell(self, size: Pair, low: Pair, scale: int | None) -> tuple[float | Tensor, float | Tensor]:
        """The sides of a pixel of an image of (Y, X), in pixels of one of (H, W) times two, as the decoder is told."""
        (Y, X), (H, W) = size, low
        if scale is not None:
            side = 2 / scale * max(scale / self.scale_max, 1.0)
            return side, side
        if not free(Y):
            larger = max(Y / H / self.scale_max, 1.0)
            return 2 * H / Y * larger, 2 * W / X * larger
        device = self.phase.weight.device
        y, x, h, w = (torch.full((), length, dtype=torch.float32, device=device) for length in (Y, X, H, W))
        widened = (y / h / self.scale_max).clamp(min=1)
        return 2 * h / y * widened, 2 * w / x * widened

    def _phase(self, down: float | Tensor, right: float | Tensor) -> Tensor:
        """The sides of an output pixel, in low-resolution pixels times two -> [..., n / 2]."""
        # Positions and phases need float32: half precision would be off by pixels.
        weight = self.phase.weight.to(torch.promote_types(self.phase.weight.dtype, torch.float32))
        return weight[:, 0] * _like(down, weight) + weight[:, 1] * _like(right, weight)

    def _blended(
        self, pick: Pick, coefficients: Tensor, frequencies: Tensor, phase: Tensor,
        rows: list[Axis], columns: list[Axis],
    ) -> Tensor:  # fmt: skip
        """The colours of positions, blended of what the decoder makes of each of their four neighbours.

        Args:
            pick: takes [B, H, W, n] and the rows and columns of low-resolution pixels, and gives what is there.
            coefficients: [B, H, W, n].
            frequencies: likewise.
            phase: [n / 2], or [B, 1, n / 2].
            rows: the two neighbours along the columns: [m, 1], or [B, Q].
            columns: those along the rows: [X], or [B, Q].

        Returns:
            [B, m, X, 3], or [B, Q, 3].
        """
        dtype = torch.promote_types(frequencies.dtype, torch.float32)
        phase = phase.to(dtype)
        total: Tensor | None = None
        for row, column in [(row, column) for row in rows for column in columns]:
            a = pick(coefficients, row.pixel, column.pixel)  # [B, m, X, n], or [B, Q, n]
            q = pick(frequencies, row.pixel, column.pixel).to(dtype)
            down, right = row.offset.to(dtype)[..., None], column.offset.to(dtype)[..., None]
            angle = math.pi * (down * q[..., 0::2] + right * q[..., 1::2] + phase)
            t = torch.cat([angle.cos(), angle.sin()], -1).to(a.dtype) * a
            # One after the other: at a fixed size, their product would be a constant of the size of the image.
            colour = self.imnet(t).to(dtype) * row.weight.to(dtype)[..., None] * column.weight.to(dtype)[..., None]
            total = colour if total is None else total + colour
        assert total is not None
        return total


def _of_grid(features: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """[B, H, W, n] at rows [m, 1] and columns [X] -> [B, m, X, n]."""
    return features.index_select(1, row.flatten()).index_select(2, column)


def _of_points(features: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """[B, H, W, n] at rows and columns [B, Q] -> [B, Q, n]."""
    B, H, W, n = features.shape
    image = torch.arange(B, device=features.device)[:, None]
    index = (image * H + row) * W + column
    return features.reshape(B * H * W, n).index_select(0, index.flatten()).view(B, -1, n)


def _like(value: float | Tensor, weight: Tensor) -> float | Tensor:
    return value.to(weight.dtype) if isinstance(value, Tensor) else value


def _check_queries(coord: Tensor, cell: Tensor, images: int) -> None:
    """Raise ValueError unless these are coordinates and cells of points of so many images."""
    shapes = (coord.ndim, coord.shape[0], coord.shape[-1]) == (3, images, 2) and list(cell.shape) == [images, 2]
    if not shapes or {coord.dtype, cell.dtype} - {torch.float32, torch.float64}:
        raise ValueError(
            f"queries: expected coordinates [{images}, Q, 2] and cells [{images}, 2] in float32 or float64, got "
            f"{list(coord.shape)} in {coord.dtype} and {list(cell.shape)} in {cell.dtype}"
        )


def _neighbours_of_grid(count: int, length: int, dtype: torch.dtype, device: torch.device) -> list[Axis]:
    """:func:`_neighbours` of the centres of ``count`` pixels along an axis, [count] each; in whole numbers, so exact.

    The centre of pixel k lies (2 k + 1) length / (2 count) low-resolution pixels from the edge. 1 / 10^6 is the small
    number there. Up to 30,000 pixels from 30,000 no product exceeds 31 bits, for runtimes that have no more.
    """
    centre = (2 * torch.arange(count, device=device) + 1) * length
    after = (centre + (count + length * count // 10**6)) // divisor(2 * count, device)
    indices = [(after - 1).clamp(0, length - 1), after.clamp(0, length - 1)]
    return _weighted(
        indices, [(centre - (2 * index + 1) * count).to(dtype) / divisor(count, device) for index in indices]
    )


def _neighbours(centre: Tensor, length: int) -> list[Axis]:
    """The nearest pixels of positions half a pixel before and after, of an axis of ``length`` low-resolution pixels.

    Positions run from -1 to 1 over the axis. The small numbers are the published ones. A neighbour's weight is the
    distance to the other one, over the sum of both. Published code weighs by areas instead, which are products of the
    distances along both axes: where those along one axis vanish (on the last centre line of odd whole scales, whose two
    neighbours are one pixel), all its areas are a rounding error, and the distances along the other axis are lost.
    """
    indices = []
    for side in (-1, 1):
        moved = (centre + side / length + 1e-6).clamp(-1 + 1e-6, 1 - 1e-6)
        indices.append((((moved + 1) * length - 1) / 2).round().clamp(0, length - 1))
    offsets = [(centre - ((2 * index + 1) / length - 1)) * length for index in indices]
    return _weighted([index.long() for index in indices], offsets)


def _weighted(indices: list[Tensor], offsets: list[Tensor]) -> list[Axis]:
    """The two neighbours along an axis with their weights: the distance to the other one, over the sum of both."""
    # Half each where both are one pixel. Not by adding a small number, which converters to ONNX take for 0.
    distances = [offset.abs().clamp(min=1e-9) for offset in offsets]
    total = distances[0] + distances[1]
    weights = [distances[1] / total, distances[0] / total]
    return [Axis(index, offset, weight) for index, offset, weight in zip(indices, offsets, weights, strict=True)]
