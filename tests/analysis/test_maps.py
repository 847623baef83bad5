"""Importance maps, alphas, kernels and feature maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from analysis.maps import (
    alphas,
    channel_grid,
    check_kind,
    components,
    dynamic_kernels,
    energy,
    importance_maps,
    kinds_of,
    shared_kernel,
)  # fmt: skip
from archs import build_network
from archs.esc.kernels import symmetric_kernel
from data.images.files import read_image, to_tensor
from models import load_weights
from tests.analysis.recorded import analysis_case, seeded_features
from tests.archs.test_contract import SMALL
from utils.errors import InputError


def small(name: str) -> Any:
    torch.manual_seed(0)
    return build_network({"type": name, **SMALL[name]}).eval().requires_grad_(False)


@pytest.mark.shared
def test_recorded_importance_and_gates_of_published_weights(shared: Path) -> None:
    case = analysis_case(shared, "attention_plainusr")
    network = build_network({"type": case.info["arch"], **case.info["config"]})
    load_weights(network, shared / "weights" / case.info["checkpoint"])
    crop = case.info["crop"]
    x = to_tensor(read_image(shared / "data" / case.info["image"]))[None].double()
    x = x[..., crop["top"] : crop["top"] + crop["height"], crop["left"] : crop["left"] + crop["width"]]
    found = importance_maps(network.double().eval(), x)
    assert [one.name for one in found] == list(case.info["statistics"])
    tolerance = case.info["tolerance"]
    for one in found:
        key, expected = one.name.replace(".", "_"), case.info["statistics"][one.name]
        assert np.abs(one.importance - case.arrays[f"{key}_importance_mean"].numpy()).max() < tolerance
        assert np.abs(one.gate - case.arrays[f"{key}_gate"].numpy()).max() < tolerance
        for name, value in (
            ("importance_mean", one.importance.mean()), ("importance_min", one.least), ("importance_max", one.most),
            ("importance_std_over_pixels_of_channel_mean", one.importance.std()), ("gate_mean", one.gate.mean()),
            ("gate_min", one.gate.min()), ("gate_max", one.gate.max()),
        ):  # fmt: skip
            assert value == pytest.approx(expected[name], abs=tolerance)


@pytest.mark.shared
def test_recorded_statistics_of_alphas(shared: Path) -> None:
    case = analysis_case(shared, "attention_rgt")
    found = alphas(case.network())
    assert {one.name: one.statistics for one in found} == {
        name: pytest.approx(expected, abs=case.info["tolerance"]) for name, expected in case.info["alpha"].items()
    }
    assert [one.attention for one in found] == ["L-SA", "RG-SA"] * 2


@pytest.mark.shared
def test_recorded_energy_and_components(shared: Path) -> None:
    case = analysis_case(shared, "features")
    features = seeded_features("analysis/features/a", (7, 10, 12))
    tolerance = case.info["tolerance"]
    assert np.abs(energy(features) - case.arrays["energy"].numpy()).max() < tolerance
    found = components(features)
    assert np.abs(found.picture - case.arrays["pca"].numpy()).max() < tolerance
    assert found.explained == pytest.approx(case.info["explained_variance_ratio"], abs=tolerance)


@pytest.mark.parametrize("name", ["PlainUSR_general", "PlainUSR_ultra_inference"])
def test_output_of_an_attention_is_input_times_importance_times_gate(name: str) -> None:
    network, x = small(name), torch.rand(1, 3, 17, 18)
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    found = importance_maps(network, x)
    for one in found:
        network.get_submodule(one.name).register_forward_hook(
            lambda module, args, out, name=one.name: seen.__setitem__(name, (args[0], out))
        )
    network(x)
    for one in found:
        before, after = seen[one.name]
        module = network.get_submodule(one.name)
        gate = torch.from_numpy(one.gate).float()
        assert torch.allclose(before * module.importance(before) * gate, after, atol=1e-6)
        assert one.importance == pytest.approx(module.importance(before)[0].mean(0).numpy(), abs=1e-6)
        assert one.weight == pytest.approx(one.gate * one.importance)


def test_generated_kernels_are_those_that_filter() -> None:
    network, x = small("ESC"), torch.rand(1, 3, 9, 11)
    attention = network.blocks[1].pconvs[0]
    nn.init.normal_(attention.plk.dwc_proj[3].weight)
    found = dynamic_kernels(network, x)
    assert [one.name for one in found] == [
        f"blocks.{i}.pconvs.{j}" for i in range(2) for j in range(len(network.blocks[0].pconvs))
    ]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    attention.plk.register_forward_hook(lambda module, args, out: seen.append((args[0], out)))
    network(x)
    [(u, out)] = seen
    [kernels] = (torch.from_numpy(one.kernels).float() for one in found if one.name == "blocks.1.pconvs.0")
    p = u.shape[-1]
    u = u.permute(0, 3, 1, 2)
    expected = nn.functional.conv2d(u, symmetric_kernel(network.plk_filter), padding="same")
    expected += nn.functional.conv2d(u, kernels[:, None], padding="same", groups=p)
    assert torch.allclose(out.permute(0, 3, 1, 2), expected, atol=1e-5)


def test_shared_kernels_are_symmetric_and_one_of_each_pair_of_channels() -> None:
    esc = small("ESC")
    kernel = shared_kernel(esc)
    assert kernel == pytest.approx(symmetric_kernel(esc.plk_filter).square().mean((0, 1)).sqrt().numpy())
    assert kernel == pytest.approx(kernel.T)
    assert kernel == pytest.approx(kernel[::-1])
    decomposed = small("ESCFP")
    pairs = decomposed.lk_channel * decomposed.lk_spatial  # output channel, input channel, k, k
    assert shared_kernel(decomposed) == pytest.approx(pairs.square().mean((0, 1)).sqrt().numpy(), rel=1e-5)
    assert len(dynamic_kernels(decomposed, torch.rand(1, 3, 9, 9))) > 0


def test_a_network_without_a_map_is_told_which_it_has() -> None:
    assert kinds_of(small("ESC")) == ("kernels", "features")
    assert kinds_of(small("PlainUSR_general")) == ("importance", "features")
    assert kinds_of(small("RGT")) == ("hai", "features")
    assert kinds_of(small("RRDBNet")) == ("features",)
    with pytest.raises(InputError, match=r"base \(PlainUSRGeneral\) has no hai maps; it has importance and features"):
        check_kind(small("PlainUSR_general"), "hai", "base")
    with pytest.raises(InputError, match=r"one image \[1, 3, h, w\], got \[2, 3, 8, 8\]"):
        importance_maps(small("PlainUSR_general"), torch.rand(2, 3, 8, 8))


def test_pictures_of_features_that_say_nothing() -> None:
    constant = torch.ones(2, 5, 6)
    assert not energy(constant).any()
    assert (components(constant).picture == 0.5).all()
    assert components(constant).explained == (0.0, 0.0)
    grid, largest = channel_grid(torch.arange(-3.0, 2.0)[:, None, None].expand(5, 2, 3), columns=3)
    assert (grid.shape, largest) == ((5, 11), 3.0)
    assert grid[0, 0] == -1
    assert grid[0, 4] == pytest.approx(-2 / 3)
    assert np.isnan(grid[0, 3])
    assert np.isnan(grid[3:, 8:]).all()
