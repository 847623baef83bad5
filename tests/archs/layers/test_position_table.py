"""Position tables of other windows: what was learned for a displacement goes to the same place in proportion."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.hat.blocks import OverlappingCrossAttention
from archs.layers.position import overlapping_position_index
from archs.layers.position_table import resized_tables
from archs.layers.swin import WindowAttention

CPU = torch.device("cpu")


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {key: torch.randn_like(value) for key, value in module.state_dict().items()}


def test_a_swin_table_is_resized_as_a_picture() -> None:
    small, large = WindowAttention(8, 2, 4), WindowAttention(8, 2, 6)
    state = state_of(small)
    found = resized_tables(large, state)
    table = state["relative_position_bias_table"]  # [49, 2]
    picture = F.interpolate(table.t().view(1, 2, 7, 7), size=(11, 11), mode="bicubic", align_corners=False)
    assert found.keys() == {"relative_position_bias_table"}
    assert torch.equal(found["relative_position_bias_table"], picture.view(2, 121).t())
    assert resized_tables(small, state) == {}


@pytest.mark.parametrize(("old", "new"), [(4, 8), (8, 4), (8, 12)])
def test_an_overlapping_table_keeps_its_displacements(old: int, new: int) -> None:
    """A bias that grows in proportion to the displacement still does so, at the rate of the other side."""
    before, after = (OverlappingCrossAttention(8, 2, window) for window in (old, new))
    steps = displacements(old)
    table = torch.empty(len(before.relative_position_bias_table), 2)
    table[overlapping_position_index(before.window, before.extended, CPU).flatten()] = steps.flatten(
        0, 1
    ).float() @ torch.tensor([[1.0, 0.0], [1.0, 3.0]])
    state = {**before.state_dict(), "relative_position_bias_table": table}
    (key, found), *rest = resized_tables(after, state).items()
    assert (key, rest) == ("relative_position_bias_table", [])
    index = overlapping_position_index(after.window, after.extended, CPU)  # [new^2, extended^2]
    wanted = displacements(new).float() * (old + before.extended[0] - 1) / (new + after.extended[0] - 1)
    expected = wanted @ torch.tensor([[1.0, 0.0], [1.0, 3.0]])
    # Bicubic interpolation repeats the edge, so only what is not near it is a straight line; and with torch's kernel it
    # is one up to a few hundredths of a step.
    inner = (displacements(new).abs() < (new + after.extended[0]) / 2 - 1 - 2 * max(new / old, 1)).all(-1)
    assert inner.sum() > 4
    torch.testing.assert_close(found[index][inner], expected[inner], atol=0.2, rtol=0)


def displacements(window: int) -> Tensor:
    """Key minus query, both from the centres of their windows: [w*w, e*e, 2]."""
    block = OverlappingCrossAttention(8, 2, window)
    extended = block.extended[0]
    axis = torch.arange(extended) - (extended - window) / 2
    down = axis[None, :] - torch.arange(window)[:, None]  # [w, e]
    rows = down[:, None, :, None].expand(window, window, extended, extended)
    columns = down[None, :, None, :].expand(window, window, extended, extended)
    return torch.stack([rows, columns], -1).reshape(window**2, extended**2, 2)


@pytest.mark.parametrize("shape", [(49, 3), (48, 2), (49, 2, 1)])
def test_what_differs_in_more_than_the_window_is_left_alone(shape: tuple[int, ...]) -> None:
    large = WindowAttention(8, 2, 6)
    assert resized_tables(large, {"relative_position_bias_table": torch.zeros(shape)}) == {}
