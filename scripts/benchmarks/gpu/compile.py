"""Compile every library of kernels side by side and load it: ``python -m scripts.benchmarks.gpu.compile``.

The exit code is 1 where one does not compile or load. Libraries that were compiled before are loaded alone.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch

from ops import build, kernel_cache
from utils.command import run_command
from utils.errors import InputError, StorageError


def main(argv: Sequence[str]) -> int:
    """Compile, load, print a line for each library."""
    parser = argparse.ArgumentParser(prog="compile", description="Compile and load every library of kernels.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="cpu: its kernels alone")
    typed = parser.parse_args(argv)
    try:
        targets = [*(build.cuda_targets() if typed.device == "cuda" else ()), *build.cpu_targets()]
    except kernel_cache.Unusable as reason:
        raise InputError(f"the kernels cannot be compiled: {reason}") from None
    cancelled = threading.Event()
    # Nearly all of the time is that of compilers.
    with ThreadPoolExecutor(len(targets)) as pool, kernel_cache.cancels(cancelled):
        jobs = {pool.submit(compiled, target, cancelled): target.name for target in targets}
        failures = [jobs[job] for job in as_completed(jobs) if not job.result()]
    if failures:
        print(f"error: {', '.join(failures)}", file=sys.stderr)
    return 1 if failures else 0


def compiled(target: kernel_cache.BuildTarget, cancelled: threading.Event) -> bool:
    """Whether a library could be compiled and loaded; prints what happened."""
    started = time.perf_counter()
    try:
        path = kernel_cache.library(target, retry=True, cancelled=cancelled)
        torch.ops.load_library(str(path))
    except (kernel_cache.Unusable, InputError, StorageError, OSError) as error:
        print(f"{target.name}: {error}", flush=True)
        return False
    print(f"{target.name}: loaded after {time.perf_counter() - started:.1f} s", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(run_command(main))
