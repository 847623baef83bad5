"""ESC-Real and its generalisation ESCRealM, for pictures from the wild.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W low-resolution pixels, C channels, s scale; f factor of the unshuffling, R scale of the head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.esc.blocks import AttentionType, Block, BlockSettings
from archs.esc.dysample import DySample
from archs.esc.kernels import initial_kernel
from archs.esc.network import IMAGE_CHANNELS, Encoder
from archs.layers.constants import PublishedConstants
from archs.layers.conv import convolve, pointwise, to_bhwc
from archs.layers.places import reflected
from archs.layers.upsample import PixelShuffleStages
from ops.pixels.reflect import reflect
from ops.registry import undecided
from utils.errors import InputError

Upsampler = Literal["conv", "pixelshuffledirect", "pixelshuffle", "nearest+conv", "dysample"]

SLOPE = 0.2
GROUPS = 4
UNKNOWN = 255
"""Stands in metadata for what does not fit into eight bits."""


class Skip(nn.Sequential):
    """From the image to what is added to the features: 1x1, depthwise 7x7 on the reflected image, 1x1.

    Args:
        channels: C.
        factor: f, of the unshuffling, which has an index of its own where there is any.
    """

    def __init__(self, channels: int, factor: int = 1) -> None:
        wide = 2 * channels
        unshuffle = [nn.PixelUnshuffle(factor)] if factor > 1 else []
        super().__init__(
            *unshuffle, nn.Conv2d(IMAGE_CHANNELS * factor**2, wide, 1), nn.Conv2d(wide, wide, 7, groups=wide),
            nn.LeakyReLU(SLOPE), nn.Conv2d(wide, channels, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3*f*f, H, W], unshuffled already because the features need it too -> [B, H, W, C]."""
        *_, first, depthwise, activation, second = self
        rows = pointwise(cast("nn.Conv2d", first), to_bhwc(x))
        for dim in (1, 2):
            rows = reflect(rows, dim, rows.shape[dim] + 6, before=3)
        return pointwise(cast("nn.Conv2d", second), activation(convolve(depthwise, rows)))


class ESCReal(Encoder):
    """ESC-Real.

    Args:
        upscaling_factor: scale s; 4 without use_dysample.
        use_dysample: upsample by sampling at learned positions instead of doubling pixels twice.
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
        upscaling_factor: int,
        exp_ratio: float = 2,
        attn_type: AttentionType = "auto",
        use_dysample: bool = False,
    ) -> None:
        settings = BlockSettings(
            dim, pdim, conv_blocks, window_size, num_heads, exp_ratio,
            norms=True, decomposed=False, attn_type=attn_type,
        )  # fmt: skip
        if not use_dysample and upscaling_factor != 4:
            raise InputError(
                f"ESCReal: upscaling_factor must be 4, which is what its upsampling does, got {upscaling_factor}; "
                "use ESCRealM, or use_dysample"
            )
        super().__init__(settings, n_blocks, kernel_size)
        _check_dysample("ESCReal", use_dysample, dim, upscaling_factor)
        self.scale = upscaling_factor
        self.plk_filter = nn.Parameter(initial_kernel(pdim, kernel_size))
        self.proj = nn.Conv2d(IMAGE_CHANNELS, dim, 3, padding=1)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(n_blocks))
        self.last = nn.Conv2d(dim, dim, 3, padding=1)
        self.to_img: nn.Module = (
            DySample(dim, IMAGE_CHANNELS, upscaling_factor, GROUPS) if use_dysample else _doubled_twice(dim)
        )
        self.skip = Skip(dim)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, 3, s*H, s*W], not clamped."""
        features = self.features(x) + self.skip(x)
        return cast("Tensor", self.to_img(features.permute(0, 3, 1, 2)))


class MetaUpsample(PublishedConstants, nn.Sequential):
    """The head of ESCRealM; published files say in seven numbers what it is.

    Args:
        upsampler: its kind.
        scale: R, 3 or a power of 2.
        channels: C.
        mid_dim: channels inside, where the kind has any.
    """

    def __init__(self, upsampler: Upsampler, scale: int, channels: int, mid_dim: int) -> None:
        super().__init__(*_head_layers(upsampler, scale, channels, mid_dim))
        kind = get_args(Upsampler).index(upsampler)
        self.numbers = [min(n, UNKNOWN) for n in (2, kind, scale, channels, IMAGE_CHANNELS, mid_dim, GROUPS)]

    def published_constants(self) -> Mapping[str, Tensor]:
        """The seven numbers."""
        return {"MetaUpsample": torch.tensor(self.numbers, dtype=torch.uint8)}

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        found = state_dict.get(prefix + "MetaUpsample")
        if isinstance(found, Tensor) and found.shape == (len(self.numbers),) and not found.is_meta:
            state_dict.pop(prefix + "MetaUpsample")
            differences = _differences(found.tolist(), self.numbers)
            if differences:
                error_msgs.append(f"{prefix}MetaUpsample: the weights are another network's: {differences}")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class ESCRealM(Encoder):
    """ESC-Real with a choice of upsamplers and scales.

    Args:
        upscaling_factor: scale s; 3 or a power of 2.
        mid_dim: channels inside the upsampling by pixelshuffle and dysample.
        upsampler: how the image is made of the features.
        unshuffle_mod: for scales below 3, work on the image shrunk by 4 / s with its pixels in channels.
    """

    scale: int

    def __init__(
        self,
        dim: int,
        pdim: int,
        kernel_size: int,
        n_blocks: int,
        conv_blocks: int,
        window_size: int,
        num_heads: int,
        upscaling_factor: int,
        exp_ratio: float = 2,
        attn_type: AttentionType = "auto",
        mid_dim: int = 48,
        upsampler: Upsampler = "nearest+conv",
        unshuffle_mod: bool = True,
    ) -> None:
        settings = BlockSettings(
            dim, pdim, conv_blocks, window_size, num_heads, exp_ratio,
            norms=True, decomposed=False, attn_type=attn_type,
        )  # fmt: skip
        super().__init__(settings, n_blocks, kernel_size)
        if upsampler not in get_args(Upsampler):
            raise InputError(
                f'ESCRealM: upsampler is "{upsampler}"; it must be one of {", ".join(get_args(Upsampler))}'
            )
        if mid_dim < 1 or upscaling_factor < 1:
            raise InputError(
                f"ESCRealM: mid_dim and upscaling_factor must be at least 1, got {mid_dim} and {upscaling_factor}"
            )
        self.scale = upscaling_factor
        self.factor = 4 // upscaling_factor if unshuffle_mod and upscaling_factor < 3 else 1
        inner = 4 if self.factor > 1 else upscaling_factor
        if upsampler == "conv" and inner != 1:
            raise InputError(
                "ESCRealM: the upsampler conv does not upsample; it is for upscaling_factor 1 and unshuffle_mod false"
            )
        _check_dysample("ESCRealM", upsampler == "dysample" and inner > 1, mid_dim, upscaling_factor)
        self.plk_filter = nn.Parameter(initial_kernel(pdim, kernel_size))
        first = nn.Conv2d(IMAGE_CHANNELS * self.factor**2, dim, 3, padding=1)
        self.proj = nn.Sequential(nn.PixelUnshuffle(self.factor), first) if self.factor > 1 else first
        self.skip = Skip(dim, self.factor)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(n_blocks))
        self.last = nn.Conv2d(dim, dim, 3, padding=1)
        self.to_img = MetaUpsample(upsampler, inner, dim, mid_dim)

    def padded_axis(self, length: int, device: torch.device) -> Tensor:
        """Which rows of the image a row of the unshuffled one holds; see :class:`archs.contract.PaddingNetwork`."""
        return reflected(length, self.factor, device).view(-1, self.factor)

    def first_convolution(self) -> nn.Module:
        """What makes the first features of the unshuffled image."""
        return self.proj if self.factor == 1 else cast("nn.Sequential", self.proj)[1]

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, 3, s*H, s*W], not clamped."""
        height, width = x.shape[2:]
        if self.factor > 1:
            for dim in (2, 3):
                x = reflect(x, dim, self.factor * undecided((x.shape[dim] + self.factor - 1) // self.factor))
            x = F.pixel_unshuffle(x.contiguous(), self.factor)
        features = self.features(x) + self.skip(x)
        image: Tensor = self.to_img(features.permute(0, 3, 1, 2))
        if self.factor == 1:
            return image
        # Not cropped by padding, as elsewhere: OpenVINO refuses that of an image whose sides have a least size.
        rows = to_bhwc(image)[:, : self.scale * height, : self.scale * width]
        return rows.contiguous().permute(0, 3, 1, 2)


def _doubled_twice(channels: int) -> nn.Sequential:
    """ESC-Real's own head, for a scale of 4."""
    layers: list[nn.Module] = []
    for upsampled in (True, True, False):
        layers += [nn.Upsample(scale_factor=2)] if upsampled else []
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers, nn.Conv2d(channels, IMAGE_CHANNELS, 3, padding=1))


def _head_layers(upsampler: Upsampler, scale: int, channels: int, mid_dim: int) -> list[nn.Module]:
    """The layers of a head from [B, C, H, W] to [B, 3, R*H, R*W], under their published indices."""
    last = nn.Conv2d(channels, IMAGE_CHANNELS, 3, padding=1)
    if scale == 1 or upsampler == "conv":
        return [last]
    if upsampler == "pixelshuffledirect":
        return [nn.Conv2d(channels, IMAGE_CHANNELS * scale**2, 3, padding=1), nn.PixelShuffle(scale)]
    narrow = [nn.Conv2d(channels, mid_dim, 3, padding=1), nn.LeakyReLU()]
    if upsampler == "pixelshuffle":
        stages = PixelShuffleStages(scale, mid_dim)
        return [*narrow, *stages, nn.Conv2d(mid_dim, IMAGE_CHANNELS, 3, padding=1)]
    if upsampler == "dysample":
        return [*(narrow if mid_dim != channels else []), DySample(mid_dim, IMAGE_CHANNELS, scale, GROUPS)]
    layers: list[nn.Module] = []
    for factor in _stages(scale):
        layers += [
            nn.Conv2d(channels, channels, 3, padding=1), nn.Upsample(scale_factor=factor), nn.LeakyReLU(SLOPE)
        ]  # fmt: skip
    return [*layers, nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(SLOPE), last]


def _stages(scale: int) -> list[int]:
    """Factors of the steps to a scale: 3, or one 2 for each doubling."""
    if scale == 3:
        return [3]
    count = round(math.log2(scale))
    if scale != 2**count:
        raise InputError(f"ESCRealM: upscaling_factor must be 3 or a power of 2, got {scale}")
    return [2] * count


def _differences(found: Sequence[int], own: Sequence[int]) -> str:
    """What the numbers of a file say against those of a network; "" if nothing. The first is a version."""
    names = ("upsampler", "scale", "dim", "image channels", "mid_dim", "groups")
    kinds = get_args(Upsampler)
    differences = []
    for name, a, b in zip(names, found[1:], own[1:], strict=True):
        if a == b or (name in ("dim", "mid_dim") and UNKNOWN in (a, b)):
            continue
        values = (kinds[n] if name == "upsampler" and n < len(kinds) else n for n in (a, b))
        differences.append("{} is {} in the file and {} here".format(name, *values))
    return ", ".join(differences)


def _check_dysample(name: str, used: bool, channels: int, scale: int) -> None:
    if used and (channels % GROUPS or scale < 1):
        raise InputError(
            f"{name}: dysample wants a multiple of {GROUPS} channels and a scale of at least 1, got {channels} "
            f"and {scale}"
        )
