"""Names of groups and blocks, of our networks and of networks of other programs."""

from __future__ import annotations

import pytest
from torch import nn

from archs import build_network
from archs.contract import part_names
from tests.archs.test_contract import SMALL


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)


class Chained(nn.Module):
    """As RCAN's residual channel attention block is: a sequence of PyTorch's own modules inside."""

    def __init__(self) -> None:
        super().__init__()
        self.rcab = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1), Conv())


class Group(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.inside = nn.Module()
        self.inside.blocks = nn.ModuleList(Chained() for _ in range(blocks))
        self.conv = nn.Conv2d(1, 1, 1)


def holding(**children: nn.Module) -> nn.Module:
    network = nn.Module()
    for name, child in children.items():
        network.add_module(name, child)
    return network


def test_members_of_stacks_are_blocks_and_what_holds_stacks_are_groups() -> None:
    flat = holding(first=nn.Conv2d(1, 1, 1), body=nn.Sequential(Chained(), Chained()), up=nn.Sequential(nn.ReLU()))
    assert part_names(flat) == ((), ("body.0", "body.1"), ())
    nested = holding(layers=nn.ModuleList([Group(2), Group(1)]), tail=nn.ModuleList([Conv()]))
    assert part_names(nested).groups == ("layers.0", "layers.1", "tail.0")
    blocks = ("layers.0.inside.blocks.0", "layers.0.inside.blocks.1", "layers.1.inside.blocks.0", "tail.0")
    assert part_names(nested).blocks == blocks
    assert part_names(holding(inner=nested)).blocks == tuple(f"inner.{name}" for name in blocks)


def test_without_stacks_the_modules_below_the_network_are_blocks() -> None:
    named = holding(head=nn.Conv2d(1, 1, 1), one=Conv(), two=Conv(), tail=nn.Conv2d(1, 1, 1))
    assert part_names(named).blocks == ("one", "two")
    plain = holding(first=nn.Conv2d(1, 1, 1), act=nn.ReLU(), last=nn.Conv2d(1, 1, 1), up=nn.PixelShuffle(2))
    assert part_names(plain).blocks == ("first", "last")
    listed = holding(body=nn.ModuleList([nn.Conv2d(1, 1, 1), nn.PReLU(), nn.Conv2d(1, 1, 1)]), up=nn.PixelShuffle(2))
    assert part_names(listed).blocks == ("body.0", "body.2")  # as SRVGGNetCompact is


@pytest.mark.parametrize(
    ("name", "groups", "first", "last", "count"),
    [
        ("HAT", 2, "layers.0.residual_group.blocks.0", "layers.1.residual_group.overlap_attn", 5),
        ("RGT", 2, "layers.0.blocks.0", "layers.1.blocks.1", 5),
        ("PFT", 2, "layers.0.residual_group.layers.0", "layers.1.residual_group.layers.2", 5),
        ("ESC", 0, "blocks.0", "blocks.1", 2),
        ("PlainUSR_general", 0, "block1", "block4", 5),
        ("RRDBNet", 0, "body.0", "body.1", 2),
        ("MSRResNet", 0, "body.0", "body.1", 2),
    ],
)
def test_parts_of_our_networks(name: str, groups: int, first: str, last: str, count: int) -> None:
    parts = part_names(build_network({"type": name, **SMALL[name]}))
    assert (len(parts.groups), parts.blocks[0], parts.blocks[-1], len(parts.blocks)) == (groups, first, last, count)
    if name == "ESC":
        assert parts.layers[:2] == ("blocks.0.attn", "blocks.0.pconvs.0")
