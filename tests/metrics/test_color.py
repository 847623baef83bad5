"""Colour conversions against recorded values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metrics.color import Image, luma, rgb_to_ycbcr, ycbcr_to_rgb


@pytest.fixture
def golden(shared: Path) -> dict[str, Image]:
    with np.load(shared / "golden/formats/color.npz") as file:
        return dict(file)


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_ycbcr_equals_the_recorded_conversion(golden: dict[str, Image], kind: str) -> None:
    tolerance = {"uint8": 0.0, "float": 1e-6}[kind]
    rgb, ycbcr = golden[f"rgb_{kind}"], golden[f"ycbcr_of_rgb_{kind}"]
    for result, expected in (
        (rgb_to_ycbcr(rgb), ycbcr),
        (rgb_to_ycbcr(rgb, y_only=True), golden[f"y_of_rgb_{kind}"]),
    ):
        assert result.dtype == expected.dtype
        np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)


@pytest.mark.shared
def test_rgb_of_floats_equals_the_recorded_conversion(golden: dict[str, Image]) -> None:
    result = ycbcr_to_rgb(golden["rgb_float"])  # its numbers were taken for Y, Cb, Cr
    np.testing.assert_allclose(result, golden["rgb_of_ycbcr_float"], rtol=0, atol=1e-6)


@pytest.mark.shared
def test_rgb_of_bytes_equals_the_recorded_conversion_but_for_clipping(golden: dict[str, Image]) -> None:
    # The recorded bytes wrapped around where ours clip.
    recorded = golden["rgb_of_ycbcr_uint8"].astype(int)
    result = ycbcr_to_rgb(golden["rgb_uint8"]).astype(int)
    clipped = np.isin(result, (0, 255))
    assert (result == recorded)[~clipped].all()
    assert 0 < clipped.mean() < 1
    exact = ycbcr_to_rgb(golden["rgb_uint8"].astype(np.float64) / 255) * 255
    np.testing.assert_array_equal(exact.round().clip(0, 255), result)
    assert ((exact.round().astype(int) - recorded) % 256 == 0).all()


@pytest.mark.shared
def test_luma_is_the_recorded_one_to_the_bit(golden: dict[str, Image]) -> None:
    np.testing.assert_array_equal(luma(golden["rgb_uint8"]), golden["metric_y_of_bgr_uint8"][..., 0])


def test_luma_of_white_and_black() -> None:
    img = np.array([[[255, 255, 255], [0, 0, 0]]], dtype=np.uint8)
    np.testing.assert_allclose(luma(img), [[235.0, 16.0]], atol=1e-4)


def test_arrays_that_are_no_rgb_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[H, W, 3\]"):
        rgb_to_ycbcr(np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="int32"):
        ycbcr_to_rgb(np.zeros((4, 4, 3), np.int32))
