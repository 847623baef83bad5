"""PlainUSR written down once more, straight from its formulas and a state dict: slow, and sharing nothing with archs.

It stands in for recorded outputs where there are none, at every size and form. The checks against the published
network are in test_golden.py.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def forward(state: State, x: Tensor, scale: int) -> Tensor:
    """[B, 3, H, W] -> [B, 3, s*H, s*W], for both forms of the three families."""
    z = convolve(state, "head", x, padding=1)
    blocks = ["block1", "block2", "blockm", "block3", "block4"] if "block3" in heads(state) else ULTRA
    for block in blocks:
        first = f"{block}.body.0"
        width = state.get(f"{first}.weight", state.get(f"{first}.reduce_conv.bias", z)).shape[0]
        z = torch.cat([run_block(state, block, z[:, :width]), z[:, width:]], 1)
    return F.pixel_shuffle(convolve(state, "tail.0", z, padding=1), scale)


ULTRA = ["block1", "blockm", "block2"]


def heads(state: State) -> set[str]:
    """The first parts of all keys."""
    return {key.split(".")[0] for key in state}


def convolve(state: State, name: str, x: Tensor, padding: int = 0, stride: int = 1) -> Tensor:
    """The convolution whose weight and bias have this name."""
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride, padding)


def run_block(state: State, block: str, h: Tensor) -> Tensor:
    """[B, c, H, W] -> [B, c, H, W]."""
    positions = sorted({int(key.split(".")[2]) for key in state if key.startswith(f"{block}.body.")})
    for position in positions:
        name = f"{block}.body.{position}"
        if f"{name}.expand_conv.weight" in state or f"{name}.weight" in state:
            if position:
                h = torch.where(h > 0, h, 0.05 * h)
            h = bottleneck(state, name, h) if f"{name}.se.tensor" in state else convolve(state, name, h, padding=1)
        elif f"{name}.conv.weight" in state:
            h = torch.cat([convolve(state, f"{name}.conv", h), h[:, 1:]], 1)
        else:
            h = attend(state, f"{name}.body", h)
    return h


def bottleneck(state: State, name: str, x: Tensor) -> Tensor:
    """RepMBConv with the frame of biases around the expanded features."""
    hidden = state[f"{name}.se.se.1.weight"] @ state[f"{name}.se.tensor"].flatten()
    scale = torch.sigmoid(state[f"{name}.se.se.3.weight"] @ (hidden * torch.sigmoid(hidden)))
    e = convolve(state, f"{name}.expand_conv", x)
    batch, inner, height, width = e.shape
    framed = state[f"{name}.expand_conv.bias"].view(1, -1, 1, 1).repeat(batch, 1, height + 2, width + 2)
    framed[:, :, 1:-1, 1:-1] = e
    u = convolve(state, f"{name}.fea_conv", framed)
    return convolve(state, f"{name}.reduce_conv", scale.view(1, inner, 1, 1) * u + e) + x


def attend(state: State, body: str, h: Tensor) -> Tensor:
    """LIA, or the full-resolution attention where there is only one convolution."""
    if f"{body}.2.weight" not in state:
        importance = torch.sigmoid(convolve(state, f"{body}.0", h, padding=1))
    else:
        pooled = soft_pool(convolve(state, f"{body}.0", h))
        r = convolve(state, f"{body}.2", pooled, padding=1, stride=2)
        importance = stretch(torch.sigmoid(convolve(state, f"{body}.3", r, padding=1)), h.shape[-2], h.shape[-1])
    return h * importance * torch.sigmoid(h[:, 0:1])


def soft_pool(q: Tensor) -> Tensor:
    """Windows of 7 (or the whole side, where it is shorter) at steps of 3."""
    height, width = (min(7, side) for side in q.shape[-2:])
    rows = []
    for top in range(0, q.shape[-2] - height + 1, 3):
        row = []
        for left in range(0, q.shape[-1] - width + 1, 3):
            window = q[..., top : top + height, left : left + width].flatten(-2)
            row.append((window.exp() * window).sum(-1) / window.exp().sum(-1))
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


def stretch(w: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, half-pixel centres: one direction after the other."""
    for dim, size in ((-2, height), (-1, width)):
        side = w.shape[dim]
        source = ((torch.arange(size, dtype=w.dtype) + 0.5) * side / size - 0.5).clamp(min=0)
        lower = source.floor().long()
        upper = (lower + 1).clamp(max=side - 1)
        fraction = (source - lower).view(-1, 1) if dim == -2 else source - lower
        w = w.index_select(dim, lower) * (1 - fraction) + w.index_select(dim, upper) * fraction
    return w
