from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.resizing.matlab import Region, Rule, downscale, imresize, mod_crop
from tests.data.pictures import noise

SIDES = st.integers(1, 24)
FACTORS = st.sampled_from([1 / 4, 1 / 3, 1 / 2, 0.7, 1.0, 1.3, 2.0, 3.0, 4.0])


def kernel(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def resized_line(line: np.ndarray, factor: float, antialiasing: bool) -> np.ndarray:
    """One axis by the formula, pixel by pixel; taps outside are found by walking to and fro."""
    n = len(line)
    there_and_back = [*range(n), *reversed(range(n))]
    shrink = factor if factor < 1 and antialiasing else 1.0
    width = 4 / shrink
    result = []
    for i in range(1, math.ceil(n * factor) + 1):
        u = i / factor + 0.5 * (1 - 1 / factor)
        left = math.floor(u - width / 2)
        taps = [left + t for t in range(math.ceil(width) + 2)]
        weights = [kernel(shrink * (u - j)) for j in taps]
        values = [line[there_and_back[(j - 1) % (2 * n)]] for j in taps]
        result.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return np.array(result)


@given(height=SIDES, width=SIDES, factor=FACTORS, antialiasing=st.booleans(), seed=st.integers(0, 99))
def test_formula(height: int, width: int, factor: float, antialiasing: bool, seed: int) -> None:
    image = np.random.default_rng(seed).random((height, width))
    rows = np.stack([resized_line(column, factor, antialiasing) for column in image.T], axis=1)
    expected = np.stack([resized_line(row, factor, antialiasing) for row in rows], axis=0)
    result = imresize(image, factor, antialiasing)
    assert result.shape == expected.shape == (math.ceil(height * factor), math.ceil(width * factor))
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-12)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["imresize_down", "imresize_up"])
def test_recorded_images(shared: Path, name: str) -> None:
    arrays = np.load(shared / f"golden/formats/{name}.npz")
    cases = json.loads((shared / f"golden/formats/{name}.json").read_text())["cases"]
    assert cases
    for case in cases:
        image, expected = arrays[case["input"]].astype(np.float32) / np.float32(255), arrays[case["output"]]
        numerator, denominator = case["scale"]
        result = imresize(image, numerator / denominator, case["antialiasing"])
        assert result.dtype == expected.dtype
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, rtol=0, atol=case["atol"], err_msg=case["output"])
        exact = imresize(image.astype(np.float64), numerator / denominator, case["antialiasing"])
        np.testing.assert_allclose(exact, expected, rtol=0, atol=case["atol"], err_msg=case["output"])


@pytest.mark.shared
def test_eight_bit_images_are_the_rounded_recorded_ones(shared: Path) -> None:
    arrays = np.load(shared / "golden/formats/imresize_down.npz")
    for case in json.loads((shared / "golden/formats/imresize_down.json").read_text())["cases"]:
        image, (numerator, scale) = arrays[case["input"]], case["scale"]
        if numerator != 1 or not case["antialiasing"] or any(side % scale for side in image.shape[:2]):
            continue
        levels = arrays[case["output"]].astype(np.float64) * 255
        away_from_ties = np.abs(levels - np.floor(levels) - 0.5) > 1e-4
        expected = np.clip(np.floor(levels + 0.5), 0, 255).astype(np.uint8)
        assert np.array_equal(downscale(image, scale)[away_from_ties], expected[away_from_ties])


@given(height=SIDES, width=SIDES, factor=FACTORS, antialiasing=st.booleans(), level=st.floats(0, 1))
def test_constants_stay(height: int, width: int, factor: float, antialiasing: bool, level: float) -> None:
    result = imresize(np.full((height, width, 3), level), factor, antialiasing)
    np.testing.assert_allclose(result, level, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("shape", "factor", "antialiasing"), [((5, 5), 1 / 3, True), ((16, 16), 1 / 4, False)])
def test_sizes_at_which_others_fail(shape: tuple[int, int], factor: float, antialiasing: bool) -> None:
    image = np.random.default_rng(0).random((*shape, 3)).astype(np.float32)
    result = imresize(image, factor, antialiasing)
    assert np.isfinite(result).all()
    for c in range(3):
        np.testing.assert_allclose(imresize(image[..., c], factor, antialiasing), result[..., c], atol=1e-7)


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_layouts_agree(factor: float) -> None:
    image = np.random.default_rng(1).random((13, 18, 3)).astype(np.float32)
    expected = imresize(image, factor)
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    for result in (imresize(tensor, factor), imresize(tensor[None].repeat(2, 1, 1, 1), factor)[1]):
        assert result.is_contiguous()
        np.testing.assert_allclose(result.numpy().transpose(1, 2, 0), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(imresize(tensor[0], factor).numpy(), expected[..., 0], rtol=0, atol=1e-6)
    turned = image.transpose(1, 0, 2)  # not contiguous
    np.testing.assert_allclose(imresize(turned, factor), expected.transpose(1, 0, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [0.25, 0.7, 2.0])
def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    image = torch.rand(3, 37, 23, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    whole = imresize(image, factor)
    (expected,) = torch.autograd.grad(whole.square().sum(), image)
    for strip in (1, 5):
        monkeypatch.setattr(importlib.import_module("ops.pixels.resample"), "_STRIP", strip)
        parts = imresize(image, factor)
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-14)
        torch.testing.assert_close(torch.autograd.grad(parts.square().sum(), image)[0], expected, rtol=0, atol=1e-12)
        monkeypatch.setenv("FOCALSR_OPS", "reference")
        turned = imresize(image.detach().numpy().transpose(1, 2, 0), factor)
        np.testing.assert_allclose(turned, whole.detach().numpy().transpose(1, 2, 0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_are_kept(kind: torch.dtype) -> None:
    image = torch.rand(3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    result = imresize(image.to(kind), 0.5)
    assert result.dtype == kind
    assert (result.double() - imresize(image, 0.5)).abs().max() < 4 * torch.finfo(kind).eps


def test_autocast_does_not_lower_the_precision() -> None:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = imresize(image, 0.25)
    assert inside.equal(imresize(image, 0.25))


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_gradients(factor: float) -> None:
    image = torch.rand(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: imresize(x, factor), (image,))


def test_tables_made_without_gradients_serve_those_that_need_them() -> None:
    with torch.inference_mode():
        imresize(torch.rand(3, 17, 19), 0.5)
    image = torch.rand(3, 17, 19, requires_grad=True)
    (gradient,) = torch.autograd.grad(imresize(image, 0.5).sum(), image)
    assert gradient.shape == image.shape


def test_the_image_is_not_changed() -> None:
    image = np.random.default_rng(0).random((9, 9, 3))
    before = image.copy()
    imresize(image, 0.5)
    imresize(image, 1.0)[:] = 0
    assert np.array_equal(image, before)


@pytest.mark.parametrize(
    ("image", "factor"),
    [
        (noise(8, 8), 0.5),
        (np.zeros((2, 2, 3, 1)), 0.5),
        (np.zeros((0, 2)), 0.5),
        (np.zeros((2, 2)), 0.0),
        (np.zeros((2, 2)), math.nan),
        (torch.zeros(4), 0.5),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), 0.5),
    ],
)
def test_what_cannot_be_resized_is_refused(image: np.ndarray, factor: float) -> None:
    with pytest.raises(ValueError, match="imresize"):
        imresize(image, factor)


@given(height=st.integers(1, 40), width=st.integers(1, 40), scale=st.integers(1, 6))
def test_mod_crop(height: int, width: int, scale: int) -> None:
    image = noise(height, width)
    cropped = mod_crop(image, scale)
    assert cropped.shape == (height // scale * scale, width // scale * scale, 3)
    assert np.array_equal(cropped, image[: cropped.shape[0], : cropped.shape[1]])


@pytest.mark.parametrize("rule", ["double", "published"])
@given(data=st.data(), scale=st.integers(1, 7), seed=st.integers(0, 999))
def test_a_region_is_that_of_the_whole(data: st.DataObject, scale: int, seed: int, rule: Rule) -> None:
    height, width = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 14))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    region = Region(top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    image = noise(height * scale, width * scale, seed)
    whole = downscale(image, scale, rule=rule)
    part = downscale(image, scale, region, rule)
    assert np.array_equal(part, whole[top : top + region.height, left : left + region.width])


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_resolution_images_are_rounded_half_up(scale: int) -> None:
    image = noise(12 * scale, 9 * scale)
    levels = imresize(image / 255.0, 1 / scale) * 255
    assert np.array_equal(downscale(image, scale), np.clip(np.floor(levels + 0.5 + 1e-9), 0, 255).astype(np.uint8))
    # (1 + 2) / 2 everywhere: a tie in every pixel
    ties = np.tile(np.array([[1, 2], [2, 1]], np.uint8), (6 * scale, 6 * scale))
    if scale == 2:
        assert (downscale(ties, scale)[2:-2, 2:-2] == 2).all()


def test_only_multiples_are_downscaled() -> None:
    with pytest.raises(ValueError, match="use mod_crop"):
        downscale(noise(10, 8), 4)
