"""Where a network in half precision first makes NaN or infinity: looked for when an output has some, not before."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.precision.network import NAMES, InPrecision
from models.precision.watch import Operation, watched


class _FoundError(Exception):
    """Ends a pass at the operation that was looked for."""

    def __init__(self, operation: Operation) -> None:
        super().__init__(operation.layer)
        self.operation = operation


class _First:
    """Raises at the first operation whose result is not finite, while what it takes is; its weights may be not."""

    def enter(self, module: str, inputs: tuple[Tensor, ...]) -> None:
        """Nothing to do."""

    def see(self, operation: Operation) -> None:
        """Look at the results."""
        if not operation.uninitialised and not _finite(operation.outputs) and _finite(operation.inputs):
            raise _FoundError(operation)


def first_fault(network: nn.Module, run: Callable[[], object]) -> str | None:
    """Which layer of a network in half precision first gives NaN or infinity, and what to do about it.

    Args:
        network: one of :func:`models.precision.network.in_precision`; of others nothing is known here.
        run: calls the network as it was called when its output was not finite.

    Returns:
        The end of a sentence, as in "first in the layer body.3 (convolution); ...". None for other networks, and where
        all numbers are finite.
    """
    if not isinstance(network, InPrecision):
        return None
    try:
        # Watched from the inside, so that names are those of the network.
        with torch.no_grad(), watched(network.network, _First()):
            run()
    except _FoundError as found:
        return _sentence(network, found.operation)
    return None


def _sentence(network: InPrecision, operation: Operation) -> str:
    where = f"in the layer {operation.layer}" if operation.layer else "between the layers"
    what = operation.name if _finite(operation.weights) else f"{operation.name}; its weights are not finite"
    start = f"in {NAMES[network.precision]}, first {where} ({what})"
    if network.precision == "bf16":
        return f"{start}; bfloat16 reaches as far as float32: are these weights sound?"
    return (
        f"{start}; float16 ends at 65504: let scripts/range_report.py find the layers that have to stay in float32 and "
        "store them with the weights, or take bf16 or fp32"
    )


def _finite(tensors: tuple[Tensor, ...]) -> bool:
    return all(bool(x.isfinite().all()) for x in tensors)
