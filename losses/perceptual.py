"""The distance of features of a VGG network, and of their correlations (style).

Shapes: B images, H W pixels; features: C channels, h w positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from losses.loss import Reduction, ScheduledOptions
from losses.vgg import VGGKind, check_layers
from utils.errors import InputError
from utils.typed import option

Criterion = Literal["l1", "l2", "fro"]


class FeatureLoss(Protocol):
    """A loss of features that is ready to be called."""

    @property
    def reduction(self) -> Reduction:
        """How it sums up over a batch."""

    def terms(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Its terms by name, each with its weight."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerceptualLossOptions(ScheduledOptions):
    """Perceptual and style loss: features of a VGG network trained on ImageNet (Johnson et al., ECCV 2016)."""

    layer_weights: Mapping[str, float] = option(
        "the features that are compared, each with its factor: conv5_4: 1; a conv is taken before its ReLU"
    )
    vgg_type: VGGKind = option("whose features", "vgg19")
    vgg_weights: Path | None = option(
        "torchvision's ImageNet weights of that network, .pth or .safetensors; null: the file of torchvision's name in "
        "experiments/pretrained_models, or in torchvision's cache folder; nothing is downloaded",
        None,
    )
    use_input_norm: bool = option("images are normalised by ImageNet's mean and deviation first", True)
    range_norm: bool = option("images are in [-1, 1] and are brought to [0, 1] first", False)
    perceptual_weight: float = option("factor of the distance of the features; 0 or below: none", 1.0)
    style_weight: float = option("factor of the distance of their Gram matrices; 0 or below: none", 0.0)
    criterion: Criterion = option(
        "the distance: l1: mean absolute, l2: mean square, fro: Frobenius norm of the whole batch, as published", "l1"
    )

    def __post_init__(self) -> None:
        """Look at layers and weights together."""
        super().__post_init__()
        check_layers(self.vgg_type, self.layer_weights)
        if self.perceptual_weight <= 0 and self.style_weight <= 0:
            raise InputError(
                "perceptual_weight and style_weight: neither is above 0, so the loss would never act; leave it out"
            )

    def build(self, device: torch.device) -> FeatureLoss:
        """The loss, with its network on ``device``."""
        raise NotImplementedError
