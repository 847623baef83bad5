from __future__ import annotations

import pytest
import torch

from archs.layers.image import image_mean


def test_image_mean() -> None:
    assert image_mean(3).flatten().tolist() == pytest.approx([0.4488, 0.4371, 0.4040])
    assert torch.equal(image_mean(1), torch.zeros(1, 1, 1))
    assert image_mean(4).shape == (4, 1, 1)
