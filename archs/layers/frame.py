"""What transformers for super-resolution have in common around their blocks, since SwinIR.

A convolution, groups of blocks on a constant resolution, a normalisation, a convolution and the first features again,
then the layers that make the image.

Shapes: B images, c image channels, H W low-resolution pixels, C channels of the network, s scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from archs.contract import BaseNetwork
from archs.layers.conv import Conv3x3, to_bhwc
from archs.layers.embedding import PatchEmbedding
from archs.layers.image import image_mean
from archs.layers.mirror import cropped, mirror_index, mirrored
from archs.layers.residual import Residual, residual_convolution
from archs.layers.upsample import HeadedNetwork, Upsampler, head_layers
from utils.errors import InputError


class FramedNetwork(HeadedNetwork, BaseNetwork):
    """A base class of networks with that frame; a network has its blocks and :meth:`blocks`, which runs them.

    A constructor calls :meth:`begin`, makes its groups, and calls :meth:`end`: the order of the layers is that of the
    weight files and of the random initial values.
    """

    takes_exact_images = True
    mean_e4: Tensor
    scale: int
    img_range: float
    absolute_pos_embed: nn.Parameter | None

    def begin(
        self,
        in_chans: int,
        channels: int,
        upscale: int,
        img_range: float,
        *,
        positions: int | None = None,
        patch_norm: bool = True,
        drop: float = 0.0,
    ) -> None:
        """Make what comes before the groups.

        Args:
            in_chans: c.
            channels: C.
            upscale: s.
            img_range: factor on the image inside the network.
            positions: pixels that have learned absolute positions; None for none.
            patch_norm: normalise the first features.
            drop: dropout of them.
        """
        self.scale, self.img_range, self.channels = upscale, img_range, in_chans
        # Integers stay what they are when the network is converted to another type.
        self.register_buffer("mean_e4", (image_mean(in_chans) * 1e4).round().int(), persistent=False)
        self.mean_dtype = torch.get_default_dtype()  # of the published constants, whatever type the weights take later
        self.absolute_pos_embed = None if positions is None else nn.Parameter(torch.empty(1, positions, channels))
        self.conv_first = Conv3x3(in_chans, channels)
        self.patch_embed = PatchEmbedding(channels, patch_norm)
        self.pos_drop = nn.Dropout(drop)

    def end(self, channels: int, upsampler: Upsampler, resi_connection: Residual) -> None:
        """Make what comes after the groups.

        Args:
            channels: C.
            upsampler: how the image is made.
            resi_connection: the convolution before the first features are added.
        """
        self.norm = nn.LayerNorm(channels)
        self.conv_after_body = residual_convolution(channels, resi_connection)
        self.upsampler = upsampler
        name = type(self).__name__
        for key, layer in head_layers(upsampler, channels, self.scale, self.channels, network=name).items():
            self.add_module(key, layer)
        if self.absolute_pos_embed is not None:
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)

    def blocks(self, x: Tensor) -> Tensor:
        """All groups, [B, H, W, C] -> [B, H, W, C]."""
        for layer in cast("nn.ModuleList", self.layers):
            x = layer(x)
        return x

    def positioned(self, first: Tensor) -> Tensor:
        """The first features [B, C, H, W] as the groups take them, [B, H, W, C].

        Raises:
            InputError: the image has not as many pixels as there are absolute positions.
        """
        x = self.patch_embed(to_bhwc(first))
        if self.absolute_pos_embed is not None:
            pixels = self.absolute_pos_embed.shape[1]
            if x.shape[1] * x.shape[2] != pixels:
                raise InputError(
                    f"{type(self).__name__}: an image of {x.shape[1]} x {x.shape[2]} pixels (with its padding) cannot "
                    f"take the {pixels} absolute positions (ape); give images of the size img_size"
                )
            x = x + self.absolute_pos_embed.view(1, *x.shape[1:])
        return cast("Tensor", self.pos_drop(x))

    def body(self, first: Tensor) -> Tensor:
        """The first features [B, C, H, W] -> those after all groups, [B, C, H, W]."""
        return cast("Tensor", self.norm(self.blocks(self.positioned(first)))).permute(0, 3, 1, 2)

    def features(self, x: Tensor) -> Tensor:
        """The centred image [B, c, H, W] -> what the image is made of, [B, C, H, W]."""
        first = self.conv_first(x)
        after: Tensor = self.conv_after_body(self.body(first))
        return after + cast("Tensor", first)

    def centred(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, c, H, W] -> the image without its mean colour, times img_range, channels last; and the mean."""
        mean = (self.mean_e4.to(self.mean_dtype) / 1e4).to(x.dtype)
        return ((x - mean) * self.img_range).contiguous(memory_format=torch.channels_last), mean

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] in [0, 1] -> [B, c, s*H, s*W], not clamped."""
        x, mean = self.centred(x)
        return self.image(x) / self.img_range + mean

    def image(self, x: Tensor) -> Tensor:
        """The centred image [B, c, H, W] -> the centred result [B, c, s*H, s*W]."""
        y = self.head(self.features(x.to(self.conv_first.weight.dtype)))
        return y if self.upsampler else x + y


class MirroringNetwork(FramedNetwork):
    """A network with that frame which extends images to multiples itself, by their mirror image, edges twice.

    Its published form does so: what it adds takes part in what the network sees of the whole image.
    """

    window_size: int
    """What of."""

    def padded_axis(self, length: int, device: torch.device) -> Tensor:
        """Where each pixel of a padded side comes from; see :class:`archs.contract.PaddingNetwork`."""
        return mirror_index(length, -(-length // self.window_size) * self.window_size, device)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, H, W] in [0, 1] -> [B, c, s*H, s*W], not clamped."""
        height, width = x.shape[2:]
        x, mean = self.centred(mirrored(x, self.window_size))
        return cropped(self.image(x), self.scale * height, self.scale * width) / self.img_range + mean


def choice_problems(
    upscale: int, patch_size: int, norm_layer: str, upsampler: str, resi_connection: str, residuals: Sequence[str]
) -> list[str]:
    """What is wrong with the arguments that such networks have in common, all of it.

    Args:
        upscale: s.
        patch_size: must be 1.
        norm_layer: must be LayerNorm.
        upsampler: how the image is made.
        resi_connection: the convolution at the end of groups.
        residuals: its possible values.
    """
    problems = []
    if patch_size != 1:
        problems.append(f"patch_size must be 1, got {patch_size}")
    if upscale < 1:
        problems.append(f"upscale must be at least 1, got {upscale}")
    if norm_layer != "LayerNorm":
        problems.append(f'norm_layer must be LayerNorm, got "{norm_layer}"')
    if upsampler not in get_args(Upsampler):
        known = ", ".join(name or "''" for name in get_args(Upsampler))
        problems.append(f'upsampler must be one of {known}, got "{upsampler}"')
    if upsampler == "" and upscale != 1:
        problems.append(
            f"upscale is {upscale}, but without an upsampler it must be 1; choose pixelshuffle, for example"
        )
    if resi_connection not in residuals:
        problems.append(f'resi_connection must be {" or ".join(residuals)}, got "{resi_connection}"')
    return problems


def residual_kind(state: Mapping[str, Tensor]) -> Residual:
    """The ``resi_connection`` of a network with this frame, by its weights."""
    if "conv_after_body.weight" in state:
        return "1conv"
    return "3conv" if "conv_after_body.0.weight" in state else "identity"


def embedding_arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of a network with this frame about its first features, where they are not the defaults."""
    found: dict[str, Any] = {}
    if "patch_embed.norm.weight" not in state:
        found["patch_norm"] = False
    if "absolute_pos_embed" in state:
        found |= {"ape": True, "img_size": int(state["absolute_pos_embed"].shape[1] ** 0.5 + 0.5)}
    return found
