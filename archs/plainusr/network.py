"""The six networks: three families, each in train form and in folded form.

Shapes: B images, H W low-resolution pixels, s scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from archs.contract import BaseNetwork
from archs.layers.conv import Conv3x3
from archs.layers.size import SizeRule
from archs.plainusr.blocks import (
    Branches,
    FullResolutionAttention,
    Kernel,
    LocalImportanceAttention,
    PlainBlock,
    ScaleInit,
    fold_branches,
)
from archs.plainusr.folding import folded_tensors
from archs.plainusr.inplace import evaluate, serves
from ops.autocast import without_autocast
from utils.errors import InputError

IMAGE_CHANNELS = 3
MIDDLE = "blockm"
SMALLEST_WINDOW = 7  # of the soft pooling; smaller images are one window


@dataclasses.dataclass(frozen=True)
class Family:
    """What distinguishes the three networks.

    Attributes:
        down: blocks before the middle, each narrower than the one before.
        up: blocks after the middle, each wider.
        convs: convolutions in each block.
        local: every block ends with a LocalImportanceAttention; else the middle one alone has an attention, at full
            resolution.
    """

    down: tuple[str, ...]
    up: tuple[str, ...]
    convs: int
    local: bool


ULTRA = Family(down=("block1",), up=("block2",), convs=2, local=False)
GENERAL = Family(down=("block1", "block2"), up=("block3", "block4"), convs=2, local=True)
LARGE = Family(down=("block1", "block2"), up=("block3", "block4"), convs=3, local=True)


class PlainUSR(BaseNetwork):
    """A U-Net without downsampling: its levels are prefixes of the channels; what is behind them passes by.

    In the paper: the plain U-Net.

    Three more channels than ``n_feat`` carry the image from head to tail; a block's result replaces its prefix.
    The subclasses are the networks that option files name; their arguments are described here once. Without ``se_init``
    a network is in folded form.

    Args:
        n_feat: channels of the head, without the three of the image.
        im_feat: channels of the levels (two in ultra, three in the others), outermost first, not growing inwards.
        attn_feat: hidden channels of the local importance attention.
        scale: upsampling factor.
        se_init: how the scale generators start: "live" near 1/2 and learning, or "published" at 1, never to learn.
        fold_on_the_fly: fold the branches into one convolution at each step; the same function, several times faster.
    """

    kernels = ("conv3x3", "importance")
    family: ClassVar[Family]
    folded_form: ClassVar[type[PlainUSR]]
    """Of a class in train form: the class of the same family in folded form."""

    head: Conv3x3
    tail: nn.Sequential
    scale: int

    def __init__(
        self,
        n_feat: int,
        im_feat: Sequence[int],
        attn_feat: int,
        scale: int,
        *,
        se_init: ScaleInit | None = None,
        fold_on_the_fly: bool = False,
    ) -> None:
        super().__init__()
        _check_widths(type(self).__name__, self.family, n_feat, im_feat, attn_feat, scale)
        family = self.family
        self.n_feat = n_feat
        self.im_feat = tuple(im_feat)
        self.attn_feat = attn_feat
        self.scale = scale
        self.train_form = se_init is not None
        self.fold_on_the_fly = fold_on_the_fly
        # The grid of LIA has steps of 6 pixels; without LIA the network sees 9 convolutions of 3x3.
        self.size_rule = SizeRule(tile_multiple=6 if family.local else 1)
        self.receptive_radius = None if family.local else 9

        self.head = Conv3x3(IMAGE_CHANNELS, n_feat + IMAGE_CHANNELS)
        names = (*family.down, MIDDLE, *family.up)
        for name, width in zip(names, (*im_feat, *reversed(im_feat[:-1])), strict=True):
            attention: nn.Module | None = None
            if family.local:
                attention = LocalImportanceAttention(width, attn_feat)
            elif name == MIDDLE:
                attention = FullResolutionAttention(width)
            self.add_module(name, PlainBlock(width, family.convs, attention, se_init))
        self.tail = nn.Sequential(Conv3x3(n_feat + IMAGE_CHANNELS, IMAGE_CHANNELS * scale**2), nn.PixelShuffle(scale))
        self._add_image_path()

    def _add_image_path(self) -> None:
        """Nearest-neighbour upsampling of the input, on top of the random weights."""
        tail = cast("Conv3x3", self.tail[0])
        with torch.no_grad():
            for channel in range(IMAGE_CHANNELS):
                self.head.weight[self.n_feat + channel, channel, 1, 1] += 1
                first = channel * self.scale**2
                tail.weight[first : first + self.scale**2, self.n_feat + channel, 1, 1] += 1

    def _block(self, name: str) -> PlainBlock:
        return cast("PlainBlock", getattr(self, name))

    def _folded_kernels(self) -> dict[str, list[Kernel]]:
        """Block name -> its folded convolutions, with gradients; empty where modules are to run as they are."""
        names = (*self.family.down, MIDDLE, *self.family.up)
        kernels: dict[str, list[Kernel]] = {name: [] for name in names}
        if not (self.train_form and self.fold_on_the_fly):
            return kernels
        by_width: dict[int, list[tuple[str, Branches]]] = {}
        for name in names:
            for branches in self._block(name).branches():
                by_width.setdefault(branches.reduce_weight.shape[0], []).append((name, branches))
        weight = self.head.weight
        with without_autocast(weight.device):
            for group in by_width.values():
                folded = fold_branches([item for _, item in group], torch.promote_types(weight.dtype, torch.float32))
                for (name, _), kernel in zip(group, folded, strict=True):
                    kernels[name].append(Kernel(*(tensor.to(weight.dtype) for tensor in kernel)))
        return kernels

    def for_inference(self) -> PlainUSR:
        """The same function at its cheapest: a folded copy of a train-form network, else this network itself."""
        return fold(self) if self.train_form else self

    def _evaluates_in_place(self, x: Tensor) -> bool:
        small = self.family.local and min(x.shape[-2:]) < SMALLEST_WINDOW
        return not (self.train_form or small) and serves(self, x)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, 3, s*H, s*W], not clamped."""
        if self._evaluates_in_place(x):
            names = (*self.family.down, MIDDLE, *self.family.up)
            tail = cast("Conv3x3", self.tail[0])
            return evaluate(x, self.head, [self._block(name) for name in names], tail, self.scale)
        kernels = self._folded_kernels()
        features = self.head(x)
        passing: list[Tensor] = []  # channels that the blocks further in do not touch
        for name, width in zip((*self.family.down, MIDDLE), self.im_feat, strict=True):
            features, rest = features.split([width, features.shape[1] - width], 1)
            passing.append(rest)
            features = self._block(name)(features, kernels[name])
        for name in self.family.up:
            features = self._block(name)(_widen(features, passing.pop()), kernels[name])
        return cast("Tensor", self.tail(_widen(features, passing.pop())))


class PlainUSRUltraInference(PlainUSR):
    """PlainUSR_ultra_inference, folded form: plain convolutions.

    Args:
        attn_feat: accepted for the sake of published files, without effect.
    """

    family = ULTRA

    def __init__(self, n_feat: int = 32, im_feat: Sequence[int] = (32, 16), attn_feat: int = 4, scale: int = 4) -> None:
        super().__init__(n_feat, im_feat, attn_feat, scale)


class PlainUSRUltra(PlainUSR):
    """PlainUSR_ultra, train form.

    Args:
        attn_feat: accepted for the sake of published files, without effect.
    """

    family = ULTRA
    folded_form = PlainUSRUltraInference

    def __init__(
        self,
        n_feat: int = 32,
        im_feat: Sequence[int] = (32, 16),
        attn_feat: int = 4,
        scale: int = 4,
        *,
        se_init: ScaleInit = "live",
        fold_on_the_fly: bool = True,
    ) -> None:
        super().__init__(n_feat, im_feat, attn_feat, scale, se_init=se_init, fold_on_the_fly=fold_on_the_fly)


class PlainUSRGeneralInference(PlainUSR):
    """PlainUSR_general_inference, folded form: plain convolutions."""

    family = GENERAL

    def __init__(
        self, n_feat: int = 64, im_feat: Sequence[int] = (64, 48, 32), attn_feat: int = 16, scale: int = 4
    ) -> None:
        super().__init__(n_feat, im_feat, attn_feat, scale)


class PlainUSRGeneral(PlainUSR):
    """PlainUSR_general, train form."""

    family = GENERAL
    folded_form = PlainUSRGeneralInference

    def __init__(
        self,
        n_feat: int = 64,
        im_feat: Sequence[int] = (64, 48, 32),
        attn_feat: int = 16,
        scale: int = 4,
        *,
        se_init: ScaleInit = "live",
        fold_on_the_fly: bool = True,
    ) -> None:
        super().__init__(n_feat, im_feat, attn_feat, scale, se_init=se_init, fold_on_the_fly=fold_on_the_fly)


class PlainUSRLargeInference(PlainUSR):
    """PlainUSR_large_inference, folded form: plain convolutions."""

    family = LARGE

    def __init__(
        self, n_feat: int = 80, im_feat: Sequence[int] = (80, 64, 48), attn_feat: int = 16, scale: int = 4
    ) -> None:
        super().__init__(n_feat, im_feat, attn_feat, scale)


class PlainUSRLarge(PlainUSR):
    """PlainUSR_large, train form."""

    family = LARGE
    folded_form = PlainUSRLargeInference

    def __init__(
        self,
        n_feat: int = 80,
        im_feat: Sequence[int] = (80, 64, 48),
        attn_feat: int = 16,
        scale: int = 4,
        *,
        se_init: ScaleInit = "live",
        fold_on_the_fly: bool = True,
    ) -> None:
        super().__init__(n_feat, im_feat, attn_feat, scale, se_init=se_init, fold_on_the_fly=fold_on_the_fly)


def fold(network: PlainUSR, *, prune_below: float | None = None) -> PlainUSR:
    """The folded form of a train-form network: a new network with the same function, which can be trained further.

    Args:
        network: train form; not changed.
        prune_below: see :func:`archs.plainusr.folding.folded_tensors`.

    Raises:
        InputError: the network is in folded form already.
    """
    if not network.train_form:
        raise InputError(f"{type(network).__name__} is in folded form already; fold() takes the train form")
    state = folded_tensors(network.state_dict(), prune_below=prune_below)
    with torch.device("meta"):  # no memory and no random numbers for values that are replaced at once
        folded = network.folded_form(network.n_feat, network.im_feat, network.attn_feat, network.scale)
    folded.load_state_dict(state, assign=True)
    return folded.train(network.training)


def _widen(features: Tensor, rest: Tensor) -> Tensor:
    """[B, c, H, W] and the channels that passed by [B, d, H, W] -> [B, c + d, H, W]."""
    # An empty tensor has no memory format: joining it would turn channels-last features into contiguous ones.
    return torch.cat([features, rest], 1) if rest.shape[1] else features


def _check_widths(name: str, family: Family, n_feat: int, im_feat: Sequence[int], attn_feat: int, scale: int) -> None:
    levels = len(family.down) + 1
    problems = [
        f"{key} must be a whole number of at least 1, got {value!r}"
        for key, value in (("n_feat", n_feat), ("attn_feat", attn_feat), ("scale", scale))
        if not _is_count(value)
    ]
    if len(im_feat) != levels or not all(map(_is_count, im_feat)):
        problems.append(f"im_feat must hold {levels} widths of at least 1, outermost first, got {list(im_feat)}")
    elif not problems and any(outer < inner for outer, inner in zip((n_feat, *im_feat), im_feat, strict=False)):
        problems.append(f"n_feat and im_feat must not grow inwards, got n_feat {n_feat} and im_feat {list(im_feat)}")
    if problems:
        raise InputError(f"{name}: " + "; ".join(problems))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
