from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import signal
import subprocess
import time
from collections import Counter
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import torch

from data.dataset_options import IoBackend
from data.images import write_image
from data.loader import Batch, _start_worker, train_batches
from data.paired import PairedImageDataset
from tests.data.pictures import BACKENDS, Backend, noise, write_folder
from utils.errors import InputError

# More workers than cores are asked for on purpose; from Python 3.12 on, forking beside threads is frowned upon.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.loader.available_cores", lambda: 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hr")
    write_folder(folder, [f"{i}.png" for i in range(5)])
    return folder


def dataset_of(folder: Path, seed: int = 0, **more: Any) -> PairedImageDataset:
    options = PairedImageDataset.Options(
        name="T", dataroot_gt=folder, gt_size=8, batch_size_per_gpu=3, io_backend=IoBackend(type="memory")
    )
    return PairedImageDataset(dataclasses.replace(options, **more), 2, seed)


def run(dataset: PairedImageDataset, **arguments: Any) -> list[Batch]:
    return list(train_batches(dataset, dataset.options, **arguments))


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.lq.equal(b.lq)
        assert a.gt.equal(b.gt)
        assert (a.names, a.epoch) == (b.names, b.epoch)


@pytest.fixture(scope="module")
def reference(folder: Path) -> list[Batch]:
    return run(dataset_of(folder), stop=9)


def test_batches(reference: list[Batch], folder: Path) -> None:
    first = reference[0]
    assert first.lq.shape == (3, 3, 4, 4)
    assert first.gt.shape == (3, 3, 8, 8)
    assert first.gt.dtype == first.lq.dtype == torch.float32
    assert 0 <= first.gt.min() < first.gt.max() <= 1
    assert [batch.epoch for batch in reference] == [0, 0, 1, 1, 2, 3, 3, 4, 4]
    seen = [name for batch in reference[:5] for name in batch.names]
    assert Counter(seen) == {str(folder / f"{i}.png"): 3 for i in range(5)}


def test_no_patch_comes_twice(reference: list[Batch]) -> None:
    patches = {patch.numpy().tobytes() for batch in reference for patch in batch.gt}
    assert len(patches) == 27


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_workers_change_nothing(reference: list[Batch], folder: Path, workers: int, backend: Backend) -> None:
    options: dict[str, Any] = {
        "num_worker_per_gpu": workers,
        "io_backend": IoBackend(type=backend),
        "persistent_workers": True,
    }
    assert_equal(run(dataset_of(folder, **options), stop=9), reference)


@pytest.mark.parametrize("workers", [0, 2])
def test_prefetching_changes_nothing(reference: list[Batch], folder: Path, workers: int) -> None:
    options: dict[str, Any] = {"prefetch_mode": "cpu", "num_prefetch_queue": 3, "num_worker_per_gpu": workers}
    assert_equal(run(dataset_of(folder, **options), stop=9), reference)


@pytest.mark.parametrize("start", range(10))
def test_a_resumed_stream_continues(reference: list[Batch], folder: Path, start: int) -> None:
    assert_equal(run(dataset_of(folder), start=start, stop=9), reference[start:])


def test_a_resumed_stream_continues_in_workers(reference: list[Batch], folder: Path) -> None:
    assert_equal(run(dataset_of(folder, num_worker_per_gpu=2), start=4, stop=9), reference[4:])


def test_ranks_share_the_stream(folder: Path) -> None:
    alone = run(dataset_of(folder, batch_size_per_gpu=6), stop=4)
    ranks = [run(dataset_of(folder), stop=4, rank=rank, world_size=2) for rank in range(2)]
    for whole, *parts in zip(alone, *ranks, strict=True):
        assert torch.stack([part.gt for part in parts], dim=1).flatten(0, 1).equal(whole.gt)


def test_seeds_differ(reference: list[Batch], folder: Path) -> None:
    assert not run(dataset_of(folder, seed=1), stop=1)[0].gt.equal(reference[0].gt)


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_numbers_are_not_drawn(folder: Path, workers: int) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run(dataset_of(folder, num_worker_per_gpu=workers), stop=2)
    assert torch.get_rng_state().equal(before)


def test_channels_last(reference: list[Batch], folder: Path) -> None:
    batches = run(dataset_of(folder), stop=9, channels_last=True)
    assert batches[0].lq.is_contiguous(memory_format=torch.channels_last)
    assert batches[0].gt.is_contiguous(memory_format=torch.channels_last)
    assert_equal(batches, reference)


@pytest.mark.parametrize("setting", [{}, {"num_worker_per_gpu": 2}, {"prefetch_mode": "cpu"}])
def test_bad_images_are_named_wherever_they_are_read(tmp_path: Path, setting: dict[str, Any]) -> None:
    paths = write_folder(tmp_path, [f"{i}.png" for i in range(5)])
    paths[3].write_bytes(paths[3].read_bytes()[:200])
    dataset = dataset_of(tmp_path, io_backend=IoBackend(type="disk"), **setting)
    with pytest.raises(InputError) as caught:
        run(dataset, stop=9)
    assert str(caught.value).startswith(f"{paths[3]}: the image cannot be read: it is cut short")
    assert "Traceback" not in str(caught.value)
    assert not multiprocessing.active_children()


def test_bad_images_are_named_when_decoded_beforehand(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a.png", "b.png"])
    write_image(tmp_path / "c.png", noise(6, 40))
    with pytest.raises(InputError, match=r"c\.png: the image is 6 x 40 .*smaller than the patches"):
        run(dataset_of(tmp_path), stop=1)


def test_leaving_early_ends_the_workers(folder: Path) -> None:
    dataset = dataset_of(folder, num_worker_per_gpu=2, prefetch_mode="cpu")
    batches = train_batches(dataset, dataset.options, stop=1000)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()


def test_workers_are_limited_to_the_cores(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.loader.available_cores", lambda: 1)
    dataset = dataset_of(folder, num_worker_per_gpu=16)
    batches = train_batches(dataset, dataset.options, stop=1000)
    next(batches)
    assert len(multiprocessing.active_children()) == 1
    batches.close()


def wait_as_a_worker(ready: Event) -> None:
    _start_worker(0)
    ready.set()
    time.sleep(60)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system does not tell who sent a signal")
def test_only_the_main_process_dismisses_workers() -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=wait_as_a_worker, args=(ready,))
    worker.start()
    assert ready.wait(20)
    for name in ("-TERM", "-INT"):
        subprocess.run(["kill", name, str(worker.pid)], check=True)
    worker.join(0.3)
    assert worker.is_alive()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


def test_prefetching_to_a_gpu_needs_one(
    reference: list[Batch], folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("focalsr"), "propagate", True)
    assert_equal(run(dataset_of(folder, prefetch_mode="cuda", pin_memory=True), stop=9), reference)
    assert "T: prefetch_mode cuda needs a GPU, but the device is cpu" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("mode", [None, "cuda"])
def test_batches_on_a_gpu_are_the_same(reference: list[Batch], folder: Path, workers: int, mode: str | None) -> None:
    dataset = dataset_of(folder, prefetch_mode=mode, pin_memory=True, num_worker_per_gpu=workers)
    result = []
    for batch in train_batches(dataset, dataset.options, stop=9, device="cuda"):
        assert batch.lq.device.type == "cuda"
        torch.randn(2000, 2000, device="cuda") @ torch.randn(2000, 2000, device="cuda")  # keeps the GPU busy
        result.append(dataclasses.replace(batch, lq=batch.lq.clone(), gt=batch.gt.clone()))
    assert_equal([dataclasses.replace(b, lq=b.lq.cpu(), gt=b.gt.cpu()) for b in result], reference)
