"""Losses. ``LOSSES`` holds what the key ``type`` of a loss in an option file accepts."""

from __future__ import annotations

from collections.abc import Mapping

from losses.pixel import CharbonnierLoss, L1Loss, MSELoss, PixelLoss

LOSSES: Mapping[str, type[PixelLoss]] = {"L1Loss": L1Loss, "MSELoss": MSELoss, "CharbonnierLoss": CharbonnierLoss}

__all__ = ["LOSSES", "CharbonnierLoss", "L1Loss", "MSELoss", "PixelLoss"]
