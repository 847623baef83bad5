"""VGG networks up to a layer (Simonyan and Zisserman, ICLR 2015), as torchvision numbers their layers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from utils.errors import InputError
from utils.suggest import near_miss
from utils.wording import shortened

VGGKind = Literal["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]

# Convolutions of the five blocks.
_DEPTHS: Mapping[str, tuple[int, ...]] = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}


def layer_names(kind: VGGKind) -> list[str]:
    """The names of the layers, in order; the position of a name is torchvision's N in ``features.N``."""
    base, _, norm = kind.partition("_")
    parts = ("conv", "bn", "relu") if norm else ("conv", "relu")
    names = []
    for block, depth in enumerate(_DEPTHS[base], start=1):
        names += [f"{part}{block}_{number}" for number in range(1, depth + 1) for part in parts]
        names.append(f"pool{block}")
    return names


def check_layers(kind: VGGKind, weights: Mapping[str, float]) -> None:
    """Look at the layers that are compared, and their factors.

    Raises:
        InputError: there is no such layer, a factor is below 0, or none is above.
    """
    known = layer_names(kind)
    for name, factor in weights.items():
        if name not in known:
            raise InputError(f'layer_weights: {kind} has no layer "{shortened(name)}"{_hint(name, known)}')
        if not 0 <= factor <= 1e6:
            raise InputError(f"layer_weights.{name}: expected a number from 0 to 1,000,000, got {factor:g}")
    if not any(weights.values()):
        raise InputError("layer_weights: no layer has a factor above 0, so the loss would never act; leave it out")


def _hint(name: str, known: list[str]) -> str:
    """What to write in the place of a layer that a network does not have."""
    parts = re.fullmatch(r"([a-z]+)([1-5])_\d{1,3}", name)
    if parts is not None:  # well-formed: this network's block has fewer, or no norms
        there = [layer for layer in known if layer.startswith(f"{parts[1]}{parts[2]}_")]
        if there:
            return f"; it has {' to '.join(dict.fromkeys((there[0], there[-1])))}"
    return near_miss(name, known) or "; layers are called conv1_2 (before its ReLU), relu1_2, pool1"
