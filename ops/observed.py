"""Attention, watched while a network runs: an observer is handed the arguments of each call, and asks for rows of maps.

No backend keeps attention weights; most never hold them. Whoever wants to see some says so around the run, and the
definition's own formulas compute the rows that are asked for, and no others::

    def look(call: AttentionCall) -> None:
        rows = call.weights(slice(0, 1), slice(5, 6))  # of query 5 in the first window

    with observed_by(look):
        network(x)

The chosen backends run as they do otherwise. Calls that become part of a compiled or exported program are not
observed. Shapes as in ops/window/arguments.py; Q of the N queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ops.focused.arguments import FocusArguments, FocusState
from ops.focused.kept import kept_weights
from ops.registry import recording
from ops.window.arguments import WindowArguments
from ops.window.reference import attention_weights
from ops.window.region_mask import HIDDEN, mask_rows

ALL = slice(None)


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One call of :func:`ops.window_attention` or :func:`ops.focused_attention`.

    Attributes:
        arguments: what the backend was given.
        state: what a layer of focused attention hands on; None for window attention.
    """

    arguments: WindowArguments | FocusArguments
    state: FocusState | None = None

    @property
    def windows(self) -> int:
        """W."""
        return self.arguments.q.shape[0]

    @property
    def heads(self) -> int:
        """The number of heads, h."""
        return self.arguments.q.shape[1]

    @property
    def queries(self) -> int:
        """N."""
        return self.arguments.q.shape[2]

    @property
    def keys(self) -> int:
        """M."""
        return self.arguments.k.shape[2]

    def weights(self, windows: slice = ALL, queries: slice = ALL) -> Tensor:
        """What multiplies the values, of some windows and queries; dropout is left out.

        Args:
            windows: of the W.
            queries: of the N.

        Returns:
            [W', h, Q, M], float32 at least. Rows sum to 1, in focused attention to less where keys were dropped; these
            have weight 0.
        """
        weights, keys = self.kept(windows, queries)
        if keys is None:
            return weights
        return weights.new_zeros(*weights.shape[:3], self.keys).scatter(-1, keys, weights)

    def kept(self, windows: slice = ALL, queries: slice = ALL) -> tuple[Tensor, Tensor | None]:
        """The same without the keys that were dropped: [W', h, Q, K], and which they are, None for all M in order."""
        with torch.no_grad():
            if isinstance(self.arguments, WindowArguments):
                return attention_weights(self.arguments, windows, queries), None
            assert self.state is not None
            return kept_weights(self.arguments, self.state, windows, queries)

    def visible(self, windows: slice = ALL, queries: slice = ALL) -> Tensor | None:
        """Which keys the mask lets some queries see, [W', Q, M]; None where there is no mask."""
        arguments = self.arguments
        mask = arguments.mask if isinstance(arguments, WindowArguments) else arguments.regions
        return None if mask is None else mask_rows(mask, windows, self.windows, queries, torch.float32) > HIDDEN


Observer = Callable[[AttentionCall], None]
"""Called after each call has been computed. The call's tensors are the network's own: not to be written to."""

_observer: Observer | None = None


@contextmanager
def observed_by(watch: Observer | None) -> Iterator[None]:
    """Attention that is computed inside is handed to this observer, and to no other; None for nobody."""
    global _observer
    before, _observer = _observer, watch
    try:
        yield
    finally:
        _observer = before


def observer() -> Observer | None:
    """Who is to be told of a call, if anybody; nobody while the calls become a program."""
    return None if _observer is None or recording() else _observer
