"""The pictures that networks are looked at with.

Shapes: c channels, h w low-resolution pixels, H W = s*h s*w high-resolution pixels; pictures in R G B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data.images.files import list_images, read_image, to_tensor
from data.resizing.matlab import downscale, mod_crop
from utils.errors import InputError

Pixels = NDArray[np.uint8]
Kind = Literal["lr", "hr"]
Rule = Literal["pillow", "matlab"]


@dataclass(frozen=True)
class Picture:
    """A picture for a network.

    Attributes:
        name: of its file, without the suffix.
        lr: the network's input, [1, c, h, w] in [0, 1].
        hr: what it was made from, uint8 [H, W, 3]; None where the file is the input itself.
    """

    name: str
    lr: Tensor
    hr: Pixels | None = None


@dataclass(frozen=True)
class Crop:
    """A part of a file, in its own pixels."""

    left: int
    top: int
    width: int
    height: int


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Files, and those of folders in the order of their names.

    Raises:
        InputError: a folder cannot be read or holds no images.
    """
    return [file for path in paths for file in (list_images(path) if path.is_dir() else [path])]


def read_picture(
    path: Path,
    *,
    kind: Kind,
    scale: float = 1,
    channels: int = 3,
    crop: Crop | None = None,
    rule: Rule = "matlab",
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Picture:
    """A file as a picture; whatever it holds becomes R G B first.

    Args:
        path: of the file.
        kind: the file is the network's input ("lr"), or that is made from it ("hr").
        scale: s; whole where ``kind`` is "hr".
        channels: c: 3, or 1 for the mean of R G B.
        crop: take a part of the file.
        rule: how the input is made: MATLAB's bicubic, as benchmarks are, or Pillow's of the 8-bit picture, as the
            published attribution maps are (Gu & Dong, CVPR 2021).
        dtype: of the input.
        device: of the input.

    Raises:
        InputError: the file cannot be read, or the crop lies outside.
    """
    pixels = read_image(path)
    if crop is not None:
        pixels = cropped(pixels, crop, str(path))
    hr: Pixels | None = None
    if kind == "hr":
        whole = int(scale)
        if whole != scale:
            raise InputError(f"{path}: no input for x{scale:g} is made from an HR picture; give LR pictures")
        if min(pixels.shape[:2]) < whole:
            raise InputError(f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels are too few for x{whole}")
        hr = mod_crop(pixels, whole)
        pixels = pillow_downscale(hr, whole) if rule == "pillow" else downscale(hr, whole)
    lr = to_tensor(pixels)[None].to(device or torch.device("cpu"), dtype)
    if channels not in (1, lr.shape[1]):
        raise InputError(f"{path}: a network of {channels} channels takes no picture in R G B")
    return Picture(path.stem, lr.mean(1, keepdim=True) if channels == 1 else lr, hr)


def cropped(pixels: Pixels, crop: Crop, name: str) -> Pixels:
    """A part of a picture [.., .., 3].

    Raises:
        InputError: it is empty or reaches beyond the picture.
    """
    height, width = pixels.shape[:2]
    inside = crop.left >= 0 and crop.top >= 0 and crop.left + crop.width <= width and crop.top + crop.height <= height
    if not inside or crop.width < 1 or crop.height < 1:
        raise InputError(
            f"{name}: --crop {crop.left},{crop.top},{crop.width},{crop.height} (left, top, width, height) does not lie "
            f"in its {width} x {height} pixels"
        )
    return pixels[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


def pillow_downscale(hr: Pixels, scale: int) -> Pixels:
    """Pillow's bicubic of the 8-bit picture: uint8 [s*h, s*w, 3] -> [h, w, 3]; sides are multiples of the scale."""
    height, width = hr.shape[:2]
    small = Image.fromarray(hr).resize((width // scale, height // scale), Image.Resampling.BICUBIC)
    return np.asarray(small, np.uint8)
