"""Random numbers with a name: every draw is reproducible from the numbers that key its stream."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def random_stream(*key: int) -> np.random.Generator:
    """A stream of its own for each key, for instance (seed, epoch, sample): equal keys, equal numbers, anywhere."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries that a user plugs in draw from the global one
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of the global PyTorch generators, in a form that weights-only loading accepts."""
    state: dict[str, Any] = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Continue the global PyTorch generators from :func:`random_state`."""
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextlib.contextmanager
def random_state_before(device: torch.device, error: type[BaseException]) -> Iterator[None]:
    """Where ``error`` is raised in the block, the PyTorch generators of the CPU and ``device`` are as they were before.

    It takes some microseconds and does not wait for a GPU.
    """
    state = torch.get_rng_state()
    of_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        yield
    except error:
        torch.set_rng_state(state)
        if of_device is not None:
            torch.cuda.set_rng_state(of_device, device)
        raise
