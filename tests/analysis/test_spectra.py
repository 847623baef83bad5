"""Log-amplitude curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from analysis.spectra import CurveMean, log_amplitudes, spectra_over_depth
from archs import build_network
from tests.analysis.recorded import analysis_case, seeded_features
from tests.archs.test_contract import SMALL
from utils.errors import InputError


@pytest.mark.shared
def test_recorded_curves(shared: Path) -> None:
    case = analysis_case(shared, "fourier")
    for name, recorded in case.info["cases"].items():
        features = seeded_features(f"analysis/fourier/{name}", tuple(recorded["shape"]))
        mean = CurveMean()
        for image in features:  # one by one, as all together
            mean.add(image[None])
        assert np.abs(mean.curve.relative - recorded["curve"]).max() < case.info["tolerance"]


def test_the_diagonal_of_the_shifted_spectrum_of_the_central_even_square() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 11, 15)
    square = features[..., :10, 2:12].double()  # an odd row is left out below
    spectrum = torch.fft.fftshift(torch.fft.fft2(square), (-2, -1))
    expected = (spectrum.abs() + 1e-6).log().mean((0, 1)).diagonal()[5:]
    assert log_amplitudes(features) == pytest.approx(expected.numpy(), abs=1e-12)


def test_frequencies_are_in_radians_per_pixel_and_a_wave_is_found_at_its_own() -> None:
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    mean = CurveMean()
    mean.add((2 * torch.pi * 3 / 16 * (rows + columns)).cos()[None, None])
    assert mean.curve.frequencies[mean.curve.relative.argmax()] == pytest.approx(2 * np.pi * 3 / 16)
    assert mean.curve.frequencies[[0, -1]] == pytest.approx([0, np.pi * 7 / 8])


def test_smoothing_lowers_the_right_end() -> None:
    torch.manual_seed(0)
    noise, means = torch.randn(4, 8, 32, 32), (CurveMean(), CurveMean())
    means[0].add(noise)
    means[1].add(torch.nn.functional.avg_pool2d(noise, 3, 1, 1))
    assert means[1].curve.relative[-1] < means[0].curve.relative[-1] - 1


def test_maps_of_other_or_too_small_sizes_are_refused() -> None:
    mean = CurveMean()
    with pytest.raises(InputError, match="no images"):
        _ = mean.curve
    mean.add(torch.rand(1, 2, 8, 8))
    with pytest.raises(InputError, match="sides 8 and 12"):
        mean.add(torch.rand(1, 2, 12, 13))
    with pytest.raises(InputError, match=r"at least 4 x 4 pixels, got \[3, 9\]"):
        log_amplitudes(torch.rand(1, 2, 3, 9))


def test_curves_over_depth_are_those_of_the_modules() -> None:
    torch.manual_seed(0)
    network = build_network({"type": "MSRResNet", **SMALL["MSRResNet"]}).eval().requires_grad_(False)
    cast("Any", network).body[1] = torch.nn.AvgPool2d(3, 1, 1)
    batches = [torch.rand(2, 3, 16, 16), torch.rand(1, 3, 16, 16)]
    found = spectra_over_depth(network, ["body.0", "body.1"], batches)
    assert (found.names, found.images) == (("body.0", "body.1"), 3)
    assert found.curves[1].relative[-1] < found.curves[0].relative[-1] - 1
