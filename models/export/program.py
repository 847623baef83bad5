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
    """Keep what torch's exporters log and warn about their own inner workings off the console."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def trace(form: nn.Module, inputs: Sequence[Tensor], *, free: bool) -> ExportedProgram:
    """The program of a network's export form (:mod:`models.export.form`).

    Where the code of the network lies on this machine is not in it.

    Args:
        form: in evaluation mode, without gradients.
        inputs: an example: images [B, c, h, w], and the scale where that is an input.
        free: whether the program is for images of other sizes, and other numbers of them, than the example's.

    Raises:
        RunError: torch.export cannot trace it.
    """
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC} if free else {}
    shapes = (sizes, *({} for _ in inputs[1:]))
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(form, tuple(inputs), dynamic_shapes=shapes)
    except Exception as error:  # of many kinds, and all of them say: not this network
        name = type(getattr(form, "network", form)).__name__
        raise RunError(f"{name} cannot be exported: torch.export refuses it ({first_line(error)})") from error
    # Of images it would be demanded that no two sizes in between are equal by chance, as those of one window and of the
    # whole image: torch cannot prove that nothing is done differently then. That it is so is for the checks to show.
    program._guards_code = [guard for guard in program._guards_code if " != " not in guard]
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program
