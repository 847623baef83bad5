"""What HAT keeps to beyond the contract of all networks; its recorded runs are in test_golden.py too."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archs import build_network, identify
from archs.hat import HAT, HybridAttentionBlock, OverlappingCrossAttention
from archs.layers.constants import constant_keys, published_state
from archs.layers.swin import WindowAttention
from models.inference.tiling import GrownTiles
from models.inference.upscale import upscale
from tests.golden import Case, assert_close, cases
from utils.errors import InputError

SMALL: dict[str, Any] = {
    "type": "HAT", "depths": [2, 1], "num_heads": [2, 3], "embed_dim": 12, "window_size": 4, "compress_ratio": 4,
    "squeeze_factor": 3, "conv_scale": 0.3, "mlp_ratio": 1.5, "drop_path_rate": 0,
}  # fmt: skip
TABLES = {"relative_position_index_SA", "relative_position_index_OCA"}


def built(**changes: Any) -> HAT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network({**SMALL, **changes})
    assert isinstance(network, HAT)
    return network


def pixels(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def count_attentions(network: nn.Module) -> list[None]:
    """A list that grows by one whenever window attention runs."""
    calls: list[None] = []
    for module in network.modules():
        if isinstance(module, WindowAttention):
            module.qkv.register_forward_hook(lambda *args: calls.append(None))
    return calls


@pytest.mark.parametrize("case", cases("hat", "eval", test_model=True))
def test_recorded_test_model(case: Case) -> None:
    network = case.network().eval()
    tile = case.info["test_model"].get("tile")
    tiling = None if tile is None else GrownTiles(tile["tile_size"], tile["tile_pad"])
    with torch.no_grad():
        found = upscale(network, case.x, tiling=tiling)
    assert_close(found, case.arrays["output"], case.info["rtol"])


@pytest.mark.parametrize("size", [(1, 3), (5, 61), (70, 2)])
def test_small_and_elongated_images(size: tuple[int, int]) -> None:
    y = upscale(built(), pixels(1, 3, *size))
    assert y.shape == (1, 3, 2 * size[0], 2 * size[1])
    assert y.isfinite().all()


def test_images_are_not_padded_inside() -> None:
    with pytest.raises(InputError, match=r"HAT: an image of 8 x 10 pixels cannot be cut into windows of 4 x 4"):
        built()(pixels(1, 3, 8, 10))


def test_published_files_load_and_new_ones_hold_no_tables() -> None:
    network, other = built(), built(conv_scale=0.2)
    published = published_state(network)
    assert constant_keys(network) == TABLES == published.keys() - network.state_dict().keys()
    assert list(published)[:3] == [*sorted(TABLES, reverse=True), "conv_first.weight"]
    assert (published["relative_position_index_OCA"] < 0).any()
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(published, strict=True)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    x = pixels(1, 3, 8, 8)
    assert torch.allclose(built(conv_scale=0.3).eval()(x), network.eval()(x))


def test_tables_of_other_arguments_are_refused() -> None:
    network = built()
    published = published_state(network)
    with pytest.raises(RuntimeError, match="relative_position_index_OCA"):
        network.load_state_dict({**published, "relative_position_index_OCA": torch.zeros(16, 36, dtype=torch.long)})


def test_x4_starts_from_x2() -> None:
    network = built(upscale=4)
    report = network.load_state_dict(published_state(built(upscale=2)), strict=False)
    assert report.missing_keys == ["upsample.2.weight", "upsample.2.bias"]
    assert report.unexpected_keys == []


@pytest.mark.parametrize(
    "changes",
    [
        {"upscale": 1},
        {"upscale": 8, "in_chans": 1, "ape": True, "img_size": 8, "patch_norm": False, "resi_connection": "identity"},
        {"upscale": 3, "overlap_ratio": 0.0, "qkv_bias": False},
        {"window_size": 7, "overlap_ratio": 2 / 7 + 1e-9, "depths": [1], "num_heads": [4]},
    ],
)
def test_identify(changes: dict[str, Any]) -> None:
    network = built(**changes)
    found = identify(published_state(network))
    assert found is not None
    assert build_network(found).load_state_dict(network.state_dict())
    for key, value in found.items():
        assert value == pytest.approx({**SMALL, **changes}.get(key, value))


def test_initial_values() -> None:
    network = built(ape=True, embed_dim=24)
    assert network.absolute_pos_embed is not None
    drawn: list[Tensor] = [network.absolute_pos_embed]
    for name, parameter in network.named_parameters():
        if name.endswith("relative_position_bias_table"):
            drawn.append(parameter)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            drawn.append(module.weight)
            assert not module.bias.any()
        elif isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert not module.bias.any()
    for tensor in drawn:
        assert 0.01 < tensor.std() < 0.03
    weight = network.conv_first.weight
    assert 0.9 < weight.abs().max() * 27**0.5 <= 1


@pytest.mark.parametrize("sides", [4, [4, 9]])
def test_equal_img_size_and_window_mean_no_shift(
    sides: int | list[int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("focalsr"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="focalsr"):
        network = built(img_size=sides)
    assert "no window is shifted" in caplog.text
    assert {block.shift for block in network.modules() if isinstance(block, HybridAttentionBlock)} == {0}
    shifts = [block.shift for block in built().modules() if isinstance(block, HybridAttentionBlock)]
    assert shifts == [0, 2, 0]


def test_stochastic_depth_grows_over_the_network_and_ends_with_training() -> None:
    network = built(drop_path_rate=0.2)
    rates = [block.drop_path.rate for block in network.modules() if isinstance(block, HybridAttentionBlock)]
    assert rates == pytest.approx([0, 0.1, 0.2])
    x = pixels(8, 3, 8, 8)
    assert torch.equal(network.eval()(x), built().eval()(x))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.allclose(network.train()(x), network.eval()(x))


@pytest.mark.parametrize("rate", ["drop_rate", "attn_drop_rate"])
def test_dropout_ends_with_training(rate: str) -> None:
    network, x = built(**{rate: 0.3}), pixels(1, 3, 8, 8)
    assert torch.equal(network.eval()(x), built().eval()(x))
    assert not torch.allclose(network.train()(x), network.train()(x))


def test_checkpointing_runs_blocks_twice_for_the_same_gradients() -> None:
    x = pixels(1, 3, 8, 8, dtype=torch.float64)
    found = []
    for use_checkpoint in (False, True):
        network = built(use_checkpoint=use_checkpoint, drop_path_rate=0.3).double()
        calls = count_attentions(network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            network(x).square().sum().backward()
        assert len(calls) == (6 if use_checkpoint else 3)
        found.append([parameter.grad for parameter in network.parameters()])
        with torch.no_grad():
            network(x)
        assert len(calls) == (9 if use_checkpoint else 6)
    for a, b in zip(*found, strict=True):
        assert a is not None
        assert b is not None
        assert torch.allclose(a, b, rtol=1e-12)


def test_kept_biases_follow_the_tables() -> None:
    network, x = built().eval(), pixels(1, 3, 8, 8)
    with torch.no_grad():
        before = network(x)
        assert torch.equal(network(x), before)
        for name, parameter in network.named_parameters():
            if name.endswith("overlap_attn.relative_position_bias_table"):
                parameter.mul_(-50)
        after = network(x)
    assert not torch.allclose(after, before)
    assert torch.allclose(after, network(x.requires_grad_()), atol=1e-6)


def test_absolute_positions_bind_the_size() -> None:
    network = built(ape=True, img_size=[8, 12])
    assert network(pixels(1, 3, 8, 12)).shape == (1, 3, 16, 24)
    with pytest.raises(InputError, match="cannot take the 96 absolute positions"):
        network(pixels(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"upsampler": ""}, ["upsampler", "pixelshuffle"]),
        ({"resi_connection": "3conv"}, ["resi_connection", "3conv"]),
        ({"upscale": 5}, ["3 or a power of 2, got 5"]),
        ({"embed_dim": 13}, ["2 heads cannot share embed_dim 13", "3 heads"]),
        ({"overlap_ratio": 0.25}, ["overlap_ratio 0.25: a window of 4 grows by 1", "even"]),
        ({"compress_ratio": 13, "squeeze_factor": 30}, ["compress_ratio must be from 1 to embed_dim, 12", "got 30"]),
        ({"img_size": 3}, ["img_size 3 is smaller than window_size 4"]),
        ({"img_size": [8, 8, 8]}, ["img_size must be one or two numbers"]),
        ({"depths": [2]}, ["depths and num_heads", "[2]", "[2, 3]"]),
        ({"windows_size": 8}, ["windows_size", 'did you mean "window_size"']),
        ({"drop_path_rate": 1.0}, ["below 1, got 1"]),
    ],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build_network({**SMALL, **changes})
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("block", [HybridAttentionBlock, OverlappingCrossAttention])
def test_blocks_stand_alone(block: type[HybridAttentionBlock | OverlappingCrossAttention]) -> None:
    with pytest.raises(InputError, match="12 channels cannot be shared evenly by 5 heads"):
        block(12, 5, 4)
    kinds: dict[str, Any] = {"shift": 2, "squeeze_factor": 3} if block is HybridAttentionBlock else {}
    module = block(12, 3, 4, **kinds).double()
    x = torch.randn(2, 8, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = module(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad is not None
    with pytest.raises(InputError, match="an image of 6 x 8 pixels"):
        module(x[:, :6, :8])
    with pytest.raises(InputError, match="shift must be from 0 to 3, got 4"):
        HybridAttentionBlock(12, 3, 4, shift=4)
