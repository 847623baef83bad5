"""Density and colours of attribution maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analysis.attribution.density import density
from analysis.attribution.objective import Window
from analysis.attribution.pictures import density_picture, map_picture, overlay, window_of, window_picture
from analysis.drawing import SEISMIC, colours
from tests.analysis.recorded import analysis_case

RNG = np.random.default_rng(0)


@pytest.mark.shared
def test_density_and_colours_are_the_recorded_ones(shared: Path) -> None:
    lam = analysis_case(shared, "lam_plainusr_general_x2").arrays["map"].numpy()
    with np.load(analysis_case(shared, "lam_display").path.with_suffix(".npz")) as recorded:
        smooth = density(lam)
        assert np.abs(smooth / smooth.max() - recorded["kde"]).max() < 1e-9
        drawn = map_picture(lam, 60, 52).astype(int), density_picture(lam, 60, 52).astype(int)
        assert np.abs(drawn[0] - recorded["nearest"]).max() <= 1
        assert np.abs(drawn[1] - recorded["kde_picture"][..., :3]).max() <= 2
        assert np.abs(colours(SEISMIC).astype(int) - recorded["seismic_bytes"]).max() <= 1


def test_density_is_the_sum_of_gaussians() -> None:
    h, w = 6, 9
    weights = RNG.random((h, w)) ** 4
    p = (weights / weights.sum()).ravel()
    places = np.array([(column, row) for row in range(h) for column in range(w)], float)
    effective = 1 / (p**2).sum()
    covariance = np.cov(places.T, aweights=p) * effective ** (-1 / 3)
    away = places[:, None] - places[None]
    exponent = np.einsum("abi,ij,abj->ab", away, np.linalg.inv(covariance), away)
    expected = np.exp(-exponent / 2) @ p / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))
    assert np.allclose(density(weights).ravel(), expected, rtol=0, atol=1e-14)


def test_maps_without_an_area_are_not_smoothed() -> None:
    one, line = np.zeros((5, 6)), np.zeros((5, 6))
    one[2, 3] = 4
    line[2, 1:4] = 1
    assert np.array_equal(density(one), one / 4)
    assert np.array_equal(density(line), line / 3)
    assert not density(np.zeros((5, 6))).any()
    assert density_picture(np.zeros((5, 6)), 10, 12).min() == 253  # the table has no entry for white itself


def test_an_overlay_is_half_picture_half_image() -> None:
    picture = np.full((4, 6, 3), 255, np.uint8)
    lr = np.full((2, 3, 3), 100, np.uint8)
    assert (overlay(picture, lr) == 177).all()


def test_windows_are_framed_in_red() -> None:
    picture = np.zeros((30, 40, 3), np.uint8)
    framed = window_picture(picture, Window(8, 5, 12))
    rows, columns = np.nonzero((framed == (255, 0, 0)).all(-1))
    assert not picture.any()
    assert abs(rows.min() - 5) <= 1 and abs(rows.max() - 17) <= 1
    assert abs(columns.min() - 8) <= 1 and abs(columns.max() - 20) <= 1
    assert not framed[8:14, 11:17].any()
    assert window_of(framed, Window(8, 5, 12)).shape == (12, 12, 3)
