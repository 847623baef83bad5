"""Losses. ``LOSSES`` holds what the key ``type`` of a loss in an option file accepts; ``build`` makes one callable."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from losses.loss import Loss, LossOptions
from losses.pixel import CharbonnierLoss, L1Loss, MSELoss, PixelLoss

LOSSES: Mapping[str, type[LossOptions]] = {
    "L1Loss": L1Loss,
    "MSELoss": MSELoss,
    "CharbonnierLoss": CharbonnierLoss,
}


def build(options: LossOptions, device: torch.device) -> Loss:
    """The loss that an option file describes, ready to be called on tensors of ``device``."""
    return options.build(device)


__all__ = ["LOSSES", "CharbonnierLoss", "L1Loss", "Loss", "LossOptions", "MSELoss", "PixelLoss", "build"]
