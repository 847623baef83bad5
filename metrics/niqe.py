"""NIQE: how natural an image looks, without a true image (Mittal, Soundararajan and Bovik, IEEE SPL 2013).

Statistics of blocks of 96 x 96 are compared with those of pristine photographs; lower is better. The pristine model
was estimated by the authors of NIQE and is not part of FocalSR: the user names the file.

Shapes: H W pixels, N blocks, b block side.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import cv2
import numpy as np

from metrics.arrays import as_hwc, crop
from metrics.color import Image, luma
from metrics.metric import LevelMetric, UndefinedScoreError
from ops.pixels.imresize import imresize
from utils.errors import InputError
from utils.reading import MOST_TEXT, read_regular
from utils.typed import option

BLOCK = 96
_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (rows, columns): the neighbours whose products are measured
_FLAT = 1e-9  # levels of 0 .. 255: the mean of a flat area differs from its level by up to some 1e-13


class PristineModel(NamedTuple):
    """What natural images look like: mean [36] and covariance [36, 36] of the features, filter window [7, 7]."""

    mean: Image
    covariance: Image
    window: Image


def calculate_niqe(
    img: Image,
    crop_border: int,
    input_order: str = "HWC",
    convert_to: str = "y",
    *,
    params_file: str | Path,
) -> float:
    """Naturalness of one image; lower is better.

    Args:
        img: uint8 or float in [0, 255], R G B (BasicSR's function takes B G R: give OpenCV's arrays as
            ``img[..., ::-1]``): [H, W, 3], [H, W, 1], [H, W], or channels first.
        crop_border: pixels dropped on each side; what remains must hold two blocks of 96 x 96.
        input_order: "HWC", "CHW", or "HW" for one channel that is taken as it is.
        convert_to: how colours become one channel: "y" (BT.601 luminance, 16 .. 235) or "gray" (OpenCV's, 0 .. 255).
        params_file: ``.npz`` file with the pristine model: arrays mu, cov, window, or BasicSR's
            ``niqe_pris_params.npz``.

    Raises:
        ValueError: ``img`` is no image, or holds NaN or infinity.
        UndefinedScoreError: fewer than two of its blocks have any texture.
        InputError: it is too small, or the file is no pristine model.
    """
    model = load_pristine(params_file)
    plane = _plane(img, input_order, convert_to)
    plane = crop(plane[..., None], crop_border)[..., 0]
    H, W = plane.shape
    rows, columns = H // BLOCK, W // BLOCK
    if rows * columns < 2:
        raise InputError(
            f"NIQE needs an image that holds two blocks of {BLOCK} x {BLOCK} pixels; after dropping crop_border "
            f"{crop_border} this one has {W} x {H} (width x height)"
        )
    features = image_features(plane[: rows * BLOCK, : columns * BLOCK].astype(np.float64).round(), model.window)
    complete = features[~np.isnan(features).any(axis=1)]
    if len(complete) < 2:
        raise UndefinedScoreError("NIQE is not defined for this image: fewer than two of its blocks have any texture")
    difference = model.mean - np.nanmean(features, axis=0)
    covariance = (model.covariance + np.cov(complete, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(covariance) @ difference))


def image_features(plane: Image, window: Image) -> Image:
    """The 36 features of every block: float64 [96 r, 96 c] in [0, 255], window [7, 7] -> [r * c, 36]."""
    scales = []
    for side in (BLOCK, BLOCK // 2):
        mean = _correlate(plane, window)
        deviation = np.sqrt(np.abs(_correlate(plane * plane, window) - mean * mean))
        difference = plane - mean
        # The fits count negative and positive values: in a flat area, rounding of the mean must be neither.
        difference[np.abs(difference) < _FLAT] = 0
        normalised = difference / (deviation + 1)
        H, W = normalised.shape
        tiles = normalised.reshape(H // side, side, W // side, side).swapaxes(1, 2)
        scales.append(block_features(tiles.reshape(-1, side, side)))
        if side == BLOCK:
            plane = imresize(plane / 255, 0.5) * 255
    return np.concatenate(scales, axis=1)


def block_features(blocks: Image) -> Image:
    """The 18 features of each block, float64 [N, b, b] of normalised luminance -> [N, 18]."""
    alpha, left, right = fit_aggd(blocks)
    features = [alpha, (left + right) / 2]
    for shift in _SHIFTS:
        # Rolled within the block: the neighbour beyond one edge is the pixel at the opposite edge.
        alpha, left, right = fit_aggd(blocks * np.roll(blocks, shift, axis=(1, 2)))
        features += [alpha, (right - left) * _gamma(2 / alpha) / _gamma(1 / alpha), left, right]
    return np.stack(features, axis=1)


def fit_aggd(values: Image) -> tuple[Image, Image, Image]:
    """Asymmetric generalised Gaussian fitted to each block by moments: [N, b, b] -> alpha, beta left, right, each [N].

    Blocks without a negative or a positive value have no fit: beta is NaN.
    """
    values = values.reshape(len(values), -1)
    squares = values * values
    with np.errstate(invalid="ignore", divide="ignore"):
        left = np.sqrt((squares * (values < 0)).sum(1) / (values < 0).sum(1))
        right = np.sqrt((squares * (values > 0)).sum(1) / (values > 0).sum(1))
        ratio = left / right
        moment = np.abs(values).mean(1) ** 2 / squares.mean(1)
        target = moment * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    alphas, table = _alpha_table()
    upper = np.searchsorted(table, target).clip(1, len(table) - 1)
    nearest = np.where(target - table[upper - 1] <= table[upper] - target, upper - 1, upper)
    # Without a target the published search ends at its first entry; the block counts in the mean of alpha only.
    alpha = alphas[np.where(np.isnan(target), 0, nearest)]
    scale = np.sqrt(_gamma(1 / alpha) / _gamma(3 / alpha))
    return alpha, left * scale, right * scale


def load_pristine(path: str | Path) -> PristineModel:
    """The pristine model of a file; read again only when the file changes.

    Raises:
        InputError: the file is missing or is not such a model.
    """
    path = Path(path)
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(
            f"NIQE's pristine model {path} cannot be read ({error.strerror}); params_file must name an .npz file with "
            "the arrays mu, cov and window, such as BasicSR's niqe_pris_params.npz"
        ) from error
    return _load_pristine(path.resolve(), status.st_mtime_ns, status.st_size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NIQE(LevelMetric):
    """Naturalness without a true image; lower is better."""

    needs_reference = False
    IGNORED: ClassVar[Mapping[str, str]] = {
        **LevelMetric.IGNORED,
        "test_y_channel": "convert_to says which channel is measured",
    }

    better: Literal["higher", "lower"] = option("which direction counts as better when the best is recorded", "lower")
    crop_border: int = option("pixels of the high-resolution image dropped on each side", minimum=0)
    convert_to: Literal["y", "gray"] = option("how colours become one channel: BT.601 luminance or OpenCV's grey", "y")
    params_file: Path = option(".npz file with the pristine model (mu, cov, window), or BasicSR's niqe_pris_params.npz")

    def __post_init__(self) -> None:
        """Read the file now: a mistake should show before the training, not at its first validation."""
        super().__post_init__()
        load_pristine(self.params_file)

    def __call__(self, image: Image, reference: Image | None = None) -> float:
        """NIQE of uint8 [H, W, 3] R G B; the true image is not looked at."""
        return calculate_niqe(image, self.crop_border, convert_to=self.convert_to, params_file=self.params_file)


def _plane(img: Image, input_order: str, convert_to: str) -> Image:
    """The one channel that is measured, float [H, W] in [0, 255]."""
    if convert_to not in ("y", "gray"):
        raise ValueError(f'convert_to must be "y" or "gray", got "{convert_to}"')
    if input_order == "HW" and img.ndim != 2:
        raise ValueError(f'input_order "HW" wants an array [H, W], got shape {list(img.shape)}')
    img = as_hwc(img, "HWC" if input_order == "HW" else input_order)
    if img.shape[-1] == 1:
        return img[..., 0]
    if convert_to == "y":
        return luma(img)
    # From B G R, as BasicSR has it: OpenCV adds the channels in the order in which they lie, and the sum is rounded.
    gray: Image = cv2.cvtColor(img[..., ::-1].astype(np.float32) / 255, cv2.COLOR_BGR2GRAY) * 255
    return gray


def _correlate(plane: Image, window: Image) -> Image:
    """Correlation with the window, edges repeated; [H, W] -> [H, W]."""
    result: Image = cv2.filter2D(plane, cv2.CV_64F, window, borderType=cv2.BORDER_REPLICATE)
    return result


def _gamma(x: Image) -> Image:
    """Gamma function of each element of [N]."""
    return np.array([math.gamma(value) for value in x])


@functools.cache
def _alpha_table() -> tuple[Image, Image]:
    """The shapes a that are tried, 0.2 .. 10, and Gamma(2/a)^2 / (Gamma(1/a) Gamma(3/a)), which rises with a."""
    alphas = np.arange(0.2, 10.001, 0.001)
    return alphas, _gamma(2 / alphas) ** 2 / (_gamma(1 / alphas) * _gamma(3 / alphas))


def _read_arrays(path: Path) -> dict[str, Image]:
    """The arrays of an ``.npz`` file; pickled objects are refused."""
    try:
        loaded = np.load(io.BytesIO(read_regular(path, MOST_TEXT)), allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            return dict(loaded)
        reason = "it holds a single array"
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:  # the ways in which np.load fails
        reason = str(error)
    raise InputError(f"NIQE's pristine model {path} is not an .npz file of arrays: {reason}")


@functools.lru_cache(maxsize=4)
def _load_pristine(path: Path, modified: int, size: int) -> PristineModel:
    """The file's content; ``modified`` and ``size`` are arguments so that a changed file is read again."""
    arrays = _read_arrays(path)
    names = [("mu", "mu_pris_param"), ("cov", "cov_pris_param"), ("window", "gaussian_window")]
    found = [next((arrays[name] for name in pair if name in arrays), None) for pair in names]
    shapes = [(1, 36), (36, 36), (7, 7)]
    for (name, alternative), array, shape in zip(names, found, shapes, strict=True):
        if array is None:
            content = ", ".join(arrays) or "nothing"
            raise InputError(f'NIQE\'s pristine model {path}: no array "{name}" or "{alternative}"; it holds {content}')
        if array.size != math.prod(shape) or array.dtype.kind != "f" or not np.isfinite(array).all():
            raise InputError(
                f'NIQE\'s pristine model {path}: "{name}" must hold finite floats of shape {list(shape)}, '
                f"got {array.dtype} {list(array.shape)}"
            )
    mean, covariance, window = (
        array.astype(np.float64).reshape(shape) for array, shape in zip(found, shapes, strict=True) if array is not None
    )
    return PristineModel(mean[0], covariance, window)
