"""AnyScaleDataset: batches of drawn scales, the same for every number of workers; whole images at any scale."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from data import AnyScaleOptions, Batch, build_dataset, train_batches
from data.images.files import planes, read_image
from data.prepare.pack_writer import write_pack
from data.resizing.pillow import pil_bicubic_to
from data.samples import SampleKey
from tests.data.pictures import write_folder
from utils.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("any scale") / "HR"
    write_folder(path, ["a.png", "b.png", "c.png"], 30, 37)
    return path


def options(folder: Path, **changes: Any) -> AnyScaleOptions:
    settings = {"lq_size": 8, "sample_q": 40, "batch_size_per_gpu": 3, "dataset_enlarge_ratio": 4, **changes}
    return AnyScaleOptions(name="T", dataroot_gt=folder, **settings)


def batches(
    own: AnyScaleOptions, start: int = 0, stop: int = 6, scale: Any = (1, 4), rank: int = 0, size: int = 1
) -> list[Batch]:
    dataset = build_dataset(own, scale=scale, seed=3, phase="train")
    return list(train_batches(dataset, own, start=start, stop=stop, rank=rank, world_size=size))


def tensors(batch: Batch) -> list[torch.Tensor]:
    found = list(batch.tensors())
    assert len(found) == 4
    return found


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert all(map(torch.equal, tensors(a), tensors(b)))
        assert a.names == b.names


def test_a_batch_mixes_scales(folder: Path) -> None:
    first, second = islice(batches(options(folder)), 2)
    assert first.queries is not None
    assert second.queries is not None
    coord, cell = first.queries
    assert (first.lq.shape, first.gt.shape, first.size) == ((3, 3, 8, 8), (3, 3, 40, 1), (40, 1))
    assert (coord.shape, cell.shape, coord.dtype) == ((3, 40, 2), (3, 2), torch.float64)
    sides = 2 / torch.cat([cell[:, 0], second.queries.cell[:, 0]])
    assert torch.equal(sides, sides.round())
    assert len(set(sides.tolist())) > 3
    assert 8 <= min(sides) < max(sides) <= 30
    positions = (coord + 1) / cell[:, None] - 0.5
    torch.testing.assert_close(positions, positions.round(), rtol=0, atol=1e-9)


def test_the_stream_is_the_same_however_it_is_made(folder: Path, tmp_path: Path) -> None:
    reference = batches(options(folder))
    write_pack(folder, tmp_path / "HR.pack")
    assert_equal(batches(options(folder, num_worker_per_gpu=2)), reference)
    assert_equal(batches(options(folder, prefetch_mode="cpu", io_backend={"type": "memory"}), 2), reference[2:])
    packed = batches(options(tmp_path / "HR.pack", io_backend={"type": "pack"}))
    assert all(torch.equal(a.gt, b.gt) and torch.equal(a.lq, b.lq) for a, b in zip(packed, reference, strict=True))


def test_two_ranks_see_what_one_would(folder: Path) -> None:
    whole = batches(options(folder, batch_size_per_gpu=4))
    parts = [batches(options(folder, batch_size_per_gpu=2), rank=rank, size=2) for rank in range(2)]
    for one, *two in zip(whole, *parts, strict=True):
        for all_samples, first, second in zip(tensors(one), *map(tensors, two), strict=True):
            assert torch.equal(all_samples[0::2], first)
            assert torch.equal(all_samples[1::2], second)


def test_micro_batches_take_their_queries_along(folder: Path) -> None:
    (batch, *_) = batches(options(folder))
    parts = list(batch.micro_batches(2))
    assert [len(part) for part in parts] == [2, 1]
    for whole, *pieces in zip(tensors(batch), *map(tensors, parts), strict=True):
        assert torch.equal(torch.cat(pieces), whole)
    halved = batch.mapped(lambda tensor: tensor / 2)
    assert halved.queries is not None
    assert batch.queries is not None
    assert torch.equal(halved.queries.coord * 2, batch.queries.coord)


def test_one_scale_and_all_pixels(folder: Path) -> None:
    (batch, *_) = batches(options(folder, sample_q=None), scale=2.5)
    assert batch.queries is not None
    assert batch.gt.shape == (3, 3, 400, 1)
    assert torch.equal(batch.queries.cell, torch.full((3, 2), 0.1, dtype=torch.float64))
    assert torch.equal(batch.queries.coord[0, :21, 0] < -0.92, torch.arange(21) < 20)


def test_what_crosses_process_borders_has_8_bits(folder: Path) -> None:
    dataset = build_dataset(options(folder), scale=(1, 4), seed=3, phase="train")
    pixels = dataset.collect([SampleKey(0, 0, 0)])
    assert pixels.lq is not None
    assert pixels.points is not None
    assert (pixels.lq.dtype, pixels.gt.dtype) == (torch.uint8, torch.uint8)
    assert (pixels.points.pixel.dtype, pixels.points.side.dtype) == (torch.int32, torch.int32)


def test_images_smaller_than_the_smallest_patch_are_refused_by_name(folder: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png|b\.png|c\.png.*30 x 37.*smallest patches \(lq_size 32 at x1\)"):
        batches(options(folder, lq_size=32))
    assert len(batches(options(folder, lq_size=30, sample_q=900))) == 6


@pytest.mark.parametrize(
    ("changes", "scale", "message"),
    [
        ({"sample_q": 65}, (1, 4), r"sample_q: expected at most 64, the pixels of a patch at x1 \(lq_size 8\), got 65"),
        ({"sample_q": None}, (1, 4), "sample_q: expected a number, as the patches of a batch differ in size"),
        ({"dataroot_lq": {"2": Path("x")}}, (1, 4), "dataroot_lq: low-resolution patches for training are made"),
        ({"gt_size": 64}, (1, 4), "gt_size: leave it out"),
        ({"dataroot_lq": {"two": Path("x")}}, 2, 'dataroot_lq: expected a mapping from scales.*"two"'),
        ({"dataroot_lq": {"0.5": Path("x")}}, 2, 'dataroot_lq: expected a mapping from scales.*"0.5"'),
        ({"dataroot_lq": {"2": Path("x"), "2.0": Path("y")}}, 2, "dataroot_lq: expected each scale once, got 2, 2.0"),
        ({"filename_tmpl": "x{scale}"}, 2, 'filename_tmpl: expected "{}" in it'),
    ],
)
def test_what_cannot_be_meant(folder: Path, changes: dict[str, Any], scale: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        batches(options(folder, **changes), scale=scale)


@pytest.mark.parametrize(("scale", "low"), [(2, (15, 18)), (2.5, (12, 14)), (6, (5, 6))])
def test_whole_images(folder: Path, scale: float, low: tuple[int, int]) -> None:
    dataset = build_dataset(options(folder), scale=scale, phase="val")
    assert dataset.scale == scale
    sample = dataset.read(0)
    assert sample.gt is not None
    height, width = sample.gt.shape[-2:]
    assert (sample.lq.shape[-2:], height, width) == (low, round(low[0] * scale), round(low[1] * scale))
    made = pil_bicubic_to(planes(read_image(folder / "a.png")[:height, :width]), low)
    assert torch.equal((sample.lq * 255).round().byte(), made)


def test_given_low_resolution_images_of_a_scale(folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "X2", [f"{name}x2.png" for name in "abc"], 15, 18)
    own = options(folder, dataroot_lq={"2": tmp_path / "X2"}, filename_tmpl="{}x{scale}")
    sample = own.evaluation_set(2).read(1)
    assert sample.name == "bx2"
    assert sample.gt is not None
    assert sample.gt.shape == (3, 30, 36)
    assert own.evaluation_set(3).read(1).name == "b"  # made
    for scale, message in ((3, "at x3 larger than"), (1, "which is not x1 of")):
        with pytest.raises(InputError, match=message):
            options(folder, dataroot_lq={f"{scale}": tmp_path / "X2"}, filename_tmpl="{}x2").evaluation_set(scale).read(
                0
            )
