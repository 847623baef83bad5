"""The pieces of PlainUSR, from small to large, and the algebra that folds branches into one convolution.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W low-resolution pixels; c channels of a block, m = 2c channels between its branches, f hidden
channels of the attention; G layers of equal width folded together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.layers.conv import Conv3x3
from archs.layers.pooling import SoftPool2d
from utils.errors import InputError

ScaleInit = Literal["live", "published"]

NEGATIVE_SLOPE = 0.05
"""Of the leaky ReLUs between the convolutions."""


class Kernel(NamedTuple):
    """A plain 3x3 convolution."""

    weight: Tensor  # [c, c, 3, 3]
    bias: Tensor  # [c]


class Branches(NamedTuple):
    """What one folded convolution is made of: the parameters of a RepMBConv and, if one follows, of the gate mixer."""

    expand_weight: Tensor  # [m, c, 1, 1]
    expand_bias: Tensor  # [m]
    fea_weight: Tensor  # [m, m, 3, 3]
    fea_bias: Tensor  # [m]
    reduce_weight: Tensor  # [c, m, 1, 1]
    reduce_bias: Tensor  # [c]
    se_tensor: Tensor  # [1, m, 1, 1]
    se_squeeze: Tensor  # [m // 4, m]
    se_excite: Tensor  # [m, m // 4]
    mixer_weight: Tensor | None = None  # [1, c, 1, 1]
    mixer_bias: Tensor | None = None  # [1]


BRANCH_KEYS = (
    "expand_conv.weight",
    "expand_conv.bias",
    "fea_conv.weight",
    "fea_conv.bias",
    "reduce_conv.weight",
    "reduce_conv.bias",
    "se.tensor",
    "se.se.1.weight",
    "se.se.3.weight",
)
"""The published names of the first nine fields of Branches, in their order."""


def fold_branches(layers: Sequence[Branches], dtype: torch.dtype) -> list[Kernel]:
    """The one 3x3 convolution with zero padding that each layer equals, borders included; differentiable.

    With a = the per-channel scale, D = 1 at the centre tap and S = the identity, whose row 0 is the gate mixer's where
    there is one, the kernel is ``S K2 (a K1 + D) K0 + D S`` and the bias what the four biases leave at the output.

    Args:
        layers: G layers of equal width; one batched product serves all, for at small widths the calls cost most.
        dtype: of the arithmetic and of the result; float32 at least (half precision would spoil the kernels).
    """
    size, c, m = len(layers), *layers[0].reduce_weight.shape[:2]

    def stacked(position: int) -> Tensor:
        tensors = [cast("Tensor", layer[position]) for layer in layers]
        return torch.stack(tensors).to(dtype)

    k0, b0, k1, b1, k2, b2, tensor, squeeze, excite = (stacked(position) for position in range(len(BRANCH_KEYS)))
    expand = k0.reshape(size, m, c)
    scale = branch_scale(tensor, squeeze, excite).view(size, m, 1)
    skip, reduce, bias = _mix_gate(layers, k2.reshape(size, c, m), b2.reshape(size, c, 1))
    scaled = reduce * scale.transpose(-2, -1)  # [G, c, m]

    inner = (scaled @ k1.reshape(size, m, m * 9)).view(size, c, m, 9)
    outer = (inner.transpose(-2, -1).reshape(size, c * 9, m) @ expand).view(size, c, 9, c)
    centre = torch.baddbmm(skip, reduce, expand)  # [G, c, c], the two identities
    weight = F.pad(centre.unsqueeze(-1), (4, 4)) + outer.transpose(-2, -1)  # [G, c, c, 9], the centre is tap 4
    bias = torch.baddbmm(bias, scaled, b1.reshape(size, m, 1))
    bias = torch.baddbmm(bias, inner.sum(-1) + reduce, b0.reshape(size, m, 1))
    return [Kernel(*pair) for pair in zip(weight.reshape(size, c, c, 3, 3), bias.view(size, c), strict=True)]


def branch_scale(tensor: Tensor, squeeze: Tensor, excite: Tensor) -> Tensor:
    """The scale of each channel between the branches; it does not depend on the image.

    Args:
        tensor: [..., 1, m, 1, 1].
        squeeze: [..., m // 4, m].
        excite: [..., m, m // 4].

    Returns:
        [..., m], in (0, 1).
    """
    hidden = F.silu(squeeze @ tensor.flatten(-3).transpose(-2, -1))  # [..., m // 4, 1]
    return torch.sigmoid(excite @ hidden).squeeze(-1)


def _mix_gate(layers: Sequence[Branches], reduce: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Put the gate mixers behind the reduction and the skip.

    Args:
        layers: G layers, with or without a mixer.
        reduce: [G, c, m].
        bias: [G, c, 1].

    Returns:
        Skip matrix [G, c, c], reduction and bias after the mixers.
    """
    size, c = reduce.shape[:2]
    identity = torch.eye(c, dtype=reduce.dtype, device=reduce.device)
    mixed = [layer.mixer_weight is not None for layer in layers]
    if not any(mixed):
        return identity.expand(size, c, c), reduce, bias
    skips, offsets = [], []
    for layer in layers:
        if layer.mixer_weight is None or layer.mixer_bias is None:
            skips.append(identity)
            offsets.append(identity.new_zeros(c, 1))
        else:
            skips.append(torch.cat([layer.mixer_weight.view(1, c).to(reduce.dtype), identity[1:]]))
            offsets.append(F.pad(layer.mixer_bias.view(1, 1).to(reduce.dtype), (0, 0, 0, c - 1)))
    skip = torch.stack(skips)
    return skip, skip @ reduce, torch.baddbmm(torch.stack(offsets), skip, bias)


class _Matrix(nn.Linear):
    """A linear map without bias; a width of 1 makes it empty, which the framework's initialisation warns about."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        """Uniform in +-1/sqrt(fan-in), the framework's default."""
        bound = 1 / math.sqrt(max(1, self.in_features))
        nn.init.uniform_(self.weight, -bound, bound)


class ScaleGenerator(nn.Module):
    """A learned scale for each of m channels; it does not look at the image.

    In the published code: ASR.

    Args:
        channels: m.
        init: "live" starts near 1/2 with gradients for all its parameters. "published" gives exactly 1 and, in
            float32 from 32 channels on, no gradients at all, so that it stays 1 for ever.
    """

    def __init__(self, channels: int, init: ScaleInit = "live") -> None:
        super().__init__()
        hidden = channels // 4
        self.tensor = nn.Parameter(torch.empty(1, channels, 1, 1))
        self.se = nn.Sequential(
            nn.Flatten(), _Matrix(channels, hidden), nn.SiLU(), _Matrix(hidden, channels), nn.Sigmoid()
        )
        if init == "published":
            nn.init.constant_(self.tensor, 0.1)
            for matrix in self.matrices:
                nn.init.ones_(matrix)
        else:
            nn.init.normal_(self.tensor)

    @property
    def matrices(self) -> tuple[Tensor, Tensor]:
        """Squeeze [m // 4, m] and excite [m, m // 4]."""
        return cast("_Matrix", self.se[1]).weight, cast("_Matrix", self.se[3]).weight

    def forward(self) -> Tensor:
        """-> [1, m, 1, 1], in (0, 1)."""
        return cast("Tensor", self.se(self.tensor)).view_as(self.tensor)


class RepMBConv(nn.Module):
    """A 3x3 convolution in the form that trains: 1x1 expand, 3x3, scale, 1x1 reduce, with two identities around.

    In the paper: RepMBConv, a re-parameterised MobileNetV3-like bottleneck.
    """

    def __init__(self, channels: int, se_init: ScaleInit = "live") -> None:
        super().__init__()
        inner = 2 * channels
        self.expand_conv = nn.Conv2d(channels, inner, 1)
        self.fea_conv = nn.Conv2d(inner, inner, 3)
        self.reduce_conv = nn.Conv2d(inner, channels, 1)
        self.se = ScaleGenerator(inner, se_init)

    def branches(self, mixer: GateMixer | None) -> Branches:
        """The parameters, for folding."""
        expand, fea, reduce = self.expand_conv, self.fea_conv, self.reduce_conv
        squeeze, excite = self.se.matrices
        return Branches(
            expand.weight, cast("Tensor", expand.bias),
            fea.weight, cast("Tensor", fea.bias),
            reduce.weight, cast("Tensor", reduce.bias),
            self.se.tensor, squeeze, excite,
            mixer.conv.weight if mixer else None, mixer.conv.bias if mixer else None,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] -> [B, c, H, W], branch by branch."""
        # Padding before the expansion gives the frame the value of the bias: that is what makes folding exact.
        expanded = self.expand_conv(F.pad(x, (1, 1, 1, 1)))  # [B, m, H + 2, W + 2]
        features = torch.addcmul(expanded[..., 1:-1, 1:-1], self.fea_conv(expanded), self.se())
        return cast("Tensor", self.reduce_conv(features)) + x


class GateMixer(nn.Module):
    """Replaces channel 0, the gate of the attention that follows, by a mix of all channels.

    In the published code: PConv.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)
        nn.init.constant_(self.conv.weight, 1 / channels)
        nn.init.zeros_(cast("Tensor", self.conv.bias))

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] -> [B, c, H, W]."""
        return torch.cat([self.conv(x), x[:, 1:]], 1)


class LocalImportanceAttention(nn.Module):
    """LIA: weigh features by a coarse importance map and by a full-resolution gate, read from their own channel 0.

    In the paper: LIA, local importance-based attention.

    Takes any image size and can stand in any convolutional network. The map is stretched over the whole image, so
    the result near a pixel depends, slightly, on the size of the image and on where it begins.

    Args:
        channels: c, of input and output.
        hidden: f, of the map before it is expanded to all channels.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        if channels < 1 or hidden < 1:
            raise InputError(f"LocalImportanceAttention: widths must be at least 1, got {channels} and {hidden}")
        self.body = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            SoftPool2d(kernel_size=7, stride=3),
            nn.Conv2d(hidden, hidden, 3, stride=2, padding=1),
            nn.Conv2d(hidden, channels, 3, padding=1),
            nn.Sigmoid(),
        )

    def importance(self, x: Tensor) -> Tensor:
        """[B, c, H, W] -> the map [B, c, H, W], in (0, 1)."""
        return F.interpolate(self.body(x), size=x.shape[-2:], mode="bilinear", align_corners=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] -> [B, c, H, W]."""
        return x * self.importance(x) * torch.sigmoid(x[:, :1])


class FullResolutionAttention(nn.Module):
    """The attention of the ultra family: the importance map comes from a 3x3 convolution.

    In the published code: the attention of block V3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Conv3x3(channels, channels), nn.Sigmoid())

    def logits(self) -> Conv3x3:
        """The convolution whose result is the map before its logistic function."""
        return cast("Conv3x3", self.body[0])

    def importance(self, x: Tensor) -> Tensor:
        """[B, c, H, W] -> the map [B, c, H, W], in (0, 1)."""
        return cast("Tensor", self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] -> [B, c, H, W]."""
        return x * self.importance(x) * torch.sigmoid(x[:, :1])


class PlainBlock(nn.Module):
    """Convolutions with leaky ReLUs between them, then an attention if there is one.

    In the published code: V1 (two convolutions), V2 (and LIA), V3 (and the attention at full resolution), V4 (three
    and LIA).

    Args:
        channels: c.
        convs: number of convolutions.
        attention: the last layer, or None.
        se_init: for the train form, how its scale generators start; None makes the folded form.
    """

    def __init__(self, channels: int, convs: int, attention: nn.Module | None, se_init: ScaleInit | None) -> None:
        super().__init__()
        self.channels = channels
        body: list[nn.Module] = []
        for position in range(convs):
            if position:
                # In place is safe: neither the convolution before nor the sum in a RepMBConv needs its result again.
                body.append(nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True))
            body.append(RepMBConv(channels, se_init) if se_init else Conv3x3(channels, channels))
        if attention is not None:
            body += [GateMixer(channels), attention] if se_init else [attention]
        self.body = nn.Sequential(*body)

    def convolutions(self) -> list[Conv3x3]:
        """Those of the folded form."""
        return [layer for layer in self.body if isinstance(layer, Conv3x3)]

    def attention(self) -> nn.Module | None:
        """The last layer, if it is one."""
        last = self.body[-1]
        return last if isinstance(last, LocalImportanceAttention | FullResolutionAttention) else None

    def branches(self) -> list[Branches]:
        """Of each RepMBConv, in order; the gate mixer belongs to the one before it."""
        layers = [*self.body, None]
        return [
            layer.branches(follower if isinstance(follower, GateMixer) else None)
            for layer, follower in itertools.pairwise(layers)
            if isinstance(layer, RepMBConv)
        ]

    def forward(self, x: Tensor, kernels: Sequence[Kernel] = ()) -> Tensor:
        """[B, c, H, W] -> [B, c, H, W].

        Args:
            x: features.
            kernels: plain convolutions that take the place of the branches and of the gate mixer.
        """
        if not kernels:
            return cast("Tensor", self.body(x))
        ready = iter(kernels)
        for layer in self.body:
            if isinstance(layer, RepMBConv):
                x = F.conv2d(x, *next(ready), padding=1)
            elif not isinstance(layer, GateMixer):
                x = layer(x)
        return x
