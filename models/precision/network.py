"""A network that takes and gives float32 and computes in half precision.

The weights are converted, rather than the products cast as autocast does: it is as fast or faster, takes less memory,
and exported files are half as large. Norms compute in float32, the softmax of every attention does so inside its
operator, and modules that are named stay in float32 with all they hold.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from archs.contract import at_scale, contract_of, for_any_scale
from archs.layers.size import SizeRule
from config.values import Precision
from models.precision.keep import types_of
from ops.registry import recording
from utils.errors import InputError

TYPES: Mapping[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NAMES: Mapping[Precision, str] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_HALF = (torch.float16, torch.bfloat16)


def in_precision(network: nn.Module, precision: Precision, keep: Collection[str] = ()) -> nn.Module:
    """A network that computes in a precision; it takes float32 images and gives float32 images.

    Args:
        network: of ours, or any that takes and gives images; it is not changed. One that is trained in another form is
            converted by its ``for_inference`` first, whose modules ``keep`` names.
        precision: "fp32" returns the network itself.
        keep: modules that stay in float32 with everything inside them, as :mod:`models.precision.keep` explains.

    Returns:
        The network, or a copy with weights of the other type that shares none of them with it but those that stay in
        float32. It meets :class:`archs.contract.SRNetwork`, and keeps no gradients of weights.

    Raises:
        InputError: ``keep`` names a module that there is not, or the network has no weights that could be converted.
    """
    if precision == "fp32":
        return network
    if not any(parameter.is_floating_point() for parameter in network.parameters()):
        raise InputError(
            f"{type(network).__name__} has no weights that could be converted to {NAMES[precision]}; a program "
            "computes in the precision in which it was exported: leave the precision out"
        )
    prepared = contract_of(network).for_inference()
    types = types_of(prepared, TYPES[precision], keep)
    modules = dict(prepared.named_modules(remove_duplicate=False))
    norms = {name for name, module in modules.items() if types[name] in _HALF and is_norm(module)}
    for name in modules:
        if name in norms or _stays(name, modules):
            types[name] = torch.float32
    copied = copy.deepcopy(prepared, _converted(modules, types))
    for name, module in copied.named_modules(remove_duplicate=False):
        around = types[name.rpartition(".")[0]] if name else types[name]
        # Some modules are not called, but what they hold is: with two types inside, each has to see to its own.
        if (types[name] != around or keep) and not _stays(name, modules):
            # What leaves a module that is kept stays in float32 until a module takes it that is not: it may be too
            # large. In between, sums and products of the two types are float32.
            _add_border(module, types[name], around if name in norms or around not in _HALF else None)
    wrapper = _InPrecisionAnyScale if for_any_scale(type(prepared)) else InPrecision
    return wrapper(copied.eval(), precision, types[""])


class InPrecision(nn.Module):
    """What :func:`in_precision` makes.

    Args:
        network: with converted weights.
        precision: in which it computes.
        dtype: of the images that it takes and gives.
    """

    takes_queries: ClassVar[bool] = False
    input_dtype: ClassVar[torch.dtype] = torch.float32
    """What callers are to give, whatever the type of the weights."""

    def __init__(self, network: nn.Module, precision: Precision, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.precision: Precision = precision
        self.dtype = dtype

    @property
    def scale(self) -> float:
        """As the network's."""
        return contract_of(self.network).scale

    @property
    def channels(self) -> int:
        """As the network's."""
        return contract_of(self.network).channels

    @property
    def size_rule(self) -> SizeRule:
        """As the network's."""
        return contract_of(self.network).size_rule

    @property
    def receptive_radius(self) -> int | None:
        """As the network's."""
        return contract_of(self.network).receptive_radius

    @property
    def window_size(self) -> int | None:
        """As the network's."""
        return contract_of(self.network).window_size

    @property
    def graph_sizes(self) -> tuple[int, int | None]:
        """As the network's."""
        return contract_of(self.network).graph_sizes

    def for_inference(self) -> nn.Module:
        """The network itself: it has that form."""
        return self

    def adapt_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As the network's."""
        return contract_of(self.network).adapt_state(state)

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, h, w] float32 -> [B, c, s*h, s*w] float32, not clamped."""
        # Half precision does not hold all 256 levels of an image.
        exact = getattr(self.network, "takes_exact_images", False)
        output: Tensor = self.network(x if exact else x.to(self.dtype))
        return output.float()


class _InPrecisionAnyScale(InPrecision):
    """The same of a network for any scale."""

    takes_queries = True

    def at_scale(self, scale: float) -> _InPrecisionAnyScale:
        """The same network, sharing all weights, with another scale of whole images."""
        return type(self)(at_scale(self.network, scale), self.precision, self.dtype)

    def forward(
        self, x: Tensor, output_size: tuple[int, int] | None = None, queries: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """As the network's, of a float32 image; the coordinates stay in their type."""
        output: Tensor = self.network(x.to(self.dtype), output_size, queries)
        return output.float()


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises: squares of its input are summed, which half precision holds up to 255 only.

    PyTorch's norms, and modules of other projects that are called so and hold no others.
    """
    return "norm" in type(module).__name__.lower() and next(module.children(), None) is None


def _stays(name: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a module says itself that it stays in float32, or lies inside of one."""
    while True:
        if getattr(type(modules[name]), "in_float32", False):
            return True
        if not name:
            return False
        name = name.rpartition(".")[0]


def _converted(modules: Mapping[str, nn.Module], types: Mapping[str, torch.dtype]) -> dict[int, Any]:
    """What ``copy.deepcopy`` is to put in the place of each parameter and buffer, by its identity."""
    memo: dict[int, Any] = {}
    for name, module in modules.items():
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            if id(tensor) in memo or not tensor.is_floating_point():
                continue
            # Kernels channels-last: what convolutions in half precision are fastest with.
            layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
            value = tensor.detach().to(types[name], memory_format=layout)
            memo[id(tensor)] = nn.Parameter(value, False) if isinstance(tensor, nn.Parameter) else value
    return memo


@dataclass(frozen=True)
class _Border:
    """Casts what a module takes to its type, and what it gives to another one, if any."""

    inside: torch.dtype
    given: torch.dtype | None
    mixes: bool

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hook before the call."""
        if self.mixes and not recording() and all(x.device.type == "cpu" for x in args if isinstance(x, Tensor)):
            return None  # PyTorch's kernel takes half precision, and computes with float32 weights and sums
        return cast_floats(args, self.inside), cast_floats(kwargs, self.inside)

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Hook after the call."""
        return output if self.given is None else cast_floats(output, self.given)


def _add_border(module: nn.Module, inside: torch.dtype, given: torch.dtype | None) -> None:
    border = _Border(inside, given, mixes=type(module).forward is nn.LayerNorm.forward and given in _HALF)
    module.register_forward_pre_hook(border.before, with_kwargs=True)
    module.register_forward_hook(border.after)


def cast_floats(value: Any, dtype: torch.dtype) -> Any:
    """Tensors of floats in another type, alone or in tuples, lists and mappings; all else as it is.

    Named tuples are the networks' own, and stay: what they hold has the type that its operator wants.
    """
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() and value.dtype != torch.float64 else value
    if type(value) in (tuple, list):
        return type(value)(cast_floats(item, dtype) for item in value)
    if type(value) is dict:
        return {key: cast_floats(item, dtype) for key, item in value.items()}
    return value
