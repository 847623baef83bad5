"""Which precision a device computes in when one is asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from config.values import Precision
from models.precision.network import NAMES, in_precision
from utils.devices import abilities, native_precisions
from utils.errors import InputError

SLOWER = "1.0 to 1.3 times"
"""How long PyTorch takes with float16 on a CPU that has it, of the time with float32; measured on one."""


class Choice(NamedTuple):
    """What a network is to compute in.

    Attributes:
        precision: of it.
        note: what the user should know about that; None where it is as asked.
    """

    precision: Precision
    note: str | None = None


def choose_precision(
    asked: Precision,
    device: torch.device,
    native: Collection[str] | None = None,
    *,
    option: str = "--precision",
    called: str | None = None,
) -> Choice:
    """What a device computes in: what is asked for, or float32 where that would only be slower and less exact.

    Args:
        asked: the precision.
        device: that is to compute.
        native: the half precisions in which its arithmetic is; None: what :mod:`utils.devices` says.
        option: where the wish comes from, for messages.
        called: the whole wish as it was written, where it is not ``option`` and ``asked``.

    Raises:
        InputError: float16 on a CPU that has to convert each number to float32 and back.
    """
    if asked == "fp32":
        return Choice(asked)
    has = native_precisions(device) if native is None else native
    wish = called or f"{option} {asked}"
    on_cpu = abilities(device).in_main_memory
    processor = "this CPU" if on_cpu else f"the device {device}"
    if asked in has:
        if asked == "fp16" and on_cpu:
            faster = "bf16 is faster on this one" if "bf16" in has else "float32 is faster"
            return Choice(asked, f"{wish}: on CPUs PyTorch takes {SLOWER} as long as with float32; {faster}")
        return Choice(asked)
    if asked == "bf16":
        note = f"{wish}: {processor} has no {NAMES[asked]} arithmetic and would only be slower; it computes in float32"
        return Choice("fp32", note)
    if not on_cpu:
        return Choice(asked, f"{wish}: {processor} is not known to have {NAMES[asked]} arithmetic; it may be slow")
    instead = f"{option} bf16" if "bf16" in has else "float32, and a small network such as PlainUSR-U"
    raise InputError(
        f"{wish}: {processor} has no {NAMES[asked]} arithmetic, so that PyTorch takes 10 to 50 times as long as with "
        f"float32; what is fast here: {instead}; what saves memory: smaller tiles"
    )


@dataclass(frozen=True)
class Arithmetic:
    """What a network computes in when it is evaluated.

    Attributes:
        precision: of it.
        keep: modules that stay in float32 (:mod:`models.precision.keep`).
    """

    precision: Precision = "fp32"
    keep: tuple[str, ...] = ()

    def of(self, network: nn.Module) -> nn.Module:
        """The network in this arithmetic (:func:`models.precision.network.in_precision`)."""
        return in_precision(network, self.precision, self.keep)

    def __str__(self) -> str:
        """For reports: "float16, some layers in float32"."""
        return NAMES[self.precision] + (", some layers in float32" if self.keep else "")


FLOAT32 = Arithmetic()
