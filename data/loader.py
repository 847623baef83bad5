"""Training batches: prepared in workers or in this process, moved to the device, always the same ones.

Shapes: B batch size, C channels, h w low-resolution and H W high-resolution pixels.
"""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from data.dataset_options import DatasetOptions
from data.degradations import PairPool
from data.patches.sampler import batch_stream
from data.ring import Parcel, Receiver, Ring
from data.samples import PixelBatch, Queries, SampleKey, TrainDataset
from utils.devices import abilities, exact_device, streams
from utils.env import available_cores
from utils.errors import InputError, WorkerError
from utils.log import get_logger
from utils.memory import FullMemoryError, memory_is_full, reason_of
from utils.threads import without_threads_of_its_own

Item = TypeVar("Item")
_OF_WORKER = 2  # batches that each worker prepares ahead
_TURNS = _OF_WORKER + 1  # and the one that was handed over last, which is copied before the next one is asked for
_NOTE = 1024  # bytes of what a worker tells about itself
_SHARED = Path("/dev/shm")
# PyTorch's words: at its own attempts, and of a process that the system ended at the first touch of such memory.
_SHARED_FULL = re.compile(r"shared memory\(shm\).*No space left|file </?torch_.*No space left|Bus error", re.DOTALL)
_DIED = re.compile(r"DataLoader worker \(pid")
_FEWER = "fewer num_worker_per_gpu"
_LATE = 1  # seconds without a batch, after which the caller may lose its patience
_POLITE = 0.5  # seconds until workers that were asked to end are told to
_PATIENCE = 2.0  # seconds until a process whose connection is gone has ended


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    Attributes:
        lq: low-resolution patches, float32 [B, C, h, w].
        targets: what the output is compared with, by name, float32 [B, C, H, W]; "gt" is the ground truth.
        size: (H, W) of the output that is wanted.
        names: the file of each sample.
        epoch: of the first sample.
        queries: the points that the network is asked for, whose colours the targets [B, C, Q, 1] are; None: all pixels
            of the output.
    """

    lq: Tensor
    targets: Mapping[str, Tensor]
    size: tuple[int, int]
    names: tuple[str, ...]
    epoch: int
    queries: Queries | None = None

    @classmethod
    def of_pair(cls, lq: Tensor, gt: Tensor, names: tuple[str, ...], epoch: int) -> Batch:
        """The batch whose only target is the ground truth."""
        return cls(lq, {"gt": gt}, (gt.shape[-2], gt.shape[-1]), names, epoch)

    @property
    def gt(self) -> Tensor:
        """The ground truth [B, C, H, W]."""
        return self.targets["gt"]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.lq)

    def tensors(self) -> Iterator[Tensor]:
        """The low-resolution patches, every target, then what is asked for."""
        yield self.lq
        yield from self.targets.values()
        yield from self.queries or ()

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with every tensor put through ``change``, which keeps the size of the images."""
        targets = {name: change(target) for name, target in self.targets.items()}
        queries = None if self.queries is None else Queries(*map(change, self.queries))
        return replace(self, lq=change(self.lq), targets=targets, queries=queries)

    def micro_batches(self, count: int) -> Iterator[Batch]:
        """The samples in at most ``count`` parts of nearly equal size, in their order."""
        parts = min(count, len(self))
        lqs = self.lq.tensor_split(parts)
        targets = {name: target.tensor_split(parts) for name, target in self.targets.items()}
        queries = None if self.queries is None else [tensor.tensor_split(parts) for tensor in self.queries]
        start = 0
        for i, lq in enumerate(lqs):
            yield replace(
                self, lq=lq, targets={name: split[i] for name, split in targets.items()},
                names=self.names[start : start + len(lq)],
                queries=None if queries is None else Queries(*(split[i] for split in queries)),
            )  # fmt: skip
            start += len(lq)


def train_batches(
    dataset: TrainDataset,
    options: DatasetOptions,
    *,
    start: int = 0,
    stop: int,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    channels_last: bool = False,
    waiting: Callable[[], None] = lambda: None,
) -> Generator[Batch, None, None]:
    """The batches of iterations ``start + 1`` .. ``stop``, on ``device``.

    Content and order depend on the data set, its seed, the batch size and the place in the stream alone: not on
    workers, prefetching or where a run was resumed. The global random generators are left as they are.

    Images to be kept in memory are decoded, and workers started, before this returns; closing the generator, or
    dropping it, dismisses the workers.

    Args:
        dataset: where the samples come from.
        options: batch size, enlarge ratio, workers, prefetching.
        start: iterations already done.
        stop: iterations in all.
        rank: of this process among those that share the stream.
        world_size: number of these processes.
        device: where the batches are needed.
        channels_last: their memory layout.
        waiting: called about every second while a batch of workers is late, as from a network file system that does
            not answer; what it raises ends the waiting and dismisses the workers.

    Raises:
        InputError: an image cannot be used, now or while iterating; the message names it, wherever it was read.
        WorkerError: a worker process died, and the message names the file that it was reading; or the system has too
            little shared memory, or too few open files, for what workers hand over.
        FullMemoryError: the memory of a worker process is full.
    """
    device = torch.device(device)
    dataset.preload()
    pool = None
    if dataset.pool_size:
        pool = PairPool(dataset.pool_size, options.batch_size_per_gpu, dataset.seed, rank, world_size)

    def keys(first: int, last: int) -> Iterator[list[SampleKey]]:
        return batch_stream(
            len(dataset), options.dataset_enlarge_ratio, dataset.seed, options.batch_size_per_gpu,
            start=first, stop=last, rank=rank, world_size=world_size, shares=dataset.shares,
        )  # fmt: skip

    earlier = [] if pool is None else pool.resume(start)
    batches = chain(((step, next(keys(step, step + 1))) for step in earlier), enumerate(keys(start, stop), start))
    can = abilities(device)
    copied_ahead = options.copies_ahead and can.streams and can.pinned
    if options.copies_ahead and not copied_ahead:
        get_logger().warning(
            "%s: prefetch_mode %s needs a GPU that copies while it computes, but the device is %s; batches are not "
            "prefetched", dataset.name, options.prefetch_mode, device,
        )  # fmt: skip
    workers = _workers(options)
    if workers:
        pixels = _from_workers(dataset, batches, workers, can.pinned and options.pin_memory, waiting)
    else:
        pixels = (dataset.collect(batch, step) for step, batch in batches)
    if options.prefetch_mode == "cpu":
        pixels = _ahead(pixels, min(options.num_prefetch_queue, max(stop - start, 1)))
    place = _Placement(dataset, device, channels_last, pool, start)
    if copied_ahead:
        return _copied_ahead(pixels, place)
    return (batch for batch in map(place, pixels) if batch is not None)


def batches_ahead(options: DatasetOptions) -> int:
    """How many batches these options let be prepared at a time, beside the one that is used."""
    queue = options.num_prefetch_queue if options.prefetch_mode == "cpu" else 0
    return _workers(options) * _TURNS + queue


def _workers(options: DatasetOptions) -> int:
    return min(options.num_worker_per_gpu, available_cores())


class _Placement:
    """Brings a batch to the device and converts it there, as a whole: a quarter of the bytes, one pass.

    It goes through page-locked memory where the device copies from that: a copy from any other memory makes the host
    wait until the device has done all that it was given before, and the device for the host after that.
    For a device without float64, which is behind what samples promise to be on every device, the CPU converts it.
    """

    def __init__(
        self, dataset: TrainDataset, device: torch.device, channels_last: bool, pool: PairPool | None, start: int
    ) -> None:
        self.dataset, self.device, self.pool, self.start = dataset, device, pool, start
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.told: set[str] = set()  # each bad file is named once
        self.exact = exact_device(device)
        self.pinned = self.exact == device and abilities(device).pinned

    def __call__(self, pixels: PixelBatch) -> Batch | None:
        """The batch; None for one of an earlier run, of which only the pool takes a part."""
        for message in pixels.skipped:
            if message not in self.told:
                self.told.add(message)
                get_logger().warning("%s: another image takes the place of: %s", self.dataset.name, message)
        if self.pinned:
            pixels = pixels.moved(Tensor.pin_memory)
        moved = pixels.moved(lambda tensor: tensor.to(self.exact, non_blocking=True))
        lq, gt = self.dataset.finish(moved)
        names = pixels.names
        if self.pool is not None:
            if pixels.step < self.start:
                self.pool.refill(pixels.step, lq, gt, names)
                return None
            lq, gt, names = self.pool.exchange(pixels.step, lq, gt, names)
        lq, gt = lq.contiguous(memory_format=self.layout), gt.contiguous(memory_format=self.layout)
        batch = Batch.of_pair(lq, gt, names, pixels.epoch)
        if moved.points is not None:
            batch = replace(batch, queries=moved.points.queries())
        return batch if self.exact == self.device else batch.mapped(self._placed)

    def _placed(self, tensor: Tensor) -> Tensor:
        """A tensor of the CPU on a device that has no float64; the layout in memory stays."""
        return tensor.to(torch.float32 if tensor.dtype == torch.float64 else tensor.dtype).to(self.device)


@dataclass(frozen=True)
class _Failure:
    """An error on its way out of a worker; as an exception it would arrive with a traceback in its message."""

    kind: type[InputError | WorkerError | FullMemoryError]
    message: str


class _Collector(Dataset[Parcel | _Failure]):
    """The data set as workers see it: one "index" is the number of a batch and its keys."""

    def __init__(self, dataset: TrainDataset, workers: int) -> None:
        self.dataset = dataset
        # Written by the workers, read by this process when one of them is gone: "PID file".
        self.notes = [multiprocessing.RawArray("c", _NOTE) for _ in range(workers)]
        self.ring = Ring(_TURNS)  # each worker has its own

    def __getitem__(self, batch: tuple[int, Sequence[SampleKey]]) -> Parcel | _Failure:
        step, keys = batch
        worker = get_worker_info()
        assert worker is not None
        try:
            return self.ring.parcel(worker.id, lambda: self.dataset.collect(keys, step, self._reading))
        except InputError as error:
            return _Failure(InputError, str(error))
        except Exception as error:
            lacking = _lacking(error)
            if lacking is not None:
                return _Failure(WorkerError, f"{self.dataset.name}: {lacking}")
            if memory_is_full(error):
                what = f"the memory is full: a worker process of {self.dataset.name} ({reason_of(error)})"
                return _Failure(FullMemoryError, f"{what}. What helps: {_FEWER}, a smaller batch_size_per_gpu")
            raise

    def _reading(self, file: str) -> None:
        worker = get_worker_info()
        if worker is not None:
            self.notes[worker.id].value = f"{os.getpid()} {file}".encode(errors="backslashreplace")[: _NOTE - 1]

    def read_by_the_dead(self) -> list[str]:
        """The files that processes were reading which have ended; waits a little for one that is about to end."""
        patience = time.monotonic() + _PATIENCE
        while True:
            alive = {str(process.pid) for process in multiprocessing.active_children()}
            notes = [note.value.decode(errors="replace").partition(" ") for note in self.notes]
            files = [file for process, _, file in notes if process and process not in alive]
            if files or time.monotonic() > patience:
                return files
            time.sleep(0.05)


def _from_workers(
    dataset: TrainDataset,
    batches: Iterable[tuple[int, Sequence[SampleKey]]],
    workers: int,
    pin: bool,
    waiting: Callable[[], None],
) -> Iterator[PixelBatch]:
    collector = _Collector(dataset, workers)
    loader: DataLoader[Parcel | _Failure] = DataLoader(
        collector, batch_size=None, sampler=batches, num_workers=workers,
        timeout=_LATE, prefetch_factor=_OF_WORKER, collate_fn=_as_it_is, worker_init_fn=_start_worker,
        generator=torch.Generator(),  # without one, a number is drawn from the global generator
    )  # fmt: skip
    # PyTorch raises the death of a worker out of a signal handler, anywhere in the training step. Without the handler
    # it is found out, and raised, where the next batch is asked for.
    in_main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    handler = signal.getsignal(signal.SIGCHLD) if in_main else None
    # Started here, not by the thread that may ask for the first batch: a process forked from a thread cannot end well.
    try:
        # As many as the loader makes: what has failed to make them leaves a traceback behind.
        probes: list[object] = [multiprocessing.Queue() for _ in range(workers + 1)]
        del probes
        results = _Results(loader)
    except OSError as error:
        error.with_traceback(None)  # it would keep the object, and with it those workers that were started
        lacking = _too_small() if error.errno == errno.ENOSPC else _lacking(error)  # the disk has no part in it
        if lacking is None:
            raise
        raise WorkerError(f"{dataset.name}: {lacking}") from error
    if in_main:
        signal.signal(signal.SIGCHLD, handler)
    return _checked(results, waiting, collector, Receiver(pin=pin))


class _Results(_MultiProcessingDataLoaderIter):
    """PyTorch's iterator over what the workers send, which can dismiss them also where not all could be started."""

    def __init__(self, loader: DataLoader[Parcel | _Failure]) -> None:
        self._workers_status = [True] * loader.num_workers  # else only set when all are started
        super().__init__(loader)


def _patient(results: _Results, waiting: Callable[[], None]) -> Iterator[Parcel | _Failure]:
    """The same results; between two attempts to get one, ``waiting`` is called."""
    while True:
        try:
            result = next(results)
        except StopIteration:
            return
        except RuntimeError as error:  # PyTorch's loader has no other; it can be asked again
            if "DataLoader timed out" not in str(error):
                raise
            waiting()
            continue
        yield result


def _checked(
    results: _Results, waiting: Callable[[], None], collector: _Collector, receiver: Receiver
) -> Iterator[PixelBatch]:
    try:
        for result in _patient(results, waiting):
            if isinstance(result, _Failure):
                raise result.kind(result.message)
            yield receiver.opened(result)
    except WorkerError:
        raise
    except (RuntimeError, OSError, EOFError) as error:
        said = " ".join(str(error).split())
        lacking = _lacking(error)
        if lacking is not None:
            raise WorkerError(f"{collector.dataset.name}: {lacking}") from error
        # What PyTorch says of the exceptions of workers, not of their deaths, are faults of the program.
        died = isinstance(error, RuntimeError) and _DIED.match(said) is not None
        if isinstance(error, RuntimeError) and not died:
            raise
        files = collector.read_by_the_dead()
        # Without PyTorch's message: perhaps a batch could not be fetched from the process that had announced it.
        if not died and not files:
            raise
        raise WorkerError(
            f"{collector.dataset.name}: a process that prepares batches ended unexpectedly"
            f"{' while it read ' + ', '.join(files) if files else ''} ({said}). Out of memory: "
            "fewer num_worker_per_gpu; the same file again: remove it"
        ) from error
    finally:
        _dismiss(results)  # not left to the end of the object, which the traceback of an exception keeps


def _dismiss(results: _Results) -> None:
    """End the workers; one that hangs in a file system is not waited for, which PyTorch does for 5 s each."""

    def terminate() -> None:
        for worker in results._workers:
            worker.terminate()

    late = threading.Timer(_POLITE, terminate)
    late.start()
    results._shutdown_workers()
    late.cancel()


def _lacking(error: Exception) -> str | None:
    """What the system has too little of, beside memory, where that is what an exception of a batch comes from."""
    text = str(error)
    if _SHARED_FULL.search(text):
        return _too_small()
    if "Too many open files" in text:
        return f"the system allows this process too few open files; raise the limit (ulimit -n 65536), or set {_FEWER}"
    return None


def _too_small() -> str:
    """What to do about shared memory that is full."""
    size = ""
    if _SHARED.is_dir():
        facts = os.statvfs(_SHARED)
        size = f" ({facts.f_blocks * facts.f_frsize / 2**20:,.1f} MiB)"
    return (
        f"{_SHARED}{size}, through which worker processes hand over their batches, is too small for them; enlarge it "
        f"(mount -o remount,size=4G {_SHARED}; Docker: its option shm-size), or set {_FEWER}, or 0"
    )


def _as_it_is(item: Item) -> Item:
    return item


def _start_worker(_: int) -> None:
    # Ctrl-C and a batch system's SIGTERM reach every process of a run, but it is the main process that decides, saves
    # and dismisses its workers. Should it be killed, they notice and leave.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None and hasattr(signal, "sigwaitinfo"):  # elsewhere a SIGTERM from anybody ends a worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_leave_when_dismissed, args=(parent.pid,), daemon=True).start()
    sys.excepthook = _report_unless_left_alone
    gc.freeze()  # what the main process made is not looked through again and again, and so stays shared memory
    cv2.setNumThreads(0)  # its thread pool does not survive a fork, and the cores are taken


def _report_unless_left_alone(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an exception of a worker's thread, but not that the main process is gone in the middle of fetching a batch.

    It was killed then, and the worker is about to leave.
    """
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def _leave_when_dismissed(parent: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _ahead(source: Iterator[Item], depth: int) -> Iterator[Item]:
    """The items of ``source``, of which a thread prepares ``depth`` ahead."""
    with ThreadPoolExecutor(1) as pool:
        without_threads_of_its_own(pool)
        waiting = deque(pool.submit(next, source, None) for _ in range(depth))
        while (item := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(next, source, None))
            yield item


def _copied_ahead(source: Iterator[PixelBatch], place: _Placement) -> Generator[Batch, None, None]:
    """Batches on a device with streams; the next one is copied and converted on its own while one is being used."""
    module = streams(place.device)
    copying = module.Stream(place.device)

    def fetch() -> Batch | None:
        for pixels in source:
            with module.stream(copying):
                batch = place(pixels)
            if batch is not None:
                return batch
        return None

    batch = fetch()
    while batch is not None:
        using = module.current_stream(place.device)
        using.wait_stream(copying)
        for tensor in batch.tensors():
            tensor.record_stream(using)  # else its memory could be given away while it is still read
        following = fetch()
        yield batch
        batch = following
