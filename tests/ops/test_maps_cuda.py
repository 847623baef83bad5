"""The CUDA kernels between products of whole windows: on emulated threads against PyTorch's operators."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ops.window.region_mask import dense_mask
from tests.ops.emulation import ENTRIES, VALUES, emulated, launch, unset
from tests.ops.kernels import require_cpu_kernels

pytestmark = pytest.mark.build
# Relative to the largest value; half precision rounds results once.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}
WINDOWS, FIRST, HEADS = 2, 1, 3  # of a batch of four windows, for the head in the middle
types = pytest.mark.parametrize("dtype", VALUES, ids=str)


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    """The launchers of ops/csrc/maps_cuda.cu, on emulated threads."""
    require_cpu_kernels("smm")
    return emulated("maps")


@dataclass(frozen=True)
class Sizes:
    """Of a layer; keys that are kept are given by their number, 0 where lists stay as they are."""

    side: int
    length: int
    after: int
    columns: int = 1
    regions: bool = False
    with_next: bool = True


LAYERS = {
    "keeps": Sizes(side=5, length=12, after=0),
    "keeps, the last": Sizes(side=7, length=40, after=0, with_next=False),
    "shortens": Sizes(side=7, length=40, after=33, columns=3),
    "shortens to one": Sizes(side=3, length=6, after=1, with_next=False),
    "selects": Sizes(side=6, length=0, after=7, columns=3, regions=True),
    "selects, the last": Sizes(side=5, length=0, after=24, with_next=False),
}
SCALE = 0.3


def random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator)


def some_lists(generator: torch.Generator, tokens: int, length: int, dtype: torch.dtype) -> Tensor:
    keys = torch.rand(4, HEADS, tokens, tokens, generator=generator).topk(length).indices
    return keys.sort().values.to(dtype)


def part(x: Tensor) -> Tensor:
    """The windows and the head of [W, h, N, .], in float64."""
    return x[FIRST : FIRST + WINDOWS, 1].double()


def assert_near(got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    largest = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=TOLERANCE[dtype] * largest)


@types
@pytest.mark.parametrize("entry", ENTRIES, ids=str)
@pytest.mark.parametrize("sizes", LAYERS.values(), ids=LAYERS)
def test_emulated_layers(kernels: ctypes.CDLL, sizes: Sizes, dtype: torch.dtype, entry: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens, selects = sizes.side**2, sizes.after > 0
    products, scores = (random(generator, WINDOWS, tokens, tokens) for _ in range(2))
    table = random(generator, (2 * sizes.side - 1) ** 2, sizes.columns)
    lists = some_lists(generator, tokens, sizes.length, entry) if sizes.length else None
    logits = random(generator, 4, HEADS, tokens, sizes.length) if sizes.length else None
    kept = None
    if selects:
        slots = some_lists(generator, sizes.length or tokens, sizes.after, torch.int64)
        slots = slots[:, :, :1].expand(-1, -1, tokens, -1)
        kept = slots.to(entry) if lists is None else lists.gather(-1, slots)
    regions = torch.randint(2, (2, tokens), generator=generator).byte() if sizes.regions else None
    log_sum = 5 + random(generator, 4, HEADS, tokens)
    grad_next = random(generator, 4, HEADS, tokens, sizes.after or sizes.length) if sizes.with_next else None
    column = table[:, 1 if sizes.columns > 1 else 0]
    expected = layer_by_maps(sizes, products, scores, column, lists, logits, kept, regions, log_sum, grad_next)
    numbers = (WINDOWS, tokens, tokens, sizes.length, sizes.after or sizes.length, HEADS * tokens)
    shape = (ctypes.c_int64 * 10)(*numbers, sizes.side, sizes.columns, 2, FIRST)
    at = (FIRST * HEADS + 1) * tokens

    def moved(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.flatten(0, 2)[at:].contiguous()

    d_logits = None if lists is None else unset(lists[..., 0].numel() - at, sizes.length)
    maps = (unset(*products.shape, dtype=dtype), unset(*products.shape, dtype=dtype))
    column_on = table.flatten()[1 if sizes.columns > 1 else 0 :].contiguous()
    operands = (
        products, scores if selects else None, moved(logits), moved(log_sum), moved(grad_next), moved(lists),
        moved(kept), column_on, regions, d_logits, *maps,
    )  # fmt: skip
    got = launch(kernels, "focus", (dtype, entry), operands, shape, ctypes.c_float(SCALE))
    assert_near(got[10], expected[0], dtype)
    assert_near(got[11], expected[1], dtype)
    if lists is not None:
        rows = torch.arange(WINDOWS)[:, None] * HEADS * tokens + torch.arange(tokens)
        assert_near(got[9][rows], expected[0].gather(-1, part(lists).long()), torch.float32)
        others = torch.ones(len(got[9]), dtype=torch.bool)
        others[rows.flatten()] = False
        assert got[9][others].isnan().all()


def layer_by_maps(
    sizes: Sizes,
    products: Tensor,
    scores: Tensor,
    column: Tensor,
    lists: Tensor | None,
    logits: Tensor | None,
    kept: Tensor | None,
    regions: Tensor | None,
    log_sum: Tensor,
    grad_next: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Maps of the gradient of the logits and of the weights in float64, hidden keys having logits of -inf."""
    hidden = torch.full(products.shape, -torch.inf, dtype=torch.float64)
    if kept is None:
        assert lists is not None
        assert logits is not None
        kept = lists
        all_logits = hidden.scatter(-1, part(lists).long(), part(logits))
        weights = (all_logits - part(log_sum)[..., None]).exp()
    else:
        all_logits = SCALE * scores.double() + bias_of(column, sizes.side)
        if regions is not None:
            windows = [(FIRST + i) % len(regions) for i in range(WINDOWS)]
            all_logits = all_logits + dense_mask(regions[windows], torch.float64)
        if lists is not None:
            assert logits is not None
            keys = part(lists).long()
            all_logits = hidden.scatter(-1, keys, all_logits.gather(-1, keys) + part(logits))
        weights = (all_logits - all_logits.amax(-1, keepdim=True) - part(log_sum)[..., None]).exp()
    is_kept = torch.zeros_like(hidden).scatter(-1, part(kept).long(), 1.0)
    own = weights * is_kept
    mean = (own * products).sum(-1, keepdim=True)
    gradient = own * products - mean * weights
    if grad_next is not None:
        gradient = gradient.scatter_add(-1, part(kept).long(), part(grad_next))
    return gradient, own


def bias_of(column: Tensor, side: int) -> Tensor:
    """[N, N] of a column of a table, by the places of query and key."""
    place = torch.arange(side**2)
    rows = place[:, None] // side - place // side + side - 1
    columns = place[:, None] % side - place % side + side - 1
    return column.double()[rows * (2 * side - 1) + columns]


@types
@pytest.mark.parametrize("entry", ENTRIES, ids=str)
@pytest.mark.parametrize("keys", [1, 3, 70])
def test_emulated_lists_may_repeat_keys_and_name_none(
    kernels: ctypes.CDLL, keys: int, dtype: torch.dtype, entry: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    lists = torch.randint(-2, keys + 2, (2, 5, 45), generator=generator).to(entry)
    values = random(generator, 2, 5, 45).to(dtype)
    inside = (lists >= 0) & (lists < keys)
    dense = torch.zeros(2, 5, keys, dtype=torch.float64)
    dense.scatter_add_(-1, lists.long().clamp(0, keys - 1), torch.where(inside, values.double(), 0.0))
    shape = (ctypes.c_int64 * 10)(2, 5, keys, 45, 45, 5)
    got = launch(kernels, "spread", (dtype, entry), (values, lists, unset(2, 5, keys, dtype=dtype)), shape)[2]
    assert_near(got, dense, dtype)
    collected = launch(kernels, "collect", (dtype, entry), (dense.float(), lists, unset(2, 5, 45, dtype=dtype)), shape)[
        2
    ]
    expected = torch.where(inside, dense.gather(-1, lists.long().clamp(0, keys - 1)), 0.0)
    assert_near(collected, expected, dtype)
