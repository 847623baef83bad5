"""The artefact map against its formula, pixel by pixel, and where the formula has no slope."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from losses import artefact_map
from utils.errors import InputError


@pytest.fixture
def images() -> tuple[Tensor, Tensor, Tensor]:
    """Output, target, EMA network's output."""
    generator = torch.Generator().manual_seed(0)
    output, target, ema = torch.rand(3, 2, 3, 9, 6, dtype=torch.float64, generator=generator)
    return output, target, ema


def test_the_map_is_its_formula(images: tuple[Tensor, Tensor, Tensor]) -> None:
    found = artefact_map(*images)
    assert found.shape == (2, 1, 9, 6)
    x, y, e = (image.numpy() for image in images)
    for place in range(2):
        residual, of_ema = np.abs(y - x)[place].sum(0), np.abs(y - e)[place].sum(0)
        padded = np.pad(residual, 3, mode="reflect")
        for row, column in np.ndindex(9, 6):
            window = padded[row : row + 7, column : column + 7]
            expected = residual.var(ddof=1) ** 0.2 * window.var(ddof=1)
            if residual[row, column] < of_ema[row, column]:
                expected = 0.0
            assert found[place, 0, row, column].item() == pytest.approx(expected, rel=1e-12)
    assert 0 < int((found == 0).sum()) < found.numel()


def test_the_gradient_passes_through_the_map_unless_it_is_detached(images: tuple[Tensor, Tensor, Tensor]) -> None:
    output, target, ema = images
    output.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: artefact_map(x, target, ema), output)
    assert not artefact_map(output, target, ema, detach=True).requires_grad
    ema.requires_grad_()
    [gradient] = torch.autograd.grad(artefact_map(output, target, ema).sum(), ema, allow_unused=True)
    assert gradient is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 0.25])
def test_a_constant_residual_has_no_map_and_no_gradient(dtype: torch.dtype, offset: float) -> None:
    target = torch.rand(2, 3, 8, 8, dtype=dtype, generator=torch.Generator().manual_seed(0)).mul(8).round().div(8)
    prediction = (target + offset).requires_grad_()
    found = artefact_map(prediction, target, target + offset)
    (found * prediction - found * target).abs().mean().backward()
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert not found.any()
    assert prediction.grad is not None
    assert not prediction.grad.any()


def test_one_equal_pair_does_not_spoil_the_others_of_its_batch(images: tuple[Tensor, Tensor, Tensor]) -> None:
    output, target, ema = images
    mixed = torch.stack([target[0], output[1]]).requires_grad_()
    artefact_map(mixed, target, ema).sum().backward()
    assert mixed.grad is not None
    assert not mixed.grad[0].any()
    assert bool(mixed.grad.isfinite().all())
    assert bool(mixed.grad[1].any())


def test_images_that_do_not_fit_are_refused(images: tuple[Tensor, Tensor, Tensor]) -> None:
    output, target, ema = images
    with pytest.raises(ValueError, match="differ in shape"):
        artefact_map(output, target, ema[:1])
    small = torch.zeros(1, 3, 3, 8)
    with pytest.raises(InputError, match="ldl_opt: patches of 3 x 8 pixels are too small; at least 4 are needed"):
        artefact_map(small, small, small)
