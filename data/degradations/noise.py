"""Noise of sensors, batched; the random numbers of each image come from a generator of its own.

Shapes: B images, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ops.cache import per_channel

_GREY = (0.2989, 0.587, 0.114)


def generators(seeds: Sequence[int], device: torch.device) -> list[torch.Generator]:
    """One generator for each image, on the device where its noise is needed."""
    made = []
    for seed in seeds:
        generator = torch.Generator(device)
        generator.manual_seed(seed)
        made.append(generator)
    return made


def gaussian_noise(images: Tensor, sigma: Tensor, grey: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
    """Gaussian noise for [B, C, H, W] in [0, 1]: what is to be added.

    Args:
        images: gives shape and device.
        sigma: [B] deviations, in levels of 0 .. 255.
        grey: bool [B]: one field for all channels.
        sources: a generator for each image.
    """
    noise = torch.empty_like(images)
    for field, is_grey, source in zip(noise, grey.tolist(), sources, strict=True):
        shape = (1, *field.shape[1:]) if is_grey else field.shape
        field.copy_(torch.randn(shape, generator=source, device=images.device, dtype=images.dtype).expand_as(field))
    return noise * _per_image(sigma / 255, images)


def poisson_noise(images: Tensor, scale: Tensor, grey: Tensor, sources: Sequence[torch.Generator]) -> Tensor:
    """Poisson noise for [B, 3, H, W] in [0, 1]: what is to be added.

    The image, rounded to 8 bits, counts photons: V per unit, where V is the power of two at or above the number of
    its different values. The noise of a grey image is that of its luminance.

    Args:
        images: what the noise depends on.
        scale: [B] factors of the noise.
        grey: bool [B]: the noise of the luminance, for all channels.
        sources: a generator for each image.
    """
    noise = torch.empty_like(images)
    weights = per_channel(_GREY, images.dtype, images.device)
    colours = _eight_bits(images)
    luminances = _eight_bits((images * weights).sum(1, keepdim=True))
    counts = torch.where(grey.to(images.device), _photons(luminances), _photons(colours))
    for i, (field, is_grey, source) in enumerate(zip(noise, grey.tolist(), sources, strict=True)):
        image = luminances[i] if is_grey else colours[i]
        field.copy_((torch.poisson(image * counts[i], generator=source) / counts[i] - image).expand_as(field))
    return noise * _per_image(scale, images)


def _eight_bits(images: Tensor) -> Tensor:
    return images.mul(255).round().clamp_(0, 255).div_(255)


def _photons(images: Tensor) -> Tensor:
    """V of each image of [B, C, H, W]: [B]."""
    levels = (images * 255).round().long().flatten(1)
    seen = torch.zeros((images.shape[0], 256), dtype=images.dtype, device=images.device)
    different = seen.scatter_(1, levels, 1.0).sum(1)
    return torch.exp2(torch.ceil(torch.log2(different)))


def _per_image(values: Tensor, images: Tensor) -> Tensor:
    return values.to(images.device, images.dtype).view(-1, 1, 1, 1)
