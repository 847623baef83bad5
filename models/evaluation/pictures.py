"""Pictures that show what a network does, for validation logs and ``scripts/visualise.py``; and writing pictures.

Shapes: h w low-resolution pixels, H W = s*h s*w high-resolution pixels, rounded; all images uint8 [.., .., 3] in R G B.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data.images.files import to_tensor, to_uint8, write_image
from data.resizing.matlab import Region, imresize
from metrics.color import luma
from ops import resample
from ops.pixels.imresize import taps_of

Pixels = NDArray[np.uint8]

CAPTIONS = ("LR", "bicubic", "ours", "HR")
GAP = 6  # white pixels between panels
STRIP = 26  # height of the caption above a panel
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FRAME = (230, 30, 30)
_WRITERS = 4  # threads that encode images


def comparison_picture(
    lq: Pixels,
    sr: Pixels,
    gt: Pixels | None = None,
    *,
    more: Sequence[Pixels] = (),
    crop: Region | None = None,
    captions: Sequence[str] = CAPTIONS,
    crop_captions: Sequence[str] | None = None,
) -> Pixels:
    """Low resolution, bicubic, the network's output and, where there is one, the ground truth, side by side.

    Args:
        lq: the network's input [h, w, 3]; shown with its pixels enlarged, and upscaled by bicubic.
        sr: the network's output [H, W, 3].
        gt: the ground truth [H, W, 3], or None.
        more: outputs of other networks, shown behind the first.
        crop: a part in high-resolution pixels; it is framed, and a second row shows it enlarged to the panels' width.
        captions: one text per panel; surplus ones are not used.
        crop_captions: the same for the second row, which has none without them.

    Returns:
        uint8 [.., .., 3]: panels of W columns under strips of STRIP rows, GAP white pixels apart.

    Raises:
        ValueError: the sizes do not belong together, or the part lies outside.
    """
    _check_sizes(lq, sr)
    height, width = sr.shape[:2]
    panels = [enlarged(lq, height, width), to_uint8(bicubic_to(to_tensor(lq), height, width)), sr, *more]
    for output in more:
        if output.shape != sr.shape:
            raise ValueError(f"comparison_picture: outputs {list(sr.shape)} and {list(output.shape)} differ")
    if gt is not None:
        if gt.shape != sr.shape:
            raise ValueError(f"comparison_picture: output {list(sr.shape)} and ground truth {list(gt.shape)} differ")
        panels.append(gt)
    for texts in (captions, captions if crop_captions is None else crop_captions):
        if len(texts) < len(panels):
            raise ValueError(f"comparison_picture: {len(panels)} panels need as many captions, got {list(texts)}")
    under_captions = [titled(panel, text) for panel, text in zip(panels, captions, strict=False)]
    if crop is None:
        return beside(under_captions)
    if crop.top < 0 or crop.left < 0 or crop.height < 1 or crop.width < 1:
        raise ValueError(f"comparison_picture: {crop} is no part of an image")
    if crop.top + crop.height > sr.shape[0] or crop.left + crop.width > sr.shape[1]:
        raise ValueError(f"comparison_picture: {crop} lies outside the image {list(sr.shape)}")
    framed = beside([_framed(panel, crop) for panel in under_captions])
    parts = [_enlarged_part(panel, crop) for panel in panels]
    if crop_captions is not None:
        parts = [titled(part, text) for part, text in zip(parts, crop_captions, strict=False)]
    return below([framed, beside(parts)])


def enlarged(image: Pixels, height: int, width: int) -> Pixels:
    """Every pixel as a rectangle of equal size, as far as that can be: [h, w, 3] -> [height, width, 3]."""
    rows, columns = (np.arange(length) * image.shape[axis] // length for axis, length in enumerate((height, width)))
    result: Pixels = image[rows][:, columns]
    return result


def bicubic_to(lq: Tensor, height: int, width: int) -> Tensor:
    """MATLAB's bicubic upsampling to the size of an output: [3, h, w] -> [3, height, width], not rounded."""
    # A scale that is no whole number rounds the sides apart: each has a factor of its own, or pixels would be shifted.
    rows, columns = (
        taps_of(lq.shape[axis], size / lq.shape[axis], True, lq.dtype, str(lq.device))
        for axis, size in ((-2, height), (-1, width))
    )
    return resample(lq[..., None], rows, columns)[..., :height, :width, 0]


def bicubic_picture(lq: Pixels, scale: int) -> Pixels:
    """MATLAB's bicubic upsampling: [h, w, 3] -> [scale*h, scale*w, 3]."""
    return to_uint8(imresize(to_tensor(lq), float(scale)))


def most_improved_part(bicubic: Pixels, sr: Pixels, gt: Pixels, height: int, width: int) -> Region:
    """Where a network gains most over bicubic: the part whose squared error (Y) it lowers most, worth enlarging.

    Squared error and not dB, which can be gained where nobody sees it, in parts that bicubic shows nearly right.

    Args:
        bicubic: the input upsampled by bicubic [H, W, 3], uint8.
        sr: the network's output [H, W, 3].
        gt: the ground truth [H, W, 3].
        height: of the part in pixels; one that exceeds the image is cut to it.
        width: likewise.
    """
    before, after = (_errors_of_parts(image, gt, height, width) for image in (bicubic, sr))
    return _largest(before - after, gt, height, width)


def most_different_part(images: Sequence[Pixels], gt: Pixels, height: int, width: int) -> Region:
    """Where several networks differ most: the part between whose largest and smallest squared error (Y) most lies.

    Args:
        images: outputs [H, W, 3], uint8.
        gt: the ground truth [H, W, 3].
        height: of the part in pixels; one that exceeds the image is cut to it.
        width: likewise.
    """
    errors = np.stack([_errors_of_parts(image, gt, height, width) for image in images])
    return _largest(errors.max(axis=0) - errors.min(axis=0), gt, height, width)


def _errors_of_parts(image: Pixels, gt: Pixels, height: int, width: int) -> NDArray[np.float64]:
    """The squared error (Y) of every part of this size: a map [H - height + 1, W - width + 1] of their corners."""
    rows, columns = gt.shape[:2]
    height, width = _within(gt, height, width)
    error = (luma(image) - luma(gt).astype(np.float64)) ** 2
    sums = np.zeros((rows + 1, columns + 1))  # integral image: the sum over a part takes four of its values
    sums[1:, 1:] = error.cumsum(axis=0).cumsum(axis=1)
    found: NDArray[np.float64] = (
        sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    )
    return found


def _largest(parts: NDArray[np.float64], gt: Pixels, height: int, width: int) -> Region:
    top, left = np.unravel_index(int(parts.argmax()), parts.shape)
    return Region(int(top), int(left), *_within(gt, height, width))


def _within(gt: Pixels, height: int, width: int) -> tuple[int, int]:
    """The size of a part, which is no larger than the image."""
    return max(1, min(height, gt.shape[0])), max(1, min(width, gt.shape[1]))


def cut_out(image: Pixels, part: Region) -> Pixels:
    """The part of an image [H, W, 3], as a view."""
    return image[part.top : part.top + part.height, part.left : part.left + part.width]


def _check_sizes(lq: Pixels, sr: Pixels) -> None:
    """Raise ValueError unless one factor makes, rounded, both sides of the output of those of the input."""
    sides = [(small, sr.shape[axis]) for axis, small in enumerate(lq.shape[:2])]
    least = max((large - 0.5) / small for small, large in sides)
    most = min((large + 0.5) / small for small, large in sides)
    if sr.shape[0] < lq.shape[0] or least > most:
        raise ValueError(f"comparison_picture: output {list(sr.shape)} is no multiple of input {list(lq.shape)}")


def titled(panel: Pixels, text: str) -> Pixels:
    """The panel under a white strip with ``text``, smaller where it would not fit."""
    strip = np.full((STRIP, panel.shape[1], 3), 255, np.uint8)
    (width, _), _ = cv2.getTextSize(text, _FONT, 0.55, 1)
    size = 0.55 * min(1.0, (panel.shape[1] - 4) / max(width, 1))
    if size > 0:
        cv2.putText(strip, text, (2, STRIP - 8), _FONT, size, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, panel])


def _framed(titled: Pixels, crop: Region) -> Pixels:
    """A copy of a titled panel with a frame around the part."""
    top, left = crop.top + STRIP, crop.left
    corner = (left + crop.width - 1, top + crop.height - 1)
    return np.asarray(cv2.rectangle(titled.copy(), (left, top), corner, _FRAME, 2), np.uint8)


def _enlarged_part(panel: Pixels, crop: Region) -> Pixels:
    """The part of a panel, enlarged to the panel's width without inventing anything."""
    part = cut_out(panel, crop)
    width = panel.shape[1]
    height = max(1, round(crop.height * width / crop.width))
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)


def beside(panels: Sequence[Pixels]) -> Pixels:
    """Panels of one height in a row, GAP white pixels apart."""
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    joined = [piece for panel in panels for piece in (gap, panel)]
    return np.concatenate(joined[1:], axis=1)


def below(rows: Sequence[Pixels]) -> Pixels:
    """Rows of one width, one below the other, GAP white pixels apart."""
    gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    joined = [piece for row in rows for piece in (gap, row)]
    return np.concatenate(joined[1:])


class PictureWriter:
    """Writes image files in threads, while the next image is computed."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_WRITERS, thread_name_prefix="pictures")
        self._written: list[Future[None]] = []

    def write(self, path: Path, pixels: Pixels) -> None:
        """Write [H, W, C] to ``path``, soon; nobody may change the pixels afterwards."""
        self._written.append(self._pool.submit(write_image, path, pixels))

    def finish(self) -> None:
        """Wait until all are written; raises what went wrong with the first that is not."""
        self._pool.shutdown()
        for image in self._written:
            image.result()
