"""Checks and cropping that every metric on arrays does before it measures."""

from __future__ import annotations

import numpy as np

from metrics.color import Image


def as_hwc(img: Image, input_order: str, name: str = "img") -> Image:
    """The image as [H, W, C] with 1 or 3 channels, or a ValueError that says what it is instead.

    Args:
        img: uint8, or float in [0, 255]; [H, W] in any order, else as ``input_order`` says.
        input_order: "HWC" or "CHW".
        name: what to call the image in messages.

    Raises:
        ValueError: it is no image, or holds NaN or infinity, of which no score may be made.
    """
    if input_order not in ("HWC", "CHW"):
        raise ValueError(f'input_order must be "HWC" or "CHW", got "{input_order}"')
    if img.dtype != np.uint8 and not np.issubdtype(img.dtype, np.floating):
        raise ValueError(f"{name}: expected uint8 or floats in [0, 255], got {img.dtype}")
    if img.dtype != np.uint8 and not np.isfinite(img).all():
        count = int((~np.isfinite(img)).sum())
        raise ValueError(f"{name}: {count} of {img.size} values are NaN or infinite: no score may be made of them")
    if img.ndim == 2:
        return img[..., None]
    if img.ndim == 3 and input_order == "CHW":
        img = img.transpose(1, 2, 0)
    if img.ndim != 3 or img.shape[-1] not in (1, 3):
        shape = list(img.shape)
        raise ValueError(f"{name}: expected 1 or 3 channels in {input_order} order, got shape {shape} (as H, W, C)")
    return img


def crop(img: Image, border: int) -> Image:
    """[H, W, C] without ``border`` pixels on each side."""
    if border < 0:
        raise ValueError(f"crop_border must be 0 or more, got {border}")
    H, W = img.shape[:2]
    return img[border : H - border, border : W - border] if min(H, W) > 2 * border else img[:0, :0]
