"""How near the activations of a network come to the limits of float16, and which layers have to stay in float32.

The network runs in bfloat16, which reaches as far as float32: what is a tensor of bfloat16 then would be one of
float16, and what is a tensor of float32 (norms, the softmax of attentions) would be that too. So one pass tells for
each tensor what float16 would hold, and nothing overflows because something before it did.

A module has to stay in float32 where a result of its own, one of its weights, or what it is given is too large. What
leaves it stays in float32 until a module takes it that is not kept. One pass finds all of these modules, and a second
one looks whether that was enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from archs.contract import contract_of
from models.precision.keep import kept_list, types_of
from models.precision.network import InPrecision, in_precision, is_norm
from models.precision.watch import Operation, is_half, watched
from utils.errors import InputError

LIMIT = 65504.0
"""The largest number of float16."""
NORMAL = 2.0**-14
"""The smallest number of float16 that has all of its digits."""
MARGIN = 4.0
"""Results above the limit divided by this count as too large: other pictures reach further."""
ROUNDS = 5
_PRODUCTS = ("addmm", "mm", "bmm", "baddbmm", "convolution")
"""Operations whose operands have one type: weights in half precision cannot meet what does not fit into it."""


@dataclass
class LayerRange:
    """What was seen of a layer; largest magnitudes, over all pictures.

    Attributes:
        name: of the module; empty for what the network computes between its modules.
        given: of what it is called with; 0 where it is not called.
        result: of what it makes and float16 would hold.
        result_of: the operation that made it.
        weight: of its weights.
        inside: of what it makes in float32 whatever the precision: logits of an attention, sums of a norm.
        inside_of: the operation that made it.
        square: of what a norm is given, squared: what other programs may hold in float16.
        small: share of its results, but for zeros, that float16 would hold with fewer digits, or as zero.
        multiplications: multiply-adds of its own.
    """

    name: str
    given: float = 0.0
    result: float = 0.0
    result_of: str = ""
    weight: float = 0.0
    inside: float = 0.0
    inside_of: str = ""
    square: float = 0.0
    small: float = 0.0
    multiplications: float = 0.0
    values: float = field(default=0.0, repr=False)

    @property
    def largest(self) -> float:
        """Of all that float16 would have to hold."""
        return max(self.given, self.result, self.weight)


@dataclass(frozen=True)
class Ranges:
    """What :func:`ranges_of` finds.

    Attributes:
        layers: in the order in which they ran.
        keep: modules that have to stay in float32 (:mod:`models.precision.keep`).
        reasons: name of each module whose own operations stay in float32 -> why.
        multiplications: share of the multiply-adds that are in float32 for it.
        weights: share of the weights that are.
    """

    layers: tuple[LayerRange, ...]
    keep: tuple[str, ...]
    reasons: dict[str, str]
    multiplications: float
    weights: float


class _Recorder:
    """Fills a table of layers, and notes the modules that have to be kept."""

    def __init__(self, network: nn.Module, most: float) -> None:
        self.layers: dict[str, LayerRange] = {}
        self.called: dict[str, None] = {"": None}
        self.reasons: dict[str, str] = {}
        self.most = most
        self.norms = {name for name, module in network.named_modules() if is_norm(module)}

    def layer(self, name: str) -> LayerRange:
        return self.layers.setdefault(name, LayerRange(name))

    def enter(self, module: str, inputs: tuple[Tensor, ...]) -> None:
        """A module is called."""
        self.called[module] = None
        if not inputs:
            return
        layer, largest = self.layer(module), max(map(magnitude, inputs))
        if module in self.norms:
            layer.square = max(layer.square, largest * largest)
        else:
            self._too_large(module, largest, "it is given {}")
        layer.given = max(layer.given, largest)

    def see(self, operation: Operation) -> None:
        """An operation is done."""
        layer = self.layer(operation.layer)
        layer.multiplications += _multiplications(operation)
        if operation.uninitialised:
            return
        for weight in filter(is_half, operation.weights):
            # Of the module that uses it too: it computes in one type.
            for name in (operation.layer, operation.module):
                self._too_large(name, magnitude(weight), "a weight is {}")
        if operation.name in _PRODUCTS:
            for x in operation.inputs:
                self._too_large(operation.module, magnitude(x), f"{operation.name} is given {{}}")
        for x in operation.outputs:
            largest = magnitude(x)
            if not is_half(x):
                if largest > layer.inside:
                    layer.inside, layer.inside_of = largest, operation.name
                continue
            if largest > layer.result:
                layer.result, layer.result_of = largest, operation.name
            self._too_large(operation.module, largest, f"{operation.name} makes {{}}")
            sizes = x.abs()
            values, small = float((sizes > 0).sum()), float(((sizes > 0) & (sizes < NORMAL)).sum())
            layer.small = (layer.small * layer.values + small) / max(1.0, layer.values + values)
            layer.values += values

    def weigh(self, network: nn.Module) -> None:
        """Look at the weights themselves; ``network`` has them as they are stored."""
        for name, module in network.named_modules():
            for parameter in module.parameters(recurse=False):
                if parameter.numel():
                    self.layer(name).weight = max(self.layer(name).weight, magnitude(parameter))

    def _too_large(self, module: str, largest: float, reason: str) -> None:
        if not largest <= self.most:
            self.reasons.setdefault(module, reason.format(f"{largest:,.0f}"))


def magnitude(x: Tensor) -> float:
    """The largest magnitude of a tensor; 0 of an empty one.

    Raises:
        InputError: it holds NaN or infinity.
    """
    if not x.numel():
        return 0.0
    least, most = x.detach().aminmax()
    largest = max(-float(least), float(most))
    if not math.isfinite(largest):
        raise InputError(
            "the activations are not finite (NaN or infinity) in float32 either; the weights are damaged, or the "
            "training that made them had diverged"
        )
    return largest


def _multiplications(operation: Operation) -> float:
    count = flop_registry.get(operation.function.overloadpacket)
    if count is None:
        return 0.0
    out = operation.outputs[0] if len(operation.outputs) == 1 else operation.outputs
    return float(count(*operation.args, out_val=out)) / 2


def ranges_of(
    network: nn.Module, run: Callable[[nn.Module], object], margin: float = MARGIN, keep: Collection[str] = ()
) -> Ranges:
    """Look at a network while it computes, and find what has to stay in float32.

    Args:
        network: with its weights, in float32.
        run: calls the network that it is given with all pictures.
        margin: results above the limit of float16 divided by this count as too large.
        keep: modules that stay in float32 whatever is found.

    Raises:
        InputError: the activations are not finite, or no set of layers suffices.
    """
    prepared = contract_of(network).for_inference()
    recorder = _Recorder(prepared, LIMIT / margin)
    recorder.weigh(prepared)
    first: _Recorder | None = None
    kept = tuple(keep)
    for _ in range(ROUNDS):
        found = _look(prepared, run, kept, LIMIT / margin)
        first = first or found
        new = {name: why for name, why in found.reasons.items() if name not in recorder.reasons}
        recorder.reasons.update(new)
        recorder.called.update(found.called)
        if not new:
            break
        inside = {name: name in recorder.reasons for name in recorder.called if name not in recorder.norms}
        inside |= dict.fromkeys(recorder.reasons, True)
        kept = tuple(dict.fromkeys((*keep, *kept_list(inside))))
    else:
        raise InputError(
            f"no set of layers keeps all results of {type(prepared).__name__} within float16 after {ROUNDS} passes; "
            "use bf16 or fp32"
        )
    assert first is not None
    for name, layer in recorder.layers.items():
        first.layer(name).weight = layer.weight
    types = types_of(prepared, torch.float16, kept)
    layers = tuple(layer for layer in first.layers.values() if layer.largest or layer.inside or layer.multiplications)
    kept_layers = {name for name, dtype in types.items() if dtype == torch.float32}
    total = sum(layer.multiplications for layer in layers)
    theirs = sum(layer.multiplications for layer in layers if layer.name in kept_layers)
    return Ranges(layers, kept, recorder.reasons, theirs / max(total, 1.0), _share(prepared, kept_layers))


def _look(network: nn.Module, run: Callable[[nn.Module], object], keep: Sequence[str], most: float) -> _Recorder:
    """One pass in bfloat16."""
    half = in_precision(network, "bf16", keep)
    assert isinstance(half, InPrecision)
    recorder = _Recorder(half.network, most)
    with torch.no_grad(), watched(half.network, recorder):
        run(half)
    return recorder


def _share(network: nn.Module, names: Collection[str]) -> float:
    """The share of a network's weights that modules own."""
    counts = {name: sum(_sizes(module)) for name, module in network.named_modules()}
    return sum(counts.get(name, 0) for name in names) / max(1, sum(counts.values()))


def _sizes(module: Any) -> Iterable[int]:
    return (parameter.numel() for parameter in module.parameters(recurse=False))
