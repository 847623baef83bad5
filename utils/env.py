"""What a run was made with: versions and hardware, written beside its results."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import cv2
import numpy as np
import torch


def versions() -> dict[str, str]:
    """Names and versions of the libraries that decide about results."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a subclass of str, which weights-only loading refuses
        "cuda": torch.version.cuda or "none",
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


def hardware() -> dict[str, str]:
    """Processor, cores that this process may use, threads, and GPUs."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _processor(),
        "cores": str(available_cores()),
        "threads": str(torch.get_num_threads()),
        "gpus": ", ".join(gpus) or "none",
    }


def available_cores() -> int:
    """Number of CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
