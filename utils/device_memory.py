"""How much memory a device has, and how much of it is in use.

The functions are those of PyTorch's module for the device: those of torch.accelerator are younger than PyTorch 2.6.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from utils.devices import abilities, module_of


class DeviceMemory(NamedTuple):
    """Bytes of an accelerator.

    Attributes:
        free: for this process, with what PyTorch keeps for later.
        total: all there are.
    """

    free: int
    total: int


def device_memory(device: torch.device) -> DeviceMemory | None:
    """The memory of an accelerator now; None where it does not tell, and of the CPU."""
    if not abilities(device).memory:
        return None
    module = module_of(device.type)
    if hasattr(module, "mem_get_info"):
        free, total = module.mem_get_info(device)
        return DeviceMemory(free + module.memory_reserved(device) - module.memory_allocated(device), total)
    # MPS: its share of the main memory, of which the driver holds some for this process.
    total = module.recommended_max_memory()
    return DeviceMemory(max(0, total - module.current_allocated_memory()), total)


def allocated_memory(device: torch.device) -> int:
    """Bytes of the tensors on a device; of one whose abilities have ``peak``."""
    return int(module_of(device.type).memory_allocated(device))


def peak_device_memory(device: torch.device) -> int:
    """Most bytes that tensors had at a time since the last reset, 0 where the device does not count; does not wait."""
    return int(module_of(device.type).max_memory_allocated(device)) if abilities(device).peak else 0


def reset_peak_device_memory(device: torch.device) -> None:
    """Let :func:`peak_device_memory` count from now on."""
    if abilities(device).peak:
        module_of(device.type).reset_peak_memory_stats(device)


def release_kept_memory(device: torch.device) -> None:
    """Give back what PyTorch keeps for later: blocks of other sizes would be in the way of what comes next."""
    if device.type != "cpu" and hasattr(module_of(device.type), "empty_cache"):
        module_of(device.type).empty_cache()
