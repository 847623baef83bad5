"""What every network keeps to, whatever it is; a new one joins by a small configuration."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archs import NETWORKS, build_network, network_class
from archs.contract import SRNetwork, contract_of
from archs.layers.size import SizeRule
from utils.typed import fields_of

# At least two levels or groups of everything, odd where oddness is allowed, a scale of 2 or 3.
SMALL: Mapping[str, Mapping[str, Any]] = {
    "PlainUSR_ultra": {"n_feat": 9, "im_feat": [8, 5], "scale": 3},
    "PlainUSR_general": {"n_feat": 10, "im_feat": [8, 6, 6], "attn_feat": 3, "scale": 2},
    "PlainUSR_large": {"n_feat": 8, "im_feat": [8, 5, 3], "attn_feat": 2, "scale": 2},
    "PlainUSR_ultra_inference": {"n_feat": 8, "im_feat": [8, 5], "scale": 2},
    "PlainUSR_general_inference": {"n_feat": 8, "im_feat": [8, 8, 3], "attn_feat": 3, "scale": 3},
    "PlainUSR_large_inference": {"n_feat": 10, "im_feat": [8, 6, 4], "attn_feat": 2, "scale": 2},
    "HAT": {
        "depths": [2, 1],
        "num_heads": [2, 3],
        "embed_dim": 12,
        "window_size": 4,
        "squeeze_factor": 2,
        "conv_scale": 0.3,
        "drop_path_rate": 0,
        "upscale": 3,
        "mlp_ratio": 2,
    },
    "RGT": {
        "depth": [3, 2],
        "num_heads": [4, 3],
        "embed_dim": 96,
        "split_size": [4, 8],
        "drop_path_rate": 0,
        "upscale": 3,
        "mlp_ratio": 1,
    },
    "PFT": {
        "depths": [2, 3],
        "num_heads": 2,
        "num_topk": [16, 16, 6, 6, 3],
        "embed_dim": 10,
        "window_size": 4,
        "convffn_kernel_size": 3,
        "upscale": 3,
    },
    "SwinIR": {
        "depths": [2, 1],
        "num_heads": [2, 3],
        "embed_dim": 12,
        "window_size": 4,
        "img_size": 8,
        "drop_path_rate": 0,
        "upscale": 3,
        "mlp_ratio": 2,
    },
    "ATD": {
        "depths": [2, 2],
        "num_heads": [2, 3],
        "embed_dim": 12,
        "window_size": 4,
        "category_size": 8,
        "num_tokens": 6,
        "convffn_kernel_size": 3,
        "upscale": 3,
    },
    "RRDBNet": {"scale": 2, "num_feat": 6, "num_block": 2, "num_grow_ch": 3},
    "MSRResNet": {"upscale": 3, "num_feat": 6, "num_block": 2},
}
ESC_SMALL: Mapping[str, Any] = {
    "dim": 24, "pdim": 6, "kernel_size": 5, "n_blocks": 2, "conv_blocks": 2, "window_size": 4, "num_heads": 3,
    "exp_ratio": 1.3,
}  # fmt: skip
HIT_SMALL: Mapping[str, Any] = {
    "depths": [3, 2], "num_heads": [2, 3], "embed_dim": 36, "base_win_size": [4, 4], "hier_win_ratios": [0.5, 1, 2],
    "upscale": 3,
}  # fmt: skip
SMALL = {
    **SMALL,
    **dict.fromkeys(("HiT_SRF", "HiT_SIR", "HiT_SNG"), HIT_SMALL),
    "ESC": {**ESC_SMALL, "upscaling_factor": 3, "use_ln": True},
    "ESCFP": {**ESC_SMALL, "upscaling_factor": 2},
    "ESCReal": {**ESC_SMALL, "upscaling_factor": 3, "use_dysample": True},
    "ESCRealM": {**ESC_SMALL, "upscaling_factor": 2, "upsampler": "pixelshuffle", "mid_dim": 8},
    "ESCLTE": {**ESC_SMALL, "upscaling_factor": 2, "hidden_dim": 12, "hidden_list": [10, 8]},
}
# As small as the published networks' kinds of layers allow: recording them is what takes time.
SMALLER: Mapping[str, Mapping[str, Any]] = {
    **SMALL,
    "HAT": {**SMALL["HAT"], "depths": [2], "num_heads": [2]},
    "RGT": {**SMALL["RGT"], "depth": [3], "num_heads": [4]},
    "PFT": {**SMALL["PFT"], "depths": [4], "num_topk": [16, 6, 6, 3]},  # dense, dense to sparse, sparse to sparse
    "SwinIR": {**SMALL["SwinIR"], "depths": [2], "num_heads": [2]},
    "ATD": {**SMALL["ATD"], "depths": [2], "num_heads": [2]},
    **{name: {**SMALL[name], "depths": [3], "num_heads": [2]} for name in ("HiT_SRF", "HiT_SIR", "HiT_SNG")},
    "RRDBNet": {**SMALL["RRDBNet"], "num_block": 1},
    **{name: {**SMALL[name], "n_blocks": 1, "conv_blocks": 1} for name in SMALL if name.startswith("ESC")},
}
SMALL_WINDOWS = {
    "HAT": 4,
    "PFT": 4,
    "SwinIR": 4,
    "ATD": 4,
    "ESC": 4,
    "ESCFP": 4,
    "ESCReal": 4,
    "ESCRealM": 4,
    "ESCLTE": 4,
}
"""window_size of the small networks by their classes; RGT's windows are rectangles, PlainUSR has none."""

Network = Any
"""A module that meets :class:`archs.contract.SRNetwork`."""

SIZES = ((1, 13, 22), (3, 7, 16), (1, 1, 5))


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    return built(request.param, SMALL[request.param])


@pytest.fixture(params=[name for name in NETWORKS if name != "HiT_SIR"])  # whose parts are those of HiT_SNG
def smaller(request: pytest.FixtureRequest) -> Network:
    return built(request.param, SMALLER[request.param])


def built(name: str, arguments: Mapping[str, Any]) -> Network:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network({"type": name, **arguments})
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():  # it would hide the layers before it from gradients
                torch.nn.init.normal_(parameter, std=0.05)
        return network


def image(network: Network, size: tuple[int, int, int] = (2, 13, 22), dtype: torch.dtype = torch.float32) -> Tensor:
    """[B, 3, H, W] of about this size, as the network's size rule allows."""
    batch, height, width = size
    rule = network.size_rule
    assert isinstance(rule, SizeRule)
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, rule.padded(height), rule.padded(width), generator=generator, dtype=dtype)


def test_every_network_is_tested() -> None:
    assert SMALL.keys() == NETWORKS.keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_arguments_are_documented(name: str) -> None:
    fields = fields_of(network_class(name))
    assert [field.name for field in fields.values() if not field.help] == []


def test_it_says_itself_what_its_callers_ask(network: Network) -> None:
    offered: Any = contract_of(network)
    assert isinstance(network, SRNetwork)
    assert offered is network
    assert isinstance(offered.scale, int)
    assert isinstance(offered.size_rule, SizeRule)
    assert offered.channels == 3
    assert offered.receptive_radius is None or offered.receptive_radius >= 1
    assert offered.window_size == SMALL_WINDOWS.get(type(network).__name__)


def test_its_form_for_inference_computes_the_same(network: Network) -> None:
    x = image(network)
    prepared: Any = network.for_inference()
    assert prepared.for_inference() is prepared
    assert isinstance(prepared, SRNetwork)
    with torch.no_grad():
        assert torch.allclose(prepared.forward(x), network(x), atol=1e-5)


def test_its_own_state_needs_no_adapting(network: Network) -> None:
    state = network.state_dict()
    adapted = network.adapt_state(state)
    assert adapted is not state
    assert list(adapted) == list(state)
    assert all(torch.equal(adapted[key], state[key]) for key in state)


@pytest.mark.parametrize("size", SIZES)
def test_any_size_and_batch(network: Network, size: tuple[int, int, int]) -> None:
    x = image(network, size)
    before = x.clone()
    y = network(x)
    assert y.shape == (x.shape[0], 3, network.scale * x.shape[2], network.scale * x.shape[3])
    assert torch.equal(x, before)
    assert y.isfinite().all()


def test_images_of_a_batch_do_not_meet(network: Network) -> None:
    x = image(network, (3, 12, 10), torch.float64)
    network.double()
    with torch.no_grad():
        assert torch.allclose(network(x), torch.cat([network(single) for single in x.chunk(3)]), rtol=0, atol=1e-12)


def test_training_and_evaluation_agree(network: Network) -> None:
    x = image(network)
    trained = network.train()(x)
    assert network.training
    assert torch.equal(trained, network.eval()(x))
    assert not network.training


def test_gradients_reach_every_parameter_and_the_input(network: Network) -> None:
    for mode in (True, False):
        x = image(network).requires_grad_()
        network.train(mode).zero_grad()
        network(x).square().mean().backward()
        gradients = {name: p.grad for name, p in network.named_parameters()}
        silent = [name for name, grad in gradients.items() if grad is None or not grad.abs().max() > 0]
        # A bias of all logits of a softmax alike: of its gradient there are rounding errors, and sometimes none.
        assert all(name.endswith(("pos3.2.bias", "norm3.bias")) and gradients[name] is not None for name in silent)
        assert x.grad is not None
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(smaller: Network, dtype: torch.dtype) -> None:
    x = image(smaller, (1, 13, 14))
    full = smaller(x).detach()
    half = copy.deepcopy(smaller).to(dtype)
    y = half(x.to(dtype))
    assert y.dtype is dtype
    y.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in half.parameters())
    # bfloat16 keeps 8 bits and float16 11; a few roundings add up.
    assert (y - full).abs().max() < 64 * torch.finfo(dtype).eps * full.abs().max() / 16


def test_autocast(network: Network) -> None:
    x = image(network)
    full = network(x).detach()
    with torch.autocast("cpu", torch.bfloat16):
        y = network(x)
    assert y.isfinite().all()
    assert (y - full).abs().max() < 0.04 * full.abs().max()


def gradients(network: Network, x: Tensor, *, amp: bool) -> Tensor:
    """Of all parameters, in one row."""
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        y = network(x)
    (y.float() - 0.5).square().mean().backward()
    found = [p.grad for p in network.parameters()]
    assert all(grad.dtype is torch.float32 for grad in found)
    return torch.cat([grad.flatten() for grad in found])


def test_gradients_of_autocast(network: Network) -> None:
    x = image(network)
    full, half = (gradients(network.train(), x, amp=amp) for amp in (False, True))
    assert half.isfinite().all()
    assert (half - full).norm() < 0.05 * full.norm()


@pytest.mark.parametrize("name", ["PlainUSR_ultra", "HAT"])
def test_autocast_trains_as_float32_does(name: str) -> None:
    x = image(built(name, SMALLER[name]), (2, 8, 8))
    losses = []
    for amp in (False, True):
        network = built(name, SMALLER[name])
        target = torch.nn.functional.interpolate(x, scale_factor=network.scale, mode="bicubic")
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
        found = []
        for _ in range(50):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                y = network(x)
            loss = (y.float() - target).abs().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        losses.append(found)
    full, half = losses
    assert full[-1] < 0.7 * full[0]
    assert max(abs(b - a) for a, b in zip(full, half, strict=True)) < 0.05 * full[0]


def test_nothing_is_left_on_another_device(network: Network) -> None:
    # Tensors of the device "meta" meet no others, so this fails where a GPU would.
    x = image(network)
    y = network.to("meta")(x.to("meta"))
    assert y.device.type == "meta"
    assert y.shape[2:] == (network.scale * x.shape[2], network.scale * x.shape[3])


def test_channels_last_stays(network: Network) -> None:
    x = image(network)
    last = x.contiguous(memory_format=torch.channels_last)
    for weights in (torch.contiguous_format, torch.channels_last):
        y = network.to(memory_format=weights)(last)
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(y, network(x), atol=1e-5)
        y.sum().backward()


def test_compiles_as_one_graph(smaller: Network) -> None:
    torch.compiler.reset()
    x = image(smaller, (2, 8, 9))
    # Tracing is what can fail here; generating code would take minutes and test the compiler.
    compiled = torch.compile(smaller, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(x), smaller(x), atol=3e-6)


@pytest.mark.filterwarnings("ignore")  # PyTorch names each size that the program takes as it is
def test_traces_into_a_program_of_pytorch_s_own_operators(smaller: Network) -> None:
    network = smaller.eval()
    # With the gradients that nobody has switched off; the test below traces without them, so PyTorch need not.
    traced: Any = torch.jit.trace(network, image(network, (1, 8, 9)), check_trace=False)
    x = image(network, (1, 8, 9)) / 2
    with torch.no_grad():
        assert torch.allclose(traced(x), network(x), atol=2e-6)
    operators = {node.kind() for node in traced.inlined_graph.nodes()}
    assert {kind.split("::")[0] for kind in operators} <= {"aten", "prim"}
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    with torch.no_grad():
        assert torch.equal(torch.jit.load(buffer)(x), traced(x))


@pytest.mark.filterwarnings("ignore")  # as above, and that there is a newer exporter
def test_traced_programs_become_onnx_files(smaller: Network, tmp_path: Path) -> None:
    network = smaller.eval()
    x, path = image(network, (1, 8, 9)), tmp_path / "network.onnx"
    try:
        torch.onnx.export(network, (x,), path, dynamo=False, opset_version=17)
    except RuntimeError as error:  # the last step, once all operators are converted, is the only one that needs onnx
        assert str(error) == "Module onnx is not installed!"
        return
    session = pytest.importorskip("onnxruntime").InferenceSession(path)
    [found] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), network(x), rtol=0, atol=1e-5)


def test_save_and_load(network: Network, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["network"]
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    buffer.seek(0)
    other = build_network({"type": name, **SMALL[name]})
    other.load_state_dict(torch.load(buffer, weights_only=True))
    x = image(network)
    assert torch.equal(other(x), network(x))


def test_copies_are_independent(network: Network) -> None:
    x = image(network)
    with torch.no_grad():
        before = network(x)
        other = copy.deepcopy(network)
        assert torch.equal(other(x), before)
        for parameter in other.parameters():
            parameter.zero_()
        assert torch.equal(network(x), before)


def test_receptive_radius(network: Network) -> None:
    radius = network.receptive_radius
    if radius is None:
        return
    assert isinstance(radius, int)
    side = 2 * radius + 5
    # By derivatives: what passes through many small weights is below the rounding of the rest of the output.
    x = image(network.double(), (1, side, side), torch.float64).requires_grad_()
    scale = network.scale
    centre = slice(side // 2 * scale, (side // 2 + 1) * scale)
    network(x)[..., centre, centre].sum().backward()
    assert x.grad is not None
    row = x.grad[0, :, side // 2].abs().amax(0)
    if network.window_size is None:  # where windows lie decides how far one sees
        assert row[side // 2 - radius] > 0
    assert row[side // 2 - radius // 2] > 0
    assert row[side // 2 - radius - 1] == 0
