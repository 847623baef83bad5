"""The colour mean that many networks subtract, and the channels of images."""

from __future__ import annotations

import torch
from torch import Tensor

from utils.errors import InputError

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


def image_mean(channels: int) -> Tensor:
    """[channels, 1, 1], default type: DIV2K's mean for three channels, else zeros."""
    values = DIV2K_MEAN if channels == len(DIV2K_MEAN) else (0.0,) * channels
    return torch.tensor(values).view(-1, 1, 1)


def same_channels(network: str, num_in_ch: int, num_out_ch: int) -> int:
    """The channels of input and output, where published arguments give both; InputError unless they are equal."""
    if num_in_ch != num_out_ch:
        raise InputError(f"{network}: num_out_ch must be num_in_ch, {num_in_ch}, got {num_out_ch}")
    return num_in_ch
