"""Focused attention: attention in windows whose layers hand on which keys mattered, and how much (PFT).

A layer's attention map is multiplied by the map of the layer before it and normalised again; from some layer on, each
query keeps its K strongest keys and the layers that follow look at no others. The product of softmax maps is the
softmax of the sum of their logits, so layers hand on cumulative logits and lists of keys, and as long as all keys are
kept not even those: logits that sum over layers are one product of the layers' queries and keys joined side by side.

Shapes: B images of n windows each, W = B * n windows (image after image), h heads, w side of a window, N = w * w tokens
in it, D width of a head, S width of the joined queries and keys, K length of a list, T = (2w-1)^2 rows of a bias table.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ops.autocast import takes_autocast
from ops.focused import composed, joined, native, reference
from ops.focused.arguments import FocusArguments, FocusCall, FocusFunction, FocusState, call_of, check
from ops.observed import AttentionCall, observed_by, observer
from ops.registry import AUTO, REFERENCE, Operator
from utils.devices import types_here, without_values
from utils.errors import InputError


@takes_autocast("q", "k", "v")
def focused_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    state: FocusState | None = None,
    *,
    window: int,
    topk: int,
    regions: Tensor | None = None,
    scale: float | None = None,
    backend: str = "auto",
) -> tuple[Tensor, FocusState]:
    """One layer of focused attention; ``state`` comes from the layer before it.

    The state is left as it is, unless it says that it is disposable and no gradient is wanted.

    Under autocast q, k, v are taken in its type. Logits, their softmax and what is handed on are float32 at least.
    Gradients flow through the state: a later layer's loss reaches the queries and keys of earlier ones. The selection
    has none. It depends on the numbers alone, not on threads or runs; of equal keys the first are kept.

    Args:
        q: [W, h, N, D].
        k: [W, h, N, D], type of ``q``.
        v: [W, h, N, D], type of ``q``.
        table: [T, h] bias by where the query is as seen from the key, or [T, 1] for all heads alike.
        state: of the layer before, None for the first.
        window: w.
        topk: keys that a query keeps; if that is no fewer than it has, all of them.
        regions: [n, N] uint8, the region of each token in each of the n windows of an image, or None: as long as all
            keys are there, tokens of different regions do not see each other. Their cumulative logit is lowered by 100
            once; the published formulas, and the reference, lower it in each of these layers. Both leave weights that
            vanish in float32 beside the largest of the row, as long as no hidden logit is larger by 80 than all that
            are seen. A query that keeps more keys than its region has keeps hidden ones of these weights.
        scale: of the logits; D ** -0.5 by default.
        backend: "auto", "joined", "native", "composed" or "reference" (see :func:`ops.explain`). The reference
            multiplies maps, as published; its states fit no other backend, and "auto" stays with it. As published, it
            also adds 1e-20 to each weight of each layer: smaller ones become equal, and their order, by which keys are
            kept, is lost. The others add nothing, and keep the order of all cumulative logits.

    Returns:
        The sum of values [W, h, N, D] in the type of ``q`` (of autocast, under autocast), weights of keys that were
        not kept missing in it, and the state for the next layer.

    Raises:
        InputError: shapes or types do not fit, or the chosen backend cannot serve this call.
    """
    if scale is None:
        scale = q.shape[-1] ** -0.5 if q.ndim else 1.0
    arguments = FocusArguments(q, k, v, table, regions, window, topk, scale, state)
    check(arguments)
    goes_on = state is not None and state.weights is not None
    if backend == AUTO and (goes_on or without_values(q.device)):
        backend = REFERENCE
    chosen = FOCUSED_ATTENTION.choose(call_of(arguments), backend)
    if state is not None and (state.weights is not None) != (chosen.name == REFERENCE):
        raise InputError(
            f"focused_attention: backend {chosen.name} cannot go on from a state of "
            f"{'the reference' if state.weights is not None else 'another backend'}; choose one for all layers"
        )
    watch = observer()
    if watch is None:
        return chosen.run(arguments)
    with observed_by(None):  # what a backend calls is no attention of its own
        out, new = chosen.run(arguments)
    watch(AttentionCall(arguments, new))
    return out, new


def _examples() -> Mapping[str, FocusCall]:
    devices = types_here()
    return {
        f"{device}, {name}": FocusCall(device, selects, sparse)
        for device in devices
        for name, selects, sparse in (
            ("all keys", False, False),
            ("all keys, selects", True, False),
            ("listed keys", True, True),
        )
    }


FOCUSED_ATTENTION: Operator[FocusCall, FocusFunction] = Operator(
    name="focused_attention",
    backends=(joined.BACKEND, native.BACKEND, composed.BACKEND, reference.BACKEND),
    examples=_examples,
)
