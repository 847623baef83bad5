"""Gini coefficient and diffusion index."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.attribution.diffusion import diffusion_index, gini
from tests.analysis.recorded import analysis_case


@pytest.mark.shared
def test_they_are_the_recorded_ones(shared: Path) -> None:
    recorded = analysis_case(shared, "gini")
    with np.load(recorded.path.with_suffix(".npz")) as arrays:
        for item in recorded.info["cases"]:
            allowed = 1e-6 if item["dtype"] == "float32" else 1e-12
            assert gini(arrays[item["name"]]) == pytest.approx(item["gini"], abs=allowed)
            assert diffusion_index(arrays[item["name"]]) == pytest.approx(item["di"], abs=100 * allowed)


def test_an_even_map_has_100_and_one_pixel_almost_nothing() -> None:
    assert diffusion_index(np.ones((5, 4))) == pytest.approx(100)
    assert diffusion_index(np.zeros((4, 4))) == pytest.approx(100)
    one = np.zeros((5, 6))
    one[2, 3] = 1
    assert diffusion_index(one) == pytest.approx(3.33362333246332)


def test_negative_values_are_shifted_to_zero() -> None:
    values = np.array([-1.0, 2.0, 0.5])
    assert gini(values) == pytest.approx(gini(values + 1))
