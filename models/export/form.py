"""The form in which a network is exported: images of any size in, and nothing for the caller to do.

Shapes: B images, c channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

from archs.contract import at_scale, contract_of, for_any_scale
from archs.layers.reflect import crop, reflect_to_multiple
from ops.registry import divisor, free
from utils.errors import InputError
from utils.scale import scaled_length

SCALE_STEPS = 10**5
"""Steps of one in which a scale is taken that is an input: a float32 is 3.7 to so many digits, not to more."""


def export_form(network: nn.Module, scale: float | Literal["input"] | None = None) -> nn.Module:
    """The form of a network that is exported.

    Args:
        network: meets :class:`archs.contract.SRNetwork`.
        scale: of the images; None for the network's own; "input" where it shall be an input of the program.

    Returns:
        A module that takes images [B, c, h, w], and with "input" the scale after them.

    Raises:
        InputError: another scale than its own, or any, was asked of a network for one scale only.
    """
    if scale == "input":
        return AnyScaleForm(network)
    try:
        chosen = network if scale is None else at_scale(network, scale)
    except ValueError as error:
        raise InputError(str(error)) from error
    return ExportForm(chosen) if isinstance(contract_of(chosen).scale, int) else FixedScaleForm(chosen)


class ExportForm(nn.Module):
    """A network together with the padding that its size rule asks for, and the cropping afterwards.

    Args:
        network: meets :class:`archs.contract.SRNetwork`; its scale is whole.

    Raises:
        InputError: the scale is not whole.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        offered = contract_of(network)
        if not isinstance(offered.scale, int):
            raise InputError(
                f"{type(network).__name__}: a program for a scale of {offered.scale:g} has another form "
                "(see export_form)"
            )
        self.network = network
        self.scale = offered.scale
        self.rule = offered.size_rule

    def forward(self, image: Tensor) -> Tensor:
        """[B, c, h, w], R G B in [0, 1] -> [B, c, s*h, s*w], not clamped; h and w are at least the rule's minimum."""
        if self.rule.multiple == 1:
            return cast("Tensor", self.network(image))
        height, width = image.shape[-2:]
        extended = reflect_to_multiple(image, self.rule.multiple, (2, 3))
        output = cast("Tensor", self.network(extended))
        rows = crop(output.permute(0, 2, 3, 1), (self.scale * height, self.scale * width))
        return rows.permute(0, 3, 1, 2)


class FixedScaleForm(nn.Module):
    """A network for any scale, at a scale that need not be whole.

    Args:
        network: takes ``output_size``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        _check_any_scale(network)
        self.network = network
        self.scale = contract_of(network).scale

    def forward(self, image: Tensor) -> Tensor:
        """[B, c, h, w], R G B in [0, 1] -> [B, c, s*h, s*w], rounded to whole pixels; not clamped."""
        height, width = image.shape[-2:]
        if free(height) or free(width):
            scale = torch.full((), self.scale, dtype=torch.float64, device=image.device)
            size = _scaled(scale, height), _scaled(scale, width)
        else:
            # While torch.jit.trace records, sizes are tensors.
            size = scaled_length(int(height), self.scale), scaled_length(int(width), self.scale)
        return cast("Tensor", self.network(image, size))


class AnyScaleForm(nn.Module):
    """A network for any scale, with the scale as an input.

    The program does not look at the number: scales below 1 are the caller's to refuse.

    Args:
        network: takes ``output_size``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        _check_any_scale(network)
        self.network = network

    def forward(self, image: Tensor, scale: Tensor) -> Tensor:
        """Upscale images.

        Args:
            image: [B, c, h, w], R G B in [0, 1].
            scale: s, one number, float32, at least 1; taken to five decimals, so that a float32 of 3.7 is 3.7.

        Returns:
            [B, c, s*h, s*w], rounded to whole pixels as by :func:`utils.scale.scaled_length`; not clamped.
        """
        exact = (scale.reshape(()).to(torch.float64) * SCALE_STEPS).round() / SCALE_STEPS
        height, width = image.shape[-2:]
        return cast("Tensor", self.network(image, (_scaled(exact, height), _scaled(exact, width))))


def _check_any_scale(network: nn.Module) -> None:
    if not for_any_scale(type(network)):
        raise InputError(
            f"{type(network).__name__} is a network for x{contract_of(network).scale:g} only; a program whose scale is "
            "an input, or not whole, needs a network for any scale, such as ESCLTE"
        )


def _scaled(scale: Tensor, length: int) -> int:
    """:func:`utils.scale.scaled_length` in a graph: the scale a float64, in which alone both round alike."""
    scaled = cast("int", (scale * divisor(length, scale.device)).round().long().item())
    torch._check(scaled >= 1)  # what export may build on
    return scaled
