"""What tests of scripts/upscale.py share: a small network, pictures, and what a network was called with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.images.files import write_image

NETWORK = {"type": "PlainUSR_ultra", "n_feat": 8, "im_feat": [8, 4], "scale": 2}


def picture(path: Path, height: int = 20, width: int = 26, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    write_image(path, pixels)
    return path


@contextlib.contextmanager
def input_sizes() -> Iterator[list[torch.Size]]:
    """The height and width of every picture that any module of any network is called with."""
    sizes: list[torch.Size] = []

    def note(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs and isinstance(inputs[0], torch.Tensor) and inputs[0].ndim == 4 and inputs[0].shape[1] == 3:
            sizes.append(inputs[0].shape[-2:])

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield sizes
    finally:
        hook.remove()
