"""The colour mean that many networks subtract."""

from __future__ import annotations

import torch
from torch import Tensor

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def image_mean(channels: int) -> Tensor:
    """[channels, 1, 1] float32: DIV2K's mean for three channels, else zeros."""
    values = DIV2K_MEAN if channels == len(DIV2K_MEAN) else (0.0,) * channels
    return torch.tensor(values).view(-1, 1, 1)
