"""The bridge to BasicSR: its networks here, ours there. Importing this module needs BasicSR and registers ours there.

The one module whose import does something: ``import archs.basicsr_bridge`` before BasicSR's ``train_pipeline`` is all
that its users have to write. Nothing here imports it but :func:`archs.network_class`, for types such as
``basicsr:SwinIR``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from archs import NETWORKS, build_network
from archs.layers.size import SizeRule
from utils.errors import InputError
from utils.scalars import PlainText
from utils.suggest import near_miss

INSTALL = "BasicSR is not installed; pip install -r requirements-basicsr.txt (docs/basicsr.md)"

_REMOVED = "torchvision.transforms.functional_tensor"
_SUFFIX = "_basicsr"
_SCALE_KEYS = ("scale", "upscale", "upscaling_factor", "upsample_factor")
_UNSHUFFLED = {1: 4, 2: 2}  # scale -> side of the squares that RRDBNet turns into channels first
_CHANNEL_KEYS = ("num_in_ch", "in_chans", "in_ch")


def basicsr_class(name: str) -> type[nn.Module]:
    """A network class of BasicSR by the name under which it is registered there, such as "RRDBNet".

    Raises:
        InputError: there is no such network.
    """
    registry = _registry()
    known = sorted(str(key) for key in registry.keys())  # noqa: SIM118  a registry is no mapping
    if f"{name}{_SUFFIX}" in known:
        name += _SUFFIX  # BasicSR registers some of its own under such names, and finds them without
    if name not in known:
        listed = f"; known: {', '.join(known)}"
        raise InputError(f'BasicSR has no network "{name}"{near_miss(name, known) or listed}')
    found: type[nn.Module] = registry.get(name)
    return found


def basicsr_names() -> list[str]:
    """The networks that BasicSR has besides those of this project, as option files name them after ``basicsr:``."""
    registered = (str(key).removesuffix(_SUFFIX) for key in _registry().keys())  # noqa: SIM118  a registry is no mapping
    return sorted(name for name in registered if name not in NETWORKS)


def describe(network: nn.Module, arguments: Mapping[str, object]) -> None:
    """Give a network of BasicSR what this project asks of networks: ``scale``, ``size_rule``, ``channels``.

    Args:
        network: changed in place, in its attributes only.
        arguments: what it was built with; defaults of its constructor complete them.
    """
    parameters = inspect.signature(type(network)).parameters
    given = {name: parameter.default for name, parameter in parameters.items()} | dict(arguments)
    if not isinstance(getattr(network, "scale", None), int):
        scale = _first_number(given, _SCALE_KEYS)
        network.scale = 1 if scale is None else scale  # type: ignore[assignment]
    channels = _first_number(given, _CHANNEL_KEYS)
    if channels is not None and not hasattr(network, "channels"):
        network.channels = channels  # type: ignore[assignment]
    multiple = _first_number(given, ("window_size",)) or 1
    if type(network).__name__ == "RRDBNet":
        multiple = _UNSHUFFLED.get(int(network.scale), 1)  # type: ignore[arg-type]
    network.size_rule = SizeRule(multiple=multiple, tile_multiple=multiple)  # type: ignore[assignment]


def _first_number(given: Mapping[str, object], keys: Sequence[str]) -> int | None:
    found = (given[key] for key in keys if key in given)
    return next((value for value in found if isinstance(value, int)), None)


def register_networks() -> list[str]:
    """Register our networks with BasicSR, under their published names; returns those that were not there yet."""
    registry = _registry()
    added = [name for name in NETWORKS if name not in registry]
    for name in added:
        registry.register(_builder(name))
    return added


def _registry() -> Any:
    """BasicSR's registry of networks, filled with its own."""
    _restore_torchvision_module()
    if importlib.util.find_spec("basicsr") is None:
        raise ImportError(INSTALL)
    importlib.import_module("basicsr.archs")
    return importlib.import_module("basicsr.utils.registry").ARCH_REGISTRY


def _restore_torchvision_module() -> None:
    """BasicSR 1.4.2 takes one function from a module that torchvision 0.17 has removed; give it back."""
    if _REMOVED in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    if importlib.util.find_spec(_REMOVED) is None:
        functional = importlib.import_module("torchvision.transforms.functional")
        module = types.ModuleType(_REMOVED, "Stands in for a module that torchvision has removed.")
        module.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]
        sys.modules[_REMOVED] = module


def _builder(name: str) -> Callable[..., nn.Module]:
    """What BasicSR calls with the keys of ``network_g``."""

    def build(**arguments: object) -> nn.Module:
        # YAML 1.1 leaves 2e-4 a text, as BasicSR hands it on.
        values = {key: PlainText(value) if isinstance(value, str) else value for key, value in arguments.items()}
        return build_network({"type": name, **values})

    build.__name__ = build.__qualname__ = name  # under which it is registered
    build.__doc__ = f"{name} of this project."
    return build


register_networks()
