"""Two rounds of blur, resizing, noise and JPEG: low-resolution batches of high-resolution ones, on their device.

What is the same for a whole batch (whether to blur a second time, by how much and how to resize, the kind of noise) is
drawn from (seed, number of the batch); what each image has for itself (kernels, levels of noise, qualities, noise) from
its own numbers. So a batch does not depend on how it is shared among processes.

Shapes: B images, H W pixels of the originals, s scale.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from data.degradations.filters import filter2d
from data.degradations.jpeg import jpeg
from data.degradations.noise import gaussian_noise, generators, poisson_noise
from data.degradations.options import DegradationOptions, Stage
from data.resizing.interpolate import Mode, interpolate, whole_size
from data.samples import DegradationDraws
from utils.seed import random_stream

MODES: tuple[Mode, ...] = ("area", "bilinear", "bicubic")
DRAWS = 6  # numbers in [0, 1) for each image: level, grey, quality of the first stage, then of the second
_BATCH = 0x5EED  # sets these streams apart from those of samples


def degrade(
    images: Tensor, draws: DegradationDraws, options: DegradationOptions, scale: int, seed: int, step: int
) -> Tensor:
    """The low-resolution images of a batch.

    Args:
        images: float [B, 3, H, W] in [0, 1]; sides are multiples of ``scale``.
        draws: kernels and numbers of each image.
        options: ranges and probabilities.
        scale: H = s h, W = s w.
        seed: ``manual_seed``.
        step: number of the batch.

    Returns:
        [B, 3, H / s, W / s] in [0, 1], whole levels of 8 bits.
    """
    H, W = images.shape[-2:]
    stream = random_stream(seed, _BATCH, step)
    sources = generators(draws.seeds, images.device)
    first, second = options.stage(False), options.stage(True)
    low = (H // scale, W // scale)

    out = filter2d(images, draws.kernels[:, 0])
    out = interpolate(out, draw_mode(stream), factor=draw_factor(first, stream))
    out = add_noise(out, draws.uniform[:, :2], first, stream.random() < first.gaussian_noise_prob, sources)
    out = jpeg(out, quality_of(draws.uniform[:, 2], first), options.jpeg_tables)

    if stream.random() < options.second_blur_prob:
        out = filter2d(out, draws.kernels[:, 1])
    factor = draw_factor(second, stream)
    out = interpolate(out, draw_mode(stream), size=whole_size(H / scale, W / scale, factor))
    out = add_noise(out, draws.uniform[:, 3:5], second, stream.random() < second.gaussian_noise_prob, sources)
    quality = quality_of(draws.uniform[:, 5], second)
    mode = draw_mode(stream)
    if stream.random() < 0.5:
        out = filter2d(interpolate(out, mode, size=low), draws.kernels[:, 2])
        out = jpeg(out, quality, options.jpeg_tables)
    else:
        out = jpeg(out, quality, options.jpeg_tables)
        out = filter2d(interpolate(out, mode, size=low), draws.kernels[:, 2])
    return out.mul(255).round_().clamp_(0, 255).div_(torch.full((), 255.0, device=out.device))


def draw_factor(stage: Stage, stream: np.random.Generator) -> float:
    """How much a stage enlarges (above 1) or shrinks."""
    up, down, keep = stage.resize_prob
    place = stream.random() * (up + down + keep)
    low, high = stage.resize_range
    amount = stream.random()
    if place < up:
        return 1 + amount * (high - 1)
    return low + amount * (1 - low) if place < up + down else 1.0


def draw_mode(stream: np.random.Generator) -> Mode:
    """How a stage resizes."""
    return MODES[int(stream.integers(len(MODES)))]


def add_noise(
    images: Tensor, draws: Tensor, stage: Stage, gaussian: bool, sources: Sequence[torch.Generator]
) -> Tensor:
    """Images [B, 3, H, W] with noise, clipped to [0, 1]; ``draws`` [B, 2] decide about its level and colour."""
    low, high = stage.noise_range if gaussian else stage.poisson_scale_range
    level, grey = low + draws[:, 0] * (high - low), draws[:, 1] < stage.gray_noise_prob
    noise = (gaussian_noise if gaussian else poisson_noise)(images, level, grey, sources)
    return (images + noise).clamp_(0, 1)


def quality_of(draws: Tensor, stage: Stage) -> Tensor:
    """JPEG qualities [B] for numbers in [0, 1)."""
    low, high = stage.jpeg_range
    return low + draws * (high - low)
