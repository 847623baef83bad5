"""Colour under transparent pixels: what is kept, what is spread, and what is seen of it over any background."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from data.images.photo import Levels, Photo, read_photo
from models.inference.photo import Upscaler, upscale_photo
from models.inference.transparency import spread_colour
from models.weights.recognise import network_from_weights

BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128), "green": (0, 255, 0)}


class Bilinear(nn.Module):
    """Interpolates; linear, so that composing before and after it can be compared."""

    scale = 4

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, 3, 4h, 4w]."""
        return F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)


def shape() -> NDArray[np.uint8]:
    """Opacity [80, 96, 1] of a ring and a bar with soft edges."""
    big = np.zeros((640, 768), np.uint8)
    cv2.circle(big, (300, 260), 180, 255, -1)
    cv2.circle(big, (300, 260), 100, 0, -1)
    cv2.line(big, (400, 400), (700, 600), 255, 50)
    return np.asarray(cv2.resize(big, (96, 80), interpolation=cv2.INTER_AREA), np.uint8)[..., None]


def waves(top: int) -> NDArray[Any]:
    """A smooth picture [80, 96, 3] of many colours."""
    y, x = np.mgrid[:80, :96]
    values = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], axis=2)
    return np.rint((0.5 + 0.4 * values) * top).astype(np.uint8 if top == 255 else np.uint16)


def over(photo: Photo, background: tuple[int, int, int]) -> NDArray[np.float64]:
    """The picture laid over a colour, in levels of 255."""
    assert photo.alpha is not None
    opacity = photo.alpha / photo.top
    return photo.pixels / photo.top * 255 * opacity + np.array(background) * (1 - opacity)


@pytest.mark.parametrize("top", [255, 65535])
@pytest.mark.parametrize("channels", [1, 3])
def test_only_colours_that_nobody_sees_are_changed(top: int, channels: int) -> None:
    alpha: Levels = (shape().astype(np.uint8 if top == 255 else np.uint16)) * (top // 255)  # type: ignore[assignment]
    pixels = waves(top)[..., :channels]
    spread = spread_colour(pixels, alpha)
    assert (spread.shape, spread.dtype) == (pixels.shape, pixels.dtype)
    seen = alpha[..., 0] >= top * 16 / 255
    assert (spread[seen] == pixels[seen]).all()
    change = np.abs(spread.astype(float) - pixels) * (alpha / top)
    assert change.max() <= 4 / 255 * top
    assert (spread[alpha[..., 0] == 0] != pixels[alpha[..., 0] == 0]).any()


@pytest.mark.parametrize(("kind", "level"), [(np.uint8, 203), (np.uint16, 40_001)])
def test_one_colour_is_spread_everywhere_to_the_last_bit(kind: Any, level: int) -> None:
    for alpha in (shape(), shape() // 17, np.eye(1, 77, 5).astype(np.uint8)[..., None] * 9):
        pixels = np.where(alpha > 0, level, 0).astype(kind)
        assert (spread_colour(pixels, alpha.astype(kind)) == level).all()


def test_what_is_spread_is_the_colour_nearby() -> None:
    alpha = np.zeros((32, 64, 1), np.uint8)
    alpha[:, :8] = alpha[:, -8:] = 255
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :8], pixels[:, -8:] = (200, 0, 0), (0, 0, 100)
    row = spread_colour(pixels, alpha)[16].astype(int)
    assert row[8].tolist() == pytest.approx([200, 0, 0], abs=8)
    assert row[-9].tolist() == pytest.approx([0, 0, 100], abs=8)
    assert (np.diff(row[:, 0]) <= 0).all()
    assert np.abs(np.diff(row[8:-8, 0])).max() <= 20


def test_colours_of_which_rounding_left_nothing_are_replaced() -> None:
    """As files that were stored multiplied by the opacity have them: at 1 of 255 a colour is black or full."""
    alpha = np.zeros((16, 32, 1), np.uint8)
    alpha[:, :12], alpha[:, 12:] = 255, 1
    pixels = np.full((16, 32, 3), 120, np.uint8)
    pixels[:, 12:] = np.random.default_rng(0).integers(0, 2, (16, 20, 3)) * 255
    assert np.abs(spread_colour(pixels, alpha)[:, 13].astype(int) - 120).max() <= 20


@pytest.mark.parametrize("level", [0, 9, 255])
def test_pictures_without_an_edge_of_transparency_stay_as_they_are(level: int) -> None:
    pixels = waves(255)
    assert spread_colour(pixels, np.full((80, 96, 1), level, np.uint8)) is pixels


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_over_any_background_an_upscaled_logo_is_the_upscaled_composition(background: str, kind: Any) -> None:
    top = int(np.iinfo(kind).max)
    alpha = shape().astype(kind) * kind(top // 255)
    upscaler = Upscaler(Bilinear())
    smooth = np.where(alpha > 0, waves(top), 0).astype(kind)
    for pixels, largest in ((np.where(alpha > 0, top, 0).astype(kind).repeat(3, 2), 1.0), (smooth, 6.0)):
        logo = Photo(pixels, alpha)
        composed = Photo(np.rint(over(logo, BACKGROUNDS[background])).astype(np.uint8))
        expected = upscale_photo(composed, upscaler).pixels.astype(float)
        difference = np.abs(over(upscale_photo(logo, upscaler), BACKGROUNDS[background]) - expected)
        assert difference.max() <= largest
        assert difference.mean() <= 0.6


def test_glass_keeps_its_picture() -> None:
    alpha = np.rint(np.linspace(16, 255, 96)).astype(np.uint8)[None, :, None].repeat(80, axis=0)
    noise = np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    assert (spread_colour(noise, alpha) == noise).all()


@pytest.mark.parametrize("mode", ["P", "LA", "RGBA"])
def test_files_of_every_kind_of_transparency_are_white_over_white(mode: str, tmp_path: Path) -> None:
    alpha = shape()
    white = np.where(alpha > 0, 255, 0).astype(np.uint8)
    if mode == "P":
        image = Image.fromarray(np.where(alpha[..., 0] > 127, 1, 0).astype(np.uint8))
        image.putpalette([0, 0, 0, 255, 255, 255])
        image.save(tmp_path / "a.png", transparency=bytes([0, 255]))
    else:
        Image.fromarray(np.concatenate([white] * (len(mode) - 1) + [alpha], axis=2)).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == mode
    photo = read_photo(tmp_path / "a.png")
    assert photo.alpha is not None
    assert (photo.pixels[photo.alpha[..., 0] == 0] == 0).all()
    assert over(upscale_photo(photo, Upscaler(Bilinear())), BACKGROUNDS["white"]).min() > 254.99


@pytest.mark.shared
@pytest.mark.parametrize("name", ["PlainUSR_Rep_x4", "PlainUSRU_Rep_x4", "PlainUSR_Rep_x2"])
def test_a_red_disc_upscaled_by_published_weights_stays_red(shared: Path, name: str) -> None:
    """Without the spread it loses 4, 44 and 19 levels of red on average."""
    alpha = np.zeros((96, 96), np.uint8)
    cv2.circle(alpha, (48, 48), 25, 255, -1, cv2.LINE_AA)
    red = np.where(alpha[..., None] > 0, [255, 0, 0], 0).astype(np.uint8)
    upscaler = Upscaler(network_from_weights(shared / f"weights/{name}.pth"))
    result = upscale_photo(Photo(red, alpha[..., None]), upscaler)
    assert result.alpha is not None
    disc = result.pixels[result.alpha[..., 0] > 0]
    assert disc[:, 0].mean() > 254.9
    assert disc[:, 1:].mean() < 0.5


@pytest.mark.shared
@pytest.mark.parametrize("name", ["PlainUSR_Rep_x4", "PlainUSRU_Rep_x4", "PlainUSR_Rep_x2"])
def test_a_white_logo_upscaled_by_published_weights_is_white_over_white(shared: Path, name: str) -> None:
    """Without the spread its outline gets as dark as 34, 0 and 184 of 255."""
    upscaler = Upscaler(network_from_weights(shared / f"weights/{name}.pth"))
    alpha = shape()
    white = np.where(alpha > 0, 255, 0).astype(np.uint8).repeat(3, axis=2)
    result = upscale_photo(Photo(white, alpha), upscaler)
    assert over(result, BACKGROUNDS["white"]).min() > 253
    # Over black it is what the network makes of a white logo on black.
    expected = upscale_photo(Photo(alpha.repeat(3, axis=2)), upscaler).pixels.astype(float)
    difference = np.abs(over(result, BACKGROUNDS["black"]) - expected)
    assert difference.max() <= 12
    assert difference.mean() <= 0.4
