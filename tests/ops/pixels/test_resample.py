"""resample: the compiled kernel against the definition, and what it does with levels of 8 bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ops import explain, resample
from ops.pixels.resample import Rounding, Taps
from tests.ops.kernels import require_cpu_kernels
from utils.errors import InputError


@pytest.fixture(scope="module")
def kernels() -> None:
    require_cpu_kernels("resample")


def taps(n: int, m: int, count: int, dtype: torch.dtype, seed: int = 0) -> Taps:
    """Any taps: in no order, the same input more than once."""
    generator = torch.Generator().manual_seed(seed + n + 100 * m)
    source = torch.randint(n, (m, count), generator=generator)
    weight = torch.rand(m, count, generator=generator, dtype=torch.float64) - 0.25
    return Taps(source, (weight / weight.sum(1, keepdim=True).clamp_min(0.1)).to(dtype))


def image(shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if dtype == torch.uint8:
        return torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def test_reference_is_the_formula() -> None:
    x, rows, columns = image((2, 5, 4, 3), torch.float64), taps(5, 3, 2, torch.float64), taps(4, 6, 3, torch.float64)
    found = resample(x, rows, columns, backend="reference")
    for row in range(3):
        for column in range(6):
            total = torch.zeros(2, 3, dtype=torch.float64)
            for r, by_row in zip(rows.source[row], rows.weight[row], strict=True):
                for c, by_column in zip(columns.source[column], columns.weight[column], strict=True):
                    total += by_row * by_column * x[:, r, c]
            torch.testing.assert_close(found[:, row, column], total, rtol=1e-13, atol=1e-13)


# One pixel; several tiles in both directions; channels that fill no vector; a piece and a little more.
@pytest.mark.build
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
@pytest.mark.parametrize("rounding", ["none", "last", "each"])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((1, 1, 1, 1), (1, 1)), ((2, 50, 90, 3), (37, 70)), ((3, 9, 81, 1), (20, 130)), ((1, 70, 16, 5), (17, 4))],
)
def test_kernel_equals_the_reference(
    shape: tuple[int, int, int, int], size: tuple[int, int], rounding: Rounding, dtype: torch.dtype
) -> None:
    x = 100 * image(shape, dtype) if dtype.is_floating_point else image(shape, dtype)
    for kind in (torch.float64,) if rounding != "none" else (torch.float64, torch.float32):
        rows, columns = taps(shape[1], size[0], 7, kind), taps(shape[2], size[1], 5, kind)
        expected = resample(x, rows, columns, rounding, "reference")
        found = resample(x, rows, columns, rounding, "native")
        assert found.dtype == expected.dtype == (torch.uint8 if rounding != "none" else kind)
        assert found.shape == (shape[0], *size, shape[3])
        if rounding == "none":
            tolerance = 1e-12 if kind == torch.float64 else 2e-3
            torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
        else:
            assert torch.equal(found, expected)


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_narrow_rows_and_wide_columns() -> None:
    """What makes 8-bit images smaller by 2 or 4: exact in float32, then in float64."""
    x = image((2, 40, 60, 3), torch.uint8)
    rows, columns = taps(40, 20, 4, torch.float64), taps(60, 30, 4, torch.float64)
    rows, columns = (Taps(each.source, torch.round(each.weight * 64) / 64) for each in (rows, columns))
    exact = resample(x, rows, columns, "none", "reference")
    narrow = Taps(rows.source, rows.weight.float())
    for backend in ("native", "reference"):
        assert torch.equal(resample(x, narrow, columns, "none", backend), exact)


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 40), m=st.integers(1, 40), count=st.integers(1, 6), channels=st.integers(1, 4))
def test_any_size(n: int, m: int, count: int, channels: int) -> None:
    x = image((1, n, n + 1, channels), torch.uint8)
    rows, columns = taps(n, m, count, torch.float64), taps(n + 1, m, count, torch.float64)
    assert torch.equal(resample(x, rows, columns, "last", "native"), resample(x, rows, columns, "last", "reference"))


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_ties_are_rounded_up_and_levels_are_clipped() -> None:
    x = torch.tensor([[[[0], [1], [255], [254]]]], dtype=torch.uint8)  # [1, 1, 4, 1]
    same = Taps(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.float64))
    source = torch.tensor([[0, 1], [2, 3], [0, 2], [2, 2]])
    weight = torch.tensor([[0.5, 0.5], [0.5, 0.5], [2.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    for backend in ("native", "reference"):
        found = resample(x, same, Taps(source, weight), "last", backend)
        assert found.flatten().tolist() == [1, 255, 0, 255]


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_any_layout_and_number_of_threads() -> None:
    x = image((2, 3, 70, 90), torch.float32)
    rows, columns = taps(70, 40, 6, torch.float32), taps(90, 100, 6, torch.float32)
    turned = x.permute(0, 2, 3, 1)  # [2, 70, 90, 3]
    expected = resample(turned.contiguous(), rows, columns, backend="native")
    assert torch.equal(resample(turned, rows, columns, backend="native"), expected)
    wide = torch.zeros(2, 80, 90, 3)
    wide[:, 3:73] = turned
    assert torch.equal(resample(wide[:, 3:73], rows, columns, backend="native"), expected)
    transposed = Taps(columns.source.T.contiguous().T, columns.weight.T.contiguous().T)
    assert torch.equal(resample(turned, rows, transposed, backend="native"), expected)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(resample(turned, rows, columns, backend="native"), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_taps_that_name_no_input_read_nothing() -> None:
    x, fine = image((1, 4, 4, 1), torch.float64), taps(4, 4, 2, torch.float64)
    for source in (-1, 4):
        wrong = Taps(torch.full_like(fine.source, source), fine.weight)
        with pytest.raises(IndexError, match=f"rows names input {source} of 4"):
            resample(x, wrong, fine, backend="native")
        with pytest.raises(IndexError, match=f"columns names input {source} of 4"):
            resample(x, fine, wrong, backend="native")
    with pytest.raises(ValueError, match="as many weights"):
        resample(x, Taps(fine.source, fine.weight[:2]), fine, backend="native")


def test_bad_input_and_choices() -> None:
    x, fine = image((1, 4, 4, 1), torch.float64), taps(4, 4, 2, torch.float64)
    with pytest.raises(InputError, match=r"x \[4, 4, 1\].*expected \[A, H, W, C\]"):
        resample(x[0], fine, fine)
    with pytest.raises(InputError, match="float64 where something is rounded"):
        resample(x, fine, taps(4, 4, 2, torch.float32), "last")
    with pytest.raises(InputError, match="it has no backward pass"):
        resample(x.requires_grad_(), fine, fine, backend="native")
    assert torch.autograd.gradcheck(lambda y: resample(y, fine, fine), (x,))
    assert "resample" in {line.operator for line in explain()}


@pytest.mark.build
@pytest.mark.usefixtures("kernels")
def test_opcheck_and_flops() -> None:
    x, rows, columns = image((1, 6, 5, 2), torch.uint8), taps(6, 3, 4, torch.float64), taps(5, 2, 3, torch.float64)
    operator = torch.ops.focalsr.resample.default
    for rounding in (0, 2):
        torch.library.opcheck(operator, (x, *rows, *columns, rounding))
    with FlopCounterMode(display=False) as counter:
        resample(x, rows, columns, "last", "native")
    assert counter.get_total_flops() == 2 * (3 * 5 * 2 * 4 + 3 * 2 * 2 * 3)
