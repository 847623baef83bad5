"""From features to the image: the ways to upsample that published networks name.

Shapes: B images, H W low-resolution pixels, D channels of the network, f channels behind it, c of the image, s scale.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, cast, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from archs.layers.conv import Conv3x3
from archs.layers.numbering import count_numbered
from utils.errors import InputError

Upsampler = Literal["pixelshuffle", "pixelshuffledirect", "nearest+conv", ""]
"""The published names; the empty one makes an image of the same size."""

HEAD_WIDTH = 64
"""f; fixed in the published networks."""


class PixelShuffleStages(nn.Sequential):
    """3x3 convolutions, each with a pixel shuffle: one by 3 for a scale of 3, one by 2 for each factor of 2.

    Args:
        scale: 3 or a power of 2; 1 makes it empty.
        channels: of input and output.
    """

    def __init__(self, scale: int, channels: int) -> None:
        factors = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        if scale < 1 or (scale != 3 and scale != 2 ** len(factors)):
            raise InputError(f"pixelshuffle: the scale must be 3 or a power of 2, got {scale}")
        stages = ((Conv3x3(channels, factor**2 * channels), nn.PixelShuffle(factor)) for factor in factors)
        super().__init__(*itertools.chain.from_iterable(stages))


def pixelshuffle_scale(state: Mapping[str, Tensor]) -> int:
    """The scale of the :class:`PixelShuffleStages` that a state dict holds under ``upsample``; 1 if it holds none."""
    stages = (count_numbered(state, r"upsample\.(\d+)\.weight") + 1) // 2  # each second layer is a pixel shuffle
    if stages == 0:
        return 1
    rows, columns = state["upsample.0.weight"].shape[:2]
    return 3 if rows == 9 * columns else 2**stages


def head_of(state: Mapping[str, Tensor], image_channels: int) -> tuple[Upsampler, int]:
    """The upsampler and the scale of the :func:`head_layers` that a state dict holds."""
    if "conv_up1.weight" in state:
        return "nearest+conv", 4 if "conv_up2.weight" in state else 2
    if "conv_before_upsample.0.weight" in state:
        return "pixelshuffle", pixelshuffle_scale(state)
    if "upsample.0.weight" in state:
        return "pixelshuffledirect", math.isqrt(state["upsample.0.weight"].shape[0] // image_channels)
    return "", 1


def head_layers(
    upsampler: Upsampler, channels: int, scale: int, image_channels: int, *, network: str
) -> dict[str, nn.Module]:
    """The layers that make the image, by their published names and in their order.

    Args:
        upsampler: "pixelshuffle" upsamples f channels, with a convolution before and one after; "pixelshuffledirect"
            makes the image in one convolution; "nearest+conv", for scales of 2 and 4, doubles pixels once or twice,
            with convolutions between; "" is one convolution without upsampling.
        channels: D.
        scale: s.
        image_channels: c.
        network: whose layers these are, for messages.

    Raises:
        InputError: there is no such upsampler, or not for this scale.
    """
    if upsampler not in get_args(Upsampler):
        known = ", ".join(name or "''" for name in get_args(Upsampler))
        raise InputError(f'{network}: upsampler is "{upsampler}"; it must be one of {known}')
    if upsampler == "nearest+conv" and scale not in (2, 4):
        raise InputError(f"{network}: nearest+conv is for scales of 2 and 4, got {scale}")
    if upsampler == "" and scale != 1:
        raise InputError(f"{network}: without an upsampler the scale must be 1, got {scale}")
    if upsampler == "":
        return {"conv_last": _convolution(channels, image_channels)}
    if upsampler == "pixelshuffledirect":
        return {"upsample": nn.Sequential(_convolution(channels, image_channels * scale**2), nn.PixelShuffle(scale))}
    f = HEAD_WIDTH
    layers: dict[str, nn.Module] = {
        "conv_before_upsample": nn.Sequential(_convolution(channels, f), nn.LeakyReLU(inplace=True))
    }
    if upsampler == "pixelshuffle":
        layers["upsample"] = PixelShuffleStages(scale, f)
    else:
        names = ("conv_up1", "conv_up2", "conv_hr") if scale == 4 else ("conv_up1", "conv_hr")
        layers |= {name: _convolution(f, f) for name in names}
    return {**layers, "conv_last": _convolution(f, image_channels)}


def _convolution(channels: int, out: int) -> nn.Conv2d:
    return Conv3x3(channels, out)


class HeadedNetwork(nn.Module):
    """A base class of networks whose last layers have no common prefix in the weight files.

    A constructor registers :func:`head_layers` after all others, and sets ``upsampler``.
    """

    upsampler: Upsampler
    conv_before_upsample: nn.Sequential
    upsample: nn.Sequential
    conv_hr: nn.Conv2d
    conv_last: nn.Conv2d

    def head(self, features: Tensor) -> Tensor:
        """[B, D, H, W] -> [B, c, s*H, s*W]."""
        if self.upsampler == "":
            return cast("Tensor", self.conv_last(features))
        if self.upsampler == "pixelshuffledirect":
            return cast("Tensor", self.upsample(features))
        features = self.conv_before_upsample(features)
        if self.upsampler == "pixelshuffle":
            return cast("Tensor", self.conv_last(self.upsample(features)))
        ups = [layer for name, layer in self.named_children() if name in ("conv_up1", "conv_up2")]
        return doubled(features, ups, self.conv_hr, self.conv_last)


def doubled(features: Tensor, conv_up: Sequence[nn.Module], conv_hr: nn.Module, conv_last: nn.Module) -> Tensor:
    """Upsampling of ESRGAN: pixels doubled before each of the first convolutions; [B, f, H, W] -> [B, c, s*H, s*W]."""
    for conv in conv_up:
        features = F.leaky_relu(conv(F.interpolate(features, scale_factor=2)), 0.2)
    return cast("Tensor", conv_last(F.leaky_relu(conv_hr(features), 0.2)))
