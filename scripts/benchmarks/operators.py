"""Operators alone: the reference against other backends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import ops
from scripts.benchmarks.measure import Comparison, Side, Work

# One layer of classical PFT on a 64 x 64 crop has B = 24; this is the middle of a training step.
BATCH, TOKENS, WIDTH, SLOTS = 64, 1024, 40, 64


def comparisons() -> list[Comparison]:
    """Both sparse products, and window attention, forward and backward."""
    return [*_sparse_products(), *_window_attention()]


def _sparse_products() -> list[Comparison]:
    work = f"{BATCH} x {TOKENS} x {WIDTH}, lists of {SLOTS}, float32, int16"
    return [
        Comparison(
            f"ops/smm_{name}_{direction}",
            f"{direction}, {work}",
            Side("reference", _sparse(name, direction, "reference")),
            Side("auto", _sparse(name, direction, "auto")),
        )
        for name in ("qmk", "amv")
        for direction in ("forward", "backward")
    ]


# Windows, heads, tokens, width: ESC at 16 patches of 64 x 64 (one of four GPUs), HAT at 2 patches, PFT's first layers.
ATTENTIONS = {"esc": (16, 4, 1024, 16), "hat": (32, 6, 256, 30), "pft": (4, 6, 1024, 40)}


def _window_attention() -> list[Comparison]:
    return [
        Comparison(
            f"ops/attention_{name}_{backend}_{direction}",
            f"{direction}, {windows} windows x {heads} heads x {tokens} tokens x {width}, bias, float32",
            Side("reference", _attention(name, direction, "reference")),
            Side(backend, _attention(name, direction, backend)),
            quick=False,
        )
        for name, (windows, heads, tokens, width) in ATTENTIONS.items()
        for backend in ("native", "sdpa")
        for direction in ("forward", "step")
    ]


def _attention(name: str, direction: str, backend: str) -> Callable[[], Work]:
    """Forward, or forward and backward with a bias that learns."""
    windows, heads, tokens, width = ATTENTIONS[name]

    def prepare() -> Work:
        torch.manual_seed(0)
        q, k, v = (torch.randn(windows, tokens, heads, width).transpose(1, 2).requires_grad_() for _ in range(3))
        bias = (0.1 * torch.randn(heads, tokens, tokens)).requires_grad_()
        grad = torch.randn(windows, tokens, heads, width).transpose(1, 2)

        def attend() -> Tensor:
            return ops.window_attention(q, k, v, bias, backend=backend)

        if direction == "forward":
            return torch.no_grad()(attend)
        return lambda: torch.autograd.grad(attend(), (q, k, v, bias), grad)

    return prepare


def _sparse(name: str, direction: str, backend: str) -> Callable[[], Work]:
    def prepare() -> Work:
        torch.manual_seed(0)
        rows = torch.randn(BATCH, TOKENS, WIDTH, requires_grad=True)
        # One key out of each TOKENS / SLOTS neighbours: distinct and ascending, as the lists of networks are.
        spread = TOKENS // SLOTS
        keys = torch.randint(spread, (BATCH, TOKENS, SLOTS)) + spread * torch.arange(SLOTS)
        keys = keys.to(torch.int16)
        if name == "qmk":
            queries = torch.randn(BATCH, TOKENS, WIDTH, requires_grad=True)
            return _timed(lambda: ops.smm_qmk(queries, rows.mT, keys, backend), (queries, rows), direction)
        weights = torch.rand(BATCH, TOKENS, SLOTS, requires_grad=True)
        return _timed(lambda: ops.smm_amv(weights, rows, keys, backend), (weights, rows), direction)

    return prepare


def _timed(product: Callable[[], Tensor], leaves: tuple[Tensor, ...], direction: str) -> Work:
    if direction == "forward":
        return torch.no_grad()(product)
    out = product()
    grad = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)
