"""What the ESC family keeps to beyond the contract of all networks; its recorded runs are in test_golden.py."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import archs.esc.network
from archs import build_network, identify, network_class
from archs.esc import ESC, ConvolutionalAttention, ESCReal, fold, fold_state, initial_kernel, symmetric_kernel
from archs.esc.blocks import FeedForward, WindowAttention
from archs.esc.dysample import DySample
from archs.esc.kernels import convolve_symmetric, depthwise_by_image
from archs.layers.constants import constant_keys, published_state
from models.inference.upscale import upscale
from models.weights.files import load_weights
from tests.archs.esc_networks import LTE, REAL_M, SMALL, built, free_program, pixels, randomised
from tests.golden import Case, assert_close, cases
from utils.errors import InputError
from utils.typed import Report, read_arguments


def naive_bias(table: Tensor, window: int) -> Tensor:
    """The formula pair by pair."""
    side = 2 * window - 1
    bias = table.new_empty(len(table), window**2, window**2)
    for q in range(window**2):
        for k in range(window**2):
            (yq, xq), (yk, xk) = divmod(q, window), divmod(k, window)
            bias[:, q, k] = table[:, (yk - yq + window - 1) * side + xk - xq + window - 1]
    return bias


def test_bias_is_that_of_the_formula() -> None:
    attention = WindowAttention(6, 3, 4)
    assert torch.equal(attention.bias(), naive_bias(attention.relative_position_bias.detach(), 4))


def test_symmetric_kernel_is_a_projection_onto_the_symmetries_of_the_square() -> None:
    raw = initial_kernel(3, 5)
    kernel = symmetric_kernel(raw)
    mean = sum(torch.rot90(x, turns, (2, 3)) for turns in range(4) for x in (raw, raw.flip(3))) / 8
    assert torch.allclose(kernel, torch.as_tensor(mean), atol=1e-6)
    assert torch.equal(symmetric_kernel(kernel), kernel)
    for other in (kernel.flip(2), kernel.flip(3), kernel.mT):
        assert torch.equal(other, kernel)


@pytest.mark.parametrize("side", [1, 3, 7])
@pytest.mark.parametrize("size", [(6, 9), (1, 2)])
def test_symmetric_convolution(side: int, size: tuple[int, int]) -> None:
    x = pixels(2, *size, 3, dtype=torch.float64).requires_grad_()
    kernel = symmetric_kernel(pixels(4, 3, side, side, dtype=torch.float64)).requires_grad_()
    found = convolve_symmetric(x, kernel)
    expected = F.conv2d(x.permute(0, 3, 1, 2), kernel, padding=side // 2).permute(0, 2, 3, 1)
    assert torch.allclose(found, expected, rtol=1e-12)
    for a, b in zip(*(torch.autograd.grad(y.square().sum(), (x, kernel)) for y in (found, expected)), strict=True):
        # The gradient of a kernel that stays symmetric: only its symmetric part counts.
        first, second = (symmetric_kernel(g) if g.shape == kernel.shape else g for g in (a, b))
        assert torch.allclose(first, second, rtol=1e-12)


def test_depthwise_kernels_belong_to_their_images() -> None:
    x, kernels = pixels(3, 5, 4, 2, dtype=torch.float64), pixels(3, 2, 3, 3, dtype=torch.float64)
    found = depthwise_by_image(x, kernels)
    for image, kernel, result in zip(x, kernels, found, strict=True):
        expected = F.conv2d(image.permute(2, 0, 1)[None], kernel[:, None], padding=1, groups=2)
        assert torch.allclose(result.permute(2, 0, 1)[None], expected, rtol=1e-12)


@pytest.mark.parametrize("decomposed", [False, True])
def test_merged_maps_are_the_layers_one_by_one(decomposed: bool) -> None:
    attention = randomised(ConvolutionalAttention(10, 4, decomposed=decomposed)).double()
    layer = randomised(FeedForward(10, 7)).double().aggr
    kernels = (
        (pixels(4, 4, 1, 1, dtype=torch.float64), pixels(4, 1, 5, 5, dtype=torch.float64))
        if decomposed
        else (symmetric_kernel(pixels(4, 4, 5, 5, dtype=torch.float64)),)
    )
    t = pixels(2, 6, 5, 7, dtype=torch.float64)
    expected = attention(F.linear(t, layer.weight.flatten(1), layer.bias), *kernels)
    assert torch.allclose(attention.after(layer, t, *kernels), expected, rtol=1e-11)
    with torch.no_grad():  # kept matrices
        for _ in range(2):
            assert torch.allclose(attention.after(layer, t, *kernels), expected, rtol=1e-11)


def test_convolutional_attention_alone() -> None:
    attention = ConvolutionalAttention(channels=8, filtered=2)
    kernel = symmetric_kernel(initial_kernel(2, 5))
    x = pixels(2, 7, 6, 8).requires_grad_()
    attention(x, kernel).sum().backward()
    assert x.grad is not None
    with pytest.raises(InputError, match="from 1 to 8 channels can be filtered, got 9"):
        ConvolutionalAttention(8, 9)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2), (5, 61), (70, 2)])
def test_small_and_elongated_images(size: tuple[int, int]) -> None:
    y = upscale(built(), pixels(1, 3, *size))
    assert y.shape == (1, 3, 2 * size[0], 2 * size[1])
    assert y.isfinite().all()


@pytest.mark.parametrize("changes", [{"type": "ESCReal", "upscaling_factor": 4}, {"type": "ESCRealM"}])
@pytest.mark.parametrize("size", [(1, 1), (2, 9)])
def test_small_images_of_real_networks(changes: dict[str, Any], size: tuple[int, int]) -> None:
    network = built(**changes)
    assert network(pixels(2, 3, *size)).shape == (2, 3, network.scale * size[0], network.scale * size[1])


def test_images_are_reflected_inside_where_that_is_legal() -> None:
    attention = randomised(WindowAttention(6, 3, 4)).double()
    x = pixels(1, 6, 7, 6, dtype=torch.float64)
    padded = F.pad(x.permute(0, 3, 1, 2), (0, 1, 0, 2), mode="reflect").permute(0, 2, 3, 1)
    assert torch.allclose(attention(x), attention(padded)[:, :6, :7], rtol=1e-12)


@pytest.mark.parametrize("kind", ["Naive", "SDPA", "Flex"])
def test_preferred_attentions_are_one_function(kind: str) -> None:
    x = pixels(1, 3, 9, 10)
    network = randomised(built())
    other = built(attn_type=kind)
    other.load_state_dict(network.state_dict())
    y = other(x)  # Flex cannot train on the CPU
    y.sum().backward()
    assert torch.allclose(y, network(x), atol=1e-5)


# --- weights ----------------------------------------------------------------------------------------------------------


def resampling(old: int, new: int) -> Tensor:
    """Bilinear interpolation of ``old`` values to ``new`` with half-pixel centres, as a matrix."""
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        place = max((i + 0.5) * old / new - 0.5, 0)
        first = int(place)
        matrix[i, first] += 1 - (place - first)
        matrix[i, min(first + 1, old - 1)] += place - first
    return matrix


@pytest.mark.parametrize("name", ["ESC", "ESCFP"])
@pytest.mark.parametrize(("old", "new"), [(2, 4), (2, 3), (4, 2), (3, 1), (1, 8)])
def test_weights_of_another_scale_load(name: str, old: int, new: int) -> None:
    source = built(type=name, upscaling_factor=old).double()
    network = built(type=name, upscaling_factor=new).double()
    state = source.state_dict()
    before = {key: tensor.clone() for key, tensor in state.items()}
    network.load_state_dict(state)
    assert all(torch.equal(state[key], tensor) for key, tensor in before.items())
    matrix = resampling(old, new)
    for key in ("to_img.weight", "to_img.bias"):
        grid = state[key].view(3, old, old, -1)
        expected = torch.einsum("ia,jb,cabx->cijx", matrix, matrix, grid).reshape(network.state_dict()[key].shape)
        assert torch.allclose(network.state_dict()[key], expected, atol=1e-12)
    assert torch.equal(network.last.weight, source.last.weight)


def test_files_of_another_scale_load(tmp_path: Path) -> None:
    source, network = built(), built(upscaling_factor=4)
    torch.save({"params_ema": source.state_dict()}, tmp_path / "x2.pth")
    assert not load_weights(network, tmp_path / "x2.pth")
    assert torch.equal(network.last.weight, source.last.weight)
    other = built(upscaling_factor=4, dim=12)
    with pytest.raises(InputError, match=r"does not fit ESC.*dim: 16"):
        load_weights(other, tmp_path / "x2.pth")


def test_incomplete_weights_load_in_part() -> None:
    state = built().state_dict()
    del state["to_img.weight"]
    assert built(upscaling_factor=3).load_state_dict(state, strict=False).missing_keys == ["to_img.weight"]


def test_folded_and_raw_weights_give_the_same_in_any_state() -> None:
    network, x = randomised(built()).eval(), pixels(1, 3, 8, 9)
    folded = fold(network)
    assert not torch.equal(folded.plk_filter, network.plk_filter)
    with torch.no_grad():
        assert torch.equal(folded(x), network(x))
        folded.load_state_dict(network.state_dict())
        assert torch.equal(folded(x), network(x))
    with pytest.raises(InputError, match="folded already"):
        fold(fold(network))
    with pytest.raises(InputError, match="no plk_filter"):
        fold_state(built(type="ESCFP").state_dict())


def test_kept_values_follow_the_weights() -> None:
    network, x = randomised(built()).eval(), pixels(1, 3, 8, 8)
    with torch.no_grad():
        before = network(x)
        assert torch.equal(network(x), before)
        other = copy.deepcopy(network)
        for name in ("plk_filter", "blocks.1.attn.relative_position_bias", "blocks.0.convffns.1.aggr.weight"):
            changed = copy.deepcopy(network)
            changed(x)
            parameter = changed.get_parameter(name)
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
            after = changed(x)
            assert not torch.allclose(after, before)
            network.load_state_dict(changed.state_dict())
            assert torch.allclose(network(x), after)
            network.load_state_dict(other.state_dict())
            assert torch.equal(network(x), before)
    assert torch.allclose(network(x), before, atol=1e-5)  # with gradients


def test_constants_of_published_files() -> None:
    network = built(type="ESCRealM", upscaling_factor=4, upsampler="dysample", mid_dim=8)
    published = published_state(network)
    assert constant_keys(network) == {"to_img.MetaUpsample", "to_img.2.init_pos"}
    assert published["to_img.MetaUpsample"].tolist() == [2, 4, 4, 16, 3, 8, 4]
    network.load_state_dict(published)
    network.load_state_dict(network.state_dict())
    wrong = {**published, "to_img.MetaUpsample": torch.tensor([2, 2, 4, 16, 3, 8, 4], dtype=torch.uint8)}
    with pytest.raises(RuntimeError, match=r"upsampler is pixelshuffle in the file and dysample here"):
        network.load_state_dict(wrong)
    assert built(type="ESCRealM", dim=260, pdim=4, upscaling_factor=4).to_img.numbers[3] == 255


@pytest.mark.parametrize(
    "configuration",
    [
        {**SMALL, "use_ln": True, "exp_ratio": 1.5},
        {**SMALL, "type": "ESCFP", "upscaling_factor": 3},
        {**SMALL, "type": "ESCReal", "upscaling_factor": 4, "use_dysample": False},
        {**SMALL, "type": "ESCReal", "upscaling_factor": 3, "use_dysample": True},
        {**SMALL, "type": "ESCRealM", "upscaling_factor": 1, "upsampler": "conv", "unshuffle_mod": False},
        {**SMALL, "type": "ESCRealM", "upscaling_factor": 1, "upsampler": "nearest+conv"},
        {**SMALL, "type": "ESCRealM", "upscaling_factor": 2, "upsampler": "pixelshuffle", "mid_dim": 6},
        {**SMALL, "type": "ESCRealM", "upscaling_factor": 3, "upsampler": "pixelshuffle", "mid_dim": 6},
        {**SMALL, "type": "ESCRealM", "upscaling_factor": 3, "upsampler": "nearest+conv"},
        {**SMALL, "type": "ESCRealM", "upscaling_factor": 8, "upsampler": "nearest+conv"},
        {**SMALL, "type": "ESCRealM", "upscaling_factor": 2, "upsampler": "nearest+conv", "unshuffle_mod": False},
        {**SMALL, "type": "ESCRealM", "upscaling_factor": 4, "upsampler": "pixelshuffledirect"},
        {**SMALL, "type": "ESCRealM", "upscaling_factor": 4, "upsampler": "dysample", "mid_dim": 8},
        {**SMALL, "type": "ESCRealM", "upscaling_factor": 2, "upsampler": "dysample", "mid_dim": 16},
        LTE,
    ],
)
def test_identify(configuration: dict[str, Any]) -> None:
    network = built(configuration)
    found = identify(published_state(network))
    assert found is not None
    assert build_network(found).load_state_dict(network.state_dict())
    for key, value in found.items():
        assert value == configuration.get(key, value)
    assert found.keys() >= configuration.keys() - {"mid_dim"}


@pytest.mark.parametrize("case", cases("esc", None))
def test_published_weights_tell_their_network(case: Case) -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape, _ in case.info["state"]}  # shapes are enough
    found = identify(state)
    assert found is not None
    assert found["type"] == case.info["arch"]
    expected = {key: value for key, value in case.info["config"].items() if key != "mid_dim"}
    assert {key: found.get(key) for key in expected} == expected


def test_initial_values() -> None:
    network = built(pdim=8, kernel_size=13)
    rows = network.plk_filter.detach().flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(8), atol=1e-5)
    for block in network.blocks:
        assert 0.0005 < block.attn.relative_position_bias.std() < 0.0015
        for attention in block.pconvs:
            assert not any(parameter.any() for parameter in attention.plk.dwc_proj[3].parameters())
    decomposed = built(type="ESCFP", pdim=8, kernel_size=13)
    rows = decomposed.lk_spatial.detach().flatten(1)
    assert torch.allclose(rows @ rows.T, torch.eye(8), atol=1e-5)
    assert 0.7 < decomposed.lk_channel.std() < 1.3
    assert decomposed.blocks[0].pconvs[0].plk.proj[3].weight.any()
    sampling = DySample(8, 3, 2)
    assert not sampling.scope.weight.any()
    assert 0.01 < sampling.offset.weight.std() < 0.03
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6


# --- upsampling -------------------------------------------------------------------------------------------------------


def test_dysample_reads_where_the_formula_says() -> None:
    scale, groups = 2, 2
    module = randomised(DySample(4, 3, scale, groups)).double().requires_grad_(False)
    x = pixels(2, 4, 3, 5, dtype=torch.float64)
    offset, scope = module.offset(x), module.scope(x)
    sampled = torch.empty(2, 4, 6, 10, dtype=torch.float64)
    for b, channel, row, column in torch.cartesian_prod(*(torch.arange(n) for n in sampled.shape)).tolist():
        (Y, i), (X, j) = divmod(row, scale), divmod(column, scale)
        place = []
        for axis, start, size in ((0, j, X), (1, i, Y)):
            index = ((axis * groups + channel // 2) * scale + i) * scale + j
            move = 0.5 * offset[b, index, Y, X] * scope[b, index, Y, X].sigmoid() + (start - 0.5) / scale
            place.append(float(size + move))
        sampled[b, channel, row, column] = interpolated(x[b, channel], place[1], place[0])
    assert torch.allclose(module(x), module.end_conv(sampled), rtol=1e-10)


def interpolated(image: Tensor, row: float, column: float) -> float:
    """Bilinear, positions counted from the centre of the first pixel, clamped to the image."""
    (H, W), total = image.shape, 0.0
    row, column = min(max(row, 0), H - 1), min(max(column, 0), W - 1)
    for y in range(H):
        for x in range(W):
            total += float(image[y, x]) * max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
    return total


def test_positions_are_exact_in_half_precision() -> None:
    module = randomised(DySample(4, 3, 2, 2))
    x = torch.linspace(0, 1, 640).expand(1, 4, 2, 640).contiguous()
    full = module(x)
    half = copy.deepcopy(module).half()(x.half())
    assert (half - full).abs().max() < 4e-3  # one pixel of the ramp is 1.6e-3; half precision would be off by more


def test_the_real_network_upscales_by_the_scale_of_its_arguments() -> None:
    with pytest.raises(InputError, match="upscaling_factor must be 4"):
        built(type="ESCReal", upscaling_factor=2)
    network = built(type="ESCReal", upscaling_factor=2, use_dysample=True)
    assert isinstance(network, ESCReal)
    assert network(pixels(1, 3, 6, 5)).shape == (1, 3, 12, 10)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("upsampler", ["pixelshuffledirect", "pixelshuffle", "nearest+conv", "dysample"])
def test_every_upsampler_and_scale(upsampler: str, scale: int) -> None:
    network = built(type="ESCRealM", upsampler=upsampler, upscaling_factor=scale, mid_dim=8, n_blocks=1)
    assert network(pixels(1, 3, 7, 6)).shape == (1, 3, 7 * scale, 6 * scale)


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_export_of_unshuffled_images_and_of_single_windows() -> None:
    network = randomised(built(REAL_M, upscaling_factor=2, n_blocks=1, conv_blocks=1)).eval()
    program = free_program(network).module()
    for shape in ((1, 3, 1, 1), (3, 3, 2, 2), (1, 3, 4, 9), (3, 3, 17, 12), (1, 3, 8, 30)):
        x = pixels(*shape)
        with torch.no_grad():
            torch.testing.assert_close(program(x), upscale(network, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"kernel_size": 4}, ["kernel_size must be odd, got 4"]),
        ({"num_heads": 3}, ["3 heads cannot share dim 16 evenly"]),
        ({"pdim": 20, "window_size": 0}, ["pdim must be from 2 to dim, 16, got 20", "window_size must be at least 1"]),
        ({"type": "ESCFP", "pdim": 3}, ["pdim must be from 4"]),
        ({"upscaling_factor": 0}, ["upscaling_factor must be at least 1, got 0"]),
        ({"attn_type": "flex"}, ["attn_type", "Flex"]),
        ({"type": "ESCRealM", "upsampler": "conv"}, ["conv does not upsample"]),
        ({"type": "ESCRealM", "upscaling_factor": 5}, ["3 or a power of 2, got 5"]),
        ({"type": "ESCRealM", "upsampler": "dysample", "mid_dim": 6}, ["multiple of 4 channels"]),
        ({**LTE, "upscaling_factor": 0.5}, ["a number of at least 1, got 0.5"]),
        ({**LTE, "upscaling_factor": 4, "hidden_dim": 3}, ["hidden_dim must be even"]),
        ({"window": 8}, ["window"]),
    ],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        built(**changes)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["ESC", "ESCFP", "ESCReal", "ESCLTE"])
def test_the_published_argument_deployment_is_accepted_without_effect(name: str) -> None:
    report = Report()
    found = read_arguments({"deployment": True}, network_class(name), report)
    assert found == {}
    [(path, note)] = report.notes
    assert path == ("deployment",)
    assert "attn_type: Flex" in note


@pytest.mark.parametrize("case", cases("esc", "eval"))
def test_nothing_is_written_to_the_input_and_gradients_flow_in_evaluation(case: Case) -> None:
    if case.info["arch"] == "ESCLTE":
        return
    network, x = case.network().eval(), case.x
    before = x.clone()
    x.requires_grad_()
    y = network(x)
    assert_close(y.detach(), case.arrays["output"], case.info["rtol"])
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.detach(), before)


def test_all_blocks_share_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    network = built()
    calls: list[None] = []

    def counted(weight: Tensor) -> Tensor:
        calls.append(None)
        return symmetric_kernel(weight)

    monkeypatch.setattr(archs.esc.network, "symmetric_kernel", counted)
    assert isinstance(network, ESC)
    network(pixels(1, 3, 8, 8))
    assert len(calls) == 1
    with torch.no_grad():
        network(pixels(1, 3, 8, 8))
        network(pixels(1, 3, 8, 8))
    assert len(calls) == 2
