"""NIQE against recorded values; the pristine model's file; misuse."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.images.files import read_image
from metrics import NIQE, UndefinedScoreError, calculate_niqe
from metrics.color import Image
from metrics.niqe import block_features, fit_aggd, image_features, load_pristine
from utils.errors import InputError
from utils.typed import Report, read


@pytest.fixture
def formats(shared: Path) -> Path:
    return shared / "golden/formats"


@pytest.fixture
def pristine(tmp_path: Path) -> Path:
    """A made-up model: right in form, its numbers mean nothing."""
    path = tmp_path / "model.npz"
    taps = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
    np.savez(path, mu=np.ones((1, 36)), cov=np.eye(36), window=np.outer(taps, taps) / taps.sum() ** 2)
    return path


def texture(height: int, width: int) -> Image:
    rng = np.random.default_rng(5)
    return rng.normal(128, 30, (height, width, 3)).clip(0, 255).astype(np.uint8)


@pytest.mark.shared
def test_niqe_equals_the_recorded_values(formats: Path) -> None:
    cases = json.loads((formats / "niqe.json").read_text())
    arrays = np.load(formats / "niqe.npz")
    for case in cases["niqe"]:
        settings = {key: case[key] for key in ("crop_border", "input_order", "convert_to") if key in case}
        for dtype in (np.uint8, np.float32):
            img = arrays[case["input"]].astype(dtype)
            value = calculate_niqe(img, **settings, params_file=formats / "niqe_pristine.npz")
            assert value == pytest.approx(case["value"], abs=cases["atol"]), case["input"]


@pytest.mark.shared
@pytest.mark.parametrize(("name", "expected"), [("img_006", 8.4930), ("img_008", 5.9359)])
def test_niqe_of_pictures_with_flat_areas_equals_the_published_code(
    shared: Path, formats: Path, name: str, expected: float
) -> None:
    img = read_image(shared / f"data/Set14/x2/HR/{name}.png")
    value = calculate_niqe(img, 0, params_file=formats / "niqe_pristine.npz")
    assert value == pytest.approx(expected, abs=0.001)


def test_the_level_of_a_flat_area_changes_no_feature(pristine: Path) -> None:
    window = load_pristine(pristine).window
    plane = texture(96, 192)[..., 0].astype(np.float64) / 4
    plane[:, 40:120] = 20  # in both blocks, and in one of the halved image
    features = image_features(plane.round(), window)
    assert np.isfinite(features).all()
    for more in (1, 3, 30, 90):  # a shift of all levels: rounding goes elsewhere, what is measured does not
        np.testing.assert_allclose(image_features(plane.round() + more, window), features, rtol=1e-6)


def test_colours_become_grey_as_in_the_published_code(pristine: Path) -> None:
    img = texture(192, 192)
    bgr = np.ascontiguousarray(img[..., ::-1])
    grey = (cv2.cvtColor(bgr.astype(np.float32) / 255.0, cv2.COLOR_BGR2GRAY) * 255.0).round().astype(np.uint8)
    other = (cv2.cvtColor(img.astype(np.float32) / 255, cv2.COLOR_RGB2GRAY) * 255).round().astype(np.uint8)
    assert (grey != other).any()  # the order of the sum shows
    expected = calculate_niqe(grey, 0, "HW", params_file=pristine)
    assert calculate_niqe(img, 0, convert_to="gray", params_file=pristine) == expected


@pytest.mark.shared
def test_features_of_a_block_equal_the_recorded_ones(formats: Path) -> None:
    expected = json.loads((formats / "niqe_features.json").read_text())["features"]
    block = np.random.Generator(np.random.PCG64(5)).standard_normal((24, 24))
    np.testing.assert_allclose(block_features(block[None])[0], expected, rtol=1e-12, atol=1e-12)


def test_fit_takes_the_nearest_shape_of_the_published_grid() -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(0.1, 1, (3, 20, 20)), rng.laplace(-0.1, 2, (3, 20, 20))])
    grid = np.arange(0.2, 10.001, 0.001)
    ratios = np.array([math.gamma(2 / a) ** 2 / (math.gamma(1 / a) * math.gamma(3 / a)) for a in grid])
    assert (np.diff(ratios) > 0).all()  # what lets the fit search by bisection
    for x, alpha, left in zip(values, *fit_aggd(values)[:2], strict=True):
        sl, sr = math.sqrt((x[x < 0] ** 2).mean()), math.sqrt((x[x > 0] ** 2).mean())
        g = sl / sr
        target = np.abs(x).mean() ** 2 / (x**2).mean() * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
        assert alpha == grid[np.abs(ratios - target).argmin()]
        assert left == pytest.approx(sl * math.sqrt(math.gamma(1 / alpha) / math.gamma(3 / alpha)), rel=1e-12)


def test_features_of_a_block_do_not_depend_on_other_blocks() -> None:
    blocks = np.random.default_rng(2).normal(size=(5, 12, 12))
    together = block_features(blocks)
    for block, features in zip(blocks, together, strict=True):
        np.testing.assert_allclose(block_features(block[None])[0], features, rtol=1e-12)


def test_niqe_crops_and_takes_any_order_and_grey_images(pristine: Path) -> None:
    img = texture(110, 210)
    value = calculate_niqe(img, 4, params_file=pristine)
    assert value == calculate_niqe(img.transpose(2, 0, 1), 4, input_order="CHW", params_file=pristine)
    assert value == pytest.approx(calculate_niqe(img[4:-4, 4:-4], 0, params_file=pristine))
    assert value != calculate_niqe(img, 4, convert_to="gray", params_file=pristine)
    plane = img[..., 0]
    assert calculate_niqe(plane, 0, "HW", params_file=pristine) == calculate_niqe(
        plane[..., None], 0, convert_to="gray", params_file=pristine
    )


def test_niqe_leaves_out_blocks_without_texture(pristine: Path) -> None:
    img = texture(96, 3 * 96)
    img[:, 192:] = 90
    assert math.isfinite(calculate_niqe(img, 0, params_file=pristine))
    with pytest.raises(UndefinedScoreError, match="fewer than two of its blocks have any texture"):
        calculate_niqe(np.full_like(img, 90), 0, params_file=pristine)


def test_images_that_niqe_cannot_measure_are_refused(pristine: Path) -> None:
    with pytest.raises(InputError, match=r"two blocks of 96 x 96 .* crop_border 2 .* 191 x 100"):
        calculate_niqe(texture(104, 195), 2, params_file=pristine)
    with pytest.raises(InputError, match="two blocks"):
        calculate_niqe(texture(20, 20), 12, params_file=pristine)
    with pytest.raises(ValueError, match='"y" or "gray", got "Y"'):
        calculate_niqe(texture(96, 192), 0, convert_to="Y", params_file=pristine)
    with pytest.raises(ValueError, match='"HW" wants an array'):
        calculate_niqe(texture(96, 192), 0, "HW", params_file=pristine)
    with pytest.raises(ValueError, match="img: 1 of 55296 values are NaN or infinite"):
        broken = texture(96, 192).astype(np.float32)
        broken[50, 50, 2] = np.nan
        calculate_niqe(broken, 0, params_file=pristine)
    with pytest.raises(ValueError, match="got int64"):
        calculate_niqe(texture(96, 192).astype(np.int64), 0, params_file=pristine)


class TestPristineModel:
    def test_a_missing_pristine_model_is_reported(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"absent\.npz cannot be read \(No such file.*mu, cov and window"):
            load_pristine(tmp_path / "absent.npz")

    def test_a_pristine_model_that_is_no_archive_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "model.npz"
        for content in (b"", b"some text", b"PK\x03\x04 broken"):
            path.write_bytes(content)
            with pytest.raises(InputError, match=r"model\.npz is not an \.npz file"):
                load_pristine(path)
        np.save(tmp_path / "single.npy", np.zeros(3))
        with pytest.raises(InputError, match=r"single\.npy is not an \.npz file"):
            load_pristine(tmp_path / "single.npy")

    def test_pickled_objects_in_a_pristine_model_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "model.npz"
        np.savez(path, mu=np.array([print], dtype=object))
        with pytest.raises(InputError, match=r"is not an .*Object arrays"):
            load_pristine(path)

    def test_a_pristine_model_with_wrong_arrays_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "model.npz"
        good = {"mu": np.ones((1, 36)), "cov": np.eye(36), "window": np.ones((7, 7))}
        np.savez(path, mu=good["mu"], covariance=good["cov"])
        with pytest.raises(InputError, match='no array "cov" or "cov_pris_param"; it holds mu, covariance'):
            load_pristine(path)
        for name, array in (
            ("mu", np.ones(35)), ("cov", np.full((36, 36), np.nan)), ("window", np.ones((7, 7), np.int64)),
        ):  # fmt: skip
            np.savez(path, **{**good, name: array})  # type: ignore[arg-type]
            with pytest.raises(InputError, match=f'"{name}" must hold finite floats'):
                load_pristine(path)

    def test_a_pristine_model_with_basicsr_s_names_is_read_again_when_it_changes(self, tmp_path: Path) -> None:
        path = tmp_path / "niqe_pris_params.npz"
        for mean in (1.0, 2.0):
            window = np.ones((7, 7), np.float32)
            np.savez(path, mu_pris_param=np.full((1, 36), mean), cov_pris_param=np.eye(36), gaussian_window=window)
            path.touch()
            model = load_pristine(path)
            assert model.mean.shape == (36,)
            assert (model.mean == mean).all()


def test_niqe_of_an_option_file_needs_no_true_image(pristine: Path) -> None:
    report = Report()
    metric = read({"crop_border": 0, "params_file": str(pristine), "input_order": "HWC"}, NIQE, report)
    assert not report.problems
    assert not metric.needs_reference
    assert metric.better == "lower"
    img = texture(96, 192)
    assert metric(img) == calculate_niqe(img, 0, params_file=pristine)
    read({"crop_border": 0, "params_file": "nowhere.npz"}, NIQE, report)
    read({"crop_border": 0}, NIQE, report)
    messages = "\n".join(message for _, message in report.problems)
    assert "nowhere.npz cannot be read" in messages
    assert '"params_file" is missing' in messages
