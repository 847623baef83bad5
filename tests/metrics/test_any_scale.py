"""PSNR as networks for any scale publish it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from metrics import AnyScalePSNR, Output, calculate_psnr_any_scale
from tests.golden import seeded
from utils.errors import InputError


@pytest.mark.shared
def test_the_published_measures() -> None:
    shared = os.environ.get("FOCALSR_SHARED")
    if not shared:
        pytest.skip("FOCALSR_SHARED does not name the folder of the reference data")
    info = json.loads((Path(shared) / "golden/lte_training/psnr.json").read_text(encoding="utf-8"))
    shape = (1, 3, 40, 52)
    sr = seeded().seeded_input("lte_training/psnr/sr", shape)
    gt = np.clip(sr + seeded().seeded_array("lte_training/psnr/noise", shape, 0.05), 0, 1)
    for case in info["cases"]:
        value = calculate_psnr_any_scale(
            torch.from_numpy(sr[0]), torch.from_numpy(gt[0]), case["scale"], case["dataset"] or "none"
        )
        assert value == pytest.approx(case["psnr"], rel=info["rtol"])


def test_rounding_is_not_measured() -> None:
    """A difference below half a level is none to 8-bit metrics."""
    truth = torch.full((3, 20, 20), 100 / 255)
    levels = torch.full((20, 20, 3), 100, dtype=torch.uint8)
    output = Output(levels, levels, truth + 0.3 / 255, truth, 3)
    assert AnyScalePSNR(protocol="none").of_output(output) == pytest.approx(20 * math.log10(255 / 0.3), abs=1e-3)
    assert AnyScalePSNR(protocol="none").of_output(output._replace(values=truth)) == math.inf


@pytest.mark.parametrize(("protocol", "border"), [("benchmark", 4), ("div2k", 10)])
def test_the_border_follows_from_the_scale(protocol: str, border: int) -> None:
    truth = torch.rand(3, 24, 30, generator=torch.Generator().manual_seed(0))
    image = truth.clone()
    image[:, border - 1] += 0.5
    image[:, :, -border] += 0.5
    assert calculate_psnr_any_scale(image, truth, 3.2, protocol) == math.inf  # type: ignore[arg-type]
    image[0, border, border] += 0.5
    assert calculate_psnr_any_scale(image, truth, 3.2, protocol) < math.inf  # type: ignore[arg-type]


def test_what_cannot_be_measured() -> None:
    small = torch.zeros(3, 8, 9)
    with pytest.raises(InputError, match=r"9 x 8 pixels .* at x4, the protocol benchmark leaves out 4 pixels"):
        calculate_psnr_any_scale(small, small, 4)
    with pytest.raises(ValueError, match="NaN"):
        calculate_psnr_any_scale(small + math.nan, small, 1)
    with pytest.raises(ValueError, match="of one shape"):
        calculate_psnr_any_scale(small, small[:, 1:], 1)
