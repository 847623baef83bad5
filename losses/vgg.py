"""The convolutions of VGG networks, up to a layer (Simonyan and Zisserman, ICLR 2015, arXiv 1409.1556).

A layer's number is its N in the names ``features.N.weight`` of torchvision's state dicts. Shapes: B images, H W pixels,
C channels.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.errors import InputError
from utils.suggest import near_miss
from utils.wording import shortened

VGGKind = Literal["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]

_WIDTHS = (64, 128, 256, 512, 512)  # channels of the five blocks
_DEPTHS: Mapping[str, tuple[int, ...]] = {  # and their convolutions
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
_NORM_EPS = 1e-5


class VGGFeatures:
    """The convolutions of a VGG network, cut after the deepest layer asked for; frozen, norms as in evaluation.

    Args:
        kind: of the network.
        layers: whose outputs are wanted, by name; a conv's is taken before its ReLU.
        weights: ``features.N.weight`` and what else :func:`shapes_of` lists, at least up to the deepest layer; on the
            device that the images will be on.
    """

    def __init__(self, kind: VGGKind, layers: Collection[str], weights: Mapping[str, Tensor]) -> None:
        self.layers = needed_layers(kind, layers)
        self.wanted = frozenset(layers)
        self.weights = {
            number: {key: weights[f"features.{number}.{key}"].detach() for key in keys}
            for number, name in enumerate(self.layers)
            if (keys := _tensors_of(name))
        }

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] in float32 or float64 -> the output [B, C, h, w] of each wanted layer, by its name."""
        found = {}
        x = images
        for number, name in enumerate(self.layers):
            # Weights are float32 and are left so; only images in float64 need others.
            tensors = {key: value.to(x.dtype) for key, value in self.weights.get(number, {}).items()}
            if name.startswith("conv"):
                x = F.conv2d(x, tensors["weight"], tensors["bias"], padding=1)
            elif name.startswith("bn"):
                mean, variance = tensors["running_mean"], tensors["running_var"]
                x = F.batch_norm(x, mean, variance, tensors["weight"], tensors["bias"], eps=_NORM_EPS)
            elif name.startswith("relu"):
                x = F.relu(x)  # not in place: the convolution's own output may be wanted
            else:
                x = F.max_pool2d(x, 2)
            if name in self.wanted:
                found[name] = x
        return found


def layer_names(kind: VGGKind) -> list[str]:
    """The names of the layers, in order; the place of a name is the layer's number."""
    base, _, norm = kind.partition("_")
    parts = ("conv", "bn", "relu") if norm else ("conv", "relu")
    names = []
    for block, depth in enumerate(_DEPTHS[base], start=1):
        names += [f"{part}{block}_{number}" for number in range(1, depth + 1) for part in parts]
        names.append(f"pool{block}")
    return names


def needed_layers(kind: VGGKind, layers: Collection[str]) -> list[str]:
    """The names of all layers up to the deepest of ``layers``."""
    names = layer_names(kind)
    return names[: 1 + max(names.index(layer) for layer in layers)]


def smallest_side(kind: VGGKind, layers: Collection[str]) -> int:
    """Pixels that an image's sides need for these layers: each pooling halves them."""
    poolings = [name for name in needed_layers(kind, layers) if name.startswith("pool")]
    return 1 << len(poolings)


def shapes_of(kind: VGGKind) -> dict[str, torch.Size]:
    """The tensors of a network's convolutions and norms, by their names in torchvision's state dicts."""
    shapes = {}
    width = 3
    for number, name in enumerate(layer_names(kind)):
        inside, width = width, _WIDTHS[int(re.sub(r"\D", "", name)[0]) - 1]
        for key in _tensors_of(name):
            kernel = (inside, 3, 3) if name.startswith("conv") and key == "weight" else ()
            shapes[f"features.{number}.{key}"] = torch.Size([width, *kernel])
    return shapes


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
        raise InputError("layer_weights: no layer has a factor above 0: the loss would never act; leave it out")


def _tensors_of(layer: str) -> tuple[str, ...]:
    """The names of a layer's tensors."""
    if layer.startswith("conv"):
        return ("weight", "bias")
    return ("weight", "bias", "running_mean", "running_var") if layer.startswith("bn") else ()


def _hint(name: str, known: list[str]) -> str:
    """What to write in the place of a layer that a network does not have."""
    parts = re.fullmatch(r"([a-z]+)([1-5])_\d{1,3}", name)
    if parts is not None:  # well-formed: this network's block has fewer, or no norms
        there = [layer for layer in known if layer.startswith(f"{parts[1]}{parts[2]}_")]
        if there:
            return f"; it has {' to '.join(dict.fromkeys((there[0], there[-1])))}"
    return near_miss(name, known) or "; layers are called conv1_2 (before its ReLU), relu1_2, pool1"
