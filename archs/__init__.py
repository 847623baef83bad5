"""Networks: Tensor in, Tensor out. This package knows their names and imports each one when it is asked for."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from archs.limits import argument_problems, check_size
from ops.build import expect
from ops.kept_memory import MEMORY
from utils.errors import InputError
from utils.suggest import near_miss, nearest
from utils.typed import Report, read_arguments

NETWORKS: Mapping[str, str] = {
    "PlainUSR_ultra": "archs.plainusr:PlainUSRUltra",
    "PlainUSR_general": "archs.plainusr:PlainUSRGeneral",
    "PlainUSR_large": "archs.plainusr:PlainUSRLarge",
    "PlainUSR_ultra_inference": "archs.plainusr:PlainUSRUltraInference",
    "PlainUSR_general_inference": "archs.plainusr:PlainUSRGeneralInference",
    "PlainUSR_large_inference": "archs.plainusr:PlainUSRLargeInference",
    "HAT": "archs.hat:HAT",
    "RGT": "archs.rgt:RGT",
    "ESC": "archs.esc:ESC",
    "ESCFP": "archs.esc:ESCFP",
    "ESCReal": "archs.esc:ESCReal",
    "ESCRealM": "archs.esc:ESCRealM",
    "ESCLTE": "archs.esc:ESCLTE",
    "PFT": "archs.pft:PFT",
    "SwinIR": "archs.swinir:SwinIR",
    "ATD": "archs.atd:ATD",
    "HiT_SRF": "archs.hit:HiTSRF",
    "HiT_SIR": "archs.hit:HiTSIR",
    "HiT_SNG": "archs.hit:HiTSNG",
    "RRDBNet": "archs.rrdbnet:RRDBNet",
    "MSRResNet": "archs.srresnet:MSRResNet",
}
"""The published name, as an option file's ``network_g: type`` says it, and where the class is."""

DISCRIMINATORS: Mapping[str, str] = {
    "UNetDiscriminatorSN": "archs.discriminators:UNetDiscriminatorSN",
    "VGGStyleDiscriminator": "archs.discriminators:VGGStyleDiscriminator",
}
"""The same for ``network_d: type``."""

_RECOGNISERS = (
    "archs.plainusr",
    "archs.hat",
    "archs.rgt",
    "archs.esc",
    "archs.pft",
    "archs.swinir",
    "archs.atd",
    "archs.hit",
    "archs.rrdbnet",
    "archs.srresnet",
)
"""Modules whose ``configuration_from_state`` reads a configuration off the names and shapes of the weights."""

BASICSR = "basicsr:"
"""Before the name of a network of BasicSR: ``type: basicsr:SwinIR``."""

_OF_BASICSR = ("ECBSR", "EDSR", "RCAN", "RIDNet", "SRVGGNetCompact", "SwinIR")
"""BasicSR's networks that upscale single images, for messages where BasicSR is not installed."""


def network_class(name: str) -> type[nn.Module]:
    """The class of a network by its published name, or by ``basicsr:`` and BasicSR's name; importing is all it does.

    Raises:
        InputError: there is no such network, or BasicSR is not installed.
    """
    if name.startswith(BASICSR):
        theirs: type[nn.Module] = _bridge().basicsr_class(name.removeprefix(BASICSR))
        return theirs
    if name not in NETWORKS:
        raise InputError(f'unknown network type "{name}"{_hint(name)}')
    return _imported(NETWORKS[name])


def discriminator_class(name: str) -> type[nn.Module]:
    """The class of a discriminator by its published name; importing is all it does.

    Raises:
        InputError: there is no such discriminator.
    """
    if name not in DISCRIMINATORS:
        other = "; it is a network for super-resolution, for network_g" if name in NETWORKS else ""
        known = f"; known: {', '.join(DISCRIMINATORS)}"
        raise InputError(
            f'unknown discriminator type "{name}"{other or near_miss(name, tuple(DISCRIMINATORS)) or known}'
        )
    return _imported(DISCRIMINATORS[name])


def _imported(place: str) -> type[nn.Module]:
    """The class at a place such as ``archs.hat:HAT``."""
    module, _, attribute = place.partition(":")
    found: type[nn.Module] = getattr(importlib.import_module(module), attribute)
    return found


def build_network(opt: Mapping[str, object]) -> nn.Module:
    """A new network from the keys of an option file's ``network_g``: ``{"type": "PlainUSR_ultra", "scale": 4}``.

    Raises:
        InputError: the type or a key is unknown, or a value cannot be used; one message lists every mistake.
    """
    return _build(opt, "network_g", NETWORKS, network_class)


def build_discriminator(opt: Mapping[str, object]) -> nn.Module:
    """A new discriminator from the keys of an option file's ``network_d``; it meets ``archs.contract.Discriminator``.

    Raises:
        InputError: as :func:`build_network`.
    """
    return _build(opt, "network_d", DISCRIMINATORS, discriminator_class)


def _build(
    opt: Mapping[str, object], section: str, known: Mapping[str, str], class_of: Callable[[str], type[nn.Module]]
) -> nn.Module:
    """A network of one of the tables, from a section of an option file."""
    name = opt.get("type")
    if not isinstance(name, str):
        raise InputError(f'{section}: the key "type" must name a network; known: {", ".join(known)}')
    target = class_of(name)
    report = Report()
    arguments = read_arguments({key: value for key, value in opt.items() if key != "type"}, target, report, what=name)
    for key, problem in argument_problems(arguments):
        report.problem((key,), problem)
    report.raise_problems(f"{section} ({name})")
    try:
        check_size(name, target, arguments, section)
        network = target(**arguments)
    except InputError:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, AssertionError, RuntimeError) as error:
        if "memory" in str(error).lower():
            raise
        # What torch's layers and BasicSR's networks say about sizes that do not fit together.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{section} ({name}): it cannot be built with these arguments: {reason}") from error
    kernels = getattr(target, "kernels", ())
    expect((*kernels, MEMORY) if kernels else ())
    if name.startswith(BASICSR):
        _bridge().describe(network, arguments)
    return network


def identify(state: Mapping[str, Tensor]) -> dict[str, object] | None:
    """The ``network_g`` that :func:`build_network` needs for these weights; None if they are no network's from here."""
    return _identified(state, _RECOGNISERS)


def identify_discriminator(state: Mapping[str, Tensor]) -> dict[str, object] | None:
    """The ``network_d`` of :func:`build_discriminator` for these weights; None if these are no discriminator's."""
    return _identified(state, ("archs.discriminators",))


def _identified(state: Mapping[str, Tensor], recognisers: Sequence[str]) -> dict[str, object] | None:
    for module in recognisers:
        try:
            found: dict[str, object] = importlib.import_module(module).configuration_from_state(state)
        except (ValueError, LookupError):  # another network's keys (InputError), or other ranks under the same names
            continue
        return found
    return None


def _hint(name: str) -> str:
    """What an unknown network may have meant: one of ours, one of BasicSR, or what there is."""
    if name in DISCRIMINATORS:
        return "; it is a discriminator, for network_d"
    installed = importlib.util.find_spec("basicsr") is not None
    names: Sequence[str] = _OF_BASICSR
    if installed:
        with contextlib.suppress(InputError):  # one that cannot be imported says so when it is asked for
            names = _bridge().basicsr_names()
    theirs = {known.lower(): known for known in names}.get(name.lower())
    if theirs is not None:
        how = "" if installed else " (pip install -r requirements-basicsr.txt, docs/basicsr.md)"
        return f'; BasicSR has it: "{BASICSR}{theirs}"{how}'
    guess = near_miss(name, [*NETWORKS, *(BASICSR + known for known in names)]) or near_miss(name, NETWORKS)
    near = nearest(name, names)
    if not guess and near is not None:
        guess = f' (did you mean "{BASICSR}{near}"?)'
    return guess or f'; known: {", ".join(NETWORKS)}, and those of BasicSR, as "{BASICSR}SwinIR"'


def _bridge() -> Any:
    """The module that knows BasicSR, imported when one of its networks is asked for."""
    try:
        return importlib.import_module("archs.basicsr_bridge")
    except ImportError as error:
        raise InputError(f"networks of BasicSR cannot be used: {error}") from error
