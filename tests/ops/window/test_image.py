"""Attention from image to image: the compiled kernel against windows that are cut."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import ops
from archs.layers.image_windows import image_windows, overlapping_image_windows
from archs.layers.window import overlapping_windows, window_merge, window_partition
from ops import ImageWindows, image_attention, window_attention
from tests.ops.kernels import require_cpu_kernels
from utils.errors import InputError

Sizes = tuple[int, tuple[int, int], tuple[int, int], tuple[int, int], int, int]

# Images, their size, windows, shift, heads of a group, width. Whole windows; shifted; sticking out; both; ragged.
CASES: tuple[Sizes, ...] = (
    (2, (8, 16), (4, 8), (0, 0), 2, 5),
    (1, (16, 12), (4, 4), (2, 2), 3, 8),
    (2, (11, 21), (4, 8), (0, 0), 2, 9),
    (2, (11, 3), (8, 4), (4, 2), 1, 30),
    (1, (4, 6), (2, 3), (1, 1), 2, 4),
)


@pytest.fixture(scope="module")
def kernels() -> None:
    require_cpu_kernels("window_image")


def inputs(case: Sizes, factor: float, *, groups: int = 2) -> tuple[Tensor, list[ImageWindows], int]:
    """q, k, v in float64, windows that lie and stand, heads; logits grow with the factor."""
    B, size, window, shift, heads, width = case
    generator = torch.Generator().manual_seed(width)
    qkv = torch.randn(B, *size, 3 * groups * heads * width, generator=generator, dtype=torch.float64)
    tokens, place = window[0] * window[1], torch.device("cpu")
    found = []
    for turned in range(groups):
        bias = factor * torch.randn(heads, tokens, tokens, generator=generator, dtype=torch.float64)
        own, by = (window[::-1], shift[::-1]) if turned else (window, shift)
        found.append(image_windows(size, own, by, max(window) * min(window), bias, place))
    return factor * qkv, found, heads


def run(
    qkv: Tensor, groups: list[ImageWindows], heads: int, backend: str, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    """Both results, and the gradients of q, k, v and of each bias."""
    leaf = qkv.to(dtype).requires_grad_()
    biases = [group.bias.to(dtype).requires_grad_() for group in groups if group.bias is not None]
    own = [group._replace(bias=bias) for group, bias in zip(groups, biases, strict=True)]
    out, v = image_attention(leaf, own, heads, 0.3, values=True, backend=backend)
    assert v is not None
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(out.shape, generator=generator, dtype=torch.float64).to(dtype) for _ in "ov"]
    loss = (out * weights[0]).sum() + (v * weights[1]).sum()
    return (out.detach(), v.detach(), *torch.autograd.grad(loss, [leaf, *biases]))


# Images, their size, windows, the larger ones that they look into, heads of a group, width.
OVERLAPPING: tuple[Sizes, ...] = (
    (2, (8, 12), (4, 4), (6, 8), 2, 5),
    (1, (16, 8), (8, 8), (16, 16), 3, 8),  # larger windows overlap their neighbours' neighbours
    (2, (9, 6), (3, 3), (5, 5), 1, 30),
    (1, (8, 8), (8, 8), (8, 8), 2, 4),
)


def overlapping(case: Sizes, factor: float) -> tuple[Tensor, list[ImageWindows], int]:
    """As :func:`inputs`, with two groups whose keys are those of larger windows."""
    B, size, window, extended, heads, width = case
    generator = torch.Generator().manual_seed(width)
    qkv = torch.randn(B, *size, 6 * heads * width, generator=generator, dtype=torch.float64)
    pairs = (window[0] * window[1], extended[0] * extended[1])
    biases = factor * torch.randn(2, heads, *pairs, generator=generator, dtype=torch.float64)
    place = torch.device("cpu")
    groups = [overlapping_image_windows(size, window, extended, bias, place) for bias in biases]
    return factor * qkv, groups, heads


# Small logits: regions are windows of their own. Large: what is lowered by 100 counts.
@pytest.mark.build
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("factor", [0.5, 8.0])
@pytest.mark.parametrize("case", CASES)
def test_kernel_equals_the_reference(case: Sizes, factor: float) -> None:
    agree(inputs(case, factor), factor)


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("factor", [0.5, 8.0])
@pytest.mark.parametrize("case", OVERLAPPING)
def test_keys_of_larger_windows(case: Sizes, factor: float) -> None:
    agree(overlapping(case, factor), factor)


def agree(given: tuple[Tensor, list[ImageWindows], int], factor: float) -> None:
    """The kernel's results are the reference's."""
    expected = run(*given, "reference")
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 3e-5 if factor > 1 else 2e-6)):
        for ours, exact in zip(run(*given, "native", dtype), expected, strict=True):
            assert (ours - exact).abs().max() <= tolerance * exact.abs().max()


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_the_reference_of_larger_windows_is_the_attention_of_copied_ones() -> None:
    case = OVERLAPPING[0]
    qkv, groups, heads = overlapping(case, 1.0)
    _, size, window, extended, _, width = case
    out, _ = image_attention(qkv, groups, heads, 0.3, backend="reference")
    own = qkv.unflatten(-1, (3, 2, -1))[..., 1, :].flatten(-2)  # of the second group
    queries, sources = own.split([heads * width, 2 * heads * width], -1)
    q = window_partition(queries, window).unflatten(-1, (heads, -1)).transpose(1, 2)
    copied = overlapping_windows(sources, window, extended).unflatten(-1, (2, heads, -1))
    k, v = copied.permute(2, 0, 3, 1, 4).unbind(0)
    expected = window_attention(q, k, v, groups[1].bias, None, 0.3, backend="reference")
    merged = window_merge(expected.transpose(1, 2).flatten(2), window, size)
    assert torch.allclose(out[..., heads * width :], merged, rtol=1e-12)


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("make", [lambda: inputs(CASES[3], 1.0), lambda: overlapping(OVERLAPPING[0], 1.0)])
def test_results_depend_neither_on_threads_nor_on_the_batch(
    make: Callable[[], tuple[Tensor, list[ImageWindows], int]],
) -> None:
    qkv, groups, heads = make()
    whole = run(qkv, groups, heads, "native")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert all(map(torch.equal, run(qkv, groups, heads, "native"), whole))
    finally:
        torch.set_num_threads(threads)
    alone = run(qkv[1:], groups, heads, "native")
    assert torch.equal(alone[0], whole[0][1:])


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_without_a_bias_and_of_one_group() -> None:
    qkv, groups, heads = inputs(CASES[1], 1.0, groups=1)
    bare = [group._replace(bias=None) for group in groups]
    results = [image_attention(qkv, bare, heads, 0.3, backend=backend) for backend in ("native", "reference")]
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-12)
    assert results[0][1] is None


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_where_the_image_is_not_named_the_gradient_is_of_the_values_alone() -> None:
    qkv, groups, heads = inputs(CASES[0], 1.0)
    leaf = qkv.requires_grad_()
    _, v = image_attention(leaf, groups, heads, 0.3, values=True, backend="native")
    assert v is not None
    (gradient,) = torch.autograd.grad(v.sum(), leaf)
    parts = gradient.unflatten(-1, (3, -1))
    assert not parts[..., :2, :].any()
    assert (parts[..., 2, :] == 1).all()


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_operators_are_registered_soundly() -> None:
    qkv, (group, *_), heads = inputs(CASES[1], 1.0, groups=1)
    q, k, v = (part.contiguous() for part in qkv.flatten(0, 2).chunk(3, -1))
    H, W = qkv.shape[1:3]
    fixed = (group.bias, group.places, group.keys, group.regions, H * W, heads, 0.3)
    torch.library.opcheck(torch.ops.focalsr.image_attention_out.default, (q, k, v, *fixed, torch.zeros_like(q)))
    results = [torch.zeros_like(q) for _ in "qkv"]
    arguments = (torch.ones_like(q), q, k, v, *fixed, True, *results)
    torch.library.opcheck(torch.ops.focalsr.image_attention_backward_out.default, arguments)


def test_what_the_kernel_refuses() -> None:
    qkv, groups, heads = inputs(CASES[0], 1.0)
    with pytest.raises(InputError, match="float32 and float64"):
        image_attention(qkv.bfloat16(), groups, heads, 0.3, backend="native")
    with ops.observed_by(lambda call: None), pytest.raises(InputError, match="observed"):
        image_attention(qkv, groups, heads, 0.3, backend="native")
