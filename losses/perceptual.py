"""The distance of features of a VGG network, and of their correlations (style).

Shapes: B images, H W pixels; features: C channels, h w positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from losses import vgg_weights
from losses.loss import Reduction, ScheduledOptions, check_shapes, in_full_precision
from losses.vgg import VGGFeatures, VGGKind, check_layers, smallest_side
from ops.autocast import without_autocast
from utils.errors import InputError
from utils.typed import option

Criterion = Literal["l1", "l2", "fro"]

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # R G B of ImageNet


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

    @property
    def layers(self) -> list[str]:
        """The layers that are compared."""
        return [name for name, factor in self.layer_weights.items() if factor > 0]

    @property
    def smallest(self) -> int:
        """Pixels that the sides of images need at least."""
        return smallest_side(self.vgg_type, self.layers)

    @property
    def mean_over_images(self) -> bool:
        """Whether the loss of a batch is the mean of those of its parts, so that it may be computed in parts."""
        return self.criterion != "fro"

    def build(self, device: torch.device) -> FeatureDistance:
        """The loss, with its network on ``device``.

        Raises:
            InputError: the weights are not there, or the file is of something else.
        """
        return FeatureDistance(self, device)


def vgg_file(options: PerceptualLossOptions) -> Path:
    """The file whose weights a perceptual loss will read.

    Raises:
        InputError: there is none; the message says which one to get and where to put it.
    """
    return vgg_weights.find(options.vgg_type, options.vgg_weights)


class FeatureDistance:
    """What :class:`PerceptualLossOptions` describes.

    Args:
        options: of the loss.
        device: where its network will be.

    Raises:
        InputError: the weights are not there, or the file is of something else.
    """

    reduction: Reduction = "mean"

    def __init__(self, options: PerceptualLossOptions, device: torch.device) -> None:
        self.options = options
        weights = vgg_weights.read(vgg_file(options), options.vgg_type, options.layers, device)
        self.features = VGGFeatures(options.vgg_type, options.layers, weights)

    def terms(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The losses "percep" and "style", scalars in float32 at least, those whose weight is above 0.

        Args:
            prediction: [B, 3, H, W] R G B in [0, 1]; values beyond are not clamped, which would end their gradient.
            target: of the same shape; no gradient passes.

        Raises:
            ValueError: the shapes differ.
            InputError: the images have other channels, or are too small for the deepest layer.
        """
        check_shapes(prediction, target)
        _check_images(self.options, prediction.shape)
        prediction, target = in_full_precision(prediction, target)
        with without_autocast(prediction.device):
            with torch.no_grad():
                of_target = self.features(_prepared(self.options, target))
            of_prediction = self.features(_prepared(self.options, prediction))
            return self._distances(of_prediction, of_target)

    def _distances(self, prediction: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms, of the features of both."""
        options, compare = self.options, _CRITERIA[self.options.criterion]
        found = {}
        if options.perceptual_weight > 0:
            distances = [options.layer_weights[k] * compare(prediction[k], target[k]) for k in options.layers]
            found["percep"] = options.perceptual_weight * torch.stack(distances).sum()
        if options.style_weight > 0:
            distances = [
                options.layer_weights[k] * compare(_gram(prediction[k]), _gram(target[k])) for k in options.layers
            ]
            found["style"] = options.style_weight * torch.stack(distances).sum()
        return found


def _frobenius(one: Tensor, other: Tensor) -> Tensor:
    """The norm of the difference; torch's gradient of it at 0 is 0."""
    norm: Tensor = torch.linalg.vector_norm(one - other)
    return norm


_CRITERIA: Mapping[Criterion, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": F.l1_loss,
    "l2": F.mse_loss,
    "fro": _frobenius,
}


def _check_images(options: PerceptualLossOptions, shape: torch.Size) -> None:
    """Raise InputError where images do not fit the network."""
    if shape[1] != 3:
        raise InputError(f"PerceptualLoss compares R G B images, but these have {shape[1]} channels; leave it out")
    if min(shape[-2:]) < options.smallest:
        raise InputError(
            f"PerceptualLoss: patches of {shape[-2]} x {shape[-1]} pixels are too small for its layers "
            f"({', '.join(options.layers)}); at least {options.smallest} x {options.smallest} are needed"
        )


def _prepared(options: PerceptualLossOptions, images: Tensor) -> Tensor:
    """Images as the network takes them; the constants are plain numbers, which are exact in every precision."""
    if options.range_norm:
        images = (images + 1) / 2
    if not options.use_input_norm:
        return images
    planes = zip(images.unbind(1), _MEAN, _DEVIATION, strict=True)
    return torch.stack([(plane - mean) / deviation for plane, mean, deviation in planes], dim=1)


def _gram(features: Tensor) -> Tensor:
    """The correlations of channels, [B, C, h, w] -> [B, C, C]."""
    rows = features.flatten(2)  # [B, C, h*w]
    return rows @ rows.transpose(1, 2) / (rows.shape[1] * rows.shape[2])
