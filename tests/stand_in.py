"""Programs on a type of devices that has nothing but memory: ``python tests/stand_in.py LIBRARY PROGRAM ARGUMENTS``.

PyTorch takes the device, "standin", for an accelerator, as it takes those of its plug-ins (tests/stand_in.cpp).
"""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils.backend_registration import rename_privateuse1_backend

from ops import kernel_cache
from ops.build import find_compiler, torch_flags
from utils.command import run_command

NAME = "standin"
LIMIT = "STAND_IN_LIMIT"
"""The environment variable that says how many bytes the device has."""
_SOURCE = Path(__file__).with_suffix(".cpp")


def library() -> Path:
    """The compiled device, through the cache that the kernels use; about ten seconds the first time.

    Raises:
        kernel_cache.Unusable: there is no compiler.
    """
    compiler = find_compiler()
    torch_lib = Path(torch.__file__).resolve().parent / "lib"
    step = (compiler, "-c", str(_SOURCE), *torch_flags(), "-O0")
    link = (compiler, "-shared", f"-L{torch_lib}", "-ltorch_cpu", "-lc10")
    facts = (_SOURCE.read_text(), str(torch.__version__))
    return kernel_cache.library(kernel_cache.BuildTarget("stand-in device", 20, (step,), link, facts), retry=True)


def attach(path: Path) -> torch.device:
    """Make the device that of this process, which cannot be taken back; its first and only one is returned."""
    torch.ops.load_library(str(path))
    rename_privateuse1_backend(NAME)
    module = types.ModuleType(f"torch.{NAME}")
    vars(module).update(
        is_available=lambda: True, device_count=lambda: 1, current_device=lambda: 0,
        _is_in_bad_fork=lambda: False, manual_seed_all=lambda seed: None,  # what torch.manual_seed asks for
        get_amp_supported_dtype=list,  # none; torch.utils.checkpoint asks
    )  # fmt: skip
    torch._register_device_module(NAME, module)
    if LIMIT in os.environ:
        torch.ops.stand_in.limit(int(os.environ[LIMIT]))
    return torch.device(NAME, 0)


def main() -> int:
    """Run a program of this repository, given by its path, with its arguments."""
    from tests.runs import main_of

    path, program, *arguments = sys.argv[1:]
    attach(Path(path))
    return run_command(main_of(program), arguments)


if __name__ == "__main__":
    sys.exit(main())
