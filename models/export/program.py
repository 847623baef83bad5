"""Networks traced by torch.export, with batch, height and width free or fixed.

Shapes: B images, c channels, h w low-resolution pixels.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import config as tracing

from models.export.conditions import hold_for
from ops.dialect import TORCH, Dialect, recorded_for
from utils.errors import InputError, RunError
from utils.wording import first_line

LEAST_TORCH = (2, 9)
"""The first release whose ONNX exporter takes programs with free sizes of all networks here."""


def check_torch() -> None:
    """Raise InputError where torch is too old to export programs."""
    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if release < LEAST_TORCH:
        needed = ".".join(map(str, LEAST_TORCH))
        raise InputError(f"programs are exported with torch {needed} or later; this is {torch.__version__}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch's exporters log and warn about their own inner workings off the console.

    Nor do they write down for each operator which lines of code led to it, a quarter of their time.
    """
    disabled = logging.root.manager.disable
    without_lines = getattr(tracing, "do_not_emit_stack_traces", False)  # torch 2.9 may not ask
    logging.disable(logging.WARNING)
    tracing.do_not_emit_stack_traces = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        tracing.do_not_emit_stack_traces = without_lines
        logging.disable(disabled)


def trace(
    form: nn.Module, inputs: Sequence[Tensor], sizes: tuple[int, int | None] | None = None, dialect: Dialect = TORCH
) -> ExportedProgram:
    """The program of a network's export form (:mod:`models.export.form`).

    Where the code of the network lies on this machine is not in it.

    Args:
        form: in evaluation mode, without gradients.
        inputs: an example: images [B, c, h, w], and the scale where that is an input.
        sizes: height and width of the smallest and the largest image, None for any, that the program shall be for, in
            any number; None for images as the example's alone.
        dialect: what the runtime can be asked for.

    Raises:
        RunError: torch.export cannot trace it.
    """
    free = {} if sizes is None else {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    shapes = (free, *({} for _ in inputs[1:]))
    try:
        with quiet(), torch.no_grad(), recorded_for(dialect):
            program = torch.export.export(form, tuple(inputs), dynamic_shapes=shapes)
        if sizes is not None:
            hold_for(program, *sizes)
    except Exception as error:  # of many kinds, and all of them say: not this network
        name = type(getattr(form, "network", form)).__name__
        raise RunError(f"{name} cannot be exported: torch.export refuses it ({first_line(error)})") from error
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program
