"""What a network offers to those who run it: upscaling, tiling, evaluation, loading of weights.

:class:`SRNetwork` writes it down, :class:`BaseNetwork` has the defaults of our networks, and :func:`contract_of` is how
callers ask: networks from elsewhere, which say less, are completed there and nowhere else. :class:`AttentionModule` is
what those who look at attention ask of the modules inside a network, :class:`Discriminator` what adversarial training
asks of the other player.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from archs.layers.parts import PartNames, stacked_parts
from archs.layers.places import AttentionPlaces, unpadded
from archs.layers.size import SizeRule, extended
from utils.errors import InputError

CHANNELS = 3
"""Image channels of a network that does not say otherwise: R G B."""


@runtime_checkable
class SRNetwork(Protocol):
    """A network for super-resolution: [B, c, h, w] in [0, 1] -> [B, c, s*h, s*w], for any B and any dtype."""

    @property
    def scale(self) -> float:
        """s, output size / input size; an int unless the network is made for any scale."""

    @property
    def channels(self) -> int:
        """c, of input and output."""

    @property
    def size_rule(self) -> SizeRule:
        """The input sizes that it takes and prefers; callers pad and crop, the network does not."""

    @property
    def receptive_radius(self) -> int | None:
        """How many low-resolution pixels away an input pixel can change an output pixel; None for the whole image."""

    @property
    def window_size(self) -> int | None:
        """Side of its square attention windows in low-resolution pixels; None where there are none."""

    @property
    def graph_sizes(self) -> tuple[int, int | None]:
        """The least and the largest side of images that one graph of it holds for; None for any."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, h, w] -> [B, c, s*h, s*w], not clamped; the same function in training and in evaluation."""

    def for_inference(self) -> nn.Module:
        """The same function in the form that is cheapest to run: a folded copy, or the network itself."""

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state dict, perhaps of another scale, as this network can load it; the argument is not changed."""


class BaseNetwork(nn.Module):
    """A base class of our networks: the parts of :class:`SRNetwork` that most of them have in common.

    A network sets ``scale``, ``size_rule`` and ``receptive_radius`` itself, and the others where they differ.
    """

    scale: int | float
    size_rule: SizeRule
    receptive_radius: int | None
    channels: int = CHANNELS
    window_size: int | None = None
    window_multiple: int = 1
    """It extends the maps of its window attention, and no others, to multiples of this."""
    kernels: ClassVar[tuple[str, ...]] = ()
    """Names of the kernels in ops/csrc that it runs by: those that are missing are compiled side by side."""
    takes_queries: ClassVar[bool] = False
    """Whether it is for any scale: ``forward`` takes ``output_size`` and ``queries``, and there is ``at_scale``."""
    takes_exact_images: ClassVar[bool] = False
    """Whether ``forward`` takes float32 images with weights of half precision: what it adds to them is added then."""

    @property
    def graph_sizes(self) -> tuple[int, int | None]:
        """All that it takes: what it does does not depend on the size."""
        return self.size_rule.minimum, None

    def for_inference(self) -> nn.Module:
        """The network itself: it has one form only."""
        return self

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict as it is: nothing in it depends on the scale."""
        return dict(state)

    def part_names(self) -> PartNames:
        """Its groups and blocks, from the image to the result."""
        return stacked_parts(self)

    def given_to(self) -> dict[str, str]:
        """Groups that are not called as modules -> the module that is called with what they make; see part_names."""
        return {}


def part_names(network: nn.Module) -> PartNames:
    """The groups and blocks of a network, from the image to the result; of one from elsewhere, by a general rule."""
    return network.part_names() if isinstance(network, BaseNetwork) else stacked_parts(network)


def for_any_scale(network: type) -> bool:
    """Whether networks of a class are for any scale; networks from elsewhere are not."""
    return bool(getattr(network, "takes_queries", False))


def at_scale(network: nn.Module, scale: float) -> nn.Module:
    """The network for images of a scale: itself where that is its own, else a view of one for any scale.

    Raises:
        ValueError: it is for one scale only, and that is another one.
    """
    own = contract_of(network).scale
    if own == scale:
        return network
    change = getattr(network, "at_scale", None)
    if change is None:
        raise ValueError(f"{type(network).__name__} is a network for x{own:g}, not for x{scale:g}")
    other: nn.Module = change(scale)
    return other


@runtime_checkable
class AttentionModule(Protocol):
    """A module whose attention can be looked at: one that calls :func:`ops.window_attention` or focused_attention.

    Its ``forward`` takes a map [B, H, W, C] first. Whatever else it does to the map, padding, rolling and cutting it
    into windows, is told by the places of the tokens.
    """

    def attention_places(self, x: Tensor, *arguments: Any) -> tuple[AttentionPlaces, ...]:
        """Where the tokens of each attention lie in the map; :mod:`archs.layers.places` has what most need.

        Args:
            x: [B, H, W, C], what ``forward`` is about to be given; its values do not matter.
            arguments: the other arguments of ``forward``.

        Returns:
            For each attention that ``forward`` computes, in their order. Each has B * n windows, image after image, in
            one call of the operator or in several.
        """


@runtime_checkable
class PaddingNetwork(Protocol):
    """A network whose maps are not of the size of its input: that extends it at the right and bottom, or shrinks it."""

    def padded_axis(self, length: int, device: torch.device) -> Tensor:
        """Which rows (or columns) of an input of ``length`` rows each row of the maps shows, [L', f] int64.

        f is 1, or the factor of a network that works on an image shrunk by putting f x f pixels into channels.
        """


def image_axis(network: nn.Module, length: int, device: torch.device) -> Tensor:
    """Which rows (or columns) of an image each row of the maps inside a network shows, [L', f] int64.

    Between them are the padding by the caller, as the network's size rule wants it, and that by the network itself.
    """
    rule = contract_of(network).size_rule
    padded = rule.padded(length)
    axis = extended(unpadded(length, device), 0, padded, rule.mode)
    return axis[network.padded_axis(padded, device)] if isinstance(network, PaddingNetwork) else axis[:, None]


@runtime_checkable
class Discriminator(Protocol):
    """A network that tells real images from made ones: [B, c, h, w] -> logits with B in front, above 0 for real."""

    @property
    def channels(self) -> int:
        """c, of the input."""

    def check_size(self, height: int, width: int) -> str | None:
        """What is wrong with images of this size, in a sentence without its subject's key; None if nothing is."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, h, w] -> logits [B, ...], no sigmoid; a pass in train mode may move buffers."""


class BaseDiscriminator(nn.Module):
    """A base class of our discriminators, which set ``channels`` and say which sizes they take."""

    channels: int

    def check_size(self, height: int, width: int) -> str | None:
        """What is wrong with images of this size; None if nothing is."""
        raise NotImplementedError

    def require_size(self, x: Tensor) -> None:
        """Raise InputError where :meth:`check_size` objects to the images [B, c, H, W]."""
        problem = self.check_size(*x.shape[-2:])
        if problem is not None:
            raise InputError(problem)


def contract_of(network: nn.Module) -> SRNetwork:
    """The network as its callers see it: itself, or a view that adds what a network from elsewhere does not say."""
    return network if isinstance(network, SRNetwork) else _Completed(network)


class _Completed:
    """A network that says some of :class:`SRNetwork` at most, and defaults for the rest."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    @property
    def scale(self) -> float:
        """The one part that has no default.

        Raises:
            ValueError: the network does not say.
        """
        scale = getattr(self.network, "scale", None)
        if not isinstance(scale, int | float) or scale < 1:
            raise ValueError(
                f"{type(self.network).__name__} has no number `scale` (it is {scale!r}); pass the network itself, not "
                "a wrapper such as DistributedDataParallel"
            )
        return scale

    @property
    def channels(self) -> int:
        """R G B."""
        channels = getattr(self.network, "channels", CHANNELS)
        return channels if isinstance(channels, int) else CHANNELS

    @property
    def size_rule(self) -> SizeRule:
        """Any size."""
        rule = getattr(self.network, "size_rule", None)
        return rule if isinstance(rule, SizeRule) else SizeRule()

    @property
    def receptive_radius(self) -> int | None:
        """Unknown, so without a bound."""
        radius = getattr(self.network, "receptive_radius", None)
        return radius if isinstance(radius, int) else None

    @property
    def window_size(self) -> int | None:
        """None."""
        window = getattr(self.network, "window_size", None)
        return window if isinstance(window, int) else None

    @property
    def graph_sizes(self) -> tuple[int, int | None]:
        """All that it takes."""
        sizes = getattr(self.network, "graph_sizes", None)
        return sizes if isinstance(sizes, tuple) else (self.size_rule.minimum, None)

    def forward(self, x: Tensor) -> Tensor:
        """As the network."""
        result: Tensor = self.network(x)
        return result

    def for_inference(self) -> nn.Module:
        """The network itself."""
        convert = getattr(self.network, "for_inference", None)
        prepared: nn.Module = self.network if convert is None else convert()
        return prepared

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict as it is."""
        adapt = getattr(self.network, "adapt_state", None)
        return dict(state if adapt is None else adapt(state))
