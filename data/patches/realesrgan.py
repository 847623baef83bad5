"""High-resolution images that are degraded on the device: the training data of Real-ESRGAN, HAT-Real and ESC-Real.

Shapes: H W high-resolution and h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from data.degradations import DegradationOptions, degrade, usm_sharpen
from data.degradations.kernels import KERNEL_TYPES, KernelType, draw_blur, draw_final_sinc
from data.degradations.synthesis import DRAWS
from data.images.files import Pixels, to_unit
from data.patches import augment
from data.patches.dataset import Patch, PatchDataset, PatchOptions
from data.resizing.matlab import Region
from data.samples import DegradationDraws, PixelBatch, SampleKey
from utils.errors import InputError
from utils.seed import random_stream
from utils.typed import option

Range = tuple[float, float]
_DEGRADATION = 0xDE64  # sets the streams of degradations apart from those of crops
_SHARES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)


class RealESRGANDataset(PatchDataset):
    """High-resolution patches with random blur kernels; :meth:`finish` degrades them, two rounds, for a whole batch.

    The final patches are cut at a place of their own out of larger ones, so that borders do not count.

    Args:
        options: the section of the option file.
        scale: H = s h, W = s w.
        seed: ``manual_seed``; decides everything together with the samples' keys and the number of the batch.
        degradations: the keys at the top level of the option file.

    Raises:
        InputError: a folder is missing or empty, or the options contradict each other.
    """

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Options(PatchOptions):
        """High-resolution images with random degradations, for training only."""

        IGNORED: ClassVar[Mapping[str, str]] = {
            **PatchOptions.IGNORED,
            **dict.fromkeys(
                ("blur_kernel_size", "blur_kernel_size2"), "sides are drawn from 7, 9, ..., 21, as in published runs"
            ),
        }

        crop_size: int = option("side of what is degraded; a patch of gt_size is cut out of the result", 400, minimum=1)
        kernel_list: tuple[KernelType, ...] = option("first blur: kinds of kernels", KERNEL_TYPES)
        kernel_prob: tuple[float, ...] = option("first blur: their shares", _SHARES)
        sinc_prob: float = option("first blur: probability of a sinc kernel instead", 0.1, minimum=0, maximum=1)
        blur_sigma: Range = option("first blur: widths of kernels", (0.2, 3.0))
        betag_range: Range = option("first blur: exponents of generalised Gaussian kernels", (0.5, 4.0))
        betap_range: Range = option("first blur: exponents of plateau-shaped kernels", (1.0, 2.0))
        kernel_list2: tuple[KernelType, ...] = option("second blur: kinds of kernels", KERNEL_TYPES)
        kernel_prob2: tuple[float, ...] = option("second blur: their shares", _SHARES)
        sinc_prob2: float = option("second blur: probability of a sinc kernel instead", 0.1, minimum=0, maximum=1)
        blur_sigma2: Range = option("second blur: widths of kernels", (0.2, 1.5))
        betag_range2: Range = option("second blur: exponents of generalised Gaussian kernels", (0.5, 4.0))
        betap_range2: Range = option("second blur: exponents of plateau-shaped kernels", (1.0, 2.0))
        final_sinc_prob: float = option("probability of a sinc filter at the end", 0.8, minimum=0, maximum=1)

        def __post_init__(self) -> None:
            super().__post_init__()
            for end in ("", "2"):
                kinds, shares = getattr(self, f"kernel_list{end}"), getattr(self, f"kernel_prob{end}")
                if len(kinds) != len(shares) or not kinds or min(shares) < 0 or sum(shares) <= 0:
                    raise InputError(
                        f"kernel_prob{end}: expected a share for each kind of kernel_list{end} ({len(kinds)}), "
                        f"got {len(shares)}"
                    )
                low, high = getattr(self, f"blur_sigma{end}")
                if not 0 < low <= high:
                    raise InputError(
                        f"blur_sigma{end}: expected the smaller number first, above 0, got {low:g}, {high:g}"
                    )

    def __init__(
        self,
        options: Options,
        scale: int,
        seed: int = 0,
        degradations: DegradationOptions | None = None,
    ) -> None:
        self.options, self.degradations = options, degradations or DegradationOptions()
        super().__init__(options, scale, seed, "train")
        if options.crop_size % scale or options.crop_size < self._patch * scale:
            raise InputError(
                f"{options.name}: crop_size: expected a multiple of scale {scale} and at least gt_size "
                f"{options.gt_size}, got {options.crop_size}"
            )

    @property
    def pool_size(self) -> int:
        """``queue_size``."""
        return self.degradations.queue_size

    def collect(
        self, keys: Sequence[SampleKey], step: int = 0, reading: Callable[[str], None] | None = None
    ) -> PixelBatch:
        """Large patches and what degrades them; see :class:`data.samples.TrainDataset`."""
        batch = super().collect(keys, step, reading)
        parts = [self._draw(key) for key in keys]
        kernels, draws, seeds = zip(*parts, strict=True)
        drawn = DegradationDraws(
            torch.from_numpy(np.stack(kernels).astype(np.float32)), torch.from_numpy(np.stack(draws)), tuple(seeds)
        )
        return batch._replace(draws=drawn)

    def finish(self, batch: PixelBatch) -> tuple[Tensor, Tensor]:
        """Degrade the batch on its device, and cut the final patches."""
        draws = batch.draws
        assert draws is not None
        gt = to_unit(batch.gt)
        sharp = usm_sharpen(gt) if self.degradations.gt_usm or self.degradations.lq_usm else gt
        lq = degrade(sharp, draws, self.degradations, self.scale, self.seed, batch.step)
        target = sharp if self.degradations.gt_usm else gt
        room = lq.shape[-1] - self._patch + 1
        places = [(int(top * room), int(left * room)) for top, left in draws.uniform[:, DRAWS:].tolist()]
        return self.convert(_cut_each(lq, places, self._patch, 1)), self.convert(
            _cut_each(target, places, self._patch, self.scale)
        )

    def _draw(self, key: SampleKey) -> tuple[np.ndarray, np.ndarray, int]:
        """Kernels [3, k, k], numbers [n] and the seed of the noise of one sample."""
        stream = random_stream(self.seed, key.epoch, key.position, _DEGRADATION)
        o = self.options
        kernels = (
            draw_blur(stream, o.kernel_list, o.kernel_prob, o.sinc_prob, o.blur_sigma, o.betag_range, o.betap_range),
            draw_blur(
                stream, o.kernel_list2, o.kernel_prob2, o.sinc_prob2, o.blur_sigma2, o.betag_range2, o.betap_range2
            ),
            draw_final_sinc(stream, o.final_sinc_prob),
        )
        return np.stack(kernels), stream.random(DRAWS + 2), int(stream.integers(2**63))

    def _cut(self, key: SampleKey) -> Patch:
        image = self._load(key.image)
        side = self.options.crop_size
        stream = random_stream(self.seed, key.epoch, key.position)
        flips = augment.draw_flips(self.options.use_hflip, self.options.use_rot, stream)
        height, width = image.shape[:2]
        top = int(stream.integers(max(height - side, 0) + 1))
        left = int(stream.integers(max(width - side, 0) + 1))
        patch = augment.cut(image, Region(top, left, side, side))
        if min(patch.shape[:2]) < side:
            below, right = side - patch.shape[0], side - patch.shape[1]
            patch = np.pad(patch, ((0, below), (0, right), (0, 0)), mode="reflect")  # as often as needed
        return Patch(augment.flip(patch, flips), None)

    def _load(self, index: int) -> Pixels:
        return self._load_gt(index, 2)  # one pixel cannot be mirrored


def _cut_each(images: Tensor, places: Sequence[tuple[int, int]], side: int, scale: int) -> Tensor:
    """A patch of [side * scale]^2 out of each image, at places counted in pixels ``scale`` times as large."""
    size = side * scale
    return torch.stack(
        [
            image[:, top * scale : top * scale + size, left * scale : left * scale + size]
            for image, (top, left) in zip(images, places, strict=True)
        ]
    )
