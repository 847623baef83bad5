"""Convolutions of rows are those of images."""

from __future__ import annotations

import torch
from torch import nn

from archs.layers.conv import convolve, pointwise, to_bhwc


def test_rows_give_what_images_give() -> None:
    x = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    image = x.permute(0, 3, 1, 2)
    three, one = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(3, 6, 1)
    assert torch.allclose(convolve(three, x), three(image).permute(0, 2, 3, 1), atol=1e-6)
    assert torch.allclose(pointwise(one, x), one(image).permute(0, 2, 3, 1), atol=1e-6)
    assert torch.equal(to_bhwc(image), x)
    assert to_bhwc(image.contiguous()).is_contiguous()
