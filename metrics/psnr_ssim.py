"""PSNR and SSIM with the conventions of published super-resolution results.

The order is crop, then Y, then measure. **Colour order is R G B**, as everywhere in FocalSR; BasicSR's functions of the
same names take B G R. It matters for ``test_y_channel`` only: give OpenCV's arrays as ``img[..., ::-1]``.

SSIM: Wang et al., "Image quality assessment: from error visibility to structural similarity", IEEE TIP 2004; Gaussian
window 11 x 11 with sigma 1.5, on positions that the window covers fully.

Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TypeVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.arrays import as_hwc, crop
from metrics.color import LUMA, Image, fast_luma, luma, luma_pt, strips
from metrics.metric import LevelMetric, Output, require
from ops.pixels.similarity import has_similarity_kernels, ssim_sums
from utils.devices import CPU, exact_device
from utils.errors import InputError
from utils.typed import option

WINDOW = 11
_MARGIN = WINDOW // 2
_SIGMA = 1.5
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2

Values = TypeVar("Values", Image, Tensor)


def calculate_psnr(
    img: Image, img2: Image, crop_border: int, input_order: str = "HWC", test_y_channel: bool = False
) -> float:
    """Peak signal-to-noise ratio in dB; infinity for equal images.

    Args:
        img: uint8 or float in [0, 255], R G B: [H, W, 3], [H, W, 1], [H, W], or channels first.
        img2: the image to compare with, of the same shape.
        crop_border: pixels dropped on each side of both images, before anything else.
        input_order: "HWC" or "CHW".
        test_y_channel: measure on the luminance (BT.601) instead of on all channels; grey images stay as they are.

    Raises:
        ValueError: the arrays are no images of one shape, or hold NaN or infinity.
        InputError: they are too small.
    """
    return _psnr(*_prepare(img, img2, crop_border, input_order, test_y_channel, smallest=1))


def _psnr(img: Image, img2: Image) -> float:
    difference = img.astype(np.float64) - img2
    mse = float(np.mean(np.square(difference, out=difference)))
    return 10.0 * math.log10(255.0**2 / mse) if mse > 0 else math.inf


def calculate_ssim(
    img: Image, img2: Image, crop_border: int, input_order: str = "HWC", test_y_channel: bool = False
) -> float:
    """Structural similarity, 1 for equal images: the mean over channels of the value per channel.

    Args:
        img: uint8 or float in [0, 255], R G B: [H, W, 3], [H, W, 1], [H, W], or channels first.
        img2: the image to compare with, of the same shape.
        crop_border: pixels dropped on each side of both images, before anything else; what remains must hold the
            window of 11 x 11.
        input_order: "HWC" or "CHW".
        test_y_channel: measure on the luminance (BT.601) instead of on all channels; grey images stay as they are.

    Raises:
        ValueError: the arrays are no images of one shape, or hold NaN or infinity.
        InputError: they are too small.
    """
    return _ssim(*_prepare(img, img2, crop_border, input_order, test_y_channel, smallest=WINDOW))


def _ssim(img: Image, img2: Image) -> float:
    total, count = 0.0, 0
    for rows in strips(img.shape[0] - 2 * _MARGIN, img.shape[1]):
        part = slice(rows.start, rows.stop + 2 * _MARGIN)
        ssim = _ssim_map(img[part].astype(np.float64), img2[part].astype(np.float64))
        total += float(ssim.sum())
        count += ssim.size
    return total / count


def _fast_ssim(img: Image, img2: Image) -> float:
    """:func:`_ssim` of levels or luminance, by a compiled kernel where there is one: sums in another order."""
    if not has_similarity_kernels():
        return _ssim(img, img2)
    # float32 holds both exactly; [H, W] or [H, W, C] -> [C, H, W]
    pair = [torch.from_numpy(np.atleast_3d(x).transpose(2, 0, 1).astype(np.float32)) for x in (img, img2)]
    sums = ssim_sums(pair[0], pair[1], torch.tensor(_taps()), (_C1, _C2))
    height, width = (side - 2 * _MARGIN for side in img.shape[:2])
    return float(sums.sum()) / int(len(sums) * height * width)


def calculate_psnr_pt(img: Tensor, img2: Tensor, crop_border: int, test_y_channel: bool = False) -> Tensor:
    """PSNR of a batch on its device, [B, C, H, W] in [0, 1], R G B -> [B].

    As BasicSR's tensor version, 1e-8 is added to the mean square: equal images give 80 dB, 60 dB reads 0.04 dB low.
    Images with NaN or infinity, for which the host is not made to wait, give NaN.
    """
    img, img2 = _prepare_pt(img, img2, crop_border, test_y_channel, smallest=1)
    mse = (img - img2).square().mean(dim=(1, 2, 3))
    return 10.0 * torch.log10(1.0 / (mse + 1e-8)).where(mse.isfinite(), torch.nan)


def calculate_ssim_pt(img: Tensor, img2: Tensor, crop_border: int, test_y_channel: bool = False) -> Tensor:
    """SSIM of a batch on its device, [B, C, H, W] in [0, 1], R G B -> [B] in float64; NaN as in PSNR.

    Of a device that has no float64, the CPU measures.
    """
    pair = _prepare_pt(img, img2, crop_border, test_y_channel, smallest=WINDOW)
    return _ssim_pt(*(255.0 * x.to(exact_device(x.device), torch.float64) for x in pair))


def psnr_of_levels(img: Tensor, img2: Tensor, crop_border: int, test_y_channel: bool = False) -> Tensor:
    """What :func:`calculate_psnr` gives, where the 8-bit images lie: uint8 [H, W, 1 or 3] -> float64 scalar."""
    a, b = _prepare_levels(img, img2, crop_border, test_y_channel, smallest=1)
    mse = (a - b).square().mean()
    return 10.0 * torch.log10(255.0**2 / mse)  # infinity for equal images


def ssim_of_levels(img: Tensor, img2: Tensor, crop_border: int, test_y_channel: bool = False) -> Tensor:
    """What :func:`calculate_ssim` gives, where the 8-bit images lie: uint8 [H, W, 1 or 3] -> float64 scalar."""
    a, b = _prepare_levels(img, img2, crop_border, test_y_channel, smallest=WINDOW)
    return _ssim_pt(a, b)[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Pairwise(LevelMetric):
    """What PSNR and SSIM have in common: the part of two images that they measure."""

    crop_border: int = option("pixels of the high-resolution image dropped on each side; usually the scale", minimum=0)
    test_y_channel: bool = option("measure on the luminance (BT.601) instead of on R, G and B")

    def _measured(self, output: Output, smallest: int) -> tuple[Image, Image] | None:
        """Both images as they are measured, made once for all metrics; None where a device measures."""
        image, reference = output.levels, require(output.true_levels)
        if exact_device(image.device) != CPU or output.shared is None:
            return None
        _check_size(image.shape[0], image.shape[1], self.crop_border, smallest)
        key = (self.crop_border, self.test_y_channel)
        if key not in output.shared:
            arrays = image.cpu().numpy(), reference.cpu().numpy()
            output.shared[key] = _prepare(*arrays, self.crop_border, "HWC", self.test_y_channel, smallest, fast_luma)
        return output.shared[key]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PSNR(_Pairwise):
    """Peak signal-to-noise ratio in dB."""

    def __call__(self, image: Image, reference: Image | None = None) -> float:
        """PSNR of uint8 [H, W, 3] R G B against its true image."""
        return calculate_psnr(image, require(reference), self.crop_border, test_y_channel=self.test_y_channel)

    def of_tensors(self, image: Tensor, reference: Tensor | None = None) -> float:
        """The same where float64 is computed, uint8 [H, W, 3]; on the CPU the arrays' own way is the faster one."""
        if exact_device(image.device) == CPU:
            return super().of_tensors(image, reference)
        return float(psnr_of_levels(image, require(reference), self.crop_border, self.test_y_channel))

    def of_output(self, output: Output) -> float:
        """See :class:`metrics.metric.Metric`."""
        pair = self._measured(output, smallest=1)
        return super().of_output(output) if pair is None else _psnr(*pair)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SSIM(_Pairwise):
    """Structural similarity."""

    def __call__(self, image: Image, reference: Image | None = None) -> float:
        """SSIM of uint8 [H, W, 3] R G B against its true image."""
        return calculate_ssim(image, require(reference), self.crop_border, test_y_channel=self.test_y_channel)

    def of_tensors(self, image: Tensor, reference: Tensor | None = None) -> float:
        """The same where float64 is computed, uint8 [H, W, 3]; on the CPU the arrays' own way is the faster one."""
        if exact_device(image.device) == CPU:
            return super().of_tensors(image, reference)
        return float(ssim_of_levels(image, require(reference), self.crop_border, self.test_y_channel))

    def of_output(self, output: Output) -> float:
        """See :class:`metrics.metric.Metric`."""
        pair = self._measured(output, smallest=WINDOW)
        return super().of_output(output) if pair is None else _fast_ssim(*pair)


def _prepare(
    img: Image,
    img2: Image,
    border: int,
    input_order: str,
    y_channel: bool,
    smallest: int,
    luma_of: Callable[[Image], Image] = luma,
) -> tuple[Image, Image]:
    """Both images checked, cropped, and [H, W] where Y was asked for, else [H, W, C]."""
    if img.shape != img2.shape:
        raise ValueError(f"the images must have one shape, got {list(img.shape)} and {list(img2.shape)}")
    pair = [as_hwc(img, input_order), as_hwc(img2, input_order, "img2")]
    H, W = pair[0].shape[:2]
    _check_size(H, W, border, smallest)
    pair = [crop(image, border) for image in pair]
    if y_channel and pair[0].shape[-1] == 3:
        pair = [luma_of(image) for image in pair]
    return pair[0], pair[1]


def _prepare_pt(img: Tensor, img2: Tensor, border: int, y_channel: bool, smallest: int) -> tuple[Tensor, Tensor]:
    """Both batches checked, cropped, and [B, 1, H, W] where Y was asked for."""
    if img.shape != img2.shape:
        raise ValueError(f"the images must have one shape, got {list(img.shape)} and {list(img2.shape)}")
    if img.ndim != 4 or img.shape[1] not in (1, 3) or not img.is_floating_point():
        raise ValueError(f"expected floats [B, 1 or 3, H, W] in [0, 1], got {img.dtype} {list(img.shape)}")
    H, W = img.shape[-2:]
    _check_size(H, W, border, smallest)
    pair = [x[:, :, border : H - border, border : W - border] for x in (img, img2)]
    if y_channel and img.shape[1] == 3:
        weights = pair[0].new_tensor(LUMA)
        pair = [(torch.einsum("bchw,c->bhw", x, weights)[:, None] + 16.0) / 255.0 for x in pair]
    return pair[0], pair[1]


def _prepare_levels(img: Tensor, img2: Tensor, border: int, y_channel: bool, smallest: int) -> tuple[Tensor, Tensor]:
    """Both 8-bit images checked, cropped, and float64 [1, C, H, W] in [0, 255], with C = 1 where Y was asked for."""
    if img.shape != img2.shape:
        raise ValueError(f"the images must have one shape, got {list(img.shape)} and {list(img2.shape)}")
    if img.ndim != 3 or img.shape[-1] not in (1, 3) or img.dtype != torch.uint8 or img2.dtype != torch.uint8:
        raise ValueError(f"expected uint8 [H, W, 1 or 3], got {img.dtype} and {img2.dtype}, {list(img.shape)}")
    H, W = img.shape[:2]
    _check_size(H, W, border, smallest)
    pair = [x[border : H - border, border : W - border] for x in (img, img2)]
    if y_channel and img.shape[-1] == 3:
        pair = [luma_pt(x)[..., None] for x in pair]
    return pair[0].double().permute(2, 0, 1)[None], pair[1].double().permute(2, 0, 1)[None]


def _check_size(H: int, W: int, border: int, smallest: int) -> None:
    if border < 0:
        raise ValueError(f"crop_border must be 0 or more, got {border}")
    least = smallest + 2 * border
    if min(H, W) < least:
        raise InputError(
            f"an image of {W} x {H} pixels (width x height) is too small to be measured: with crop_border {border} "
            f"it needs at least {least} x {least}"
        )


@functools.cache
def _taps() -> Image:
    """The window's profile, float64 [11], sum 1; the window is its outer product."""
    offsets = np.arange(WINDOW) - _MARGIN
    taps: Image = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    taps /= taps.sum()
    taps.setflags(write=False)
    return taps


def _ssim_map(a: Image, b: Image) -> Image:
    """SSIM at every position that the window covers fully: float64 [H, W(, C)] -> [H-10, W-10(, C)]."""
    # Only the sum of the two variances is needed: one filter pass for both.
    return _similarity(_blur(a), _blur(b), _blur(a * a + b * b), _blur(a * b))


def _ssim_pt(a: Tensor, b: Tensor) -> Tensor:
    """Mean SSIM of each image: float64 [B, C, H, W] in [0, 255] -> [B]."""
    B, C = a.shape[:2]
    maps = torch.stack((a, b, a * a + b * b, a * b)).flatten(0, 2)[:, None]  # [4*B*C, 1, H, W]
    taps = torch.tensor(_taps(), device=a.device)
    blurred = F.conv2d(F.conv2d(maps, taps[None, None, :, None]), taps[None, None, None, :])
    mean_a, mean_b, squares, products = blurred.view(4, B, C, *blurred.shape[-2:])  # each [B, C, H-10, W-10]
    ssim: Tensor = _similarity(mean_a, mean_b, squares, products).mean(dim=(1, 2, 3))
    return ssim


def _similarity(mean_a: Values, mean_b: Values, squares: Values, products: Values) -> Values:
    """SSIM from filtered maps, of equal shapes: of both images, of the sum of their squares, of their product."""
    mean_product = mean_a * mean_b
    mean_squares = mean_a * mean_a + mean_b * mean_b
    ssim: Values = (2 * mean_product + _C1) * (2 * (products - mean_product) + _C2)
    ssim /= (mean_squares + _C1) * (squares - mean_squares + _C2)
    return ssim


def _blur(img: Image) -> Image:
    """Filter float64 [H, W(, C)] by the window; only positions fully covered -> [H-10, W-10(, C)]."""
    blurred: Image = cv2.sepFilter2D(img, cv2.CV_64F, _taps(), _taps())
    return blurred[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
