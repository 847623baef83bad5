"""Losses: what the key ``type`` of a loss in an option file accepts, by the place where it stands.

``LOSSES`` compare output and target, ``PERCEPTUAL`` their features, ``ADVERSARIAL`` judge a discriminator's logits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from losses.adversarial import AdversarialLoss, GANLoss
from losses.artefacts import artefact_map
from losses.loss import Loss, LossOptions, ScheduledOptions, acts_from, factor_at
from losses.perceptual import FeatureDistance, FeatureLoss, PerceptualLossOptions, vgg_file
from losses.pixel import CharbonnierLoss, L1Loss, MSELoss, PixelLoss
from losses.spectrum import FFTLoss
from losses.variation import WeightedTVLoss
from losses.wavelet import WaveletLoss

LOSSES: Mapping[str, type[LossOptions]] = {
    "L1Loss": L1Loss,
    "MSELoss": MSELoss,
    "CharbonnierLoss": CharbonnierLoss,
    "WeightedTVLoss": WeightedTVLoss,
    "FFTLoss": FFTLoss,
    "WaveletLoss": WaveletLoss,
}
PERCEPTUAL: Mapping[str, type[PerceptualLossOptions]] = {"PerceptualLoss": PerceptualLossOptions}
ADVERSARIAL: Mapping[str, type[GANLoss]] = {"GANLoss": GANLoss}


def build(options: LossOptions, device: torch.device) -> Loss:
    """The loss that an option file describes, ready to be called on tensors of ``device``."""
    return options.build(device)


__all__ = [
    "ADVERSARIAL", "LOSSES", "PERCEPTUAL", "AdversarialLoss", "CharbonnierLoss", "FFTLoss", "FeatureDistance",
    "FeatureLoss", "GANLoss", "L1Loss", "Loss", "LossOptions", "MSELoss", "PerceptualLossOptions", "PixelLoss",
    "ScheduledOptions", "WaveletLoss", "WeightedTVLoss", "acts_from", "artefact_map", "build", "factor_at", "vgg_file",
]  # fmt: skip
