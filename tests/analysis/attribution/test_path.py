"""The path of blurred images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.attribution.path import BlurPath
from tests.analysis.recorded import analysis_case
from tests.golden import seeded_input
from utils.errors import InputError


@pytest.mark.shared
def test_kernels_images_and_changes_are_the_recorded_ones(shared: Path) -> None:
    recorded = analysis_case(shared, "path")
    path, steps = BlurPath(), recorded.info["steps"]
    kernels = torch.stack([torch.outer(path.weights(i), path.weights(i)) for i in range(steps + 1)])
    assert torch.allclose(kernels, recorded.arrays["kernels"], rtol=0, atol=1e-12)
    image = seeded_input(recorded.info["input_name"], recorded.info["input_shape"])[0]
    for k, i in enumerate(recorded.info["steps_stored"]):
        step = path.step(image, i)
        assert torch.allclose(step.image, recorded.arrays["images"][k], rtol=0, atol=1e-12)
        assert torch.allclose(steps * step.change, recorded.arrays["derivatives"][k], rtol=0, atol=1e-12)
    largest = [float(steps * path.step(image, i).change.abs().max()) for i in range(steps)]
    expected = [recorded.info["derivative_max_abs"][str(i)] for i in range(steps)]
    assert np.allclose(largest, expected, rtol=1e-6, atol=0)  # of 1e-92 too: no difference of equal images


def test_it_ends_at_the_image_and_its_changes_lead_there() -> None:
    image = torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    path = BlurPath(steps=4)
    assert torch.equal(path.weights(4), torch.eye(9, dtype=torch.float64)[4])
    assert torch.allclose(path.image(image, 4), image, rtol=0, atol=1e-15)
    total = sum((path.step(image, i).change for i in range(4)), torch.zeros_like(image))
    assert torch.allclose(path.image(image, 0) + total, image, rtol=0, atol=1e-14)
    assert (path.image(image, 0) - image).abs().max() > 0.1


def test_borders_are_mirrored_without_the_edge_pixel() -> None:
    image = torch.zeros(1, 6, 6, dtype=torch.float64)
    image[0, 0, 0] = 1
    weights = BlurPath().weights(0)
    # The corner is seen once from each pixel: its mirror image would be the corner itself.
    assert torch.allclose(BlurPath().image(image, 0)[0, :5, :5], torch.outer(weights[4:], weights[4:]), atol=1e-15)


@pytest.mark.parametrize("size", [(4, 9), (9, 4)])
def test_images_smaller_than_the_kernel_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=rf"has {size[1]} x {size[0]} pixels.*needs at least 5 x 5"):
        BlurPath().step(torch.zeros(3, *size), 0)


def test_a_path_has_steps() -> None:
    with pytest.raises(InputError, match="at least 1 step, got 0"):
        BlurPath(steps=0)
