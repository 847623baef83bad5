"""The backward pass of the sparse products by products of whole batch items (ops/maps.py), for long lists on a GPU.

Shapes as in ops/sparse/smm.py; b of the B batch items. What is listed twice is summed in the order of its slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ops import maps
from ops.autocast import without_autocast
from ops.sparse.arguments import AmvBackward, QmkBackward

SHARE = 1 / 2
"""Lists with this share of the keys, or more, have their backward pass here.

Measured on an H100 with 96 x 1024 x 40 and lists of 256 in ms, here and by the two kernels that walk along lists:
smm_qmk 1.2 and 0.9 in float32, 1.0 and 0.9 in bfloat16; smm_amv 1.5 and 0.9, 0.8 and 0.9. What the latter take grows
with the lists, and here it does not.
"""
_LEAST_PAIRS = 1 << 24
"""Of a query and a key, in all items: below, starting the products takes longer than they do."""


def pays(x: Tensor, length: int, keys: int) -> bool:
    """Whether this is the way of the backward pass for x [B, N, .], lists of this length and so many keys."""
    enough = x.shape[0] * x.shape[1] * keys >= _LEAST_PAIRS and length >= SHARE * keys
    return enough and maps.has_kernels(x, keys)


def qmk_gradients(arguments: QmkBackward) -> tuple[Tensor, Tensor]:
    """Gradients of q and k_t; empty where they are not wanted."""
    grad, q, k_t, lists, wants_q, wants_k = arguments
    k = k_t.mT
    d_q = q.new_empty(q.shape if wants_q else (0,))
    d_k = q.new_empty(k.shape if wants_k else (0,))
    spread = _room(q, k.shape[1], q.dtype)
    grad, lists = _rows(grad, lists)
    with without_autocast(q.device):
        for some, _ in maps.parts(len(q), 1, q.shape[1] * k.shape[1]):
            weights = _spread(grad[some], lists[some], spread)
            if wants_q:
                maps.store(weights, k[some], d_q[some])
            if wants_k:
                maps.store(weights.mT, q[some], d_k[some])
    return d_q, d_k.mT if wants_k else d_k


def amv_gradients(arguments: AmvBackward) -> tuple[Tensor, Tensor]:
    """Gradients of attn and v; empty where they are not wanted."""
    grad, attn, v, lists, wants_attn, wants_v = arguments
    d_attn = attn.new_empty(attn.shape if wants_attn else (0,))
    d_v = v.new_empty(v.shape if wants_v else (0,))
    products = _room(attn, v.shape[1], torch.promote_types(attn.dtype, torch.float32))
    spread = products if products.dtype == attn.dtype else _room(attn, v.shape[1], attn.dtype)
    attn, lists = _rows(attn, lists)
    with without_autocast(attn.device):
        for some, _ in maps.parts(len(attn), 1, attn.shape[1] * v.shape[1]):
            few = lists[some]
            if wants_attn:
                _collect(maps.multiply(grad[some], v[some].mT, products[: len(few)]), few, d_attn[some])
            if wants_v:
                maps.store(_spread(attn[some], few, spread).mT, grad[some], d_v[some])
    return d_attn, d_v


def _room(x: Tensor, keys: int, dtype: torch.dtype) -> Tensor:
    """A map [b, N, M] beside x [B, N, .]."""
    return x.new_empty(maps.windows_at_once(len(x), x.shape[1] * keys), x.shape[1], keys, dtype=dtype)


def _rows(values: Tensor, lists: Tensor) -> tuple[Tensor, Tensor]:
    """Values and lists as the kernels read them: dense, with short entries; what names no key does so still."""
    if lists.dtype == torch.int64 and lists.device.type == "cuda":
        lists = lists.clamp(-1, torch.iinfo(torch.int32).max).int()
    return values.contiguous(), lists.contiguous()


def _inside(lists: Tensor, keys: int) -> tuple[Tensor, Tensor]:
    """Keys that exist, and where the lists name them."""
    inside = (lists >= 0) & (lists < keys)
    return lists.long().where(inside, 0), inside


def _spread(values: Tensor, lists: Tensor, room: Tensor) -> Tensor:
    """Values at their keys, zeros elsewhere: [b, N, M]."""
    room = room[: len(values)]
    if maps.has_kernels(values, room.shape[-1]):
        torch.ops.focalsr.map_spread(values, lists, room)
        return room
    keys, inside = _inside(lists, room.shape[-1])
    return room.zero_().scatter_add_(-1, keys, values.where(inside, 0))


def _collect(products: Tensor, lists: Tensor, out: Tensor) -> None:
    """What the lists name."""
    if maps.has_kernels(out, products.shape[-1]):
        torch.ops.focalsr.map_collect(products, lists, out)
        return
    keys, inside = _inside(lists, products.shape[-1])
    out.copy_(products.gather(-1, keys).where(inside, 0))
