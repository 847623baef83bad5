"""PSNR and SSIM against recorded values and the plain formulas; options; misuse."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import correlate
from torch import Tensor

from metrics import (
    METRICS,
    PSNR,
    SSIM,
    calculate_psnr,
    calculate_psnr_pt,
    calculate_ssim,
    calculate_ssim_pt,
)
from metrics.color import Image, fast_luma, luma, luma_pt
from metrics.metric import Output
from metrics.psnr_ssim import psnr_of_levels, ssim_of_levels
from tests.ops.kernels import require_cpu_kernels
from utils.errors import InputError
from utils.scalars import PlainText
from utils.typed import Report, read


def noisy_pair(*shape: int, seed: int = 0) -> tuple[Image, Image]:
    """A smooth image and a noisy copy, uint8."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(shape[0]) * 3.0, np.arange(shape[1]) * 2.0) % 200 + 20
    img = np.broadcast_to(ramp.reshape(*shape[:2], *[1] * (len(shape) - 2)), shape)
    return img.astype(np.uint8), (img + rng.normal(0, 12, shape)).clip(0, 255).astype(np.uint8)


def batch_of(img: Image) -> Tensor:
    """uint8 [H, W(, C)] -> float64 [1, C, H, W] in [0, 1]."""
    return torch.from_numpy(img.reshape(*img.shape[:2], -1).transpose(2, 0, 1)[None] / 255.0)


@pytest.fixture(scope="module")
def recorded(shared: Path) -> tuple[dict[str, Any], dict[str, Image]]:
    folder = shared / "golden/formats"
    with np.load(folder / "metrics.npz") as file:
        return json.loads((folder / "metrics.json").read_text()), dict(file)


@pytest.mark.shared
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_psnr_and_ssim_equal_the_recorded_values_of_basicsr(
    recorded: tuple[dict[str, Any], dict[str, Image]], dtype: type
) -> None:
    cases, arrays = recorded
    for case in cases["pairs"]:
        a, b = arrays[case["pair"] + "_a"], arrays[case["pair"] + "_b"]
        for value in case["values"]:
            settings = {"crop_border": value["crop_border"], "test_y_channel": value["test_y_channel"]}
            message = f"{case['pair']} {settings}"
            psnr = calculate_psnr(a.astype(dtype), b.astype(dtype), **settings)
            assert psnr == pytest.approx(float(value["psnr"]), rel=cases["rtol"]), message
            ssim = calculate_ssim(a.astype(dtype), b.astype(dtype), **settings)
            assert ssim == pytest.approx(value["ssim"], rel=cases["rtol"]), message


@pytest.mark.shared
def test_psnr_and_ssim_of_tensors_equal_the_recorded_values_of_basicsr(
    recorded: tuple[dict[str, Any], dict[str, Image]],
) -> None:
    cases, arrays = recorded
    for case in cases["pairs"]:
        if case["pair"].startswith("camera_gray"):  # recorded on arrays only
            continue
        a, b = (batch_of(arrays[case["pair"] + end]) for end in ("_a", "_b"))
        for value in case["values"]:
            settings = {"crop_border": value["crop_border"], "test_y_channel": value["test_y_channel"]}
            psnr = float(calculate_psnr_pt(a, b, **settings))
            assert psnr == pytest.approx(float(value["psnr_pt"]), rel=cases["rtol"])
            ssim = float(calculate_ssim_pt(a, b, **settings))
            assert ssim == pytest.approx(value["ssim_pt"], rel=cases["rtol"])


def test_ssim_is_the_plain_formula() -> None:
    a, b = noisy_pair(300, 157)  # more than one strip of rows
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2

    def mean(x: Image) -> Image:
        filtered: Image = correlate(x, window)[5:-5, 5:-5]
        return filtered

    x, y = a.astype(np.float64), b.astype(np.float64)
    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 2.55**2, 7.65**2
    expected = ((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
    assert calculate_ssim(a, b, 0) == pytest.approx(expected, rel=1e-12)


@given(st.integers(11, 30), st.integers(11, 30), st.booleans(), st.integers(0, 5))
def test_psnr_and_ssim_are_symmetric_and_best_for_equal_images(
    height: int, width: int, y_channel: bool, seed: int
) -> None:
    a, b = noisy_pair(height, width, 3, seed=seed)
    assert calculate_psnr(a, a, 0, test_y_channel=y_channel) == math.inf
    assert calculate_ssim(a, a, 0, test_y_channel=y_channel) == 1.0
    assert calculate_ssim(a, b, 0, test_y_channel=y_channel) == calculate_ssim(b, a, 0, test_y_channel=y_channel)
    assert calculate_psnr(a, b, 0, test_y_channel=y_channel) == calculate_psnr(b, a, 0, test_y_channel=y_channel)


@pytest.mark.parametrize("calculate", [calculate_psnr, calculate_ssim])
class TestInputs:
    def test_channels_may_come_first(self, calculate: Any) -> None:
        a, b = noisy_pair(20, 24, 3)
        last = calculate(a, b, 2, test_y_channel=True)
        first = calculate(a.transpose(2, 0, 1), b.transpose(2, 0, 1), 2, input_order="CHW", test_y_channel=True)
        assert first == last

    def test_grey_images_may_have_a_channel_dimension(self, calculate: Any) -> None:
        a, b = noisy_pair(20, 24)
        assert calculate(a, b, 2, test_y_channel=True) == calculate(a[..., None], b[..., None], 2)

    def test_the_border_is_cropped_before_anything_else(self, calculate: Any) -> None:
        a, b = noisy_pair(30, 24, 3)
        assert calculate(a, b, 3) == calculate(a[3:-3, 3:-3], b[3:-3, 3:-3], 0)

    def test_measuring_does_not_change_the_images(self, calculate: Any) -> None:
        a, b = (x.astype(np.float64) for x in noisy_pair(20, 24, 3))
        copies = a.copy(), b.copy()
        calculate(a, b, 0, test_y_channel=True)
        assert (a == copies[0]).all()
        assert (b == copies[1]).all()

    def test_read_only_and_strided_images_can_be_measured(self, calculate: Any) -> None:
        a, b = noisy_pair(40, 48, 3)
        a, b = a[::2, ::-2], b[::2, ::-2]
        expected = calculate(a.copy(), b.copy(), 1)
        a.setflags(write=False)
        assert calculate(a, b, 1) == expected

    def test_images_that_psnr_and_ssim_cannot_measure_are_refused(self, calculate: Any) -> None:
        a = np.zeros((20, 24, 3), np.uint8)
        with pytest.raises(ValueError, match=r"one shape, got \[20, 24, 3\] and \[20, 23, 3\]"):
            calculate(a, a[:, :-1], 0)
        with pytest.raises(ValueError, match="0 or more"):
            calculate(a, a, -1)
        with pytest.raises(ValueError, match='"HWC" or "CHW", got "hwc"'):
            calculate(a, a, 0, input_order="hwc")
        with pytest.raises(ValueError, match="1 or 3 channels in CHW order"):
            calculate(a, a, 0, input_order="CHW")
        with pytest.raises(ValueError, match=r"floats in \[0, 255\], got uint16"):
            calculate(a.astype(np.uint16), a.astype(np.uint16), 0)
        with pytest.raises(TypeError, match="test_y_chanel"):
            calculate(a, a, 0, test_y_chanel=True)
        with pytest.raises(InputError, match=r"24 x 20 pixels .* too small .* crop_border 10"):
            calculate(a, a, 10)


def test_ssim_needs_a_whole_window() -> None:
    a, b = noisy_pair(19, 40, 3)
    assert 0 < calculate_ssim(a, b, 4) < 1
    with pytest.raises(InputError, match="at least 21 x 21"):
        calculate_ssim(a, b, 5)
    with pytest.raises(InputError, match="at least 21 x 21"):
        calculate_ssim_pt(batch_of(a), batch_of(b), 5)


def test_tensors_are_measured_image_by_image() -> None:
    pairs = [noisy_pair(20, 24, 3, seed=seed) for seed in (1, 2)]
    a, b = (torch.cat([batch_of(pair[i]) for pair in pairs]) for i in (0, 1))
    for function, on_arrays in ((calculate_psnr_pt, calculate_psnr), (calculate_ssim_pt, calculate_ssim)):
        values = function(a.float(), b.float(), 2, test_y_channel=True)
        expected = [on_arrays(*pair, 2, test_y_channel=True) for pair in pairs]
        torch.testing.assert_close(values.double(), torch.tensor(expected).double(), rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="one shape"):
        calculate_psnr_pt(a, b[:1], 0)
    with pytest.raises(ValueError, match=r"1 or 3, H, W\]"):
        calculate_psnr_pt(a[0], b[0], 0)


@pytest.mark.parametrize("border", [0, 3])
@pytest.mark.parametrize("y_channel", [False, True])
@pytest.mark.parametrize("shape", [(300, 157, 3), (40, 41, 1)])
def test_8_bit_tensors_measure_as_arrays_do(shape: tuple[int, ...], y_channel: bool, border: int) -> None:
    a, b = noisy_pair(*shape)
    for on_tensors, on_arrays in ((psnr_of_levels, calculate_psnr), (ssim_of_levels, calculate_ssim)):
        value = on_tensors(torch.from_numpy(a), torch.from_numpy(b), border, y_channel)
        assert value.dtype == torch.float64
        assert float(value) == pytest.approx(on_arrays(a, b, border, test_y_channel=y_channel), rel=1e-9)
        same = float(on_tensors(torch.from_numpy(a), torch.from_numpy(a), border, y_channel))
        assert same == (math.inf if on_arrays is calculate_psnr else 1.0)


def test_luminance_of_tensors_rounds_as_that_of_arrays() -> None:
    levels = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3), -1).reshape(52, -1, 3).astype(np.uint8)
    difference = luma_pt(torch.from_numpy(levels)).numpy() - luma(levels)
    assert np.count_nonzero(difference) < 1e-4 * difference.size  # the order of three terms may decide a tie


def test_tensors_that_are_not_8_bit_images_are_refused() -> None:
    a = torch.zeros(20, 24, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="one shape"):
        psnr_of_levels(a, a[:-1], 0)
    for wrong in (a.float(), a.permute(2, 0, 1)):
        with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 1 or 3\]"):
            ssim_of_levels(wrong, wrong, 0)
    with pytest.raises(InputError, match=r"too small .* crop_border 5"):
        ssim_of_levels(a, a, 5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", [PSNR, SSIM])
def test_metrics_on_a_gpu_equal_those_on_the_cpu(kind: type[PSNR | SSIM]) -> None:
    metric = kind(crop_border=4, test_y_channel=True)
    a, b = noisy_pair(60, 50, 3)
    value = metric.of_tensors(torch.from_numpy(a).cuda(), torch.from_numpy(b).cuda())
    assert value == pytest.approx(metric(a, b), rel=1e-9)


class TestOptions:
    def test_metrics_of_an_option_file_are_called_with_images(self) -> None:
        a, b = noisy_pair(20, 24, 3)
        for name, function in (("calculate_psnr", calculate_psnr), ("calculate_ssim", calculate_ssim)):
            report = Report()
            metric = read({"crop_border": 4, "test_y_channel": PlainText("yes")}, METRICS[name], report)
            assert not report.problems
            assert metric.needs_reference
            assert metric.better == "higher"
            assert metric(a, b) == function(a, b, 4, test_y_channel=True)
            assert metric.of_tensors(torch.from_numpy(a), torch.from_numpy(b)) == metric(a, b)
            with pytest.raises(ValueError, match="none was given"):
                metric(a)

    def test_crop_border_and_test_y_channel_are_required_keys(self) -> None:
        report = Report()
        read({"test_y_chanel": True, "crop_border": -1}, PSNR, report)
        messages = "\n".join(message for _, message in report.problems)
        assert 'did you mean "test_y_channel"' in messages
        assert '"test_y_channel" is missing' in messages
        assert "at least 0" in messages

    def test_keys_of_metrics_in_published_files_are_accepted(self) -> None:
        report = Report()
        options = {"crop_border": 2, "test_y_channel": False, "input_order": "HWC", "better": "higher"}
        assert read(options, PSNR, report) == PSNR(crop_border=2, test_y_channel=False)
        assert not report.problems
        assert "always" in report.notes[0].message


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("y_channel", [False, True])
def test_nan_and_infinity_are_never_a_score(bad: float, y_channel: bool) -> None:
    good, noise = (image.astype(np.float32) for image in noisy_pair(16, 18, 3))
    for value in (bad, np.float32(bad)):
        broken = noise.copy()
        broken[8, 9, 1] = value
        for measure in (calculate_psnr, calculate_ssim):
            with pytest.raises(ValueError, match="img: 1 of 864 values are NaN or infinite"):
                measure(broken, good, 0, test_y_channel=y_channel)
            with pytest.raises(ValueError, match="img2: 1 of 864 values are NaN or infinite"):
                measure(good, broken, 0, test_y_channel=y_channel)
    batch = torch.cat([batch_of(noise), batch_of(broken)])
    true = batch_of(good).expand(2, -1, -1, -1)
    for measured in (calculate_psnr_pt, calculate_ssim_pt):
        values = measured(batch, true, 0, y_channel)
        assert values[0] == measured(batch[:1], true[:1], 0, y_channel)[0]
        assert values[1].isnan()
        assert measured(batch[1:], batch[1:], 0, y_channel).isnan()


@pytest.mark.build
@pytest.mark.parametrize("test_y_channel", [False, True])
@pytest.mark.parametrize("size", [(11, 11), (37, 64), (40, 75), (64, 300)])
def test_the_compiled_kernels_measure_the_same(
    size: tuple[int, int], test_y_channel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit for luminance, and to rounding of float64 for SSIM, whatever the number of threads."""
    require_cpu_kernels("similarity")
    generator = np.random.default_rng(sum(size))
    pair = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(2)]
    pair[1][: size[0] // 2] = pair[0][: size[0] // 2]
    metrics = [PSNR(crop_border=0, test_y_channel=test_y_channel), SSIM(crop_border=0, test_y_channel=test_y_channel)]

    def scores() -> list[float]:
        levels, truth = map(torch.from_numpy, pair)
        output = Output(levels, truth, levels, None, 1, {})
        return [metric.of_output(output) for metric in metrics]

    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(scores())
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(fast_luma(pair[0]), luma(pair[0]))
    monkeypatch.setenv("FOCALSR_OPS", "reference")
    psnr, ssim = scores()
    assert found == 3 * [[psnr, found[0][1]]]
    assert found[0][1] == pytest.approx(ssim, rel=1e-13)


@pytest.mark.build
def test_operators_of_the_kernels() -> None:
    require_cpu_kernels("similarity")
    a, b = torch.rand(2, 12, 15), torch.rand(2, 12, 15)
    torch.library.opcheck(torch.ops.focalsr.ssim_sums, (a, b, torch.rand(5, dtype=torch.float64), 6.5, 58.5))
    image, tables = torch.randint(0, 256, (4, 5, 3), dtype=torch.uint8), torch.rand(3, 256, dtype=torch.float64)
    torch.library.opcheck(torch.ops.focalsr.luma_of_levels, (image, tables, 16.0))
    for wrong in ((a[:1], b), (a.double(), b), (a[:, :4], b[:, :4])):
        with pytest.raises(RuntimeError, match="do not fit"):
            torch.ops.focalsr.ssim_sums(*wrong, torch.rand(5, dtype=torch.float64), 6.5, 58.5)
