"""Effective receptive fields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.receptive_field import OUTPUT, SHARES, ReceptiveField, area, receptive_fields
from data.images.files import list_images, read_image, to_tensor
from models.weights.recognise import network_from_weights
from tests.analysis.recorded import analysis_case
from tests.archs.test_contract import SMALL
from tests.golden import seeded_input
from tests.models.export.networks import network_of
from utils.errors import InputError

ROWS, COLUMNS = np.mgrid[:41, :41] - 20.0
DEFINED: Mapping[str, NDArray[np.float64]] = {
    "gauss41": np.exp(-(ROWS**2 + COLUMNS**2) / 50),
    "aniso41": np.exp(-(ROWS**2) / 162 - COLUMNS**2 / 32),
    "uniform40": np.ones((40, 40)),
    "laplace40": np.exp(-(np.abs(ROWS) + np.abs(COLUMNS)) / 3)[:40, :40],
}


def assert_areas(field: ReceptiveField, info: Mapping[str, Any], keys: tuple[str, str]) -> None:
    """Sides are the recorded ones, and r; where the published search found nothing, ours goes on."""
    for key, logarithm in zip(keys, (True, False), strict=True):
        found = field.areas(logarithm=logarithm)
        for share in SHARES:
            expected = info[key][str(share)]
            if expected is None:
                assert found[share].r > 0.9
            else:
                assert found[share].side == expected[0]
                assert found[share].r == pytest.approx(expected[1], abs=1e-12)


@pytest.mark.shared
@pytest.mark.parametrize("name", DEFINED)
def test_areas_are_the_recorded_ones(shared: Path, name: str) -> None:
    info = analysis_case(shared, "erf_rectangles").info["cases"][name]
    assert_areas(ReceptiveField(OUTPUT, DEFINED[name], 1, 0), info, ("r_of_log", "r"))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["erf_plainusr_x2", "erf_plainusr_feature_x2", "erf_esc_x4"])
def test_fields_are_the_recorded_ones(shared: Path, name: str) -> None:
    recorded = analysis_case(shared, name)
    info = recorded.info
    start = info["input_names"].partition("I,")[0]
    images = [seeded_input(f"{start}{i}", info["input_shape"]) for i in range(info["images"])]
    network = recorded.network().requires_grad_(False)
    target = info["feature"] or OUTPUT
    [field] = receptive_fields(network, iter(images), [target])
    expected = recorded.arrays["erf"].numpy()
    assert (field.target, field.images, field.left_out) == (target, info["images"], 0)
    assert np.abs(field.matrix - expected).max() < info["tolerance"] * expected.max()
    assert_areas(field, info, ("r_of_log", "r_without_log"))


@pytest.mark.shared
def test_published_weights_have_the_recorded_field(shared: Path) -> None:
    recorded = analysis_case(shared, "erf_real_plainusr_x4")
    images = []
    for path in list_images(shared / "data" / "Set14" / "x4" / "LR"):
        whole = to_tensor(read_image(path))[None]
        top, left = ((side - 60) // 2 for side in whole.shape[-2:])
        images.append(whole[..., top : top + 60, left : left + 60])
    [field] = receptive_fields(network_from_weights(shared / "weights" / "PlainUSR_Rep_x4.pth"), images)
    expected = recorded.arrays["erf"].numpy()
    assert field.images == 14
    assert np.abs(field.matrix - expected).max() < 1e-3 * expected.max()  # in float32
    assert_areas(field, recorded.info, ("r_of_log", "r_without_log"))


@pytest.mark.parametrize("shape", [(40, 16), (16, 40), (7, 4)])
def test_areas_stay_inside_of_images_that_are_not_square(shape: tuple[int, int]) -> None:
    values = np.ones(shape)
    for share in SHARES:
        found = area(values, share)
        assert share < found.r <= 1  # of a uniform map, r is the share that the square holds
    assert area(values, 0.9999).r == 1
    assert area(values, 0).side == 3


def test_a_square_that_holds_exactly_the_share_is_too_small() -> None:
    values = np.zeros((11, 11))
    values[4:7, 4:7] = 1 / 9
    values[0, 0] = 1
    assert area(values, 0.5).side == 11
    assert area(values, 0.49).side == 3
    with pytest.raises(ValueError, match="no square holds more than"):
        area(np.zeros((3, 3)), 0.5)


def images(count: int = 3, size: tuple[int, int] = (11, 13)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, *size, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize(("name", "feature"), [("HAT", "layers.1"), ("ESC", "blocks.1"), ("PFT", "layers.0")])
def test_targets_share_a_pass_and_batches_change_nothing(name: str, feature: str) -> None:
    network = network_of({"type": name, **SMALL[name]}).double().requires_grad_(False)
    done: list[int] = []
    together = receptive_fields(network, images(), [feature, OUTPUT], batch=2, watch=done.append)
    assert done == [2, 1]
    for field, target in zip(together, (feature, OUTPUT), strict=True):
        [alone] = receptive_fields(network, images(), [target], batch=1)
        assert np.allclose(field.matrix, alone.matrix, rtol=1e-10, atol=1e-14 * alone.matrix.max())
        assert field.target == target
    assert together[0].matrix.shape == (11, 13)
    assert (together[0].matrix > 0).sum() > 9


class Shifted(nn.Module):
    """Each output pixel is minus or plus the pixel one to its right, by channel."""

    scale = 1

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] -> the same."""
        return x.roll(-1, -1) * x.new_tensor([1.0, -1.0, 2.0])[:, None, None]


def test_negative_outputs_and_gradients_do_not_count() -> None:
    [field] = receptive_fields(Shifted(), images(2, (5, 6)))
    expected = np.zeros((5, 6))
    expected[2, 4] = 1 + 2  # the centre (2, 3) looks to its right; the second channel is negative
    assert np.array_equal(field.matrix, expected)


def test_images_with_undefined_gradients_are_left_out() -> None:
    bad = images(1)[0].clone()
    bad[..., 0, 0] = float("nan")
    network = network_of({"type": "MSRResNet", **SMALL["MSRResNet"]}).double()
    good = images(2)
    [field] = receptive_fields(network, [good[0], bad, good[1]])
    assert field.left_out in (0, 1)
    [alone] = receptive_fields(network, good)
    assert np.isfinite(field.matrix).all()
    assert alone.left_out == 0


def test_what_has_no_field_is_refused_in_a_sentence() -> None:
    network = network_of({"type": "MSRResNet", **SMALL["MSRResNet"]}).double()
    with pytest.raises(InputError, match="images of one size; these have 13 x 11 and 9 x 8 pixels"):
        receptive_fields(network, [*images(1), *images(1, (8, 9))])
    with pytest.raises(InputError, match="at least one image"):
        receptive_fields(network, [])
    with pytest.raises(InputError, match="no pixel contributes to output"):
        receptive_fields(Shifted(), [-torch.zeros(1, 3, 5, 5)])
