from __future__ import annotations

import dataclasses
import errno
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing import reductions
from torch.utils.data import get_worker_info

from data import loader
from data.dataset_options import IoBackend
from data.datasets.paired import PairedImageOptions
from data.images.files import write_image
from data.images.listing import Pair
from data.images.pairs import PairPixels
from data.loader import Batch, _report_unless_left_alone, train_batches
from data.patches.cutter import AnywhereCutter
from data.patches.dataset import PatchDataset
from data.patches.rules import Downsampled
from data.prepare.lmdb_writer import write_lmdb
from data.prepare.pack_writer import write_pack
from data.resizing.pillow import pil_bicubic
from tests.data.pictures import BACKENDS, Backend, noise, write_folder
from tests.runs import ROOT, run_line
from utils.devices import abilities
from utils.errors import InputError, StopRequested, WorkerError
from utils.memory import FullMemoryError

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


def dataset_of(folder: Path, seed: int = 0, **more: Any) -> PatchDataset:
    options = PairedImageOptions(
        name="T", dataroot_gt=folder, gt_size=8, batch_size_per_gpu=3, io_backend=IoBackend(type="memory")
    )
    return dataclasses.replace(options, **more).training_set(2, seed)


def run(dataset: PatchDataset, **arguments: Any) -> list[Batch]:
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
def test_the_number_of_workers_does_not_change_the_weights(
    reference: list[Batch], folder: Path, workers: int, backend: Backend
) -> None:
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


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system does not tell who sent a signal")
def test_only_the_main_process_dismisses_workers(reference: list[Batch], folder: Path) -> None:
    dataset = dataset_of(folder, num_worker_per_gpu=1)
    batches = train_batches(dataset, dataset.options, stop=1000)
    first = next(batches)
    (worker,) = multiprocessing.active_children()
    for name in ("-TERM", "-INT"):  # by another process, as a batch system or Ctrl-C does
        subprocess.run(["kill", name, str(worker.pid)], check=True)
    assert_equal([first, *islice(batches, 8)], reference)
    worker.terminate()  # by this one
    worker.join(20)
    assert worker.exitcode == 0
    batches.close()


def test_prefetching_to_a_gpu_needs_one(
    reference: list[Batch], folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("focalsr"), "propagate", True)
    assert_equal(run(dataset_of(folder, prefetch_mode="cuda", pin_memory=True), stop=9), reference)
    assert "T: prefetch_mode cuda needs a GPU that copies while it computes, but the device is cpu" in caplog.text


def test_batches_pass_through_page_locked_memory_where_the_device_copies_from_it(
    reference: list[Batch], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked: list[tuple[int, ...]] = []

    def lock(tensor: torch.Tensor) -> torch.Tensor:
        locked.append(tuple(tensor.shape))
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", lock)
    assert_equal(run(dataset_of(folder), stop=9), reference)
    assert not locked
    monkeypatch.setattr(loader, "abilities", lambda device: dataclasses.replace(abilities(device), pinned=True))
    assert_equal(run(dataset_of(folder), stop=9), reference)
    assert len(locked) == 2 * 9, "low-resolution and high-resolution patches of each batch"


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
        result.append(batch.mapped(torch.clone))
    assert_equal([b.mapped(torch.Tensor.cpu) for b in result], reference)


def write_bad(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("backend", BACKENDS)
def test_bad_images_are_replaced_where_asked(
    tmp_path: Path, workers: int, backend: Backend, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("focalsr"), "propagate", True)
    paths = write_folder(tmp_path, [f"{i}.png" for i in range(5)])
    whole = run(dataset_of(tmp_path, io_backend=IoBackend(type="disk")), stop=9)
    write_bad(paths[3])
    setting: dict[str, Any] = {"on_error": "skip", "num_worker_per_gpu": workers, "io_backend": IoBackend(type=backend)}
    batches = run(dataset_of(tmp_path, **setting), stop=9)
    assert_equal(run(dataset_of(tmp_path, **{**setting, "num_worker_per_gpu": 1}), stop=9), batches)
    assert_equal(run(dataset_of(tmp_path, **setting), start=4, stop=9), batches[4:])
    assert caplog.text.count(str(paths[3])) == 3  # once in each run
    replaced = 0
    for batch, before in zip(batches, whole, strict=True):
        for i, name in enumerate(before.names):
            assert batch.names[i] != str(paths[3])
            if name == str(paths[3]):
                replaced += 1
            else:
                assert batch.names[i] == name
                assert batch.gt[i].equal(before.gt[i])
    assert replaced >= 5


def test_nothing_but_bad_images_is_no_data_set(tmp_path: Path) -> None:
    for path in write_folder(tmp_path, ["a.png", "b.png"]):
        write_bad(path)
    with pytest.raises(InputError, match=r"100 images drawn one after another cannot be used; the last: .*cut short"):
        run(dataset_of(tmp_path, on_error="skip", io_backend=IoBackend(type="disk")), stop=1)


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_batch_that_a_dead_worker_announced_is_reported_with_its_file(folder: Path) -> None:
    """It lies in memory that the worker has to hand over, which it no longer can."""
    options = dataset_of(folder, num_worker_per_gpu=1).options
    batches = train_batches(dataset_of(folder), options, stop=100)
    next(batches)
    time.sleep(1)  # the next batches are announced by then
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"ended unexpectedly while it read .*[0-4]\.png"):
        list(batches)
    assert not multiprocessing.active_children()


def deadly(workers: Sequence[int]) -> Callable[[Pair], PairPixels]:
    """Reads pairs; the image 3.png kills the process that does, if it is one of these workers."""

    def read(pair: Pair) -> PairPixels:
        worker = get_worker_info()
        if pair.gt.name == "3" and worker is not None and worker.id in workers:
            os.kill(os.getpid(), signal.SIGKILL)
        return PairPixels(pair.gt.read(), None)

    return read


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
@pytest.mark.parametrize("dying", [(0,), (1,), (0, 1)])
def test_dead_workers_are_reported_with_their_file(folder: Path, dying: Sequence[int]) -> None:
    options = dataset_of(folder, num_worker_per_gpu=2, prefetch_mode="cpu", io_backend=IoBackend(type="disk")).options
    cutter = AnywhereCutter(8, options.augmentation)
    dataset = PatchDataset(options, 0, options.pairs(deadly(dying)), cutter, Downsampled(pil_bicubic, 2))
    batches = train_batches(dataset, options, stop=9)
    with pytest.raises(WorkerError) as caught:
        list(batches)
    message = str(caught.value)
    assert message.startswith("T: a process that prepares batches ended unexpectedly while it read ")
    assert str(folder / "3.png") in message
    assert message.endswith("remove it")
    assert not multiprocessing.active_children()


def failing(error: Exception) -> Callable[[Pair], PairPixels]:
    """Reads pairs; at the image 3.png it fails."""

    def read(pair: Pair) -> PairPixels:
        if pair.gt.name == "3":
            raise error
        return PairPixels(pair.gt.read(), None)

    return read


SHARED_FULL = "unable to allocate shared memory(shm) for file </torch_12_3>: No space left on device (28)"


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (RuntimeError(SHARED_FULL), WorkerError, r"^T: /dev/shm.* is too small for them; enlarge it .*, or 0$"),
        (RuntimeError("unable to open file: Too many open files (24)"), WorkerError, r"^T: .*ulimit -n 65536"),
        (MemoryError("Unable to allocate 2 GiB"), FullMemoryError, r"^the memory is full: a worker process of T \(Un"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), FullMemoryError, "What helps: fewer num_worker"),
        # A fault of the program arrives as what it is, with the traceback of the worker.
        (RuntimeError("an index is wrong"), RuntimeError, r"(?s)in DataLoader worker process.*an index is wrong"),
        (KeyError("lost"), KeyError, "lost"),
    ],
)
def test_errors_in_workers_keep_their_reason(folder: Path, error: Exception, kind: type[Exception], said: str) -> None:
    options = dataset_of(folder, num_worker_per_gpu=1, io_backend=IoBackend(type="disk")).options
    cutter = AnywhereCutter(8, options.augmentation)
    dataset = PatchDataset(options, 0, options.pairs(failing(error)), cutter, Downsampled(pil_bicubic, 2))
    with pytest.raises(kind, match=said) as caught:
        list(train_batches(dataset, options, stop=9))
    if kind in (WorkerError, FullMemoryError):
        assert "Traceback" not in str(caught.value)
    else:
        assert not isinstance(caught.value, WorkerError)
    assert not multiprocessing.active_children()


def test_no_room_for_the_queues_of_workers_is_no_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(multiprocessing, "Queue", full)
    with pytest.raises(WorkerError, match=r"^T: /dev/shm.* is too small for them; enlarge it"):
        train_batches(dataset_of(folder), dataset_of(folder, num_worker_per_gpu=1).options, stop=2)


def test_workers_that_were_started_before_one_could_not_be_are_dismissed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = multiprocessing.Process.start
    started: list[multiprocessing.Process] = []

    def second_fails(process: multiprocessing.Process) -> None:
        if started:
            raise OSError(errno.EMFILE, "Too many open files")
        start(process)
        started.append(process)

    monkeypatch.setattr(multiprocessing.Process, "start", second_fails)
    with pytest.raises(WorkerError, match="ulimit -n 65536") as caught:
        train_batches(dataset_of(folder), dataset_of(folder, num_worker_per_gpu=2).options, stop=2)
    assert started
    assert not multiprocessing.active_children()
    assert "WorkerError" in repr(caught)  # the exception is still held here


def test_a_worker_whose_main_process_is_gone_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in (ConnectionResetError, BrokenPipeError, EOFError):
        _report_unless_left_alone(kind, kind(), None)
    assert capsys.readouterr().err == ""
    _report_unless_left_alone(ValueError, ValueError("wrong"), None)
    assert "ValueError: wrong" in capsys.readouterr().err


def test_no_more_batches_are_prepared_than_there_are(folder: Path) -> None:
    dataset = dataset_of(folder, prefetch_mode="cpu", num_prefetch_queue=10**4)
    assert len(list(train_batches(dataset, dataset.options, stop=2))) == 2


def test_the_death_of_a_worker_does_not_interrupt_the_step(folder: Path) -> None:
    """PyTorch's handler would raise out of whatever the main process is doing."""
    before = signal.getsignal(signal.SIGCHLD)
    batches = train_batches(dataset_of(folder), dataset_of(folder, num_worker_per_gpu=1).options, stop=100)
    assert signal.getsignal(signal.SIGCHLD) == before
    batches.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_folders_have_weights(tmp_path: Path, workers: int) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_folder(one, [f"{i}.png" for i in range(4)])
    write_folder(two, [f"{i}.png" for i in range(8)])
    dataset = dataset_of(
        tmp_path, dataroot_gt=(one, two), dataroot_weights=(3.0, 0.25), num_worker_per_gpu=workers, batch_size_per_gpu=2
    )
    assert dataset.epoch_length == 14
    batches = run(dataset, stop=28)  # four epochs
    for epoch in range(4):
        seen = Counter(name for batch in batches[epoch * 7 : epoch * 7 + 7] for name in batch.names)
        assert sum(seen[str(two / f"{i}.png")] for i in range(8)) == 2
        assert all(seen[str(one / f"{i}.png")] == 3 for i in range(4))
    everything = Counter(name for batch in batches for name in batch.names)
    assert {everything[str(two / f"{i}.png")] for i in range(8)} == {1}
    assert_equal(run(dataset, start=9, stop=28), batches[9:])


def test_low_resolution_made_on_the_device_is_the_same(reference: list[Batch], folder: Path) -> None:
    for workers in (0, 2):
        assert_equal(run(dataset_of(folder, lr_on="device", num_worker_per_gpu=workers), stop=9), reference)
    assert_equal(run(dataset_of(folder, lr_on="device", prefetch_mode="cpu"), start=2, stop=9), reference[2:])


# In a process of its own: what a large one has freed before would pass to its workers little by little.
WATCH_A_WORKER = """
import multiprocessing, sys
from pathlib import Path
from data.dataset_options import IoBackend
from data.loader import train_batches
from data.datasets.paired import PairedImageOptions

def private_kib(process):
    for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1])

root, backend, lr_on = sys.argv[1:]
options = PairedImageOptions(
    name="T", dataroot_gt=Path(root), gt_size=128, io_backend=IoBackend(type=backend), lr_on=lr_on,
    batch_size_per_gpu=8, num_worker_per_gpu=1,
)
for number, _ in enumerate(train_batches(options.training_set(2), options, stop=5 * 14)):
    if number % 5 == 4 and number < 5 * 13:  # at the end of each epoch
        (worker,) = multiprocessing.active_children()
        print(private_kib(worker.pid))
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells")
@pytest.mark.parametrize(("backend", "lr_on"), [("disk", "device"), ("pack", "loader")])
def test_the_memory_of_a_worker_does_not_grow(tmp_path: Path, backend: Backend, lr_on: str) -> None:
    write_folder(tmp_path / "hr", [f"{i}.png" for i in range(40)], 192, 192)
    root = tmp_path / "hr"
    if backend == "pack":
        root = tmp_path / "hr.pack"
        write_pack(tmp_path / "hr", root)
    done = run_line(ROOT, [sys.executable, "-c", WATCH_A_WORKER, str(root), backend, lr_on])
    assert done.returncode == 0, done.stderr
    held = [int(line) for line in done.stdout.split()]
    assert len(held) == 13
    # A batch has half a MiB, an epoch 2.2: all of them, or those that PyTorch takes a note of, would be 6 and more.
    assert min(held[-3:]) - max(held[2:5]) < 4 * 1024


@pytest.mark.parametrize("backend", ["lmdb", "pack"])
@pytest.mark.parametrize("workers", [0, 2])
def test_storage_changes_nothing(
    reference: list[Batch], folder: Path, tmp_path: Path, backend: Backend, workers: int
) -> None:
    root = tmp_path / f"hr.{backend}"
    (write_pack if backend == "pack" else write_lmdb)(folder, root)
    setting: dict[str, Any] = {"io_backend": IoBackend(type=backend), "num_worker_per_gpu": workers}
    for ours, theirs in zip(run(dataset_of(root, **setting), start=2, stop=9), reference[2:], strict=True):
        assert ours.lq.equal(theirs.lq)
        assert ours.gt.equal(theirs.gt)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mode", [None, "cuda"])
def test_low_resolution_made_on_a_gpu_is_the_same(reference: list[Batch], folder: Path, mode: str | None) -> None:
    dataset = dataset_of(folder, prefetch_mode=mode, pin_memory=True, num_worker_per_gpu=2, lr_on="device")
    batches = train_batches(dataset, dataset.options, stop=9, device="cuda")
    assert_equal([b.mapped(torch.Tensor.cpu) for b in batches], reference)


def test_micro_batches_are_the_samples_of_the_batch_in_their_order() -> None:
    lq, gt = torch.rand(5, 3, 4, 6), torch.rand(5, 3, 8, 12)
    batch = Batch.of_pair(lq, gt, ("a", "b", "c", "d", "e"), epoch=3)
    assert batch.size == (8, 12)
    parts = list(batch.micro_batches(3))
    assert [part.names for part in parts] == [("a", "b"), ("c", "d"), ("e",)]
    assert torch.cat([part.lq for part in parts]).equal(lq)
    assert torch.cat([part.targets["gt"] for part in parts]).equal(gt)
    assert all((part.size, part.epoch) == ((8, 12), 3) for part in parts)
    assert [len(part) for part in batch.micro_batches(9)] == [1] * 5
    halved = batch.mapped(lambda tensor: tensor / 2)
    assert halved.lq.equal(lq / 2)
    assert halved.gt.equal(gt / 2)
    assert halved.names == batch.names


class Hanging(PatchDataset):
    """A data set whose batches come, from the third one on, from a file system that does not answer."""

    def collect(self, keys: Any, step: int = 0, reading: Any = None) -> Any:
        if step >= 2:
            time.sleep(1000)
        return super().collect(keys, step, reading)


@pytest.mark.parametrize("mode", [None, "cpu"])
def test_waiting_for_a_batch_that_does_not_come_can_be_ended(folder: Path, mode: str | None) -> None:
    whole = dataset_of(folder, num_worker_per_gpu=3, prefetch_mode=mode)
    dataset = Hanging(whole.options, 0, whole.pairs, whole.cutter, whole.rule)
    asked = []

    def waiting() -> None:
        asked.append(time.monotonic())
        if len(asked) == 2:
            raise StopRequested("asked to leave", 143)

    batches = train_batches(dataset, whole.options, stop=9, waiting=waiting)
    assert [next(batches).epoch, next(batches).epoch] == [0, 0]
    started = time.monotonic()
    with pytest.raises(StopRequested, match="asked to leave"):
        next(batches)
    assert not multiprocessing.active_children()
    assert time.monotonic() - started < 10  # about two; each worker would be waited for 5 s, and hangs for 1,000


def test_workers_that_hang_are_not_waited_for(folder: Path) -> None:
    whole = dataset_of(folder, num_worker_per_gpu=3)
    batches = train_batches(Hanging(whole.options, 0, whole.pairs, whole.cutter, whole.rule), whole.options, stop=9)
    next(batches)
    started = time.monotonic()
    batches.close()
    assert not multiprocessing.active_children()
    assert time.monotonic() - started < 4


def test_workers_share_their_memory_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mapping new shared memory for each batch costs more than cutting small patches."""
    mapped = []
    rebuild = reductions.rebuild_storage_fd

    def noted(*arguments: Any) -> Any:
        mapped.append(arguments)
        return rebuild(*arguments)  # type: ignore[no-untyped-call]

    dataset = dataset_of(folder, num_worker_per_gpu=2)
    batches = train_batches(dataset, dataset.options, stop=40)
    monkeypatch.setattr(reductions, "rebuild_storage_fd", noted)  # here, and not in the workers, which have started
    assert len(list(batches)) == 40
    assert len(mapped) == 2 * 3 * 2  # workers, batches of each that can be on their way, lq and gt
