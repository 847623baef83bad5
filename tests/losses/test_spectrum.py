"""The distance of spectra against NumPy's."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pytest
import torch

from losses import FFTLoss

Norm = Literal["backward", "ortho"]


@pytest.mark.parametrize("norm", get_args(Norm))
@pytest.mark.parametrize("size", [(8, 6), (7, 9), (5, 1)])
def test_real_and_imaginary_parts_are_compared(norm: Norm, size: tuple[int, int]) -> None:
    x, y = torch.rand(2, 2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    spectra = [np.fft.rfft2(image.numpy(), norm=norm) for image in (x, y)]
    difference = np.stack([(spectra[0] - spectra[1]).real, (spectra[0] - spectra[1]).imag])
    loss = FFTLoss(loss_weight=0.5, norm=norm).build(torch.device("cpu"))
    assert loss(x, y).item() == pytest.approx(0.5 * np.abs(difference).mean(), rel=1e-13)


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        FFTLoss().build(torch.device("cpu"))(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))
