"""Operators alone: the reference against the backend that "auto" takes, forward and backward.

Sizes are those of one GPU's share of the published training steps, and of images that become 1280 x 720 pixels at x4
(320 x 180, extended to whole windows); small ones for ``--quick``.

Shapes: W windows of all images, h heads, N queries, M keys, D width of a head, K length of a list, B = W * h.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import ops
from ops import FocusState
from scripts.benchmarks.limits import Cost
from scripts.benchmarks.measure import Comparison, Side, Work
from scripts.benchmarks.needs import Need

_SMALL, _STEP, _LARGE = "quick", "", "720p"  # kinds of sizes: --quick, a training step, an image
_DTYPES = (torch.float32, torch.bfloat16)
_DIRECTIONS = ("forward", "backward")


class Attention(NamedTuple):
    """A call of :func:`ops.window_attention`."""

    windows: int
    heads: int
    queries: int
    keys: int
    width: int

    def __str__(self) -> str:
        return f"{self.windows} windows x {self.heads} heads x {self.queries} queries, {self.keys} keys x {self.width}"


class Sparse(NamedTuple):
    """A call of :func:`ops.smm_qmk` and :func:`ops.smm_amv`."""

    batch: int
    tokens: int
    width: int
    slots: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.tokens} x {self.width}, lists of {self.slots} (int16)"


class Focus(NamedTuple):
    """A layer of :func:`ops.focused_attention`."""

    windows: int
    heads: int
    width: int
    before: int  # keys that a query has
    after: int  # keys that it keeps
    window: int = 32

    def __str__(self) -> str:
        tokens = self.window**2
        kept = f"{self.before} keys" + (f", of which it keeps {self.after}" if self.after < self.before else "")
        return f"{self.windows} windows x {self.heads} heads x {tokens} queries x {self.width}, {kept}"


class Depthwise(NamedTuple):
    """A call of :func:`ops.gelu_depthwise`."""

    images: int
    height: int
    width: int
    channels: int
    side: int

    def __str__(self) -> str:
        return f"{self.images} x {self.height} x {self.width} x {self.channels}, kernel {self.side} x {self.side}"


class Linear(NamedTuple):
    """A call of :func:`ops.linear`."""

    rows: int
    inputs: int
    outputs: int
    gelu: bool

    def __str__(self) -> str:
        return f"{self.rows} x {self.inputs} -> {self.outputs}{', GELU' if self.gelu else ''}"


ATTENTIONS = {
    ("hat", _SMALL): Attention(8, 6, 256, 256, 30),
    ("esc", _SMALL): Attention(2, 4, 1024, 1024, 16),
    ("hat", _STEP): Attention(64, 6, 256, 256, 30),  # 4 patches of 64 x 64, windows of 16
    ("hat_overlap", _STEP): Attention(64, 6, 256, 576, 30),  # keys of windows of 24
    ("rgt", _STEP): Attention(128, 3, 256, 256, 30),  # 8 patches, windows of 8 x 32, half of the heads
    ("esc", _STEP): Attention(64, 4, 1024, 1024, 16),  # 16 patches, windows of 32
    ("hat", _LARGE): Attention(240, 6, 256, 256, 30),
    ("hat_overlap", _LARGE): Attention(240, 6, 256, 576, 30),
    ("rgt", _LARGE): Attention(230, 3, 256, 256, 30),
    ("esc", _LARGE): Attention(60, 4, 1024, 1024, 16),
}
SPARSE = {
    ("smm_{}", _SMALL): Sparse(24, 1024, 40, 64),
    ("smm_{}_k256", _STEP): Sparse(96, 1024, 40, 256),  # classical PFT: 4 patches of 64 x 64, 6 heads
    ("smm_{}_target", _STEP): Sparse(64, 1024, 40, 64),
    ("smm_{}_k64", _STEP): Sparse(96, 1024, 40, 64),
    ("smm_{}_k256", _LARGE): Sparse(360, 1024, 40, 256),
    ("smm_{}_k64", _LARGE): Sparse(360, 1024, 40, 64),
}
FOCUSES = {
    ("focus_all", _SMALL): Focus(1, 4, 13, 1024, 1024),
    ("focus_k64", _SMALL): Focus(4, 4, 13, 64, 64),
    ("focus_all", _STEP): Focus(16, 6, 40, 1024, 1024),
    ("focus_selects", _STEP): Focus(16, 6, 40, 1024, 256),
    ("focus_k256", _STEP): Focus(16, 6, 40, 256, 256),
    ("focus_k64", _STEP): Focus(16, 6, 40, 64, 64),
    ("focus_all", _LARGE): Focus(60, 6, 40, 1024, 1024),
    ("focus_selects", _LARGE): Focus(60, 6, 40, 1024, 256),
    ("focus_k256", _LARGE): Focus(60, 6, 40, 256, 256),
    ("focus_k64", _LARGE): Focus(60, 6, 40, 64, 64),
}
DEPTHWISE = {
    ("gelu_depthwise_k7", _SMALL): Depthwise(1, 64, 64, 52, 7),
    ("gelu_depthwise_k3", _STEP): Depthwise(16, 64, 64, 80, 3),
    ("gelu_depthwise_k7", _STEP): Depthwise(4, 64, 64, 480, 7),
    ("gelu_depthwise_k3", _LARGE): Depthwise(1, 180, 320, 80, 3),  # ESC
    ("gelu_depthwise_k7", _LARGE): Depthwise(1, 192, 320, 480, 7),  # classical PFT
    ("depthwise_k3", _SMALL): Depthwise(1, 64, 64, 52, 3),
    ("depthwise_k3", _STEP): Depthwise(8, 64, 64, 180, 3),  # RGT
    ("depthwise_k3", _LARGE): Depthwise(1, 192, 320, 180, 3),
}
LINEAR = {
    ("linear_gelu", _SMALL): Linear(4096, 180, 360, gelu=True),
    ("linear", _STEP): Linear(16384, 180, 540, gelu=False),  # queries, keys and values of HAT
    ("linear_gelu", _STEP): Linear(16384, 180, 360, gelu=True),  # into its MLP
    ("linear", _LARGE): Linear(61440, 180, 540, gelu=False),
    ("linear_gelu", _LARGE): Linear(61440, 180, 360, gelu=True),
}


def comparisons() -> list[Comparison]:
    """Every operator, forward and backward, in float32 and bfloat16."""
    found = []
    for dtype in _DTYPES:
        for direction in _DIRECTIONS:
            for (name, kind), attention in ATTENTIONS.items():
                key = f"attention_{name}"
                cost = attention_cost(attention, direction, dtype)
                found.append(_row(key, kind, direction, dtype, str(attention), cost, _attention(attention)))
            for (name, kind), focus in FOCUSES.items():
                cost = _focus_cost(focus, direction, dtype)
                found.append(_row(name, kind, direction, dtype, str(focus), cost, _focus(focus)))
            for (name, kind), sparse in SPARSE.items():
                cost = _sparse_cost(sparse, direction, dtype)
                for product in ("qmk", "amv"):
                    key = name.format(product)
                    found.append(_row(key, kind, direction, dtype, str(sparse), cost, _sparse(sparse, product)))
            for (name, kind), depthwise in DEPTHWISE.items():
                cost = depthwise_cost(depthwise, direction, dtype)
                found.append(_row(name, kind, direction, dtype, str(depthwise), cost, _depthwise(name, depthwise)))
            for (name, kind), linear in LINEAR.items():
                cost = linear_cost(linear, direction, dtype)
                found.append(_row(name, kind, direction, dtype, str(linear), cost, _linear(linear)))
    return found + backends()


def backends() -> list[Comparison]:
    """ESC's window attention by each backend against the choice of "auto": 4 training patches, 1280 x 720 pixels."""
    found = []
    for windows, direction, name in ((16, "both", "training"), (60, "forward", "720p_x4"), (240, "forward", "720p_x2")):
        sizes = Attention(windows, 4, 1024, 1024, 16)
        for backend in ("reference", *(["sdpa", "flex"] if direction == "forward" else ["chunked"])):
            prepare = _attention(sizes)
            found.append(
                Comparison(
                    f"ops/backend_esc_{name}_{backend}",
                    f"{'forward and backward' if direction == 'both' else direction}, {sizes}, float32",
                    Side(backend, functools.partial(prepare, direction, backend, torch.float32)),
                    Side("auto", functools.partial(prepare, direction, "auto", torch.float32)),
                    quick=False,
                    large=True,
                    cost=attention_cost(sizes, direction, torch.float32),
                )
            )
    return found


Prepare = Callable[[str, str, torch.dtype], Work]  # direction, backend, type


def _row(
    name: str, kind: str, direction: str, dtype: torch.dtype, sizes: str, cost: Cost, prepare: Prepare
) -> Comparison:
    short = str(dtype).removeprefix("torch.")
    ending = "" if dtype == torch.float32 else "_bf16"
    needs: tuple[Need, ...] = () if dtype == torch.float32 else ("bfloat16",)
    return Comparison(
        f"ops/{name}{'_' if kind else ''}{kind}_{direction}{ending}",
        f"{direction}, {sizes}, {short}",
        Side("reference", lambda: prepare(direction, "reference", dtype), needs=needs),
        Side("auto", lambda: prepare(direction, "auto", dtype), needs=needs),
        quick=kind == _SMALL and dtype == torch.float32,
        large=dtype != torch.float32 or kind == _LARGE,
        cost=cost,
    )


def _run(product: Callable[[], Tensor], leaves: tuple[Tensor, ...], direction: str) -> Work:
    """The product without gradients, or its backward pass, or both."""
    if direction == "forward":
        return torch.no_grad()(product)
    if direction == "both":
        return lambda: torch.autograd.grad(product().square().sum(), leaves)
    out = product()
    grad = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)


def _attention(sizes: Attention) -> Prepare:
    """With a bias that learns."""
    windows, heads, queries, keys, width = sizes

    def prepare(direction: str, backend: str, dtype: torch.dtype) -> Work:
        q = torch.randn(windows, queries, heads, width, dtype=dtype).transpose(1, 2).requires_grad_()
        k, v = (torch.randn(windows, keys, heads, width, dtype=dtype).transpose(1, 2).requires_grad_() for _ in "kv")
        bias = (0.1 * torch.randn(heads, queries, keys)).requires_grad_()
        return _run(lambda: ops.window_attention(q, k, v, bias, backend=backend), (q, k, v, bias), direction)

    return prepare


def attention_cost(sizes: Attention, direction: str, dtype: torch.dtype) -> Cost:
    """Two products forward and four backward; the backward pass reads q, k, v and the gradient, and writes three.

    Of "both" the sum.
    """
    if direction == "both":
        forward, backward = (attention_cost(sizes, one, dtype) for one in _DIRECTIONS)
        return Cost(forward.flops + backward.flops, forward.moved + backward.moved, dtype)
    windows, heads, queries, keys, width = sizes
    product = 2 * windows * heads * queries * keys * width
    rows = windows * heads * width * dtype.itemsize
    bias = 4 * heads * queries * keys
    if direction == "forward":
        return Cost(2 * product, rows * (2 * queries + 2 * keys) + bias, dtype)
    return Cost(4 * product, rows * (3 * queries + 4 * keys) + 2 * bias, dtype)


def _sparse(sizes: Sparse, name: str) -> Prepare:
    batch, tokens, width, slots = sizes

    def prepare(direction: str, backend: str, dtype: torch.dtype) -> Work:
        rows = torch.randn(batch, tokens, width, dtype=dtype, requires_grad=True)
        keys = _lists((batch, tokens), tokens, slots)
        if name == "qmk":
            queries = torch.randn(batch, tokens, width, dtype=dtype, requires_grad=True)
            return _run(lambda: ops.smm_qmk(queries, rows.mT, keys, backend), (queries, rows), direction)
        weights = torch.rand(batch, tokens, slots, dtype=dtype, requires_grad=True)
        return _run(lambda: ops.smm_amv(weights, rows, keys, backend), (weights, rows), direction)

    return prepare


def _lists(shape: tuple[int, ...], tokens: int, slots: int) -> Tensor:
    """One key out of each tokens / slots neighbours: distinct and ascending, as the lists of networks are."""
    spread = tokens // slots
    keys = torch.randint(spread, (*shape, slots)) + spread * torch.arange(slots)
    return keys.to(torch.int16)


def _sparse_cost(sizes: Sparse, direction: str, dtype: torch.dtype) -> Cost:
    """Both products alike: two matrices of rows and one of lists, each read or written once."""
    batch, tokens, width, slots = sizes
    product = 2 * batch * tokens * slots * width
    rows, lists = batch * tokens * width * dtype.itemsize, batch * tokens * slots
    if direction == "forward":
        return Cost(product, 2 * rows + lists * (dtype.itemsize + 2), dtype)
    return Cost(2 * product, 4 * rows + lists * (dtype.itemsize + 2), dtype)


def _focus(sizes: Focus) -> Prepare:
    """One layer; the layer before it, whose state it goes on from, is not part of the work."""
    windows, heads, width, before, after, window = sizes
    tokens = window**2

    def prepare(direction: str, backend: str, dtype: torch.dtype) -> Work:
        q, k, v = (
            torch.randn(windows, tokens, heads, width, dtype=dtype).transpose(1, 2).requires_grad_() for _ in "qkv"
        )
        table = (0.1 * torch.randn((2 * window - 1) ** 2, heads)).requires_grad_()

        def layer(state: FocusState | None, topk: int) -> tuple[Tensor, FocusState]:
            return ops.focused_attention(q, k, v, table, state, window=window, topk=topk, backend=backend)

        state = None
        if before < tokens:
            with torch.no_grad():
                state = layer(None, before)[1]
        return _run(lambda: layer(state, after)[0], (q, k, v, table), direction)

    return prepare


def _focus_cost(sizes: Focus, direction: str, dtype: torch.dtype) -> Cost:
    """As attention; a layer with lists also reads and writes float32 logits, and lists of int16.

    Keys that a layer does not keep have scores, but no part in its sums, nor gradients.
    """
    windows, heads, width, before, after, window = sizes
    queries = windows * heads * window**2
    scores, sums = 2 * queries * before * width, 2 * queries * after * width
    rows = queries * width * dtype.itemsize
    lists = queries * (before * 6 if before < window**2 else 0)
    kept = queries * (after * 6 if after < before else after * 4 if before < window**2 else 0)
    if direction == "forward":
        return Cost(scores + sums, 4 * rows + lists + kept, dtype)
    return Cost(4 * sums, 7 * rows + 2 * lists, dtype)


def _depthwise(name: str, sizes: Depthwise) -> Prepare:
    images, height, width, channels, side = sizes
    operator = ops.gelu_depthwise if name.startswith("gelu") else ops.depthwise_conv2d

    def prepare(direction: str, backend: str, dtype: torch.dtype) -> Work:
        x = torch.randn(images, height, width, channels, dtype=dtype, requires_grad=True)
        weight = (torch.randn(channels, 1, side, side, dtype=dtype) / side).requires_grad_()
        bias = torch.zeros(channels, dtype=dtype, requires_grad=True)
        return _run(lambda: operator(x, weight, bias, backend), (x, weight, bias), direction)

    return prepare


def depthwise_cost(sizes: Depthwise, direction: str, dtype: torch.dtype) -> Cost:
    """The convolution alone; no matrix product can do it, so its arithmetic limit is out of reach."""
    images, height, width, channels, side = sizes
    values = images * height * width * channels
    convolution = 2 * values * side * side
    if direction == "forward":
        return Cost(convolution, 2 * values * dtype.itemsize, dtype)
    return Cost(2 * convolution, 3 * values * dtype.itemsize, dtype)


def _linear(sizes: Linear) -> Prepare:
    rows, inputs, outputs, gelu = sizes

    def prepare(direction: str, backend: str, dtype: torch.dtype) -> Work:
        x = torch.randn(rows, inputs, dtype=dtype, requires_grad=True)
        weight = (torch.randn(outputs, inputs, dtype=dtype) / inputs**0.5).requires_grad_()
        bias = torch.zeros(outputs, dtype=dtype, requires_grad=True)
        return _run(lambda: ops.linear(x, weight, bias, gelu=gelu, backend=backend), (x, weight, bias), direction)

    return prepare


def linear_cost(sizes: Linear, direction: str, dtype: torch.dtype) -> Cost:
    """One product forward and two backward."""
    rows, inputs, outputs, gelu = sizes
    product = 2 * rows * inputs * outputs
    x, y, weight = rows * inputs, rows * outputs, inputs * outputs
    if direction == "forward":
        return Cost(product, (x + y + weight) * dtype.itemsize, dtype)
    kept = y if gelu else 0  # what went into GELU
    return Cost(2 * product, (2 * x + y + kept + 2 * weight) * dtype.itemsize, dtype)
