from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.dataset_options import IoBackend
from data.datasets.paired import PairedImageOptions
from data.images.files import read_image, to_tensor, write_image
from data.resizing.matlab import downscale, mod_crop
from data.samples import SampleKey
from tests.data.images.test_sources import write_lmdb
from tests.data.pictures import BACKENDS, Backend, noise, write_folder
from utils.errors import InputError

KEYS = [SampleKey(epoch, position, position % 3) for epoch in range(4) for position in range(6)]


def options(root: Path, *, lq: bool = False, backend: Backend = "disk", **more: Any) -> PairedImageOptions:
    """Options for the folders root/hr and root/lr, patches of 16."""
    more.setdefault("dataroot_lq", root / "lr" if lq else None)
    more.setdefault("dataroot_gt", root / "hr")
    more.setdefault("gt_size", 16)
    return PairedImageOptions(name="T", io_backend=IoBackend(type=backend), **more)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs at x4; the high-resolution sides are multiples of 4."""
    root = tmp_path_factory.mktemp("pairs")
    for path, height, width in zip(
        write_folder(root / "hr", ["a.png", "b.png", "c.png"]), (24, 40, 16), (32, 20, 16), strict=True
    ):
        write_image(path, noise(height, width, height))
        write_image(root / "lr" / path.name, downscale(noise(height, width, height), 4))
    return root


def test_files_pair_by_their_stems_whatever_their_kinds(tmp_path: Path) -> None:
    """A JPEG named .jfif is neither lost nor without a partner; one without partner is an error, as in BasicSR."""
    write_image(tmp_path / "hr/a.jpg", noise(16, 16))
    (tmp_path / "hr/a.jpg").rename(tmp_path / "hr/a.jfif")
    write_image(tmp_path / "lr/a.png", noise(4, 4))
    dataset = options(tmp_path, lq=True).evaluation_set(4)
    assert (len(dataset), dataset.read(0).name) == (1, "a")
    write_image(tmp_path / "hr/b.jpg", noise(16, 16))
    (tmp_path / "hr/b.jpg").rename(tmp_path / "hr/b")
    with pytest.raises(InputError, match=r"1 high-resolution without low-resolution: b \(expected b\)"):
        options(tmp_path, lq=True).evaluation_set(4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lq", [True, False])
def test_whole_images(root: Path, lq: bool, backend: Backend) -> None:
    dataset = options(root, lq=lq, backend=backend).evaluation_set(4)
    assert (dataset.name, len(dataset)) == ("T", 3)
    for index, name in enumerate("abc"):
        sample = dataset.read(index)
        gt, small = read_image(root / "hr" / f"{name}.png"), read_image(root / "lr" / f"{name}.png")
        assert sample.gt is not None
        assert sample.gt.equal(to_tensor(gt))
        assert sample.lq.equal(to_tensor(small))
        assert sample.name == name
        assert sample.gt_path == str(root / "hr" / f"{name}.png")
        assert sample.lq_path == (str(root / "lr" / f"{name}.png") if lq else sample.gt_path)


def test_patches_do_not_depend_on_where_pixels_come_from(root: Path) -> None:
    datasets = [
        options(root, lq=lq, backend=backend).training_set(4, 3) for lq in (True, False) for backend in BACKENDS
    ]
    for key in KEYS:
        first, *others = [dataset.sample(key) for dataset in datasets]
        for other in others:
            assert other.lq.equal(first.lq)
            assert other.gt is not None
            assert first.gt is not None
            assert other.gt.equal(first.gt)


def symmetries(patch: torch.Tensor) -> list[torch.Tensor]:
    turned = [patch, patch.flip(-1), patch.flip(-2), patch.flip(-1).flip(-2)]
    return turned + [view.transpose(-1, -2) for view in turned]


@pytest.fixture(scope="module")
def coordinates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair whose colours are coordinates of low-resolution pixels."""
    root = tmp_path_factory.mktemp("coordinates")
    rows, columns = np.mgrid[:30, :25].astype(np.uint8)
    lq = np.stack([rows, columns, rows * 0 + 9], axis=2)
    write_image(root / "lr/a.png", lq)
    write_image(root / "hr/a.png", lq.repeat(3, axis=0).repeat(3, axis=1))
    return root


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 1000),
    side=st.integers(1, 25),
    hflip=st.booleans(),
    rotation=st.booleans(),
    made=st.booleans(),
)
def test_crops_stay_aligned_and_flips_are_joint(
    coordinates: Path, seed: int, epoch: int, side: int, hflip: bool, rotation: bool, made: bool
) -> None:
    dataset = options(coordinates, lq=True, gt_size=side * 3, use_hflip=hflip, use_rot=rotation).training_set(3, seed)
    sample = dataset.sample(SampleKey(epoch, 0, 0))
    assert sample.gt is not None
    assert sample.lq.shape == (3, side, side)
    assert sample.gt.equal(sample.lq.repeat_interleave(3, -1).repeat_interleave(3, -2))
    levels = (sample.lq * 255).round().int()
    top, left = int(levels[0].min()), int(levels[1].min())
    whole = to_tensor(read_image(coordinates / "lr/a.png"))
    patch = whole[:, top : top + side, left : left + side]
    assert any(sample.lq.equal(view) for view in symmetries(patch))
    if not rotation:
        assert sample.lq.equal(patch) or (hflip and sample.lq.equal(patch.flip(-1)))
    if made:
        alone = (
            options(coordinates, gt_size=side * 3, use_hflip=hflip, use_rot=rotation)
            .training_set(3, seed)
            .sample(SampleKey(epoch, 0, 0))
        )
        assert alone.gt is not None
        assert alone.gt.equal(sample.gt)


def test_every_place_and_symmetry_is_drawn(coordinates: Path) -> None:
    dataset = options(coordinates, lq=True, gt_size=69).training_set(3)
    whole = to_tensor(read_image(coordinates / "lr/a.png"))
    seen = set()
    for position in range(800):
        lq = dataset.sample(SampleKey(0, position, 0)).lq
        levels = (lq * 255).round().int()
        top, left = int(levels[0].min()), int(levels[1].min())
        views = symmetries(whole[:, top : top + 23, left : left + 23])
        seen.add((top, left, next(i for i, view in enumerate(views) if lq.equal(view))))
    assert {place[0] for place in seen} == set(range(8))
    assert {place[1] for place in seen} == set(range(3))
    assert {place[2] for place in seen} == set(range(8))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scale=st.integers(1, 5), position=st.integers(0, 50), side=st.integers(1, 3), backend=st.sampled_from(BACKENDS))
def test_made_patches_are_those_of_the_whole_image(
    root: Path, scale: int, position: int, side: int, backend: Backend
) -> None:
    """Odd sizes, borders: what lies outside of the patch counts as in the whole image's downscaling."""
    dataset = options(root, backend=backend, gt_size=side * scale, use_hflip=False, use_rot=False).training_set(scale)
    sample = dataset.sample(SampleKey(1, position, position % 3))
    gt = mod_crop(read_image(Path(sample.gt_path or "")), scale)
    whole = to_tensor(downscale(gt, scale))
    assert sample.gt is not None
    large = to_tensor(gt)
    places = [
        (top, left)
        for top in range(whole.shape[1] - side + 1)
        for left in range(whole.shape[2] - side + 1)
        if large[:, top * scale : (top + side) * scale, left * scale : (left + side) * scale].equal(sample.gt)
    ]
    assert len(places) >= 1
    assert any(whole[:, top : top + side, left : left + side].equal(sample.lq) for top, left in places)


def test_batches_hold_the_samples(root: Path) -> None:
    dataset = options(root).training_set(4, 5)
    pixels = dataset.collect(KEYS)
    assert pixels.lq is not None
    assert pixels.lq.shape == (len(KEYS), 3, 4, 4)
    assert pixels.lq.dtype == pixels.gt.dtype == torch.uint8
    assert pixels.names == tuple(str(root / "hr" / f"{'abc'[key.image]}.png") for key in KEYS)
    assert pixels.epoch == 0
    lq, gt = dataset.finish(pixels)
    for i, key in enumerate(KEYS):
        sample = dataset.sample(key)
        assert sample.gt is not None
        assert lq[i].equal(sample.lq)
        assert gt[i].equal(sample.gt)


def test_samples_differ_between_epochs_positions_and_seeds(root: Path) -> None:
    dataset, other = (options(root, gt_size=8).training_set(4, seed) for seed in (0, 1))
    key = SampleKey(0, 0, 1)
    patches = [
        dataset.sample(key),
        dataset.sample(SampleKey(1, 0, 1)),
        dataset.sample(SampleKey(0, 3, 1)),
        other.sample(key),
    ]
    for i, a in enumerate(patches):
        for b in patches[:i]:
            assert not a.lq.equal(b.lq)
    assert dataset.sample(key).lq.equal(patches[0].lq)


def test_kept_pixels_are_never_changed(root: Path) -> None:
    dataset = options(root, backend="memory").training_set(4)
    dataset.preload()
    untouched = options(root).training_set(4)
    whole = options(root, backend="memory").evaluation_set(4)
    for _ in range(2):
        for key in KEYS:
            sample, image = dataset.sample(key), whole.read(key.image)
            fresh, fresh_image = untouched.sample(key), options(root).evaluation_set(4).read(key.image)
            for ours, theirs in ((sample.lq, fresh.lq), (sample.gt, fresh.gt), (image.lq, fresh_image.lq)):
                assert ours is not None
                assert theirs is not None
                assert ours.equal(theirs)
                ours.zero_()


def test_memory_reads_each_file_once(tmp_path: Path) -> None:
    paths = write_folder(tmp_path / "hr", ["a.png", "b.png"])
    dataset = options(tmp_path, backend="memory").training_set(4)
    dataset.preload()
    for path in paths:
        path.unlink()
    assert dataset.sample(SampleKey(0, 1, 1)).lq.shape == (3, 4, 4)
    assert dataset.scan() == ()


def test_lmdb(tmp_path: Path) -> None:
    write_lmdb(tmp_path / "hr.lmdb", ["a", "b"], height=32, width=24)
    write_lmdb(tmp_path / "lr.lmdb", ["a", "b"], height=8, width=6)
    roots: dict[str, Any] = {"dataroot_gt": tmp_path / "hr.lmdb", "dataroot_lq": tmp_path / "lr.lmdb"}
    backends: tuple[Backend, ...] = ("lmdb", "memory")
    for backend in backends:
        sample = options(tmp_path, backend=backend, **roots).evaluation_set(4).read(1)
        assert sample.lq.equal(to_tensor(noise(8, 6, 1)))
        assert sample.name == "b"
    with pytest.raises(InputError, match=r"hr\.lmdb is an LMDB data set; set io_backend"):
        options(tmp_path, **roots).training_set(4)
    with pytest.raises(InputError, match=r"io_backend lmdb expects folders NAME\.lmdb"):
        options(tmp_path, backend="lmdb").training_set(4)


def test_luminance_and_normalisation(root: Path) -> None:
    rgb = options(root).evaluation_set(4).read(0).lq
    y = options(root, color="y", mean=(0.5,), std=(0.25,)).evaluation_set(4).read(0).lq
    expected = (65.481 * rgb[0].double() + 128.553 * rgb[1].double() + 24.966 * rgb[2].double() + 16) / 255
    assert y.shape == (1, *rgb.shape[1:])
    torch.testing.assert_close(y[0], (expected.float() - 0.5) / 0.25)
    normal = options(root, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 1.0)).evaluation_set(4).read(0).lq
    torch.testing.assert_close(normal[1], (rgb[1] - 0.2) / 0.5)
    torch.testing.assert_close(normal[2], rgb[2] - 0.3)


def test_evaluation_cuts_the_surplus_of_high_resolution_images(tmp_path: Path) -> None:
    write_image(tmp_path / "hr/a.png", noise(27, 34))
    write_image(tmp_path / "lr/a.png", noise(6, 8))
    sample = options(tmp_path, lq=True).evaluation_set(4).read(0)
    assert sample.gt is not None
    assert sample.gt.equal(to_tensor(noise(27, 34)[:24, :32]))
    made = options(tmp_path).evaluation_set(4).read(0)
    assert made.gt is not None
    assert made.gt.equal(sample.gt)
    with pytest.raises(InputError, match=r"lr.a\.png: the low-resolution image is 6 x 8 .*a\.png is 27 x 34"):
        options(tmp_path, lq=True).training_set(4).sample(KEYS[0])


@pytest.mark.parametrize("phase", ["train", "val"])
@pytest.mark.parametrize("small", [(7, 8), (5, 8), (12, 16)])
def test_sizes_that_do_not_belong_together(tmp_path: Path, phase: Any, small: tuple[int, int]) -> None:
    write_image(tmp_path / "hr/a.png", noise(24, 32))
    write_image(tmp_path / "lr/a.png", noise(*small))
    both = options(tmp_path, lq=True)
    with pytest.raises(InputError, match=rf"is {small[0]} x {small[1]} .* is 24 x 32 .*expected 4 times"):
        both.training_set(4).sample(KEYS[0]) if phase == "train" else both.evaluation_set(4).read(0)


def test_patches_larger_than_an_image(tmp_path: Path) -> None:
    write_image(tmp_path / "hr/a.png", noise(15, 64))
    dataset = options(tmp_path).training_set(4)
    with pytest.raises(InputError, match=r"a\.png: the image is 15 x 64 .*smaller than the patches \(gt_size 16\)"):
        dataset.sample(KEYS[0])
    tiny = options(tmp_path).evaluation_set(17)
    with pytest.raises(InputError, match="smaller than one pixel at x17"):
        tiny.read(0)


def test_scan_reports_everything_that_is_wrong(tmp_path: Path) -> None:
    paths = write_folder(tmp_path / "hr", [f"{i}.png" for i in range(6)])
    for i, path in enumerate(paths):
        write_image(tmp_path / "lr" / path.name, noise(6, 8, i))
    dataset = options(tmp_path, lq=True).training_set(4)
    assert dataset.scan() == ()
    paths[1].write_bytes(paths[1].read_bytes()[:300])
    (tmp_path / "lr/3.png").write_text("not an image")
    write_image(tmp_path / "lr/4.png", noise(6, 9))
    write_image(paths[5], noise(8, 8))
    write_image(tmp_path / "lr/5.png", noise(2, 2))
    problems = dataset.scan()
    assert len(problems) == 4
    for name, problem in zip(["1.png", "3.png", "4.png", "5.png"], problems, strict=True):
        assert name in problem
    assert "cut short" in problems[0]


def test_options_that_contradict_each_other(root: Path) -> None:
    with pytest.raises(InputError, match="gt_size: expected a multiple of scale 3, such as 15 or 18, got 16"):
        options(root).training_set(3)
    with pytest.raises(InputError, match="gt_size is missing"):
        options(root, gt_size=None).training_set(4)
    with pytest.raises(InputError, match="filename_tmpl"):
        options(root, filename_tmpl="x4")
    with pytest.raises(InputError, match="dataroot_lq: expected one for each folder"):
        options(root, dataroot_gt=(root / "hr", root / "hr"), dataroot_lq=root / "lr")
    with pytest.raises(InputError, match="mean: expected 3 numbers"):
        options(root, mean=(0.1, 0.2))
    with pytest.raises(InputError, match="std: expected numbers above 0"):
        options(root, color="y", std=(0.0,))
    with pytest.raises(InputError, match=r"^T: the folder .*nowhere does not exist"):
        options(root, dataroot_gt=root / "nowhere").training_set(4)


def test_data_sets_travel_to_other_processes(root: Path) -> None:
    dataset = options(root, backend="memory").training_set(4, 2)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.sample(KEYS[5]).lq.equal(dataset.sample(KEYS[5]).lq)
