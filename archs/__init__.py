"""Networks: Tensor in, Tensor out. This package knows their names and imports each one when it is asked for."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from archs.limits import argument_problems, check_size
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
}
"""The published name, as an option file's ``network_g: type`` says it, and where the class is."""

_RECOGNISERS = (
    "archs.plainusr",
    "archs.hat",
    "archs.rgt",
    "archs.esc",
    "archs.pft",
)
"""Modules whose ``configuration_from_state`` reads a configuration off the names and shapes of the weights."""

BASICSR = "basicsr:"
"""Before the name of a network of BasicSR: ``type: basicsr:RRDBNet``."""

_OF_BASICSR = ("ECBSR", "EDSR", "MSRResNet", "RCAN", "RIDNet", "RRDBNet", "SRVGGNetCompact", "SwinIR")
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
    module, _, attribute = NETWORKS[name].partition(":")
    found: type[nn.Module] = getattr(importlib.import_module(module), attribute)
    return found


def build_network(opt: Mapping[str, object]) -> nn.Module:
    """A new network from the keys of an option file's ``network_g``: ``{"type": "PlainUSR_ultra", "scale": 4}``.

    Raises:
        InputError: the type or a key is unknown, or a value cannot be used; one message lists every mistake.
    """
    name = opt.get("type")
    if not isinstance(name, str):
        raise InputError(f'network_g: the key "type" must name a network; known: {", ".join(NETWORKS)}')
    target = network_class(name)
    report = Report()
    arguments = read_arguments({key: value for key, value in opt.items() if key != "type"}, target, report, what=name)
    for key, problem in argument_problems(arguments):
        report.problem((key,), problem)
    report.raise_problems(f"network_g ({name})")
    try:
        check_size(name, target, arguments)
        network = target(**arguments)
    except InputError:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, AssertionError, RuntimeError) as error:
        if "memory" in str(error).lower():
            raise
        # What torch's layers and BasicSR's networks say about sizes that do not fit together.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"network_g ({name}): it cannot be built with these arguments: {reason}") from error
    if name.startswith(BASICSR):
        _bridge().describe(network, arguments)
    return network


def identify(state: Mapping[str, Tensor]) -> dict[str, object] | None:
    """The ``network_g`` that :func:`build_network` needs for these weights; None if they are no network's from here."""
    for module in _RECOGNISERS:
        try:
            found: dict[str, object] = importlib.import_module(module).configuration_from_state(state)
        except (ValueError, LookupError):  # another network's keys (InputError), or other ranks under the same names
            continue
        return found
    return None


def _hint(name: str) -> str:
    """What an unknown network may have meant: one of ours, one of BasicSR, or what there is."""
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
