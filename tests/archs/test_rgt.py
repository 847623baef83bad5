"""What RGT keeps to beyond the contract of all networks; its recorded runs are in test_golden.py too."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from archs import build_network, identify
from archs.layers.constants import constant_keys, published_state
from archs.layers.position_network import PositionNetwork, position_tables, relative_offsets
from archs.rgt import RGT, RectangleWindowAttention, RecursiveGeneralizationAttention, recursion_count
from archs.rgt.network import Block
from archs.rgt.recursion import recursion_bias, recursion_kernel
from models.inference.tiling import EqualTiles
from models.inference.upscale import upscale
from tests.golden import Case, assert_close, cases
from utils.errors import InputError

SMALL: dict[str, Any] = {
    "type": "RGT", "depth": [3, 2], "num_heads": [2, 4], "embed_dim": 96, "split_size": [4, 8], "mlp_ratio": 0.5,
    "drop_path_rate": 0,
}  # fmt: skip


def built(**changes: Any) -> RGT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network({**SMALL, **changes})
    assert isinstance(network, RGT)
    return network


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pixels(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def scattered(module: nn.Module, spread: float = 0.3) -> None:
    """Move every parameter away from its initial value: position networks start out almost silent."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.add_(spread * normal(*parameter.shape, seed=i).to(parameter))


def blocks(network: RGT) -> Iterator[Block]:
    return (module for module in network.modules() if isinstance(module, Block))


def largest_power(m: int) -> int:
    """The largest t with 4^t <= m."""
    return max(t for t in range(12) if 4**t <= m)


@pytest.mark.parametrize(
    ("size", "training", "count"),
    [
        ((64, 64), True, 2), ((48, 48), True, 1), ((50, 68), True, 2), ((13, 15), True, 0), ((16, 64), True, 2),
        ((256, 256), True, 3), ((16, 16), False, 2), ((180, 320), False, 2), ((1023, 700), False, 2),
        ((64, 1026), False, 3), ((1025, 65), False, 3), ((4096, 4096), False, 4),
        ((15, 64), True, 1), ((63, 1024), False, 2), ((1, 1), True, 0), ((3, 500), False, 0), ((15, 40), False, 1),
    ],
)  # fmt: skip
def test_recursion_count(size: tuple[int, int], training: bool, count: int) -> None:
    assert recursion_count(*size, training=training) == count


@given(st.integers(4, 20000), st.integers(1, 20000), st.booleans())
def test_recursion_count_is_the_published_rule_where_that_works(longer: int, shorter: int, training: bool) -> None:
    shorter = min(shorter, longer)
    published = largest_power(longer // 4) if training else max(2, largest_power(max(1, longer // 16)))
    expected = min(published, largest_power(shorter))
    assert recursion_count(longer, shorter, training=training) == expected
    assert recursion_count(shorter, longer, training=training) == expected


@pytest.mark.parametrize(("count", "size"), [(1, (9, 7)), (2, (37, 50)), (3, (64, 70))])
def test_recursions_are_one_convolution(count: int, size: tuple[int, int]) -> None:
    weight, bias, x = normal(5, 1, 4, 4), normal(5, seed=1), normal(2, 5, *size, seed=2)
    expected = x
    for _ in range(count):
        expected = F.conv2d(expected, weight, bias, 4, groups=5)
    kernel = recursion_kernel(weight, count)
    assert kernel.shape == (5, 1, 4**count, 4**count)
    assert_close(F.conv2d(x, kernel, recursion_bias(weight, bias, count), 4**count, groups=5), expected, 1e-12)


@pytest.mark.parametrize("recursions", [2, 3])
def test_joined_recursions_follow_the_weights(recursions: int) -> None:
    attention = RecursiveGeneralizationAttention(32, 2).double()
    x = normal(1, 66, 70, 32)
    for _ in range(2):
        stepwise = attention(x, recursions).detach()
        with torch.no_grad():
            assert_close(attention(x, recursions), stepwise, 1e-12)
            attention.reduction1.weight.mul_(-2)


def plain_table(network: PositionNetwork) -> Tensor:
    z = network.pos_proj(relative_offsets(network.window, torch.device("cpu")).double())
    for stage in (network.pos1, network.pos2, network.pos3):
        z = stage(z)
    return cast("Tensor", z)


def test_position_networks_are_computed_together() -> None:
    networks = [PositionNetwork(3, heads, window).double() for heads, window in
                [(2, (4, 8)), (3, (4, 8)), (2, (8, 4)), (2, (4, 8)), (2, (4, 4))]]  # fmt: skip
    for network in networks:
        scattered(network, 1)
    for network, table in zip(networks, position_tables(networks), strict=True):
        expected = plain_table(network)
        assert table.shape[0] == (2 * network.window[0] - 1) * (2 * network.window[1] - 1)
        assert_close(table.detach(), expected.detach(), 1e-12)
        gradients = [
            torch.autograd.grad(t.sin().sum(), [*network.parameters()], retain_graph=True) for t in (table, expected)
        ]
        for found, wanted in zip(*gradients, strict=True):
            assert torch.allclose(found, wanted, atol=1e-12)


def test_kept_biases_follow_the_position_networks() -> None:
    network, x = built().eval(), pixels(1, 3, 9, 14)
    scattered(network)
    for _ in range(2):
        with torch.no_grad():
            kept = network(x)
            assert torch.equal(network(x), kept)
        assert_close(kept, network(x).detach(), 1e-5)
        attention = next(blocks(network)).attn
        assert isinstance(attention, RectangleWindowAttention)
        scattered(attention.attns, 1)


@pytest.mark.parametrize("arguments", [{}, {"qkv_bias": False, "c_ratio": 0.25, "qk_scale": 0.5}])
def test_folded_projections_are_exact(arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    attention = RecursiveGeneralizationAttention(32, 4, **arguments).double()
    results = []
    for folded in (True, False):
        monkeypatch.setattr(attention, "worth_folding", lambda keys, folded=folded: folded)
        x = normal(2, 17, 33, 32).requires_grad_()
        y = attention(x, 2)
        results.append([y.detach(), *torch.autograd.grad(y.sin().sum(), [x, *attention.parameters()])])
    for one, other in zip(*results, strict=True):
        assert torch.allclose(one, other, atol=1e-11)


def test_few_representatives_are_folded_and_many_are_not() -> None:
    attention = RecursiveGeneralizationAttention(180, 6)
    assert [attention.worth_folding(keys) for keys in (1, 16, 25, 26, 220)] == [True, True, True, False, False]


def test_what_fills_no_cell_is_not_represented() -> None:
    attention = RecursiveGeneralizationAttention(32, 2).double()
    x = normal(1, 34, 19, 32)
    z = attention.representatives(x, 2)
    assert z.shape == (1, 2, 1, 16)
    x[:, 32:], x[:, :, 16:] = 7, 7
    assert torch.equal(attention.representatives(x, 2), z)


@pytest.mark.parametrize("size", [(1, 1), (2, 70), (21, 5), (40, 33)])
def test_global_attention_stands_alone(size: tuple[int, int]) -> None:
    attention = RecursiveGeneralizationAttention(32, 4)
    x = normal(2, *size, 32, dtype=torch.float32).requires_grad_()
    y = attention(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in attention.parameters())
    x = x.detach()
    with torch.no_grad():
        half = copy.deepcopy(attention).bfloat16()(x.bfloat16())
    assert (half - y).abs().max() < 0.05 * max(1, y.abs().max().item())


@pytest.mark.parametrize(("channels", "heads", "ratio"), [(32, 5, 0.5), (32, 4, 0.3), (32, 4, 0.01), (32, 0, 0.5)])
def test_heads_must_divide_both_widths(channels: int, heads: int, ratio: float) -> None:
    with pytest.raises(InputError, match=f"num_heads {heads} must divide the {channels} channels"):
        RecursiveGeneralizationAttention(channels, heads, ratio)


def plain_windows(attention: RectangleWindowAttention, x: Tensor) -> Tensor:
    """Pixel by pixel: which others it sees, by the places of all of them in the displaced, padded image."""
    (_, H, W, C), side = x.shape, max(attention.split_size)
    rows, columns = -(-H // side) * side, -(-W // side) * side
    q, k, v = (F.pad(part, (0, 0, 0, columns - W, 0, rows - H)) for part in attention.qkv(x).chunk(3, -1))
    out = torch.zeros_like(q)
    for e, branch in enumerate(attention.branches):
        (h, w), (down, right), half = branch.window, branch.shift, slice(e * C // 2, (e + 1) * C // 2)
        heads, width, table = branch.heads, C // 2 // branch.heads, plain_table(branch.pos)
        places = [(r, c) for r in range(rows) for c in range(columns)]
        moved = {place: ((place[0] - down) % rows, (place[1] - right) % columns) for place in places}
        cell = {place: (r // h, c // w) for place, (r, c) in moved.items()}
        # Around the border the last window joins both ends of the image; those do not see each other.
        torn = {(r, c): (moved[r, c][0] >= rows - down, moved[r, c][1] >= columns - right) for r, c in places}
        for a in places:
            seen = [b for b in places if cell[a] == cell[b] and torn[a] == torn[b]]
            ra, ca = moved[a]
            offsets = [(ra - moved[b][0] + h - 1) * (2 * w - 1) + ca - moved[b][1] + w - 1 for b in seen]
            index = torch.tensor([r * columns + c for r, c in seen])
            keys, values = (
                part[..., half].flatten(1, 2)[:, index].unflatten(-1, (heads, width)) for part in (k, v)
            )  # [B, seen, heads, width]
            query = q[:, a[0], a[1], half].unflatten(-1, (heads, width))
            logits = torch.einsum("bhd,bshd->bsh", query, keys) * width**-0.5 + table[offsets]
            out[:, a[0], a[1], half] = torch.einsum("bsh,bshd->bhd", logits.softmax(1), values).flatten(1)
    v = attention.qkv(x)[..., 2 * C :]
    local = attention.get_v(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return cast("Tensor", attention.proj(out[:, :H, :W] + local))


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("split", "size"), [((2, 4), (7, 9)), ((4, 1), (4, 5)), ((2, 2), (1, 6))])
def test_windows_lie_and_stand(shifted: bool, split: tuple[int, int], size: tuple[int, int]) -> None:
    attention = RectangleWindowAttention(96, 4, split, shifted).double()
    scattered(attention)
    x = normal(2, *size, 96)
    with torch.no_grad():
        assert_close(attention(x), plain_windows(attention, x), 1e-10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((33, 2), "33 channels"), ((96, 1), "num_heads // 2 = 0"), ((16, 2), "at least 32"), ((96, 4, (3, 8)), "powers")],
)
def test_windows_that_cannot_be_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RectangleWindowAttention(*arguments)


def test_which_blocks_shift() -> None:
    network = built(depth=[6, 6], split_size=[2, 2])
    shifted = [
        position
        for position, block in enumerate(blocks(network))
        if isinstance(block.attn, RectangleWindowAttention) and block.attn.shifted
    ]
    assert shifted == [2, 6, 10]
    assert [isinstance(block.attn, RectangleWindowAttention) for block in blocks(network)] == [True, False] * 6


@pytest.mark.parametrize("size", [(1, 2), (3, 61), (70, 2)])
def test_small_and_elongated_images(size: tuple[int, int]) -> None:
    network, x = built(), pixels(1, 3, *size)
    for training in (True, False):
        y = network.train(training)(x)
        assert y.shape == (1, 3, 2 * size[0], 2 * size[1])
        assert y.isfinite().all()


def test_modes_differ_by_the_published_rule_unless_it_is_fixed() -> None:
    x = pixels(1, 3, 20, 20)
    assert not torch.allclose(built()(x), built().eval()(x), atol=1e-7)
    fixed = built(recursions=1)
    assert torch.equal(fixed(x), fixed.eval()(x))
    assert torch.equal(fixed(x), built().train()(x))
    assert fixed.recursions_for(2, 90) == 0


def test_without_recursion_its_layer_gets_a_gradient_of_zero() -> None:
    network = built()
    network(pixels(1, 3, 8, 8)).sum().backward()
    layers = [block.attn.reduction1 for block in blocks(network)
              if isinstance(block.attn, RecursiveGeneralizationAttention)]  # fmt: skip
    assert len(layers) == 2
    assert all(layer.weight.grad is not None and not layer.weight.grad.any() for layer in layers)


def test_published_files_load_and_new_ones_hold_no_constants() -> None:
    network, other = built(), built()
    published = published_state(network)
    constants = constant_keys(network)
    assert constants == published.keys() - network.state_dict().keys()
    kinds = {key.rpartition(".")[2] for key in constants}
    assert kinds == {"attn_mask_0", "attn_mask_1", "relative_position_index", "rpe_biases"}
    assert published["layers.0.blocks.2.attn.attn_mask_1"].shape == (4096 // 32, 32, 32)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(published, strict=True)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_constants_of_other_arguments_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"layers\.0\.blocks\.0\.attn\.attns\.0\.relative_position_index"):
        built(split_size=[4, 8]).load_state_dict(published_state(built(split_size=[8, 4])))


@pytest.mark.parametrize(("upscale", "new"), [(4, {"upsample.2.weight", "upsample.2.bias"}), (2, set())])
def test_x4_starts_from_x2(upscale: int, new: set[str]) -> None:
    report = built(upscale=upscale).load_state_dict(published_state(built()), strict=False)
    assert set(report.missing_keys) == new
    assert report.unexpected_keys == []


@pytest.mark.parametrize(
    "changes",
    [
        {"upscale": 1, "in_chans": 1, "resi_connection": "3conv"},
        {"upscale": 8, "qkv_bias": False, "c_ratio": 0.75, "split_size": [16, 4]},
        {"upscale": 3, "depth": [1, 2], "mlp_ratio": 2.0},
        {"upscale": 2, "depth": [1], "num_heads": [4]},
    ],
)
def test_identify(changes: dict[str, Any]) -> None:
    network = built(**changes)
    found = identify(published_state(network))
    assert found is not None
    assert build_network(found).load_state_dict(published_state(network))
    for key, value in found.items():
        assert value == pytest.approx({**SMALL, **changes}.get(key, value))
    assert {**found, "split_size": [8, 32]} == identify(network.state_dict())


def test_initial_values() -> None:
    for name, module in built(depth=[4, 4]).named_modules():
        if isinstance(module, nn.Linear):
            assert module.weight.numel() < 100 or 0.01 < module.weight.std() < 0.03
            assert not module.bias.any()
        elif isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
        elif isinstance(module, nn.Conv2d):
            bound = (module.in_channels // module.groups * math.prod(module.kernel_size)) ** -0.5
            assert 0.9 * bound < module.weight.abs().max() <= bound, name
        elif isinstance(module, Block):
            assert (module.gamma == 1e-4).all()


def test_colours_survive_half_precision() -> None:
    network, x = built().eval(), pixels(1, 3, 9, 9)
    y = network(x)
    other = copy.deepcopy(network)
    other.half()(x.half())
    other.float().load_state_dict(network.state_dict())
    assert torch.equal(other(x), y)


def test_stochastic_depth_grows_over_the_network_and_ends_with_training() -> None:
    network, x = built(drop_path_rate=0.2), pixels(8, 3, 8, 8)
    assert [block.drop_path.rate for block in blocks(network)] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    assert torch.equal(network.eval()(x), built().eval()(x))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.allclose(network.train()(x), built()(x))


@pytest.mark.parametrize("rate", ["drop_rate", "attn_drop_rate"])
def test_dropout_ends_with_training(rate: str) -> None:
    network, x = built(**{rate: 0.3}), pixels(1, 3, 8, 8)
    assert torch.equal(network.eval()(x), built().eval()(x))
    assert not torch.equal(network.train()(x), network.train()(x))


def test_checkpointing_gives_the_same_gradients() -> None:
    x, found = pixels(2, 3, 16, 16, dtype=torch.float64), []
    for use_chk in (False, True):
        network = built(use_chk=use_chk, drop_path_rate=0.3).double()
        calls: list[int] = []
        for block in blocks(network):
            block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            network(x).square().sum().backward()
        assert len(calls) == (10 if use_chk else 5)
        found.append([parameter.grad for parameter in network.parameters()])
    for a, b in zip(*found, strict=True):
        assert a is not None
        assert b is not None
        assert torch.allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"depth": [2]}, ["depth and num_heads", "[2]", "[2, 4]"]),
        ({"num_heads": [1, 4]}, ["num_heads must be at least 2, got 1"]),
        ({"num_heads": [5, 4]}, ["5 heads must divide embed_dim 96"]),
        (
            {"embed_dim": 30, "mlp_ratio": 0.5},
            ["embed_dim must be even and at least 32, got 30", "even and at least 2"],
        ),
        ({"split_size": [8, 24]}, ["split_size", "[8, 24]"]),
        ({"upscale": 6, "split_size": [8]}, ["upscale must be 3 or a power of two, got 6", "[8]"]),
        ({"resi_connection": "2conv"}, ["resi_connection", "2conv"]),
        ({"recursions": -1}, ["recursions must be at least 0"]),
        ({"depths": [2, 2]}, ["depths", 'did you mean "depth"']),
    ],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build_network({**SMALL, **changes})
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("case", cases("rgt", "eval", test_model=True))
def test_recorded_test_model(case: Case) -> None:
    network = case.network().eval()
    assert isinstance(network, RGT)
    with torch.no_grad():
        found = upscale(network, case.x, tiling=EqualTiles())
    assert_close(found, case.arrays["output"], case.info["rtol"])
