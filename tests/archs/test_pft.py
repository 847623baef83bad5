"""What PFT keeps to beyond the contract of all networks; its recorded runs are in test_golden.py too."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from archs import build_network, identify
from archs.layers.constants import constant_keys, published_state
from archs.layers.linear import Linear
from archs.layers.mirror import mirrored
from archs.pft import PFT, ProgressiveFocusedAttention, attention_maps
from ops.registry import ENVIRONMENT
from tests.golden import Case, assert_output, cases
from utils.errors import InputError

SMALL: dict[str, Any] = {
    "type": "PFT", "depths": [2, 3], "num_heads": 2, "num_topk": [16, 16, 6, 6, 3], "embed_dim": 8, "window_size": 4,
    "convffn_kernel_size": 3,
}  # fmt: skip
LIGHT: dict[str, Any] = {
    "type": "PFT", "embed_dim": 52, "depths": [2, 4, 6, 6, 6], "num_heads": 4, "mlp_ratio": 1, "window_size": 8,
    "num_topk": [*[1024] * 2, *[256] * 4, *[128] * 6, *[64] * 6, *[32] * 6], "convffn_kernel_size": 7,
    "upsampler": "pixelshuffledirect",
}  # fmt: skip


def built(**changes: Any) -> PFT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network({**SMALL, **changes})
    assert isinstance(network, PFT)
    return network


def pixels(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("case", cases("pft", "eval"))
def test_recorded_runs_by_the_published_formulas(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "reference")
    assert_output(case, case.network().eval())


def test_float32_is_near_float64() -> None:
    x = pixels(2, 3, 17, 22)
    exact = built().double()(x.double())
    assert (built()(x) - exact).abs().mean() < 1e-5 * exact.abs().mean()


@pytest.mark.parametrize("size", [(1, 3), (5, 61), (70, 2)])
def test_small_and_elongated_images(size: tuple[int, int]) -> None:
    y = built()(pixels(1, 3, *size))
    assert y.shape == (1, 3, 2 * size[0], 2 * size[1])
    assert y.isfinite().all()


def test_images_are_mirrored_again_and_again() -> None:
    x = torch.arange(3.0).view(1, 1, 1, 3)
    assert mirrored(x, 8)[0, 0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert (mirrored(x, 8)[0, 0] == mirrored(x, 8)[0, 0, 0]).all()
    assert mirrored(x, 1) is x
    network = built().double()
    x = pixels(1, 3, 6, 7, dtype=torch.float64)
    whole = torch.cat([x, x.flip(2)[:, :, :2]], 2)
    whole = torch.cat([whole, whole[..., 6:]], 3)
    assert torch.allclose(network(x), network(whole)[:, :, :12, :14], atol=1e-12)


def test_published_files_load_and_new_ones_hold_no_table() -> None:
    network, other = built(), built()
    published = published_state(network)
    table = "relative_position_index_SA"
    assert constant_keys(network) == {table} == published.keys() - network.state_dict().keys()
    assert next(iter(published)) == table
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(published, strict=True)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    with pytest.raises(RuntimeError, match=table):
        other.load_state_dict({**published, table: torch.zeros(16, 16, dtype=torch.long)})


def test_x4_starts_from_x2() -> None:
    report = built(upscale=4).load_state_dict(published_state(built(upscale=2)), strict=False)
    assert report.missing_keys == ["upsample.2.weight", "upsample.2.bias"]
    assert report.unexpected_keys == []


@pytest.mark.parametrize("upscale", [2, 3, 4])
def test_published_networks_are_known_by_their_weights(upscale: int) -> None:
    classical = {
        **LIGHT, "embed_dim": 240, "num_heads": 6, "depths": [4, 4, 4, 6, 6, 6], "upsampler": "pixelshuffle",
        "num_topk": [*[1024] * 4, *[256] * 4, *[128] * 4, *[64] * 6, *[32] * 6, *[16] * 6], "mlp_ratio": 2.0,
    }  # fmt: skip
    for expected in (LIGHT, classical):
        with torch.device("meta"):
            network = build_network({**expected, "upscale": upscale})
        found = identify(network.state_dict())
        assert found is not None
        assert {**found, "upscale": upscale, "resi_connection": "1conv"} == found
        assert expected.items() <= found.items()


@pytest.mark.parametrize(
    "changes",
    [{"upsampler": "nearest+conv", "upscale": 4}, {"resi_connection": "3conv"}, {"upsampler": "", "upscale": 1}],
)
def test_what_weights_do_not_tell_is_not_guessed(changes: dict[str, Any]) -> None:
    assert identify(built(**changes).state_dict()) is None


def test_initial_values() -> None:
    network = built(embed_dim=24, ape=True, img_size=16)
    assert network.absolute_pos_embed is not None
    drawn: list[Tensor] = [network.absolute_pos_embed]
    drawn += [p for name, p in network.named_parameters() if name.endswith("relative_position_bias_table")]
    for module in network.modules():
        if isinstance(module, nn.Linear):
            drawn.append(module.weight)
            assert not module.bias.any()
        elif isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all()
            assert not module.bias.any()
    assert len(drawn) == 1 + 5 + 5 * 4
    for tensor in drawn:
        assert 0.01 < tensor.std() < 0.03
    assert 0.9 < network.conv_first.weight.abs().max() * 27**0.5 <= 1


def test_a_network_without_upsampler_restores() -> None:
    network = built(upsampler="", upscale=1, in_chans=1, img_range=255.0).double()
    for parameter in network.conv_last.parameters():
        nn.init.zeros_(parameter)
    x = pixels(2, 1, 7, 9, dtype=torch.float64)
    assert torch.allclose(network(x), x, atol=1e-12)


def test_states_pass_from_group_to_group() -> None:
    x = pixels(1, 3, 16, 16, dtype=torch.float64)
    network = built().double()
    states: list[Any] = []
    for layer in network.focused_layers():
        layer.register_forward_hook(lambda module, arguments, result: states.append((arguments[1], result[1])))
    network(x)
    # Even layers of a group go on from even ones, odd from odd; depths 2, 3 make layers 0 2 4 and 1 3.
    before, after = zip(*states, strict=True)
    assert before[0] is None
    assert before[1] is None
    assert [before[2] is after[0], before[3] is after[1], before[4] is after[2]] == [True, True, True]
    assert [state.logits.shape[-1] for state in after if state.logits is not None] == [6, 6, 3]


def test_growing_numbers_of_keys_have_no_effect() -> None:
    x = pixels(1, 3, 8, 8)
    assert torch.equal(built(num_topk=[4, 4, 9, 4, 100])(x), built(num_topk=[4, 4, 4, 4, 4])(x))


@pytest.mark.parametrize("environment", ["auto", "reference"])
def test_checkpointing_runs_layers_twice_for_the_same_gradients(
    environment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, environment)
    x = pixels(1, 3, 8, 8, dtype=torch.float64)
    found = []
    for use_checkpoint in (False, True):
        network = built(use_checkpoint=use_checkpoint).double()
        with mock.patch.object(Linear, "forward", autospec=True, side_effect=Linear.forward) as linear:
            network(x).square().sum().backward()
        projection = network.focused_layers()[0].attn_win.proj
        assert sum(call.args[0] is projection for call in linear.mock_calls) == (2 if use_checkpoint else 1)
        found.append([parameter.grad for parameter in network.parameters()])
    for a, b in zip(*found, strict=True):
        assert a is not None
        assert b is not None
        assert torch.allclose(a, b, rtol=1e-11)


def kept_bytes(network: nn.Module, x: Tensor) -> int:
    parameters = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    found: dict[int, int] = {}
    alive = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(x)
    return sum(found.values())


@pytest.mark.build
def test_what_is_kept_for_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    network = built(embed_dim=32, num_topk=[64, 64, 16, 16, 8], window_size=8)
    x = pixels(1, 3, 32, 32)
    # Of each layer: its input, queries, keys and values, what is projected, the residual sum and the hidden channels.
    features = 5 * (1 + 3 + 1 + 1 + 2)
    lists = 2 * (16 + 16 + 8) * 1.5 + 5 * 2
    dense = 2 * 4 * 32 * 2 * 2 + 2 * 2 * 64 * 64 / 16**2 * 2  # joined queries and keys, dense biases
    bound = 4 * 32 * 32 * (32 * (features + 12) + lists + dense)
    kept = kept_bytes(network, x)
    assert kept < bound
    monkeypatch.setenv(ENVIRONMENT, "reference")
    assert kept < 0.6 * kept_bytes(network, x)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"upsampler": ""}, ["upscale is 2", "must be 1"]),
        ({"upsampler": "bicubic"}, ["upsampler", "bicubic"]),
        ({"upsampler": "nearest+conv", "upscale": 3}, ["scales of 2 and 4, got 3"]),
        ({"resi_connection": "identity"}, ["resi_connection", "identity"]),
        ({"upscale": 5}, ["3 or a power of 2, got 5"]),
        ({"embed_dim": 9}, ["2 heads cannot share embed_dim 9"]),
        ({"num_heads": [2, 4]}, ["the same num_heads", "[2, 4]"]),
        ({"num_topk": [16, 16, 6, 6]}, ["num_topk has 4 numbers for 5 layers"]),
        ({"num_topk": [16, 16, 6, 6, 0]}, ["num_topk", "at least 1, got 0"]),
        ({"depths": []}, ["depths must hold a number"]),
        ({"window_size": 0, "convffn_kernel_size": 4}, ["window_size must be at least 1", "odd number, got 4"]),
        ({"patch_size": 4}, ["patch_size must be 1, got 4"]),
        ({"mlp_ratio": 0.1}, ["mlp_ratio 0.1 leaves no hidden channel"]),
        ({"windows_size": 8}, ["windows_size", 'did you mean "window_size"']),
    ],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build_network({**SMALL, **changes})
    for part in parts:
        assert part in str(caught.value)


def test_equal_heads_in_a_list_are_one_number() -> None:
    assert [layer.num_heads for layer in built(num_heads=[2, 2]).focused_layers()] == [2] * 5


def test_absolute_positions_bind_the_size() -> None:
    network = built(ape=True, img_size=8)
    assert network(pixels(1, 3, 7, 8)).shape == (1, 3, 14, 16)
    with pytest.raises(InputError, match=r"8 x 12 pixels \(with its padding\) cannot take the 64 absolute positions"):
        network(pixels(1, 3, 8, 9))


def test_attention_stands_alone() -> None:
    with pytest.raises(InputError, match="12 channels cannot be shared evenly by 5 heads"):
        ProgressiveFocusedAttention(12, 5, 4)
    with pytest.raises(InputError, match="window of 4 cannot be shifted by 4"):
        ProgressiveFocusedAttention(12, 3, 4, shift=4)
    with pytest.raises(InputError, match="got 0 and 4"):
        ProgressiveFocusedAttention(12, 3, 4, 0, kernel_size=4)
    first = ProgressiveFocusedAttention(12, 3, 4, shift=2, table_per_head=True).double()
    second = ProgressiveFocusedAttention(12, 3, 4, 5, shift=2, qkv_bias=False).double()
    assert first.attn_win.relative_position_bias_table.shape == (49, 3)
    assert second.attn_win.relative_position_bias_table.shape == (49, 1)
    x = pixels(2, 8, 12, 12, dtype=torch.float64).requires_grad_()
    y, state = first(x)
    z, state = second(y, state)
    assert z.shape == x.shape
    assert state.index is not None
    assert state.index.shape == (12, 3, 16, 5)
    z.sum().backward()
    # The second goes on from what the first found, so its result depends on the first's table.
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in first.parameters())
    with pytest.raises(InputError, match="an image of 6 x 8 pixels"):
        first(x[:, :6, :8])


@pytest.mark.parametrize("environment", ["auto", "reference"])
def test_maps_tell_where_pixels_look(environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, environment)
    network = built(num_topk=[16, 16, 16, 16, 3])
    x = pixels(2, 3, 10, 7)
    found = attention_maps(network, x, [0, 1, 3, 4], [(9, 6), (0, 0)], image=1)
    assert [(m.layer, m.pixel) for m in found] == [(i, p) for i in (0, 1, 3, 4) for p in ((9, 6), (0, 0))]
    for m in found:
        assert m.weights.shape == m.rows.shape == m.columns.shape == (2, 3 if m.layer == 4 else 16)
        assert 0 <= m.rows.min() <= m.rows.max() < 10
        assert 0 <= m.columns.min() <= m.columns.max() < 7
        total = m.weights.sum(-1)
        assert (total <= 1 + 1e-5).all() if m.layer == 4 else torch.allclose(total, torch.ones(2))
    # Pixel (9, 6) of the last window, whose rows 10, 11 and column 7 are mirror images.
    assert sorted(set(found[0].rows[0].tolist())) == [8, 9]
    assert sorted(set(found[0].columns[0].tolist())) == [4, 5, 6]
    # Shifted by 2, rows 6 to 9 and columns 2 to 5 share a window; (0, 0) is alone with its own corner.
    corner = found[3]
    near = (corner.rows < 2) & (corner.columns < 2)
    assert torch.allclose((corner.weights * near).sum(-1), torch.ones(2))
    with pytest.raises(InputError, match=r"layers are \[5\], expected numbers from 0 to 4"):
        attention_maps(network, x, [5], [(0, 0)])
    with pytest.raises(InputError, match="expected places in 2 images of 10 x 7"):
        attention_maps(network, x, [0], [(10, 0)])


def test_maps_are_those_that_the_next_layer_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights that the fast path does not keep are those of the published formulas."""
    network, x = built().double(), pixels(1, 3, 12, 12, dtype=torch.float64)
    ours = attention_maps(network, x, range(5), [(5, 6), (11, 0)])
    monkeypatch.setenv(ENVIRONMENT, "reference")
    for found, expected in zip(ours, attention_maps(network, x, range(5), [(5, 6), (11, 0)]), strict=True):
        for head in range(2):
            dense = []
            for m in (found, expected):
                image = torch.zeros(12, 12, dtype=torch.float64)
                dense.append(image.index_put((m.rows[head], m.columns[head]), m.weights[head], accumulate=True))
            assert torch.allclose(dense[0], dense[1], atol=1e-12)
