"""Errors of a full memory, whoever found it out."""

from __future__ import annotations

import errno
import re

import cv2
import numpy as np
import pytest
import torch

from utils.memory import FullMemoryError, memory_for, memory_is_full, reason_of

FULL = [
    torch.OutOfMemoryError("full"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
    RuntimeError("could not create a primitive"),
    RuntimeError("could not create a memory object"),
    RuntimeError("could not execute a primitive"),
    RuntimeError("unable to mmap 1048576 bytes from file </torch_1>: Cannot allocate memory (12)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("can't start new thread"),
    RuntimeError("std::bad_alloc"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    ImportError("lib.so: failed to map segment from shared object: Cannot allocate memory"),
]
OTHERS = [
    RuntimeError("shapes cannot be multiplied"),
    RuntimeError("could not create a primitive descriptor for a convolution forward propagation primitive"),
    ValueError("can't allocate memory"),
    OSError(errno.ENOENT, "No such file"),
    OSError(errno.ENOSPC, "No space left on device"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_errors_of_a_full_memory_are_recognised(error: Exception) -> None:
    assert memory_is_full(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_not(error: Exception) -> None:
    assert not memory_is_full(error)


def test_libraries_that_really_run_out_are_recognised() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 50)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(1 << 50)
    with pytest.raises(cv2.error) as of_opencv:
        cv2.resize(np.zeros((8, 8), np.uint8), (1 << 30, 1 << 30))
    for error in (of_torch.value, of_numpy.value, of_opencv.value):
        assert memory_is_full(error)
    assert reason_of(of_torch.value).startswith("DefaultCPUAllocator: can't allocate memory")


def test_a_message_says_for_what_and_lets_go_of_what_the_work_held() -> None:
    held: list[torch.Tensor] = []

    class Watched(torch.Tensor):
        def __del__(self) -> None:
            held.append(self)

    def work() -> None:
        features = torch.zeros(3).as_subclass(Watched)
        raise RuntimeError(f"can't allocate memory {features.shape}")

    with pytest.raises(FullMemoryError) as caught, memory_for("the batch", "sleep"):
        work()
    assert re.fullmatch(r"the memory is full: the batch \(can't .*\)\. What helps: sleep", str(caught.value))
    assert held
    assert caught.value.__cause__ is not None
    with pytest.raises(FullMemoryError, match="the batch"), memory_for("all", "nothing"):  # the inner one knows better
        raise caught.value
    with pytest.raises(RuntimeError, match="shapes"), memory_for("all", "nothing"):
        raise RuntimeError("shapes")
