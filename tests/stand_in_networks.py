"""What one process does on the stand-in: networks against the CPU, seeds, records, operators. A program of tests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import ops
from analysis.features import maps, names_of
from analysis.maps import components, dynamic_kernels, shared_kernel
from analysis.similarity import pixel_similarity, similarity
from analysis.spectra import spectra_over_depth
from archs import build_network
from metrics import PSNR, SSIM, calculate_psnr_any_scale, calculate_ssim_pt
from models.inference.memory import free_memory, measure
from models.inference.upscale import upscale
from models.weights.layout import for_inference
from tests.archs.test_contract import SMALL
from utils import devices
from utils.env import hardware, peak_memory, reset_peak_memory
from utils.errors import InputError
from utils.seed import random_state, random_state_before, seed_everything, set_random_state


def main(argv: Sequence[str]) -> None:
    """All checks, one after the other."""
    device = devices.choose()
    assert device == torch.device("standin", 0)
    devices.use(device)
    check_abilities(device)
    check_seeds(device)
    for name in SMALL:
        check_network(name, device)
    check_metrics(device)
    check_analyses(device)


def check_abilities(device: torch.device) -> None:
    """It can do nothing, which is no error, and nothing is read from the host in its place."""
    can = devices.abilities(device)
    assert can == devices.Abilities("standin", "standin device")
    with pytest.raises(InputError, match="--device standin:1: there is no device of that number"):
        devices.choose("standin:1")
    with pytest.raises(InputError, match=r"--device cuda: .* there is cpu and standin:0$"):
        devices.choose("cuda")
    assert hardware()["gpus"] == "standin device"
    reset_peak_memory(device)
    assert peak_memory(device) == 0
    assert free_memory(device) is None
    devices.synchronise(device)
    backends = {line.example: line for line in ops.explain() if line.operator == "smm_qmk"}
    assert backends["standin"].backend == "reference"
    assert "kernels for cpu and cuda only; on standin" in backends["standin"].others["native"]


def check_seeds(device: torch.device) -> None:
    """Its generator has no state that could be kept; that of the CPU goes on."""
    seed_everything(3)
    state = random_state()
    assert list(state) == ["torch"]
    expected = torch.rand(3)
    set_random_state({**state, "cuda": [torch.zeros(16, dtype=torch.uint8)]})  # of a checkpoint from elsewhere
    assert torch.equal(torch.rand(3), expected)
    set_random_state(state)
    with pytest.raises(KeyError), random_state_before(device, KeyError):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.rand(3), expected)


def check_network(name: str, device: torch.device) -> None:
    """Outputs and gradients are those of the CPU, and memory is measured without statistics."""
    torch.manual_seed(0)
    network = build_network({"type": name, **SMALL[name]})
    x = torch.rand(1, 3, 16, 20)
    # The same formulas on both sides: kernels of the CPU are compared with them elsewhere.
    expected, gradients = run(network, x)
    evaluated = upscale(for_inference(network), x)
    got, others = run(network.to(device), x.to(device))
    assert got.device == device
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-5, msg=lambda text: f"{name}: {text}")
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=1e-3, atol=1e-5, msg=lambda text: f"{name}: {text}")
    ready = for_inference(network)
    torch.testing.assert_close(upscale(ready, x.to(device)).cpu(), evaluated, rtol=1e-4, atol=1e-5)
    assert measure(ready).linear > 0


def run(network: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The output and the gradients of all parameters."""
    output = network(x)
    network.zero_grad()
    output.square().mean().backward()
    return output.detach(), [x.grad for x in network.parameters() if x.grad is not None]


def check_analyses(device: torch.device) -> None:
    """What is looked into is that of the CPU, where float64 is computed."""
    torch.manual_seed(0)
    network = build_network({"type": "ESC", **SMALL["ESC"]}).eval().requires_grad_(False)
    names, x = names_of(network, ["layers"]), torch.rand(4, 3, 9, 10)
    found = []
    for place in (torch.device("cpu"), device):
        network, images = network.to(place), x.to(place)
        features = maps(network, images, names[:1])[names[0]]
        found.append((
            similarity([network], [names], [[images]]).cka, pixel_similarity([network], [names], [[images[:1]]]).cosine,
            spectra_over_depth(network, names, [images]).curves[0].amplitudes, shared_kernel(network),
            dynamic_kernels(network, images[:1])[0].kernels, components(features[0]).picture,
        ))  # fmt: skip
    for expected, same in zip(*found, strict=True):
        assert same == pytest.approx(expected, abs=1e-4)


def check_metrics(device: torch.device) -> None:
    """They are the CPU's, in float64."""
    levels = torch.randint(256, (2, 32, 40, 3), dtype=torch.uint8)
    for metric in (PSNR(crop_border=2, test_y_channel=True), SSIM(crop_border=2, test_y_channel=False)):
        assert metric.of_tensors(*levels.to(device)) == metric.of_tensors(*levels)
    images = levels.permute(0, 3, 1, 2) / 255
    one, other = images
    assert calculate_psnr_any_scale(one, other, 2) == calculate_psnr_any_scale(one.to(device), other.to(device), 2)
    one, other = one[None], other[None]
    assert calculate_ssim_pt(one, other, 2).equal(calculate_ssim_pt(one.to(device), other.to(device), 2))
