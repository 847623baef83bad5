"""The artefact map of LDL: where an output deviates from its target in a way that its EMA network does not.

Details or Artifacts: A Locally Discriminative Learning Approach to Realistic Image Super-Resolution (Liang, Zeng and
Zhang, CVPR 2022, arXiv 2203.09195). Shapes: B images, C channels, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from losses.loss import check_shapes, in_full_precision
from utils.errors import InputError

_WINDOW = 7
_REFLECTED = _WINDOW // 2


def artefact_map(prediction: Tensor, target: Tensor, ema_prediction: Tensor, *, detach: bool = False) -> Tensor:
    """The map M of the LDL term, which is a pixel loss of ``M * prediction`` against ``M * target``.

    Args:
        prediction: output of the trained network, [B, C, H, W].
        target: the true images, not sharpened, of the same shape.
        ema_prediction: output of its EMA network; no gradient passes.
        detach: the map is a constant for the gradient, a weight as the paper describes it. False: the gradient passes
            through the map too, as in the published code, where that part is the larger one.

    Returns:
        [B, 1, H, W], at least 0, in float32 at least.

    Raises:
        ValueError: the shapes differ.
        InputError: the images are too small for the window.
    """
    check_shapes(prediction, target)
    check_shapes(ema_prediction, target)
    if min(prediction.shape[-2:]) <= _REFLECTED:
        size = " x ".join(map(str, prediction.shape[-2:]))
        raise InputError(f"ldl_opt: patches of {size} pixels are too small; at least {_REFLECTED + 1} are needed")
    prediction, target = in_full_precision(prediction.detach() if detach else prediction, target)
    residual = (target - prediction).abs().sum(dim=1, keepdim=True)  # [B, 1, H, W]
    of_ema = (target - ema_prediction.detach().to(target.dtype)).abs().sum(dim=1, keepdim=True)
    artefacts = _image_factor(residual) * _local_variance(residual)
    return torch.where(residual < of_ema, torch.zeros_like(artefacts), artefacts)


def _image_factor(residual: Tensor) -> Tensor:
    """The variance of each image [B, 1, H, W] -> [B, 1, 1, 1], to the power 1/5.

    The slope at 0 is infinite: a constant residual, as of an output equal to its target, gives 0 and no gradient.
    """
    variance = residual.var(dim=(-1, -2), keepdim=True)
    constant = variance <= 0
    return torch.where(constant, 0.0, torch.where(constant, 1.0, variance) ** 0.2)


def _local_variance(residual: Tensor) -> Tensor:
    """The variance (divisor n - 1) of the window around each pixel of [B, 1, H, W], reflected at the borders."""
    padded = F.pad(residual, [_REFLECTED] * 4, mode="reflect")
    # The variance of a window is the mean of those of its rows, plus that of their means: nothing cancels, and a pixel
    # is looked at 21 times instead of 49.
    of_rows, means = torch.var_mean(padded.unfold(-1, _WINDOW, 1), dim=-1, correction=0)  # [B, 1, H + 6, W] each
    inside = of_rows.unfold(-2, _WINDOW, 1).mean(dim=-1)  # [B, 1, H, W]
    between = means.unfold(-2, _WINDOW, 1).var(dim=-1, correction=0)
    return (inside + between) * (_WINDOW**2 / (_WINDOW**2 - 1))
