"""Each stage of the degradations against its definition, and against recorded values."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from data.degradations import DegradationOptions, PairPool, degrade, filter2d, jpeg, usm_sharpen
from data.degradations.kernels import (
    KERNEL_TYPES,
    SIDE,
    Blur,
    blur_kernel,
    draw_final_sinc,
    padded,
    sinc_kernel,
)
from data.degradations.noise import gaussian_noise, generators, poisson_noise
from data.degradations.synthesis import MODES, add_noise, draw_factor, draw_mode, quality_of
from data.resizing.interpolate import Mode, interpolate, whole_size
from data.samples import DegradationDraws
from tests.data.pictures import noise
from utils.errors import InputError
from utils.seed import random_stream

CPU = torch.device("cpu")


def images(count: int = 2, height: int = 32, width: int = 28, seed: int = 0) -> Tensor:
    """Smooth, so that noise and blur show."""
    small = torch.from_numpy(np.stack([noise(5, 5, seed + i) for i in range(count)])).permute(0, 3, 1, 2) / 255
    return functional.interpolate(small, (height, width), mode="bilinear")


@pytest.fixture(scope="module")
def recorded(shared: Path) -> tuple[dict[str, Any], Any]:
    folder = shared / "golden/formats"
    return json.loads((folder / "degradations.json").read_text()), np.load(folder / "degradations.npz")


def as_tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2).to(torch.float32) / 255


@pytest.mark.shared
def test_recorded_kernels(recorded: tuple[dict[str, Any], Any]) -> None:
    facts, arrays = recorded
    assert facts["kernels"]
    for case in facts["kernels"]:
        if case["type"] == "sinc":
            kernel = sinc_kernel(case["size"], case["cutoff"])
            kernel = padded(kernel) if case["pad_to"] else kernel
        else:
            kernel = blur_kernel(
                case["type"], case["size"], case["sigma_x"], case.get("sigma_y"), case.get("theta", 0.0),
                case.get("beta", 1.0),
            )  # fmt: skip
        np.testing.assert_allclose(kernel, arrays[case["kernel"]], rtol=0, atol=1e-7, err_msg=case["kernel"])


@pytest.mark.shared
def test_recorded_operations(recorded: tuple[dict[str, Any], Any]) -> None:
    facts, arrays = recorded
    for case in facts["operations"]:
        source, expected = arrays[case["input"]], arrays[case["output"]]
        batch = as_tensor(source if source.ndim == 4 else source[None])
        if "kernels" in case:
            kernels = torch.from_numpy(np.stack([arrays[name] for name in case["kernels"]]))
            result = filter2d(batch, kernels)
        elif case["output"] == "usm":
            result = usm_sharpen(batch)
        else:
            quality = torch.tensor(case["quality"], dtype=torch.float32).expand(len(batch))
            result = jpeg(batch, quality)
        wrong = np.abs(result.numpy() - expected) > case["atol"]
        assert wrong.mean() <= 0.001, case["output"]


@pytest.mark.parametrize("kind", KERNEL_TYPES)
def test_kernels_are_their_formulas(kind: Any) -> None:
    size, sigma_x, sigma_y, theta, beta = 9, 2.0, 0.7, 0.4, 1.7
    kernel = blur_kernel(kind, size, sigma_x, sigma_y, theta, beta)
    if not kind.endswith("aniso"):
        sigma_y, theta = sigma_x, 0.0
    expected = np.empty((size, size))
    for row in range(size):
        for column in range(size):
            x, y = column - 4, row - 4
            along = x * math.cos(theta) + y * math.sin(theta)
            across = -x * math.sin(theta) + y * math.cos(theta)
            q = (along / sigma_x) ** 2 + (across / sigma_y) ** 2
            if kind.startswith("plateau"):
                expected[row, column] = 1 / (1 + q**beta)
            else:
                expected[row, column] = math.exp(-(q**beta if kind.startswith("gen") else q) / 2)
    np.testing.assert_allclose(kernel, expected / expected.sum(), rtol=1e-10)


def test_a_sinc_passes_what_is_below_its_cutoff() -> None:
    kernel = np.zeros((129, 129))
    kernel[54:75, 54:75] = sinc_kernel(21, math.pi / 2)
    response = np.abs(np.fft.fft2(kernel))
    assert response[0, 0] == pytest.approx(1)
    assert abs(response[0, 12] - 1) < 0.15  # frequency 0.19 pi
    assert response[0, 54] < 0.15  # 0.84 pi


def test_kernels_are_drawn_as_asked() -> None:
    stream = random_stream(3)
    arguments = ((0.2, 3.0), (0.5, 4.0), (1.0, 2.0))
    drawn = [Blur(["iso", "plateau_aniso"], [1.0, 3.0], 0.2, *arguments).draw(stream) for _ in range(300)]
    assert {kernel.shape for kernel in drawn} == {(SIDE, SIDE)}
    np.testing.assert_allclose([kernel.sum() for kernel in drawn], 1, rtol=1e-9)
    ringing = np.mean([(kernel < -1e-12).any() for kernel in drawn])
    assert 0.1 < ringing < 0.3
    turned = np.mean([not np.allclose(kernel, kernel.T, atol=1e-9) for kernel in drawn])
    assert 0.45 < turned < 0.75  # three quarters of the four fifths that are no sinc
    sides = {int((kernel[SIDE // 2] != 0).sum()) for kernel in drawn}
    assert sides <= set(range(7, 22, 2))
    assert len(sides) == 8
    final = [draw_final_sinc(stream, 0.8) for _ in range(200)]
    assert 0.1 < np.mean([kernel[SIDE // 2, SIDE // 2] == 1 for kernel in final]) < 0.3


def test_each_image_has_its_own_kernel() -> None:
    batch = images(3).double()
    kernels = torch.from_numpy(np.stack([padded(blur_kernel("iso", 7 + 2 * i, 1.0 + i)) for i in range(3)]))
    result = filter2d(batch, kernels)
    for i in range(3):
        picture = batch[i].permute(1, 2, 0).numpy()
        expected = cv2.filter2D(picture, -1, kernels[i].numpy(), borderType=cv2.BORDER_REFLECT_101)
        np.testing.assert_allclose(result[i].permute(1, 2, 0).numpy(), expected, atol=1e-12)
        assert filter2d(batch[i : i + 1], kernels[i : i + 1])[0].equal(result[i])


@pytest.mark.parametrize("size", [(32, 28), (11, 40), (10, 11), (3, 2), (1, 5), (1, 1)])
def test_borders_of_small_images_are_mirrored_as_often_as_a_kernel_needs(size: tuple[int, int]) -> None:
    """By hand: what NumPy mirrors, correlated; an image may be smaller than half of the kernel."""
    batch = images(1, *size).double()
    kernel = padded(blur_kernel("aniso", 21, 4.0, 2.0, 0.7))
    around = np.pad(batch[0].numpy(), ((0, 0), (10, 10), (10, 10)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(around, (21, 21), axis=(1, 2))
    expected = np.einsum("chwij,ij->chw", windows, kernel)
    np.testing.assert_allclose(filter2d(batch, torch.from_numpy(kernel)[None])[0], expected, atol=1e-12)


@pytest.mark.parametrize("size", [(26, 26), (25, 30), (8, 5), (1, 1)])
def test_small_images_are_sharpened_by_the_definition(size: tuple[int, int]) -> None:
    """As a blur of 51 x 51 at once, whose border is mirrored by NumPy; from 26 pixels PyTorch mirrors it too."""
    batch = (images(1, *size, seed=4).double() - 0.5) * 4 + 0.5
    batch = batch.clamp(0, 1)
    row = np.exp(-((np.arange(51) - 25) ** 2) / 128)
    kernel = np.outer(row, row) / row.sum() ** 2

    def blurred(image: np.ndarray) -> np.ndarray:
        around = np.pad(image, ((0, 0), (25, 25), (25, 25)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(around, (51, 51), (1, 2))
        return np.asarray(np.einsum("chwij,ij->chw", windows, kernel))

    image = batch[0].numpy()
    residual = image - blurred(image)
    soft = blurred((np.abs(residual) * 255 > 10).astype(float))
    expected = soft * np.clip(image + 0.5 * residual, 0, 1) + (1 - soft) * image
    np.testing.assert_allclose(usm_sharpen(batch)[0], expected, atol=1e-12)


def test_sharpening_leaves_flat_places_and_its_argument_alone() -> None:
    flat = torch.full((1, 3, 60, 60), 0.4)
    torch.testing.assert_close(usm_sharpen(flat), flat)
    edge = flat.clone()
    edge[..., 30:] = 0.8
    before = edge.clone()
    sharp = usm_sharpen(edge)
    assert edge.equal(before)
    assert sharp[..., 29].max() < 0.35
    assert sharp[..., 30].min() > 0.85
    assert sharp.min() >= 0
    assert sharp.max() <= 1


@pytest.mark.parametrize("quality", [10, 40, 75, 95])
def test_standard_tables_come_near_a_real_encoder(quality: int) -> None:
    batch = images(1, 64, 64, seed=2)[:, :1].expand(-1, 3, -1, -1)  # grey: encoders treat colours in many ways
    picture = (batch[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    real = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1] / 255.0
    ours = jpeg(as_tensor(picture[None]), torch.tensor([float(quality)]), "standard")
    assert np.abs(ours[0].permute(1, 2, 0).numpy() - real).mean() < 0.003


def test_jpeg_of_odd_sizes_and_of_each_image_alone() -> None:
    batch = images(2, 21, 35)
    quality = torch.tensor([30.0, 80.0])
    before = quality.clone()
    result = jpeg(batch, quality)
    assert result.shape == batch.shape
    assert quality.equal(before)
    for i in range(2):
        torch.testing.assert_close(jpeg(batch[i : i + 1], quality[i : i + 1])[0], result[i], rtol=0, atol=1e-6)
    assert (result - batch).abs().mean(dim=(1, 2, 3)).tolist() == sorted(
        (result - batch).abs().mean(dim=(1, 2, 3)).tolist(), reverse=True
    )


def test_gaussian_noise_is_what_it_says() -> None:
    batch = torch.zeros(2, 3, 200, 200)
    grey = torch.tensor([True, False])
    result = gaussian_noise(batch, torch.tensor([10.0, 25.0]), grey, generators([1, 2], CPU))
    torch.testing.assert_close(result.std(dim=(1, 2, 3)), torch.tensor([10 / 255, 25 / 255]), rtol=0.02, atol=0)
    assert result[0, 0].equal(result[0, 2])
    assert not result[1, 0].equal(result[1, 2])
    again = gaussian_noise(batch[1:], torch.tensor([25.0]), grey[1:], generators([2], CPU))
    assert again[0].equal(result[1])


@pytest.mark.parametrize("grey", [True, False])
def test_poisson_noise_is_what_it_says(grey: bool) -> None:
    """Variance of Poisson(x V) / V is x / V, with V the power of two at or above the number of different values."""
    levels = torch.tensor([51.0, 102, 204]) / 255
    batch = levels.repeat_interleave(100).expand(2, 3, 300, 300).contiguous()
    scale = torch.tensor([1.0, 2.0])
    result = poisson_noise(batch, scale, torch.tensor([grey, grey]), generators([1, 2], CPU))
    assert result[0, 0].equal(result[0, 1]) == grey
    for i in range(2):
        for part, level in enumerate(levels):
            field = result[i, 0, :, part * 100 : part * 100 + 100]
            expected = float(scale[i] * (level * (0.9999 if grey else 1) / 4).sqrt())  # three values: V = 4
            assert float(field.std()) == pytest.approx(expected, rel=0.03)
            assert abs(float(field.mean())) < 0.02


def test_noise_is_added_and_clipped() -> None:
    stage = DegradationOptions(noise_range=(30, 30), gray_noise_prob=0.0, poisson_scale_range=(3, 3)).stage(False)
    batch = images()
    for gaussian in (True, False):
        result = add_noise(batch, torch.rand(2, 2), stage, gaussian, generators([1, 2], CPU))
        assert not result.equal(batch)
        assert result.min() >= 0
        assert result.max() <= 1


def test_factors_are_drawn_as_asked() -> None:
    stage = DegradationOptions().stage(False)
    stream = random_stream(1)
    factors = np.array([draw_factor(stage, stream) for _ in range(2000)])
    assert np.mean(factors > 1) == pytest.approx(0.2, abs=0.03)
    assert np.mean(factors < 1) == pytest.approx(0.7, abs=0.03)
    assert factors.min() == pytest.approx(0.15, abs=0.01)
    assert factors.max() == pytest.approx(1.5, abs=0.01)
    assert {draw_mode(stream) for _ in range(50)} == set(MODES)
    assert quality_of(torch.tensor([0.0, 0.5]), stage).tolist() == [30, 62.5]


@pytest.mark.parametrize("mode", MODES)
def test_resizing(mode: Mode) -> None:
    batch = images(1, 30, 24)
    assert interpolate(batch, mode, factor=0.5).shape == (1, 3, 15, 12)
    assert interpolate(batch, mode, size=(7, 9)).shape == (1, 3, 7, 9)
    if mode == "area":
        torch.testing.assert_close(interpolate(batch, mode, factor=0.5), functional.avg_pool2d(batch, 2))
    assert interpolate(batch, mode, factor=0.04).shape == (1, 3, 1, 1)  # 1.2 and 0.96 pixels: never none
    assert whole_size(30 / 4, 24 / 4, 0.15) == (1, 1)


def draws_for(count: int, seed: int = 0) -> DegradationDraws:
    stream = random_stream(seed)
    kernels = np.stack([np.stack([padded(blur_kernel("iso", 9, 1.0 + i))] * 3) for i in range(count)])
    return DegradationDraws(
        torch.from_numpy(kernels.astype(np.float32)), torch.from_numpy(stream.random((count, 8))), tuple(range(count))
    )


def test_synthesis_is_reproducible_and_does_not_mix_images() -> None:
    batch, options = images(3, 48, 48), DegradationOptions()
    results = [degrade(batch, draws_for(3), options, 4, 7, step) for step in range(2)]
    for step, result in enumerate(results):
        assert result.shape == (3, 3, 12, 12)
        assert (result * 255).round().div(255).sub(result).abs().max() < 1e-7
        assert degrade(batch, draws_for(3), options, 4, 7, step).equal(result)
        whole = draws_for(3)
        part = DegradationDraws(whole.kernels[1:2], whole.uniform[1:2], whole.seeds[1:2])
        alone = degrade(batch[1:2], part, options, 4, 7, step)
        assert (alone[0] - result[1]).abs().max() < 1.5 / 255
        assert (alone[0] == result[1]).float().mean() > 0.99
    assert not results[0].equal(results[1])
    assert not degrade(batch, draws_for(3), options, 4, 8, 0).equal(results[0])


def test_any_crop_is_degraded_whatever_is_drawn() -> None:
    """Images that become smaller on the way than half of a kernel, down to one pixel."""
    options = DegradationOptions(resize_range=(0.05, 1.5), resize_range2=(0.05, 1.2), second_blur_prob=1)
    for scale, side in ((4, 32), (4, 4), (2, 6), (1, 1)):
        batch = images(2, side, side)
        for step in range(25):
            result = degrade(batch, draws_for(2), options, scale, 7, step)
            assert result.shape == (2, 3, side // scale, side // scale)
            assert 0 <= result.min() <= result.max() <= 1


def test_a_synthesis_without_noise_is_blur_resize_and_jpeg() -> None:
    """Everything random is switched off: what is left can be written down."""
    options = DegradationOptions(
        resize_prob=(0, 0, 1), resize_prob2=(0, 0, 1), gaussian_noise_prob=1, gaussian_noise_prob2=1,
        noise_range=(0, 0), noise_range2=(0, 0), jpeg_range=(100, 100), jpeg_range2=(100, 100), second_blur_prob=0,
    )  # fmt: skip
    batch, facts = images(2, 64, 64)[:, :1].expand(-1, 3, -1, -1), draws_for(2)  # JPEG halves the resolution of colour
    identity = np.zeros((SIDE, SIDE), np.float32)
    identity[SIDE // 2, SIDE // 2] = 1
    kernels = facts.kernels.clone()
    kernels[:, 2] = torch.from_numpy(identity)
    result = degrade(batch, facts._replace(kernels=kernels), options, 2, 0, 0)
    expected = functional.interpolate(filter2d(batch, kernels[:, 0]), (32, 32), mode="area")
    assert (result - expected).abs().mean() < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize_prob": (0, 0, 0)}, "resize_prob: expected probabilities"),
        ({"resize_range2": (1.2, 1.5)}, "resize_range2: expected two factors around 1"),
        ({"noise_range": (5, 1)}, "noise_range: expected the smaller number first"),
        ({"jpeg_range2": (0, 95)}, "jpeg_range2: expected qualities above 0"),
    ],
)
def test_options_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(DegradationOptions(), **change)


def pair(step: int, batch: int = 2) -> tuple[Tensor, Tensor, list[str]]:
    values = torch.tensor([[step * 10.0 + j] for j in range(batch)])
    return values, values * 2, [f"{step}/{j}" for j in range(batch)]


def test_a_pool_hands_out_each_pair_at_most_twice_and_mixes_batches() -> None:
    """What fills the pool is trained on at once and may come again, as published; the rest comes once."""
    pool = PairPool(8, 2, seed=3)
    seen: dict[float, int] = {}
    delays = []
    for step in range(200):
        lq, gt, names = pool.exchange(step, *pair(step))
        assert gt.equal(lq * 2)
        assert [f"{int(v) // 10}/{int(v) % 10}" for v in lq[:, 0]] == list(names)
        for value in lq[:, 0].tolist():
            seen[value] = seen.get(value, 0) + 1
            delays.append(step - int(value) // 10)
    assert all(count <= (2 if value < 40 else 1) for value, count in seen.items())
    assert max(delays) > 4
    assert np.mean(delays) == pytest.approx(4, abs=1)


@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 9, 60])
def test_a_pool_continues_where_it_was_left(start: int) -> None:
    whole = PairPool(8, 2, seed=3)
    results = [whole.exchange(step, *pair(step)) for step in range(70)]
    resumed = PairPool(8, 2, seed=3)
    earlier = resumed.resume(start)
    assert all(step < start for step in earlier)
    for step in earlier:
        resumed.refill(step, *pair(step))
    for step in range(start, 70):
        lq, _, names = resumed.exchange(step, *pair(step))
        assert lq.equal(results[step][0])
        assert names == results[step][2]


def test_a_pool_is_shared_among_processes() -> None:
    alone = PairPool(16, 4, seed=1)
    ranks = [PairPool(8, 2, seed=1, rank=rank, world_size=2) for rank in range(2)]
    for step in range(40):
        lq, gt, names = pair(step, 4)
        whole = alone.exchange(step, lq, gt, names)[0]
        for rank, pool in enumerate(ranks):
            assert pool.exchange(step, lq[rank::2], gt[rank::2], names[rank::2])[0].equal(whole[rank::2])


def test_a_pool_holds_whole_batches() -> None:
    with pytest.raises(InputError, match="queue_size: expected a multiple of batch_size_per_gpu 4, got 6; 4 is one"):
        PairPool(6, 4, 0)
