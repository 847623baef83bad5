"""Power iteration: what it tends to, and that the operator of PyTorch is the function."""

from __future__ import annotations

import torch
from torch import Tensor

from ops.power_iteration import PowerArguments, power_iteration, unit


def arguments(steps: int) -> PowerArguments:
    generator = torch.Generator().manual_seed(0)
    matrix, u, v = (torch.randn(*shape, generator=generator) for shape in ((5, 7), (5,), (7,)))
    return PowerArguments(matrix, unit(u), unit(v), steps)


def same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_one_step_makes_v_from_u_and_then_u_from_v() -> None:
    matrix, u, v, _ = arguments(1)
    right = (matrix.t() @ u) / (matrix.t() @ u).norm()
    same(power_iteration(matrix, u, v, 1), ((matrix @ right) / (matrix @ right).norm(), right))


def test_many_steps_find_the_largest_singular_value() -> None:
    matrix, u, v, _ = arguments(1)
    u, v = power_iteration(matrix, u, v, 200)
    torch.testing.assert_close(u @ matrix @ v, torch.linalg.matrix_norm(matrix, 2))


def test_the_operator_is_the_function_and_gives_nothing_away() -> None:
    for steps in (0, 1, 2):
        given = arguments(steps)
        same(torch.ops.focalsr.power_iteration(*given), power_iteration(*given))
        torch.library.opcheck(torch.ops.focalsr.power_iteration, tuple(given))
        assert not {x.data_ptr() for x in power_iteration(*given)} & {x.data_ptr() for x in given[:3]}


def test_zeros_stay_zeros() -> None:
    matrix, u, v, _ = arguments(1)
    same(power_iteration(torch.zeros_like(matrix), u, v, 1), (torch.zeros(5), torch.zeros(7)))
