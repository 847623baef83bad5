"""Compiled kernels in tests: without a compiler their tests skip; with one, kernels that do not build fail."""

from __future__ import annotations

import pytest
import torch

from ops import build
from ops.kernel_cache import Unusable


def compiler() -> str:
    """The C++ compiler; skips the test where there is none."""
    try:
        return build.find_compiler()
    except Unusable as reason:
        pytest.skip(str(reason))


def has_compiler() -> bool:
    """Whether there is a C++ compiler."""
    try:
        build.find_compiler()
    except Unusable:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")


def require_cpu_kernels(part: str) -> None:
    """Load the kernels of ops/csrc/PART_cpu.cpp."""
    compiler()
    reason = build.cpu_extension(part)
    assert reason is None, reason


def require_tracing(backend: str) -> None:
    """Skip the test where compiled graphs do without this project's kernels."""
    if backend in ("chunked", "native") and not hasattr(torch.compiler, "is_exporting"):
        pytest.skip("this version of torch cannot tell compiling from exporting")
