"""Weights of VGG networks as the recorded cases have them: derived from names, in float64."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from losses.vgg import VGGKind, shapes_of
from tests.golden import seeded


def seeded_vgg(kind: VGGKind = "vgg19", last: int = 1000) -> dict[str, Tensor]:
    """The state dict of a network's convolutions (no norms) up to ``features.LAST``, by torchvision's names."""
    return {
        name: torch.from_numpy(
            seeded().seeded_array(name, tuple(shape), 0.1 if len(shape) == 1 else 1 / math.sqrt(9 * shape[1]))
        )
        for name, shape in shapes_of(kind).items()
        if int(name.split(".")[1]) <= last
    }


def write_seeded_vgg(path: Path, kind: VGGKind = "vgg19", last: int = 1000) -> Path:
    """A file of :func:`seeded_vgg`, as torchvision's are."""
    torch.save(seeded_vgg(kind, last), path)
    return path
