"""Window attention on PyTorch's FlexAttention: a kernel compiled for this bias, for CUDA.

The kernel adds the dense bias to each logit as it goes, so the logits and, other than in the memory-efficient kernel,
their gradient are never stored. Its backward pass sums the gradient of the bias by atomic additions, in an order that
differs from run to run: the last bits of trained weights do too. The bias is given dense, not as a table read by
displacement: additions then meet at one address once per window instead of once per window and pair of tokens.

Shapes as in ops/window/arguments.py.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from ops.registry import Backend, exporting, only_on
from ops.window.arguments import WindowArguments, WindowCall, WindowFunction

LEAST_WIDTH = 16
"""Width of heads below which the kernel does not exist on CUDA."""

Flex = Callable[..., Tensor]


def flex_attention_with_bias(arguments: WindowArguments) -> Tensor:
    """[W, h, N, E]; there is no mask."""
    q, k, v, bias, mask, scale = arguments
    assert mask is None
    if q.device.type == "cpu":  # it asks whether gradients could be wanted, not whether they are
        q, k, v, bias = q.detach(), k.detach(), v.detach(), None if bias is None else bias.detach()
    score = None
    if bias is not None:
        # Made at each call from the bias of this call: what a network's copies and loaded weights hold counts, never
        # a parameter caught earlier. One compiled kernel serves them all.
        def score(logit: Tensor, window: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return logit + bias[head, query, key]

    # A graph that is being compiled takes the operator in as it is.
    run = cast("Flex", flex_attention) if torch.compiler.is_compiling() else compiled()
    return run(q, k, v, score_mod=score, scale=scale)


def _refusal(call: WindowCall) -> str | None:
    if call.dropout:
        return "attention weights are to be dropped, and it never holds them; use the reference or no dropout"
    if call.masked:
        return "it is written for a bias, and there is a mask"
    if (elsewhere := only_on(call.device, "cpu", "cuda")) is not None:
        return elsewhere
    if call.device == "cpu" and call.gradient:
        return "PyTorch has no backward pass of it on the CPU"
    if call.device == "cuda" and call.width < LEAST_WIDTH:
        return f"heads of width {call.width} are narrower than {LEAST_WIDTH}, the least that it takes on CUDA"
    if exporting():
        return "an exported program has to run where nothing is compiled"
    # A graph that is being compiled is proof enough of a compiler, and cannot ask.
    if torch.compiler.is_compiling():
        return None
    if not takes_width(call.width):
        return f"this version of torch takes heads of certain widths only, and these have {call.width}"
    return missing_compiler(call.device)


def _drawback(call: WindowCall) -> str | None:
    if call.device == "cpu":
        return "it compiles for half a minute at its first call, and is no faster on the CPU"
    return None


BACKEND: Backend[WindowCall, WindowFunction] = Backend(
    "flex",
    flex_attention_with_bias,
    refusal=_refusal,
    merit="compiled by PyTorch for the bias",
    shortfall="it compiles first, and sums the gradient of the bias in an order that differs from run to run",
    drawback=_drawback,
)


def takes_width(width: int) -> bool:
    """Whether FlexAttention takes heads of this width; those of torch 2.6 must be powers of two."""
    from torch.nn.attention import flex_attention

    supported = getattr(flex_attention, "_supported_head_dim", None)
    return supported is None or bool(supported(width))


@functools.cache
def missing_compiler(device: str) -> str | None:
    """One sentence why nothing can be compiled for a device, or None."""
    if device == "cuda":
        return None if importlib.util.find_spec("triton") else "it is compiled with Triton, which is not installed"
    names = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    if any(name and shutil.which(name) for name in names):
        return None
    return "it is compiled at its first call, and there is no C++ compiler"


@functools.cache
def compiled() -> Flex:
    """FlexAttention as one kernel, compiled at its first call."""
    # Free sizes: one kernel for all numbers of windows.
    return cast("Flex", torch.compile(flex_attention, dynamic=True, fullgraph=True))
