"""Counts of a network's arithmetic at any image size, in seconds and without memory.

A network runs on tensors that have shapes and no values (PyTorch's meta device). Every operator that it calls is seen
and counted by its shapes: multiply-adds by the formulas of ``torch.utils.flop_counter``, where this project's operators
have registered theirs. On such tensors networks and operators go by their published formulas, step by step
(:func:`utils.devices.without_values`): the merged matrices of ESC, the folded projections and joined convolutions of
RGT and the symmetric convolution are not what is counted, PFT's sparse layers are, at the keys that they use.

Shapes: B images, c channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from analysis.complexity.authors import own_count
from archs.contract import contract_of
from utils.errors import InputError

_aten = torch.ops.aten
_NORMS = (_aten.native_layer_norm, _aten.native_group_norm)
_BATCH_NORMS = (
    _aten.native_batch_norm, _aten._native_batch_norm_legit, _aten._native_batch_norm_legit_no_training,
    _aten._batch_norm_no_update,
)  # fmt: skip
_BILINEAR = (_aten.upsample_bilinear2d, _aten._upsample_bilinear2d_aa, _aten.grid_sampler_2d)
_SPATIAL = ((1, 2), (2, 3))  # of images with channels last, and first


@dataclasses.dataclass(frozen=True)
class Counts:
    """What one image costs.

    Attributes:
        parameters: number of weights.
        size: (h, w) of the image.
        computed: (height, width) of its features: multiples that the network wants, or extends the image to itself.
        windows: (height, width) of the maps of its window attention, which some networks extend further.
        multiply_adds: of all products: convolutions, linear maps, attention, sparse attention at the keys really used.
        fvcore: with what fvcore's rules add: 5 per normalised element (4 without weights; batch norm 2 and 1), 1 per
            element that is averaged away over an image, 4 per element that is interpolated bilinearly.
        own: what the authors' own counter says, where they publish such a figure; at ``size``, not padded.
        activations: elements of the outputs of all convolutional layers, as the challenges on efficient
            super-resolution count.
        convolutions: how often such a layer ran, "#Conv" of the challenges.
        challenge: multiply-adds of those layers, and 1 per element of ReLU, LeakyReLU and PReLU, 2 of batch norm: the
            "FLOPs" of the challenges; None for networks with linear layers, of whose tokens their script counts one.
    """

    parameters: int
    size: tuple[int, int]
    computed: tuple[int, int]
    windows: tuple[int, int]
    multiply_adds: int
    fvcore: int
    own: int | None
    activations: int
    convolutions: int
    challenge: int | None

    @property
    def flops(self) -> int:
        """Floating-point operations: a multiplication and an addition are two."""
        return 2 * self.multiply_adds


def count(network: nn.Module, height: int, width: int) -> Counts:
    """Count what one image of this size costs.

    Args:
        network: in the form in which it runs; it is not changed, and may lie on the meta device.
        height: h.
        width: w.

    Raises:
        InputError: the network cannot run without values, because it decides by them.
    """
    offered = contract_of(network)
    padded = offered.size_rule.padded(height), offered.size_rule.padded(width)
    inner, window = (int(getattr(network, name, 1)) for name in ("inner_multiple", "window_multiple"))
    computed = _extended(padded, inner)
    bare = copy.deepcopy(network).to("meta").eval().requires_grad_(False)
    like = next((parameter for parameter in bare.parameters() if parameter.is_floating_point()), torch.empty(0))
    x = torch.empty(1, offered.channels, *padded, device="meta", dtype=like.dtype)
    counter = _Counter(bare)
    try:
        with torch.no_grad(), counter, _Activations(bare) as activations:
            bare(x)
    except (NotImplementedError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{type(network).__name__} cannot be counted: it needs values where only shapes are known ({reason})"
        ) from error
    linear = any(isinstance(module, nn.Linear) for module in bare.modules())
    return Counts(
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        size=(height, width),
        computed=computed,
        windows=_extended(computed, window),
        multiply_adds=counter.multiply_adds,
        fvcore=counter.multiply_adds + counter.others,
        own=own_count(network, height, width),
        activations=counter.activations,
        convolutions=counter.convolutions,
        challenge=None if linear else counter.of_layers + activations.elements,
    )


def _extended(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    height, width = (-(-length // multiple) * multiple for length in size)
    return height, width


class _Counter(TorchDispatchMode):
    """Sees every operator that runs within it.

    Args:
        network: whose convolutional layers are told from other convolutions by their weights.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.multiply_adds = self.others = 0
        self.activations = self.convolutions = self.of_layers = 0
        kinds = (nn.Conv2d, nn.ConvTranspose2d)
        self._layers = {_storage(layer.weight) for layer in network.modules() if isinstance(layer, kinds)}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operator, and count it."""
        result = function(*args, **(kwargs or {}))
        packet = getattr(function, "_overloadpacket", None)
        if packet in flop_registry:
            products = flop_registry[packet](*args, **(kwargs or {}), out_val=result) // 2
            self.multiply_adds += products
            # Layers of 1 x 1 are matrix products in some networks; the weight is then a view of the layer's.
            if any(isinstance(x, Tensor) and _storage(x) in self._layers for x in args):
                self.activations += result.numel()
                self.convolutions += 1
                self.of_layers += products
        else:
            self.others += _by_fvcore(packet, args, result)
        return result


def _by_fvcore(packet: Any, args: tuple[Any, ...], result: Any) -> int:
    """What fvcore 0.1.5 counts of an operator that is no product."""
    if packet in _NORMS:
        weight = args[2] if packet is _aten.native_layer_norm else args[1]
        return int(args[0].numel() * (4 if weight is None else 5))
    if packet in _BATCH_NORMS:
        return int(args[0].numel() * (1 if args[1] is None else 2))
    if packet in _BILINEAR:
        return 4 * int(result.numel())
    if packet is _aten._adaptive_avg_pool2d:
        return int(args[0].numel())
    if packet is _aten.mean and len(args) > 1 and args[1] is not None and args[0].ndim == 4:
        over = tuple(sorted(dim % 4 for dim in args[1]))
        return int(args[0].numel()) if over in _SPATIAL else 0
    return 0


def _storage(x: Tensor) -> int:
    """The same for a tensor and its views."""
    return int(x.untyped_storage()._cdata)


class _Activations:
    """Counts elements of layers that the challenges' script counts beside convolutions, while it is entered."""

    def __init__(self, network: nn.Module) -> None:
        self.elements = 0
        self._network = network
        self._handles: list[Any] = []

    def __enter__(self) -> _Activations:
        for module in self._network.modules():
            per_element = 1 if isinstance(module, nn.ReLU | nn.LeakyReLU | nn.PReLU) else 0
            per_element = 2 if isinstance(module, nn.BatchNorm2d) else per_element
            if per_element:
                self._handles.append(module.register_forward_hook(self._hook(per_element)))
        return self

    def _hook(self, per_element: int) -> Any:
        def seen(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.elements += per_element * math.prod(output.shape)

        return seen

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
