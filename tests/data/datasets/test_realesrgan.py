"""RealESRGANDataset: patches, draws, and batches that only depend on their place in the stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from data.datasets import build_dataset
from data.datasets.realesrgan import RealESRGANOptions
from data.degradations import DegradationOptions, usm_sharpen
from data.images.files import write_image
from data.loader import Batch, train_batches
from data.patches.dataset import PatchDataset
from data.samples import SampleKey
from tests.data.pictures import noise, write_folder
from utils.errors import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
POOL = DegradationOptions(queue_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hr")
    write_folder(folder, [f"{i}.png" for i in range(4)], 60, 70)
    write_image(folder / "small.png", noise(20, 70, 9))
    return folder


def options(folder: Path, **more: Any) -> RealESRGANOptions:
    more = {"gt_size": 16, "crop_size": 48, "batch_size_per_gpu": 2, **more}
    return RealESRGANOptions(name="R", dataroot_gt=folder, **more)


def dataset(folder: Path, degradations: DegradationOptions = POOL, **more: Any) -> PatchDataset:
    return options(folder, **more).training_set(4, 3, degradations)


def run(source: PatchDataset, **arguments: Any) -> list[Batch]:
    return list(train_batches(source, source.options, **arguments))


@pytest.fixture(scope="module")
def reference(folder: Path) -> list[Batch]:
    return run(dataset(folder), stop=10)


def test_batches(reference: list[Batch]) -> None:
    for batch in reference:
        assert batch.lq.shape == (2, 3, 4, 4)
        assert batch.gt.shape == (2, 3, 16, 16)
        assert 0 <= batch.lq.min() <= batch.lq.max() <= 1


def test_low_resolution_belongs_to_high_resolution(tmp_path: Path) -> None:
    """A bright quarter of the image is found again at the same place, whatever was done to it."""
    for i in range(4):
        picture = noise(64, 64, i) // 8
        picture[:32, :32] += 200
        write_image(tmp_path / f"{i}.png", picture)
    train = dataset(tmp_path, DegradationOptions(queue_size=0), gt_size=64, crop_size=64, use_rot=True)
    for step in range(6):
        lq, gt = train.finish(train.collect([SampleKey(0, step * 2 + j, j) for j in range(2)], step))
        small = torch.nn.functional.avg_pool2d(gt, 4).mean(1) > 0.5
        assert ((lq.mean(1) > 0.5) == small).float().mean() > 0.8


def test_small_images_are_mirrored(folder: Path) -> None:
    batch = dataset(folder).collect([SampleKey(0, 4, 4)])
    picture = torch.from_numpy(noise(20, 70, 9)).permute(2, 0, 1)
    rows = batch.gt[0]
    assert batch.gt.shape == (1, 3, 48, 48)
    flat = {tuple(row.flatten().tolist()) for row in rows.transpose(0, 1)}
    assert len(flat) == 20  # all others are repetitions
    assert picture.shape == (3, 20, 70)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 3, 7])
def test_resumed_and_shared_work_changes_nothing(
    reference: list[Batch], folder: Path, workers: int, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.loader.available_cores", lambda: 8)
    for ours, theirs in zip(
        run(dataset(folder, num_worker_per_gpu=workers), start=start, stop=10), reference[start:], strict=True
    ):
        assert ours.lq.equal(theirs.lq)
        assert ours.gt.equal(theirs.gt)
        assert ours.names == theirs.names


def test_ranks_share_the_stream(folder: Path) -> None:
    alone = run(dataset(folder, DegradationOptions(queue_size=16), batch_size_per_gpu=4), stop=8)
    ranks = [run(dataset(folder), stop=8, rank=rank, world_size=2) for rank in range(2)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        for name in ("gt", "lq"):
            together = torch.stack([getattr(part, name) for part in parts], dim=1).flatten(0, 1)
            # Filters of batches of other sizes may round otherwise in the last bit, before rounding to 8.
            assert ((together - getattr(whole, name)).abs() < 1e-6).float().mean() > 0.99


def test_sharpened_targets(folder: Path) -> None:
    keys = [SampleKey(0, i, i) for i in range(2)]
    plain, target, source = (
        dataset(folder, DegradationOptions(gt_usm=gt, lq_usm=lq), gt_size=48)
        for gt, lq in ((False, False), (True, False), (False, True))
    )
    (lq0, gt0), (lq1, gt1), (lq2, gt2) = (d.finish(d.collect(keys)) for d in (plain, target, source))
    assert gt1.equal(usm_sharpen(gt0))
    assert gt2.equal(gt0)
    assert lq2.equal(lq1)
    assert not lq1.equal(lq0)


def test_degradations_differ_between_samples_and_not_between_calls(folder: Path) -> None:
    train = dataset(folder)
    keys = [SampleKey(epoch, position, 0) for epoch in range(2) for position in range(3)]
    one, two = train.collect(keys), train.collect(keys)
    assert one.draws is not None
    assert two.draws is not None
    assert one.draws.kernels.equal(two.draws.kernels)
    assert one.draws.seeds == two.draws.seeds
    assert len(set(one.draws.seeds)) == 6
    assert len({row.numpy().tobytes() for row in one.draws.kernels}) == 6


def test_what_cannot_be(folder: Path) -> None:
    with pytest.raises(InputError, match="which is for training; evaluate with PairedImageDataset"):
        build_dataset(options(folder), scale=4, phase="val")
    with pytest.raises(InputError, match="crop_size: expected a multiple of scale 4 and at least gt_size 16, got 12"):
        dataset(folder, crop_size=12)
    with pytest.raises(InputError, match=r"kernel_prob2: expected a share for each kind of kernel_list2 \(6\), got 1"):
        options(folder, kernel_prob2=(1.0,))
    with pytest.raises(InputError, match="blur_sigma: expected the smaller number first"):
        options(folder, blur_sigma=(3.0, 1.0))
    with pytest.raises(InputError, match="queue_size: expected a multiple"):
        run(dataset(folder, DegradationOptions(queue_size=3)), stop=1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", [None, "cuda"])
def test_a_gpu_goes_on_where_it_stopped(folder: Path, mode: str | None) -> None:
    source = dataset(folder, prefetch_mode=mode, pin_memory=True, num_worker_per_gpu=2)
    whole = run(source, stop=10, device="cuda")
    for ours, theirs in zip(run(source, start=6, stop=10, device="cuda"), whole[6:], strict=True):
        assert ours.lq.device.type == "cuda"
        assert ours.lq.equal(theirs.lq)
        assert ours.gt.equal(theirs.gt)
