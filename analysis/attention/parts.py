"""Attention maps a part at a time: some windows, and where one window is too large, some of its queries.

Shapes: W windows, h heads, N queries and M keys of a window.
"""

from __future__ import annotations

from collections.abc import Iterator

from ops import AttentionCall

ELEMENTS = 1 << 22
"""Weights that exist at once: 16 MiB in float32, and a few times as much on the way."""


def parts(call: AttentionCall, maps: int = 1) -> Iterator[tuple[slice, slice]]:
    """Windows and queries, in their order, whose weights [W', h, Q, M] are few enough to be held at once.

    Args:
        call: what is looked at.
        maps: as many calls of this size are looked at together.
    """
    row = call.heads * call.keys * maps
    queries = min(call.queries, max(1, ELEMENTS // row))
    windows = max(1, ELEMENTS // (row * call.queries))
    for first in range(0, call.windows, windows):
        for start in range(0, call.queries, queries):
            yield slice(first, min(first + windows, call.windows)), slice(start, min(start + queries, call.queries))
