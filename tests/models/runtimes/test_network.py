"""Networks that are ONNX files: the same function as in PyTorch, of any size, in tiles, in both runtimes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from archs.contract import SRNetwork, at_scale
from archs.layers.size import SizeRule
from models.inference.memory import find_tile, measure
from models.inference.photo import Upscaler
from models.inference.upscale import upscale
from models.runtimes.build import open_network
from models.runtimes.network import OnnxNetwork
from tests.onnx_graphs import FACTS, Tiny, any_scale_file, tiny_file
from utils.errors import InputError

PROVIDERS = ("cpu", "openvino")


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("onnxruntime" if request.param == "cpu" else request.param)
    return str(request.param)


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def test_it_computes_what_pytorch_does(tmp_path: Path, provider: str) -> None:
    network = open_network(tiny_file(tmp_path / "net.onnx"), provider)
    assert isinstance(network, SRNetwork)
    assert (network.scale, network.channels, network.receptive_radius) == (2, 3, 1)
    for shape in (1, 3, 5, 9), (3, 3, 17, 4), (2, 3, 2, 2):
        x = images(*shape)
        assert torch.allclose(network(x), Tiny()(x), atol=1e-6)
    assert network(images(1, 3, 4, 4).double()).dtype == torch.float64
    assert torch.allclose(network(images(1, 3, 4, 4).half()), Tiny()(images(1, 3, 4, 4)).half(), atol=1e-2)


def test_tiles_and_views_are_those_of_any_network(tmp_path: Path, provider: str) -> None:
    network = open_network(tiny_file(tmp_path / "net.onnx"), provider)
    x = images(1, 3, 30, 41)
    assert torch.allclose(upscale(network, x, tile=12, overlap=2), Tiny()(x), atol=1e-6)
    assert torch.allclose(
        upscale(network, x, tile=12, overlap=4, self_ensemble=True), upscale(Tiny(), x, self_ensemble=True), atol=1e-6
    )


@pytest.mark.parametrize("ensemble", [False, True])
def test_a_file_of_one_size_upscales_any_picture(tmp_path: Path, provider: str, ensemble: bool) -> None:
    facts = dataclasses.replace(FACTS, static=(12, 20))
    network = open_network(tiny_file(tmp_path / "net.onnx", facts, sizes=(1, 3, 12, 20)), provider)
    for shape in (1, 3, 12, 20), (2, 3, 12, 20), (1, 3, 50, 47), (2, 3, 12, 21), (1, 3, 30, 20), (1, 3, 20, 12):
        x = images(*shape)
        expected = upscale(Tiny(), x, self_ensemble=ensemble)
        assert torch.allclose(upscale(network, x, self_ensemble=ensemble), expected, atol=1e-6), shape
        assert torch.allclose(Upscaler(network, "auto", 4, ensemble)(x), expected, atol=1e-6), shape


def test_smaller_images_than_it_takes_are_mirrored(tmp_path: Path, provider: str) -> None:
    static = dataclasses.replace(FACTS, static=(12, 20))
    network = open_network(tiny_file(tmp_path / "static.onnx", static, sizes=(1, 3, 12, 20)), provider)
    x = images(1, 3, 5, 7)
    assert torch.allclose(network(x), Tiny()(x), atol=1e-6)
    least = dataclasses.replace(FACTS, least=9)
    network = open_network(tiny_file(tmp_path / "least.onnx", least), provider)
    assert torch.allclose(network(x), Tiny()(x), atol=1e-6)
    x = images(1, 3, 12, 9)
    assert torch.allclose(network(x), Tiny()(x), atol=1e-6)


def test_larger_images_than_it_takes_are_cut(tmp_path: Path, provider: str) -> None:
    network = open_network(tiny_file(tmp_path / "net.onnx", dataclasses.replace(FACTS, most=16)), provider)
    assert network.size_rule.largest == (16, 16)
    x = images(1, 3, 40, 16)
    assert torch.allclose(upscale(network, x), Tiny()(x), atol=1e-6)
    assert torch.allclose(Upscaler(network)(x), Tiny()(x), atol=1e-6)
    with pytest.raises(InputError, match=r"takes images of at most 16 x 16 pixels .*got 16 x 40"):
        network(x)
    with pytest.raises(InputError, match="tiles of 20 pixels are larger than this network takes, 16 x 16"):
        Upscaler(network, 20, 2)


def test_tiles_need_room_for_the_alignment(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    facts = dataclasses.replace(FACTS, static=(12, 12), multiple=16)
    network = open_network(tiny_file(tmp_path / "net.onnx", facts, sizes=(1, 3, 12, 12)))
    assert upscale(network, images(1, 3, 10, 12)).shape == (1, 3, 20, 24)
    with pytest.raises(InputError, match=r"takes at most 12 of 30 pixels, .* at multiples of 16.*export it for larger"):
        upscale(network, images(1, 3, 30, 12))


def test_it_has_no_gradient(tmp_path: Path, provider: str) -> None:
    network = open_network(tiny_file(tmp_path / "net.onnx"), provider)
    with pytest.raises(InputError, match=r"net\.onnx: an ONNX file has no gradient"):
        network(images(1, 3, 4, 4).requires_grad_())
    with torch.no_grad():
        network(images(1, 3, 4, 4).requires_grad_())


def test_files_for_any_scale(tmp_path: Path, provider: str) -> None:
    network = open_network(any_scale_file(tmp_path / "net.onnx"), provider)
    assert network.scale == 4  # of its options
    half = at_scale(network, 2.5)
    x = images(2, 3, 4, 6)
    assert upscale(half, x).shape == (2, 3, 10, 15)
    assert torch.equal(upscale(at_scale(half, 3), x), x.repeat_interleave(3, -2).repeat_interleave(3, -1))
    assert network.scale == 4
    assert open_network(tmp_path / "net.onnx", provider, 1.5).scale == 1.5
    fixed = open_network(tiny_file(tmp_path / "fixed.onnx"), provider)
    with pytest.raises(ValueError, match="OnnxNetwork is a network for x2, not for x3"):
        at_scale(fixed, 3)


def test_grey_and_half_precision_files(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    grey = dataclasses.replace(FACTS, channels=1)
    network = open_network(tiny_file(tmp_path / "grey.onnx", grey, sizes=("b", 1, "h", "w")))
    x = images(2, 1, 6, 5)
    assert torch.allclose(network(x), Tiny(1)(x), atol=1e-6)
    network = open_network(tiny_file(tmp_path / "half.onnx", None, half=True), scale=2)
    x = images(1, 3, 6, 5)
    assert network(x).dtype == torch.float32
    assert torch.allclose(network(x), Tiny()(x), atol=1e-2)


def test_threads_are_those_of_pytorch(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        session: object = open_network(tiny_file(tmp_path / "net.onnx")).session
        options = session._session.get_session_options()  # type: ignore[attr-defined]
        assert options.intra_op_num_threads == torch.get_num_threads()
    finally:
        torch.set_num_threads(threads)


def test_the_memory_of_a_pass_decides_the_tiles(tmp_path: Path, provider: str) -> None:
    network = open_network(tiny_file(tmp_path / "net.onnx"), provider)
    demand = measure(network)
    needed = 4 * 3 * (1 + 2 * Tiny.scale**2)  # bytes per pixel: input, features and output
    assert needed / 2 < demand.linear < 40 * needed
    assert demand.square == 0
    assert find_tile(network, 10_000, 10_000, 32, demand, int(demand.linear * 10_100)) == 100
    assert find_tile(network, 90, 90, 32, demand, int(demand.linear * 10_100)) is None


def test_networks_need_no_parameters(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    network = open_network(tiny_file(tmp_path / "net.onnx"))
    assert not list(network.parameters())
    assert network.to("cpu", torch.float64).for_inference() is network
    assert isinstance(network, OnnxNetwork)
    assert network.size_rule == SizeRule()
