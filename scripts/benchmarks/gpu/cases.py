"""One small case per CUDA kernel, against the references: ``python -m scripts.benchmarks.gpu.cases``.

Small enough for compute-sanitizer, which slows kernels down a hundred times. The references run on the CPU in float64.
``--coverage`` also says which of the kernels in ops/csrc have not run; that needs a profiler, which compute-sanitizer
does not share a process with.

Shapes: B batch items, N queries, M keys, K slots of a list, D width of a head, W windows, h heads, w side of a window.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import ops
from ops.depthwise import SIDES
from ops.kernel_cache import SOURCES
from ops.registry import ENVIRONMENT, NATIVE
from utils.command import run_command
from utils.errors import InputError

# ||out - reference|| / ||reference||, the inputs alike: what rounding of sums and of results allows.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_KERNEL = re.compile(r"__global__ void (?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(")
PRODUCTS = ("smm_qmk", "smm_amv")
Compute = Callable[[Sequence[Tensor], str], list[Tensor]]  # inputs, backend -> results and gradients


class Sizes(NamedTuple):
    """Of a sparse product."""

    B: int = 2
    N: int = 70
    M: int = 40
    K: int = 33


LONG = Sizes()
SHORT = Sizes(M=70, K=3)
MANY = Sizes(B=88, N=6, M=10, K=5)
"""A block each, which is enough for up to 176 multiprocessors."""


class Case(NamedTuple):
    """What is computed twice.

    Attributes:
        name: for the report.
        dtype: of the inputs.
        inputs: on the CPU.
        compute: results and gradients, by a backend.
    """

    name: str
    dtype: torch.dtype
    inputs: tuple[Tensor, ...]
    compute: Compute


def cases() -> Iterator[Case]:
    """Both sparse products and a chain of focused layers, by type and width; depth-wise convolutions.

    Then what else decides about the kernel: lists of less than a sixteenth of the keys, as many batch items as blocks
    with rows in shared memory need, and gradients by maps, which "auto" leaves to larger sizes.
    """
    for dtype, entries, width in (
        (torch.float32, torch.int16, 40),
        (torch.float32, torch.int64, 13),
        (torch.float16, torch.int32, 40),
        (torch.bfloat16, torch.int16, 13),
    ):
        shown = f"{_short(dtype)}, {_short(entries)}, width {width}"
        for product in PRODUCTS:
            yield _sparse(f"{product}, {shown}", product, dtype, entries, width)
    for dtype, width, side, regions in (
        (torch.float32, 40, 8, False),
        (torch.float32, 13, 7, True),
        (torch.float16, 40, 8, True),
        (torch.bfloat16, 13, 8, False),
    ):
        shown = f"{_short(dtype)}, width {width}, window {side}{', regions' if regions else ''}"
        yield _focused(f"focused_attention, {shown}", dtype, width, side, regions=regions)
    for side in SIDES:
        yield _depthwise(f"depthwise_conv2d, float32, side {side}", side)
    # In half precision rounding decides about short lists of the strongest keys.
    yield _focused("focused_attention, float32, width 40, short lists", torch.float32, 40, 7, topk=(3, 3, 2))
    for dtype, width in ((torch.float32, 40), (torch.bfloat16, 13)):
        for product in PRODUCTS:
            shown = f"{product}, {_short(dtype)}, width {width}"
            yield _sparse(f"{shown}, short lists", product, dtype, torch.int16, width, SHORT)
            yield _sparse(f"{shown}, many items", product, dtype, torch.int16, width, MANY)
            yield _sparse_by_maps(f"{shown}, gradients by maps", product, dtype, width)
        shown = f"focused_attention, {_short(dtype)}, width {width}"
        yield _focused(f"{shown}, many windows", dtype, width, 3, topk=(8, 8, 7), windows=44)
        for selects in (False, True):
            yield _focused_by_maps(f"{shown}, gradients by maps{', selects' if selects else ''}", dtype, width, selects)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sparse(name: str, product: str, dtype: torch.dtype, entries: torch.dtype, width: int, sizes: Sizes = LONG) -> Case:
    """Several segments of queries, and lists that are no multiple of a warp."""
    B, N, M, K = sizes
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(B, N, width if product == "smm_qmk" else K, generator=generator).to(dtype)
    rows = torch.randn(B, M, width, generator=generator).to(dtype)
    index = torch.randint(M, (B, N, K), generator=generator).to(entries)
    grad = torch.randn(B, N, K if product == "smm_qmk" else width, generator=generator).to(dtype)
    return Case(name, dtype, (queries, rows, index, grad), partial(_product, product))


def _product(product: str, inputs: Sequence[Tensor], backend: str) -> list[Tensor]:
    x, y, index, grad = inputs
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    if product == "smm_qmk":
        out = ops.smm_qmk(x, y.mT, index, backend=backend)
    else:
        out = ops.smm_amv(x, y, index, backend=backend)
    return [out.detach(), *torch.autograd.grad(out, (x, y), grad)]


def _sparse_by_maps(name: str, product: str, dtype: torch.dtype, width: int) -> Case:
    """The gradients alone."""
    case = _sparse(name, product, dtype, torch.int16, width)

    def compute(inputs: Sequence[Tensor], backend: str) -> list[Tensor]:
        if backend == "reference":
            return _product(product, inputs, backend)[1:]
        x, y, index, grad = inputs
        if product == "smm_amv":
            return list(torch.ops.focalsr.smm_amv_backward_dense(grad, x, y, index, True, True))
        d_x, d_y = torch.ops.focalsr.smm_qmk_backward_dense(grad, x, y.mT, index, True, True)
        return [d_x, d_y.mT]

    return case._replace(compute=compute)


def _focused(
    name: str,
    dtype: torch.dtype,
    width: int,
    side: int,
    *,
    topk: Sequence[int] | None = None,
    windows: int = 4,
    regions: bool = False,
) -> Case:
    """By default four layers: all keys, a selection among all, the list handed on, a selection among the list."""
    generator = torch.Generator().manual_seed(0)
    tokens = side * side
    topk = topk or (tokens, 20, 20, 9)
    layers = len(topk)
    qkv = torch.randn(layers, 3, windows, 2, tokens, width, generator=generator).to(dtype)  # [., ., W, h, N, D]
    grads = torch.randn(layers, windows, 2, tokens, width, generator=generator).to(dtype)
    tables = 0.3 * torch.randn(layers, (2 * side - 1) ** 2, 2, generator=generator)
    parts = torch.randint(2, (2, tokens), generator=generator).byte()

    def compute(inputs: Sequence[Tensor], backend: str) -> list[Tensor]:
        qkv, grads, tables, parts = inputs
        qkv, tables = qkv.detach().requires_grad_(), tables.detach().requires_grad_()
        state, outs = None, []
        for layer, (q, k, v) in enumerate(qkv):
            out, state = ops.focused_attention(
                q, k, v, tables[layer], state, window=side, topk=topk[layer], regions=parts if regions else None,
                backend=backend,
            )  # fmt: skip
            outs.append(out)
        found = torch.autograd.grad(outs, (qkv, tables), list(grads))
        return [*(out.detach() for out in outs), *found]

    return Case(name, dtype, (qkv, grads, tables, parts), compute)


def _focused_by_maps(name: str, dtype: torch.dtype, width: int, selects: bool) -> Case:
    """The gradients of a layer with lists. The reference is the operator itself, by PyTorch's products and gathers."""
    generator = torch.Generator().manual_seed(0)
    windows, heads, side, length, after = 2, 2, 7, 20, 9
    tokens = side * side
    rows = (windows, heads, tokens)
    grad, q, k, v = (torch.randn(*rows, width, generator=generator).to(dtype) for _ in range(4))
    table = 0.3 * torch.randn((2 * side - 1) ** 2, heads, generator=generator)
    lists = torch.rand(*rows, tokens, generator=generator).topk(length).indices.sort().values.short()
    logits = torch.randn(*rows, length, generator=generator)
    kept = lists[..., 1 : 2 * after : 2].contiguous()  # any of them will do
    grad_logits = torch.randn(*rows, after if selects else length, generator=generator)
    log_sum = logits.logsumexp(-1)

    def compute(inputs: Sequence[Tensor], backend: str) -> list[Tensor]:
        *given, kept, log_sum = inputs
        operator = torch.ops.focalsr.focus_sparse_backward_dense
        return list(operator(*given, kept if selects else None, log_sum, side, width**-0.5))

    return Case(name, dtype, (grad, grad_logits, q, k, v, table, logits, lists, kept, log_sum), compute)


def _depthwise(name: str, side: int) -> Case:
    """Two maps of 9 x 11 with 40 channels: more than a warp."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 9, 11, 40), (40, 1, side, side), (2, 9, 11, 40))
    operands = tuple(torch.randn(shape, generator=generator) for shape in shapes)

    def compute(inputs: Sequence[Tensor], backend: str) -> list[Tensor]:
        x, weight, grad = inputs
        leaves = (x.detach().requires_grad_(), weight.detach().requires_grad_())
        out = ops.depthwise_conv2d(*leaves, backend=backend)
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]

    return Case(name, torch.float32, operands, compute)


def errors_of(case: Case, device: str) -> list[float]:
    """Relative error of each result and gradient of "auto" on a device."""
    exact = [x.double() if x.is_floating_point() else x for x in case.inputs]
    expected = case.compute(exact, "reference")
    got = case.compute([x.to(device) for x in case.inputs], "auto")
    return [_error(a.cpu().double(), b) for a, b in zip(got, expected, strict=True)]


def _error(got: Tensor, expected: Tensor) -> float:
    """NaN counts as infinite."""
    error = float((got - expected).norm() / expected.norm())
    return error if error == error else float("inf")


def kernels() -> set[str]:
    """Names of the kernels in ops/csrc."""
    sources = [*SOURCES.glob("*.cu"), *SOURCES.glob("*.h")]
    return {name for source in sources for name in _KERNEL.findall(source.read_text(encoding="utf-8"))}


def main(argv: Sequence[str]) -> int:
    """Compute, compare, print; 1 where a case is wrong, or a kernel has not run."""
    parser = argparse.ArgumentParser(prog="cases", description="One small case per CUDA kernel.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--coverage", action="store_true", help="say which kernels have not run")
    typed = parser.parse_args(argv)
    if typed.device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device that torch can use")
    os.environ[ENVIRONMENT] = NATIVE  # the lack of kernels is an error
    if not typed.coverage:
        return 0 if all_right(typed.device) else 1
    activities = [ProfilerActivity.CPU] if typed.device == "cpu" else [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities) as profiler:
        passed = all_right(typed.device)
    ran = {event.key for event in profiler.key_averages()}
    idle = sorted(name for name in kernels() if not any(re.search(rf"\b{name}\b", key) for key in ran))
    print(f"kernels that ran: {len(kernels()) - len(idle)} of {len(kernels())}")
    if typed.device == "cuda" and idle:
        print(f"error: these have not run: {', '.join(idle)}", file=sys.stderr)
        return 1
    return 0 if passed else 1


def all_right(device: str) -> bool:
    """Whether all cases are right; none is left out because of an earlier one."""
    found = [right(case, device) for case in cases()]
    return all(found)


def right(case: Case, device: str) -> bool:
    """Whether a case is right; prints its largest error."""
    worst = max(errors_of(case, device))
    passed = worst <= TOLERANCES[case.dtype]
    print(f"{case.name}: error {worst:.1e}{'' if passed else f', expected at most {TOLERANCES[case.dtype]:.0e}'}")
    return passed


if __name__ == "__main__":
    sys.exit(run_command(main))
