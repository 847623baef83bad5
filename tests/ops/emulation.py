"""CUDA kernels on emulated threads (tests/ops/emulate.h): compiling them, and buffers that notice stray accesses."""

from __future__ import annotations

import ctypes
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ops import kernel_cache
from tests.ops.kernels import compiler

HERE = Path(__file__).resolve().parent
VALUES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}  # as in ops/csrc/cuda_types.h
ENTRIES = {torch.int16: 0, torch.int32: 1}
_MARGIN = 16  # bytes
SHARED = 232448
"""Bytes that a block of an H100 may share: kernels keep the rows that queries list there, where they fit."""


def built(name: str, program: list[str], source: Path, flags: tuple[str, ...]) -> Path:
    """Compile a file with a program, through the cache that the kernels use: again once what it includes changes."""
    facts = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(_read(source)))
    step = (*program, "-c", str(source), *flags)
    return kernel_cache.library(kernel_cache.BuildTarget(name, 20, (step,), (*program, "-shared"), facts), retry=True)


def _read(source: Path) -> set[Path]:
    """A file and those of the repository that it includes, directly or not."""
    found, left = set[Path](), [source]
    while left:
        path = left.pop()
        found.add(path)
        for name in re.findall(r'^\s*#\s*include "([^"]+)"', path.read_text(), re.MULTILINE):
            beside = [folder / name for folder in (path.parent, HERE, kernel_cache.SOURCES)]
            left += [next(filter(Path.exists, beside))]
    return found


def emulated(name: str) -> ctypes.CDLL:
    """The functions of tests/ops/NAME_emulated.cpp."""
    flags = ("-fPIC", "-O1", "-std=c++17", "-Wno-unknown-pragmas", f"-I{HERE}", f"-I{kernel_cache.SOURCES}")
    return ctypes.CDLL(str(built(f"emulated {name}", [compiler()], HERE / f"{name}_emulated.cpp", flags)))


class Guarded:
    """A buffer between margins: a kernel that reads them computes NaN, one that writes there is found out."""

    def __init__(self, x: Tensor) -> None:
        margin = _MARGIN // x.element_size()
        fill = float("nan") if x.is_floating_point() else -1
        self.whole = torch.full((x.numel() + 2 * margin,), fill, dtype=x.dtype)
        self.inside = self.whole[margin : margin + x.numel()].view(x.shape).copy_(x.detach())
        self.margins = torch.cat([self.whole[:margin], self.whole[margin + x.numel() :]])

    def pointer(self) -> ctypes.c_void_p:
        """Its address, on a boundary of 16 bytes as a GPU's buffers are."""
        assert self.inside.data_ptr() % 16 == 0
        return ctypes.c_void_p(self.inside.data_ptr())

    def taken(self) -> Tensor:
        """The contents, the margins being what they were."""
        margin = len(self.margins) // 2
        now = torch.cat([self.whole[:margin], self.whole[len(self.whole) - margin :]])
        assert torch.equal(now.view(torch.uint8), self.margins.view(torch.uint8)), "written outside of a buffer"
        return self.inside


def launch(
    library: ctypes.CDLL,
    name: str,
    types: tuple[torch.dtype, torch.dtype],
    buffers: Sequence[Tensor | None],
    *rest: object,
) -> list[Tensor]:
    """Run a launcher for values and entries of these types; the contents of all buffers afterwards."""
    guarded = [None if buffer is None else Guarded(buffer) for buffer in buffers]
    pointers = (ctypes.c_void_p * len(buffers))(*(None if g is None else g.pointer() for g in guarded))
    assert getattr(library, name)(VALUES[types[0]], ENTRIES[types[1]], pointers, *rest) == 0
    return [torch.empty(0) if g is None else g.taken() for g in guarded]


def unset(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A result that is still to be written."""
    return torch.full(shape, float("nan") if dtype.is_floating_point else -7, dtype=dtype)


def aligned_rows(x: Tensor) -> Tensor:
    """Zeros after the last dimension, up to a multiple of 16 bytes."""
    return torch.nn.functional.pad(x, (0, -x.shape[-1] % (16 // x.element_size())))


def launchers(name: str) -> ctypes.CDLL:
    """:func:`emulated` for a part of the focused attention, whose sizes are 64-bit numbers."""
    library = emulated(name)
    for function in ("parts", "workspace"):
        getattr(library, function).restype = ctypes.c_int64
    return library
