"""Functions with several implementations: one reference in plain PyTorch that defines them, and faster ones.

``explain()`` says which implementation runs here. ``FOCALSR_OPS=reference`` takes the references wherever a call leaves
the choice open; ``FOCALSR_OPS=native`` makes the lack of compiled kernels an error for operators that have some.
"""

from __future__ import annotations

from ops import registry
from ops.attention import WINDOW_ATTENTION, window_attention
from ops.memo import Memo
from ops.registry import Explanation
from ops.relative_bias import RelativeBias

__all__ = ["OPERATORS", "Memo", "RelativeBias", "explain", "window_attention"]

OPERATORS = (WINDOW_ATTENTION,)


def explain() -> Explanation:
    """A table: operator, the backend that "auto" takes on this machine, and why not the others."""
    return registry.explain(OPERATORS)
