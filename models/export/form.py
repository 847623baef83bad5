"""The form in which a network is exported: images of any size in, and nothing for the caller to do.

Shapes: B images, c channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from archs.contract import contract_of
from archs.layers.reflect import crop, reflect_to_multiple
from utils.errors import InputError


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
            raise InputError(f"{type(network).__name__}: a program for a scale of {offered.scale:g} has another form")
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
