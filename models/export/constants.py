"""Constants that the layers of an ONNX graph have alike, stored once: the tables of positions of all blocks."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto

LEAST = 1 << 10
"""Bytes of a constant that is worth looking for others like it."""


def share_constants(graph: GraphProto) -> None:
    """Keep the first of the equal constants of a graph; one with graphs inside its operators is left as it is.

    The exporter computes what follows from sizes alone, once for each layer: 36 tables of half a megabyte in a HAT.
    """
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return
    kept: dict[tuple[object, ...], str] = {}
    renamed: dict[str, str] = {}
    places = []
    for place, tensor in enumerate(graph.initializer):
        if len(tensor.raw_data) < LEAST:
            continue
        content = (tensor.data_type, tuple(tensor.dims), hashlib.sha256(tensor.raw_data).digest())
        first = kept.setdefault(content, tensor.name)
        if first != tensor.name:
            renamed[tensor.name] = first
            places.append(place)
    for place in reversed(places):
        del graph.initializer[place]
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in renamed:
                node.input[place] = renamed[name]
