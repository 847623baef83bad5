"""Random numbers with a name: every draw is reproducible from the numbers that key its stream."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from utils.devices import abilities, module_of, present


def random_stream(*key: int) -> np.random.Generator:
    """A stream of its own for each key, for instance (seed, epoch, sample): equal keys, equal numbers, anywhere."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries that a user plugs in draw from the global one
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The states of the global PyTorch generators, in a form that weights-only loading accepts.

    "torch" is that of the CPU; those of accelerators, where they have any, are a list under the type of the device.
    """
    generators = _generators()
    own = {device.type: [module_of(other.type).get_rng_state(other) for other in generators] for device in generators}
    return {"torch": torch.get_rng_state(), **own}


def set_random_state(state: dict[str, Any]) -> None:
    """Continue the global PyTorch generators from :func:`random_state`; of accelerators, those that are here too."""
    torch.set_rng_state(state["torch"])
    for device in _generators():
        saved = state.get(device.type, [])
        if device.index < len(saved):
            module_of(device.type).set_rng_state(saved[device.index], device)


def _generators() -> list[torch.device]:
    """The accelerators of this machine whose generators have a state that can be kept."""
    there = present()
    devices = [torch.device(f"{there.type}:{index}") for index in range(there.count)]
    return [device for device in devices if abilities(device).generator]


@contextlib.contextmanager
def random_state_before(device: torch.device, error: type[BaseException]) -> Iterator[None]:
    """Where ``error`` is raised in the block, the PyTorch generators of the CPU and ``device`` are as they were before.

    It takes some microseconds and does not wait for a device.
    """
    state = torch.get_rng_state()
    of_device = module_of(device.type).get_rng_state(device) if abilities(device).generator else None
    try:
        yield
    except error:
        torch.set_rng_state(state)
        if of_device is not None:
            module_of(device.type).set_rng_state(of_device, device)
        raise
