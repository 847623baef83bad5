"""The conditions on images that torch.export writes into a program with free sizes, and those that it shall have.

Shapes: B images, h w low-resolution pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

ORDINARY = (67, 150, 501)
"""Sides at which nothing is one of its kind: neither a window of an image nor a representative of RGT."""


def hold_for(program: ExportedProgram, least: int, most: int | None) -> None:
    """Let a program take images whose sides are from ``least`` to ``most``, None for any, in any number.

    Where a size may be 1, in the middle of a network too, torch.export notes down as a condition that it is not:
    strides depend on it, the numbers do not. Such conditions go. Whoever exports compares the program with the network
    at the least size.

    Args:
        program: [B, c, h, w] with B, h and w free -> an image.
        least: height and width of the smallest image.
        most: of the largest.

    Raises:
        ValueError: a condition does not hold for ordinary images; the network itself has asked for a size.
    """
    limit = max(ORDINARY) if most is None else most
    sides = {min(max(side, least), limit) for side in ORDINARY}
    broken = unmet(program, ((batch, h, w) for batch in (2, 3) for h in sides for w in sides))
    if broken:
        raise ValueError(f"the program is not for images of any size: {'; '.join(broken)}")
    if hasattr(program, "_guards_code"):  # since torch 2.9
        program._guards_code = []
    batch, _, height, width = _image(program).shape
    for size, (low, high) in ((batch, (1, None)), (height, (least, most)), (width, (least, most))):
        symbol = size.node.expr  # type: ignore[attr-defined]  # a free size
        program.range_constraints[symbol] = ValueRanges(low, int_oo if high is None else high)


def unmet(program: ExportedProgram, sizes: Iterable[tuple[int, int, int]]) -> list[str]:
    """The conditions of a program that images of one of these sizes, (B, h, w), do not meet."""
    example = _image(program)
    name = program.graph_signature.user_inputs[0]
    images = [{name: torch.empty(B, example.shape[1], h, w, device="meta")} for B, h, w in sizes]
    conditions: list[str] = getattr(program, "_guards_code", [])
    return [text for text in conditions if not all(_met(text, image) for image in images)]


def _met(condition: str, inputs: dict[str, Tensor]) -> bool:
    """Whether inputs meet a condition, which torch has written as an expression of Python over the inputs ``L``."""
    return bool(eval(condition, {"L": inputs, "math": math, "torch": torch}))


def _image(program: ExportedProgram) -> Tensor:
    """The stand-in for the first input, with the names of free sizes as its sizes."""
    name = program.graph_signature.user_inputs[0]
    (node,) = (node for node in program.graph.nodes if node.op == "placeholder" and node.name == name)
    image: Tensor = node.meta["val"]
    return image
