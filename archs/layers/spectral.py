"""Spectral normalisation of convolutions (Miyato et al., ICLR 2018, arXiv 1802.05957), one power iteration a pass.

The function, the keys and the buffers are those of the hooks of ``torch.nn.utils.spectral_norm``, with which published
discriminators were trained; ``torch.nn.utils.parametrizations.spectral_norm`` is another function under other keys.

Shapes: W [out, in*kh*kw] the kernel as a matrix, u [out], v [in*kh*kw].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ops.autocast import without_autocast
from ops.power_iteration import power_iteration, unit


class SpectralConv2d(nn.Module):
    """A convolution without bias whose kernel is divided by an estimate of its largest singular value.

    Each pass in train mode first improves the estimate, v <- n(W^T u), then u <- n(W v) with n(x) = x / |x|, frozen or
    under ``no_grad`` too; evaluation uses u and v as they are. Then sigma = u . (W v), and the kernel is W / sigma.
    u and v are constants for gradients, sigma is not. All of it happens in float32 at least, under autocast too.

    Two passes before one backward pass are sound: a pass keeps copies of the u and v that it used.

    Args:
        in_channels: channels in.
        out_channels: channels out.
        kernel_size: side of the kernel.
        stride: of the convolution.
        padding: zeros on each side.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.advances = True
        """False within :func:`held`."""
        self.weight_orig = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_uniform_(self.weight_orig, a=math.sqrt(5))  # as torch.nn.Conv2d
        # No warm-up iterations, as published: sigma of a fresh network starts at about 0.8 of the true norm.
        for name, length in (("weight_u", out_channels), ("weight_v", in_channels * kernel_size**2)):
            self.register_buffer(name, unit(self.weight_orig.new_empty(length).normal_()).detach())

    def forward(self, x: Tensor) -> Tensor:
        """[B, in, H, W] -> [B, out, H', W']."""
        return F.conv2d(x, self.kernel(), stride=self.stride, padding=self.padding)

    def kernel(self) -> Tensor:
        """[out, in, kh, kw] as this pass uses it; in train mode u and v advance."""
        weight = self.weight_orig
        with without_autocast(weight.device):
            matrix = weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
            advances = self.training and self.advances
            with torch.no_grad():
                before = self.weight_u.to(matrix.dtype), self.weight_v.to(matrix.dtype)
                # Not the buffers themselves, which the next pass writes to, perhaps before this one's backward pass.
                u, v = power_iteration(matrix.detach(), *before, steps=1 if advances else 0)
                if advances:
                    self.weight_u.copy_(u)
                    self.weight_v.copy_(v)
            sigma = torch.dot(u, torch.mv(matrix, v))
            return (matrix / sigma).view_as(weight).to(weight.dtype)

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        out_channels, in_channels, side, _ = self.weight_orig.shape
        return f"{in_channels}, {out_channels}, kernel_size={side}, stride={self.stride}, padding={self.padding}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        if f"{prefix}weight_u" in state_dict and f"{prefix}weight_v" not in state_dict:
            error_msgs.append(
                f"{prefix}weight_v is missing beside {prefix}weight_u: these are weights of a time before PyTorch 1.0, "
                "whose spectral norm did not keep it; load them with their own code and save them with a newer PyTorch"
            )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


@contextmanager
def held(module: nn.Module) -> Iterator[None]:
    """Within this context, passes in train mode leave the buffers of normalisations alone.

    For a batch that is computed in pieces: the first piece advances the buffers, the others run within this context, so
    that they advance once for each logical pass. Spectral norms use their u and v as they are. Batch norms do not move
    their running averages, which then are those of the first piece; they still normalise each piece by its own mean and
    variance, so that pieces are not the same as one batch where there is a batch norm.

    Args:
        module: it and all modules below it, wrapped or not.
    """
    spectral = [part for part in module.modules() if isinstance(part, SpectralConv2d)]
    batch = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    before = [part.advances for part in spectral], [part.track_running_stats for part in batch]
    try:
        for part in spectral:
            part.advances = False
        for norm in batch:
            norm.track_running_stats = False  # torch: batch statistics in train mode, the stored ones in evaluation
        yield
    finally:
        for part, advances in zip(spectral, before[0], strict=True):
            part.advances = advances
        for norm, tracks in zip(batch, before[1], strict=True):
            norm.track_running_stats = tracks
