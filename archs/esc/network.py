"""ESC and ESC-FP, and the encoder that all networks of the family have.

Published attribute names are kept: they are the format of the checkpoints.

Shapes: B images, H W low-resolution pixels, C channels, p filtered channels, k side of the large kernel, s scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.contract import BaseNetwork
from archs.esc.blocks import AttentionType, Block, BlockSettings, Norm
from archs.esc.kernels import DYNAMIC_SIDE, initial_kernel, symmetric_kernel
from archs.layers.conv import Conv3x3, convolve, to_bhwc
from archs.layers.parts import PartNames, matching
from archs.layers.size import SizeRule
from ops import Memo
from utils.errors import InputError

IMAGE_CHANNELS = 3


class ESCNetwork(BaseNetwork):
    """A base class of the networks of the family: what they say to their callers, and the arguments that they share.

    Arguments are described here once; a subclass describes those that it alone has, or that differ there.

    Args:
        dim: channels C.
        pdim: p of them are filtered by the convolutional attentions.
        kernel_size: side k of the large kernel, odd.
        n_blocks: blocks of one window attention and several convolutional ones.
        conv_blocks: convolutional attentions of a block.
        window_size: side of the windows; images are reflected to fill them.
        num_heads: heads of the window attention, a divisor of dim.
        upscaling_factor: scale s.
        exp_ratio: hidden channels of the MLPs between the attentions, divided by dim.
        attn_type: which implementation of window attention is preferred: Naive, SDPA, Flex, or auto for the best.
        use_ln: normalise before each of those MLPs, as ESC-XL does.
    """

    kernels = ("window", "conv3x3", "gelu_depthwise")

    IGNORED: ClassVar[Mapping[str, str]] = {
        "deployment": "it compiled the attention of the published network; attn_type: Flex asks for that here",
    }

    def __init__(self, window_size: int) -> None:
        super().__init__()
        self.window_size = self.window_multiple = window_size
        self.size_rule = SizeRule(tile_multiple=window_size)
        self.receptive_radius = None  # the generated kernels follow from the whole image

    def part_names(self) -> PartNames:
        """Its blocks; the window attention of each and its convolutional attentions."""
        block = r"(encoder\.)?blocks\.\d+"
        return PartNames((), matching(self, block), matching(self, block + r"\.(attn|pconvs\.\d+)"))


class Encoder(ESCNetwork):
    """From an image to features: a convolution, blocks, a convolution; a base class of the networks.

    It checks the arguments. The layers are built by the constructors of the networks, one under the other in the
    published order, which is the order of the keys and of the random initial values.

    Args:
        settings: of the blocks.
    """

    plk_filter: nn.Parameter
    proj: nn.Module
    blocks: nn.ModuleList
    last: nn.Conv2d

    def __init__(self, settings: BlockSettings, n_blocks: int, kernel_size: int) -> None:
        _check_settings(type(self).__name__, settings, n_blocks, kernel_size)
        super().__init__(settings.window_size)
        self.symmetric = Memo()

    def shared_kernels(self) -> tuple[Tensor, ...]:
        """What every layer filters with; computed once for all of them, and kept in evaluation."""
        return (self.symmetric(lambda: symmetric_kernel(self.plk_filter), self.plk_filter),)

    def run_blocks(self, first: Tensor) -> Tensor:
        """The first features [B, H, W, C] -> those after all blocks."""
        kernels = self.shared_kernels()
        for block in self.blocks:
            first = block(first, *kernels)
        return first

    def first_convolution(self) -> nn.Module:
        """What makes the first features of the image."""
        return self.proj

    def features(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, H, W, C]."""
        x = x.to(self.last.weight.dtype).contiguous(memory_format=torch.channels_last)
        first = to_bhwc(self.first_convolution()(x))
        return convolve(self.last, self.run_blocks(first)) + first


class RescalingNetwork(Encoder):
    """An encoder and one convolution that makes the image; weights of other scales load with that one resampled.

    Args:
        settings: of the blocks.
        scale: s.
    """

    takes_exact_images = True
    scale: int
    to_img: nn.Conv2d

    def __init__(self, settings: BlockSettings, n_blocks: int, kernel_size: int, scale: int) -> None:
        super().__init__(settings, n_blocks, kernel_size)
        if scale < 1:
            raise InputError(f"{type(self).__name__}: upscaling_factor must be at least 1, got {scale}")
        self.scale = scale

    def with_image(self, features: Tensor, x: Tensor, mode: str) -> Tensor:
        """[B, H, W, C] and the input [B, 3, H, W], which is upscaled and added -> [B, 3, s*H, s*W]."""
        result = F.pixel_shuffle(self.to_img(features.permute(0, 3, 1, 2)), self.scale)
        return result + F.interpolate(x, size=(self.scale * x.shape[2], self.scale * x.shape[3]), mode=mode)

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict with ``to_img`` as this network's scale wants it; the argument stays as it is."""
        return resampled_state(state, self.scale)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        state_dict.update(resampled_state(state_dict, self.scale, prefix))  # torch's own copy of the caller's
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class ESC(RescalingNetwork):
    """ESC, ESC-light and ESC-XL."""

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
        use_ln: bool = False,
    ) -> None:
        settings = BlockSettings(
            dim, pdim, conv_blocks, window_size, num_heads, exp_ratio,
            norms=use_ln, decomposed=False, attn_type=attn_type,
        )  # fmt: skip
        super().__init__(settings, n_blocks, kernel_size, upscaling_factor)
        self.plk_filter = nn.Parameter(initial_kernel(pdim, kernel_size))
        self.proj = Conv3x3(IMAGE_CHANNELS, dim)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(n_blocks))
        self.last = Conv3x3(dim, dim)
        self.to_img = Conv3x3(dim, IMAGE_CHANNELS * upscaling_factor**2)

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, 3, s*H, s*W], not clamped."""
        return self.with_image(self.features(x), x, "nearest")


class ESCFP(RescalingNetwork):
    """ESC-FP: the large kernel as a matrix and depthwise kernels.

    Args:
        kernel_size: side k of the large kernels, odd; 13 in published networks.
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
    ) -> None:
        settings = BlockSettings(
            dim, pdim, conv_blocks, window_size, num_heads, exp_ratio,
            norms=True, decomposed=True, attn_type=attn_type,
        )  # fmt: skip
        super().__init__(settings, n_blocks, kernel_size, upscaling_factor)
        self.lk_channel = nn.Parameter(torch.randn(pdim, pdim, 1, 1))
        self.lk_spatial = nn.Parameter(nn.init.orthogonal_(torch.empty(pdim, 1, kernel_size, kernel_size)))
        self.proj = Conv3x3(IMAGE_CHANNELS, dim)
        self.blocks = nn.ModuleList(Block(settings) for _ in range(n_blocks))
        self.ln_last = Norm(dim)
        self.last = Conv3x3(dim, dim)
        self.to_img = Conv3x3(dim, IMAGE_CHANNELS * upscaling_factor**2)

    def shared_kernels(self) -> tuple[Tensor, ...]:
        """The matrix [p, p, 1, 1] and the depthwise kernels [p, 1, k, k]."""
        return self.lk_channel, self.lk_spatial

    def run_blocks(self, first: Tensor) -> Tensor:
        """The first features [B, H, W, C] -> those after all blocks, normalised."""
        normal: Tensor = self.ln_last(super().run_blocks(first))
        return normal

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> [B, 3, s*H, s*W], not clamped."""
        return self.with_image(self.features(x), x, "bicubic")


def resampled_state(state: Mapping[str, Tensor], scale: int, prefix: str = "") -> dict[str, Tensor]:
    """A state dict of ESC or ESC-FP with ``to_img`` resampled along the sub-pixel grid where it is of another scale.

    This is how x3 and x4 start from x2. What is absent or of another form is left to the loading to complain about.
    """
    resampled = dict(state)
    for name in ("to_img.weight", "to_img.bias"):
        tensor = resampled.get(prefix + name)
        if tensor is None or tensor.ndim < 1:
            continue
        other = math.isqrt(tensor.shape[0] // IMAGE_CHANNELS)
        if other not in (0, scale) and tensor.shape[0] == IMAGE_CHANNELS * other**2:
            resampled[prefix + name] = _resampled(tensor, other, scale)
    return resampled


def _resampled(tensor: Tensor, other: int, scale: int) -> Tensor:
    """[3*a*a, ...] -> [3*s*s, ...], bilinear with half-pixel centres."""
    grid = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32)).view(IMAGE_CHANNELS, other, other, -1)
    new = F.interpolate(grid.permute(0, 3, 1, 2), size=(scale, scale), mode="bilinear")
    return new.permute(0, 2, 3, 1).reshape(-1, *tensor.shape[1:]).to(tensor.dtype)


def _check_settings(name: str, settings: BlockSettings, n_blocks: int, kernel_size: int) -> None:
    """Raise InputError with all mistakes at once."""
    dim, pdim, heads = settings.dim, settings.pdim, settings.num_heads
    problems = [
        f"{key} must be at least 1, got {value}"
        for key, value in (
            ("dim", dim), ("n_blocks", n_blocks), ("conv_blocks", settings.conv_blocks),
            ("window_size", settings.window_size),
        )
        if value < 1
    ]  # fmt: skip
    if heads < 1 or dim % heads:
        problems.append(f"num_heads: {heads} heads cannot share dim {dim} evenly")
    least = 4 if settings.decomposed else 2
    if not least <= pdim <= dim:
        problems.append(f"pdim must be from {least} to dim, {dim}, got {pdim}")
    if kernel_size < 1 or kernel_size % 2 == 0:
        problems.append(f"kernel_size must be odd, got {kernel_size}")
    elif settings.decomposed and kernel_size < DYNAMIC_SIDE:
        problems.append(f"kernel_size must be at least {DYNAMIC_SIDE}, got {kernel_size}")
    if settings.inner < 1:
        problems.append(f"exp_ratio leaves no hidden channel of dim {dim}")
    if problems:
        raise InputError(f"{name}: " + "; ".join(problems))
