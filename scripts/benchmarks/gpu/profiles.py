"""Which kernels take the time of PFT, HAT and ESC: ``python -m scripts.benchmarks.gpu.profiles --output DIR``.

The file is written anew with every profile. The exit code is 1 where one failed.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from scripts.benchmarks.profiling import CUDA_HEAD, gpu_works, kernel_profile, tiny_work
from utils.command import run_command
from utils.errors import InputError
from utils.files import write_text

FILE = "profile.md"


def main(argv: Sequence[str]) -> int:
    """Profile, write."""
    parser = argparse.ArgumentParser(prog="profiles", description="Which kernels take the time.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=f"{FILE} is written there")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="cpu: one small work")
    typed = parser.parse_args(argv)
    if typed.device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device that torch can use")
    sections, failures = [CUDA_HEAD], 0
    for title, prepare in gpu_works() if typed.device == "cuda" else [tiny_work()]:
        try:
            sections.append(kernel_profile(title, prepare, typed.device))
            print(f"{title}: done", flush=True)
        except (RuntimeError, MemoryError) as error:  # CUDA's errors; the others are worth profiling
            traceback.print_exc()
            sections.append(f"### {title}\n\nfailed: {next(iter(str(error).splitlines()), '')}\n")
            failures += 1
        write_text(typed.output / FILE, "\n".join(sections))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
