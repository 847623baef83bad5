"""What a run was made with: versions and hardware, written beside its results."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from utils.device_memory import peak_device_memory, reset_peak_device_memory
from utils.devices import abilities, cards, processor
from utils.heap import give_freed_memory_back

_SLACK = 2**20  # bytes that a process grows by while it looks at itself
RETURNING_MEMORY: Mapping[str, str] = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Environment of a process whose peak is to be measured: fixed thresholds make glibc give memory back at once, so that
the peak is the work's own."""
# (limit, used): containers are stopped when they exceed these, whatever the machine has left (control groups 2 and 1).
CONTAINER_LIMITS: Sequence[tuple[str, str]] = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def versions() -> dict[str, str]:
    """Names and versions of the libraries that results depend on."""
    import cv2  # here: networks need neither it nor NumPy, and importing OpenCV takes a tenth of importing torch
    import numpy as np

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a subclass of str, which weights-only loading refuses
        "cuda": torch.version.cuda or "none",
        **({"rocm": torch.version.hip} if torch.version.hip else {}),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


def hardware() -> dict[str, str]:
    """Processor, cores that this process may use, threads, and accelerators, most of which are GPUs."""
    return {
        "cpu": processor(),
        "cores": str(available_cores()),
        "threads": str(torch.get_num_threads()),
        "gpus": ", ".join(cards()) or "none",
    }


def available_cores() -> int:
    """Number of CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory(device: torch.device | None = None) -> int:
    """Most bytes in use so far: of a device, or of this process for the CPU and None; 0 where it is unknown.

    Asking the allocator of a device does not wait for the device.
    """
    if device is not None and not abilities(device).in_main_memory:
        return peak_device_memory(device)
    return _status("VmHWM") or 0


def _status(entry: str) -> int | None:
    """Bytes, as Linux reports them of this process."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:")), None)


def available_memory(container_limits: Sequence[tuple[str, str]] = CONTAINER_LIMITS) -> int | None:
    """Bytes of main memory that this process may still take, or None where it is unknown.

    Copies of files, which the system drops when memory is asked for, count as free.

    Args:
        container_limits: files that hold the limit of a container and what it uses, in bytes; the parts of what it
            uses are in ``memory.stat`` beside them.
    """
    free = _meminfo("MemAvailable")
    found = [] if free is None else [free]
    for limit, used in container_limits:
        if Path(limit).exists() and Path(used).exists():
            text = Path(limit).read_text().strip()
            if text.isdecimal():  # "max": no limit
                needed = int(Path(used).read_text()) - _copies_of_files(Path(used).with_name("memory.stat"))
                found.append(max(0, int(text) - max(0, needed)))
    return min(found, default=None)


def obtainable_memory() -> int | None:
    """:func:`available_memory` with the swap space that is free: what asks for more is bound to fail."""
    free = available_memory()
    return None if free is None else free + (_meminfo("SwapFree") or 0)


def _meminfo(entry: str) -> int | None:
    """Bytes, as Linux reports them of the whole machine."""
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:")), None)


def _copies_of_files(stat: Path) -> int:
    """Bytes of files that a container's system keeps in memory as long as there is room."""
    lines = [line.split() for line in stat.read_text().splitlines()] if stat.exists() else []
    parts = {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdecimal()}
    return sum(parts.get(f"total_{kind}", parts.get(kind, 0)) for kind in ("inactive_file", "active_file"))


def resident_memory() -> int | None:
    """Bytes that this process has in memory, without what it has freed and kept; None where it is unknown."""
    give_freed_memory_back()
    return _status("VmRSS")


def peak_growth(work: Callable[[], object], before: int) -> int | None:
    """By how many bytes this process is larger, at its most, while it does some work; None where that is unknown.

    Args:
        work: what is done.
        before: the size with which is compared, of :func:`resident_memory`.
    """
    now = resident_memory()
    reset_peak_memory()
    if now is None or peak_memory() > now + _SLACK:  # the peak is that of earlier work: it could not be reset
        return None
    work()
    return max(0, peak_memory() - before)


def reset_peak_memory(device: torch.device | None = None) -> None:
    """Let :func:`peak_memory` of the same device count from now on, where the system allows it."""
    if device is not None and not abilities(device).in_main_memory:
        reset_peak_device_memory(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
