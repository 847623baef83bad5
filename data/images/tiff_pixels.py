"""Pixels of those TIFF files that OpenCV decodes wrongly, or without their opacity.

These are CMYK, grey with opacity, and of 16 bits: channels stored apart, white stored as 0, opacity that colours are
multiplied by. OpenCV multiplies colours of 8 bits by their opacity. Pillow reads those of 8 bits that it knows, and
tifffile the rest.

Shapes: H W pixels, C channels.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.images.integrity import DAMAGE_ERRORS, damage
from data.images.pillow import patient_pillow
from data.images.tiff import Layout, read_layout
from utils.errors import InputError

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5  # photometric interpretations
_LAB = (8, 9, 10)
_APART = 2  # planar configuration
_ASSOCIATED, _STRAIGHT = 1, 2  # extra samples: opacity that colours are multiplied by, or not


def odd_pixels(data: bytes, name: str) -> NDArray[Any] | None:
    """The first page of a TIFF file of such a kind, as it is stored: uint8 or uint16 [H, W, C]; None: of other kinds.

    Args:
        data: the content of a file.
        name: says in messages where it came from.

    Returns:
        Grey, B G R, or B G R and opacity, as OpenCV has them.

    Raises:
        InputError: the file is damaged, or compressed in a way that neither library knows.
    """
    layout = read_layout(data)
    if layout.photometric in _LAB:
        raise InputError(f"{name}: holds CIELAB colours; save it as RGB")
    if layout.photometric == _CMYK and layout.bits == 8:
        return _by_pillow(data, name, "RGB")
    if layout.photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) or layout.bits not in (8, 16):
        return None
    colours = 3 if layout.photometric == _RGB else 1
    more = layout.samples - colours
    plain = layout.planar != _APART and layout.extra != (_ASSOCIATED,)
    if layout.bits == 8 and more == 1 and (colours == 3 or plain):
        return _by_pillow(data, name, "RGBA")
    unusual = more > 1 or (more == 1 and (colours == 1 or layout.extra != (_STRAIGHT,)))
    deep = layout.bits == 16
    apart = deep and layout.planar == _APART and layout.samples > 1
    inverted = deep and layout.photometric == _WHITE_IS_ZERO
    return _by_tifffile(data, name, layout, colours) if unusual or apart or inverted else None


def _by_pillow(data: bytes, name: str, mode: str) -> NDArray[np.uint8]:
    from PIL import Image

    _check(data, name)
    try:
        with patient_pillow(), Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert(mode))[..., [2, 1, 0, 3][: len(mode)]]
    except DAMAGE_ERRORS as error:
        raise _unreadable(name, error) from error


def _by_tifffile(data: bytes, name: str, layout: Layout, colours: int) -> NDArray[Any]:
    import tifffile

    _check(data, name)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            stored: NDArray[Any] = file.pages[0].asarray()
    except DAMAGE_ERRORS as error:
        raise _unreadable(name, error) from error
    if stored.ndim == 2:
        stored = stored[..., None]
    elif layout.planar == _APART and stored.ndim == 3:
        stored = stored.transpose(1, 2, 0)
    if stored.dtype not in (np.uint8, np.uint16) or stored.ndim != 3 or stored.shape[2] < layout.samples:
        raise _unreadable(name, "its tags contradict each other")
    kind, top = stored.dtype, np.iinfo(stored.dtype).max
    pixels = stored[..., :colours][..., ::-1]
    if layout.photometric == _WHITE_IS_ZERO:
        pixels = top - pixels
    place = next((i for i, extra in enumerate(layout.extra) if extra in (_ASSOCIATED, _STRAIGHT)), None)
    if place is None:
        return np.ascontiguousarray(pixels)
    alpha = stored[..., colours + place, None]
    if layout.extra[place] == _ASSOCIATED:
        divided = (pixels.astype(np.uint64) * top + alpha // 2) // np.maximum(alpha, 1)
        pixels = np.where(alpha > 0, np.minimum(divided, top), pixels)
    return np.concatenate([np.broadcast_to(pixels, (*pixels.shape[:2], 3)), alpha], axis=2).astype(kind)


def _check(data: bytes, name: str) -> None:
    problem = damage(data)
    if problem:
        raise InputError(f"{name}: the image cannot be read: {problem}; copy it again or remove it")


def _unreadable(name: str, error: object) -> InputError:
    return InputError(f"{name}: the image cannot be read: {error}; save it as PNG, or as TIFF with ZIP compression")
