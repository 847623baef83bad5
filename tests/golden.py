"""Recorded runs of the published networks: the folders of ``$FOCALSR_SHARED/golden``, one for each architecture.

A network is filled with weights that depend on parameter names and shapes alone, so whatever keeps the names and
computes the published function must give the recorded output. The cases are listed when the tests are collected;
without the reference data one skipped test stands for them.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import os
from collections.abc import Container
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from _pytest.mark import ParameterSet
from torch import Tensor, nn

import archs
from archs.layers.constants import published_state

STATE_ENDING = ".state.json"


@dataclasses.dataclass(frozen=True)
class Case:
    """One recorded run.

    Attributes:
        path: its JSON file; the arrays lie beside it.
        info: the JSON's content.
    """

    path: Path
    info: dict[str, Any]

    @functools.cached_property
    def arrays(self) -> dict[str, Tensor]:
        """The recorded arrays; floating-point ones as float64."""
        with np.load(self.path.with_suffix(".npz")) as content:
            arrays = {name: torch.from_numpy(content[name]) for name in content.files}
        return {name: array.double() if array.is_floating_point() else array for name, array in arrays.items()}

    @property
    def x(self) -> Tensor:
        """The input [B, 3, H, W], float64."""
        return seeded_input(self.info["input_name"], self.info["input_shape"])

    def network(self, arch: str = "arch") -> nn.Module:
        """The network that ``info[arch]`` names, float64, filled with the weights of its parameters' names.

        With ``load_from`` a network of that configuration is filled, and this one loads its weights.
        """
        configuration = {"type": self.info[arch], **self.info["config"]}
        filled: nn.Module = seeded().fill(
            archs.build_network({**configuration, **self.info.get("load_from", {})}).double()
        )
        if "load_from" not in self.info:
            return filled
        network = archs.build_network(configuration).double()
        network.load_state_dict(filled.state_dict())
        return network


def cases(
    architecture: str, mode: str | None, *, test_model: bool = False, known: Container[str] = archs.NETWORKS
) -> list[ParameterSet]:
    """The cases of one mode as parameters of a test, or with None the state-dict contracts; of our networks only.

    Args:
        architecture: folder of the cases.
        mode: "eval", "train" or None.
        test_model: those that ran through the code around the network, which pads or cuts into tiles.
        known: names of networks, without which there is no case.
    """
    shared = os.environ.get("FOCALSR_SHARED")
    if not shared:
        skip = pytest.mark.skip(reason="FOCALSR_SHARED does not name the folder of the reference data")
        return [pytest.param(None, marks=[pytest.mark.shared, skip], id=f"{architecture}-{mode or 'state'}")]
    found = []
    for path in sorted((Path(shared) / "golden" / architecture).glob("*.json")):
        info = json.loads(path.read_text(encoding="utf-8"))
        wanted = path.name.endswith(STATE_ENDING) if mode is None else info.get("mode") == mode
        if wanted and info["arch"] in known and ("test_model" in info) is test_model:
            found.append(pytest.param(Case(path, info), marks=pytest.mark.shared, id=path.name.removesuffix(".json")))
    return found


@functools.cache
def seeded() -> ModuleType:
    """The module beside the recorded cases that derives weights and inputs from names."""
    path = Path(os.environ["FOCALSR_SHARED"]) / "golden" / "seeded.py"
    spec = importlib.util.spec_from_file_location("seeded", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def seeded_input(name: str, shape: list[int]) -> Tensor:
    """[B, C, H, W] in [0, 1), float64."""
    return torch.from_numpy(seeded().seeded_input(name, tuple(shape)))


def assert_close(found: Tensor, expected: Tensor, rtol: float) -> None:
    """The largest difference, relative to the largest expected value, is below ``rtol``."""
    assert found.shape == expected.shape
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < rtol, f"relative error {error:.2e}, allowed {rtol:.0e}"


def assert_output(case: Case, network: nn.Module) -> None:
    """The network gives the recorded output, of the recorded size where it is free."""
    size = [case.info["output_size"]] if "output_size" in case.info else []
    with torch.no_grad():
        assert_close(network(case.x, *size), case.arrays["output"], case.info["rtol"])


def assert_training(case: Case, network: nn.Module) -> None:
    """Output, loss and the norm of every parameter's gradient are the recorded ones."""
    info = case.info
    network.zero_grad()
    output = network(case.x)
    loss = F.l1_loss(output, seeded_input(info["target_name"], info["target_shape"]))
    loss.backward()
    assert_close(output.detach(), case.arrays["output"], info["rtol"])
    assert loss.item() == pytest.approx(info["loss"], rel=info["rtol"])
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    norms = {name: gradient.norm().item() for name, gradient in gradients.items() if gradient is not None}
    # None: no gradient reached it. Zeros are as good, and what distributed training needs.
    expected = {name: norm for name, norm in info["grad_norm"].items() if norm is not None or norms.get(name)}
    norms = {name: norm for name, norm in norms.items() if name in expected}
    assert norms == pytest.approx(expected, rel=info["grad_rtol"], abs=info.get("grad_atol", 1e-12))


def assert_state(case: Case, network: nn.Module) -> None:
    """Keys, order, shapes, dtypes and the number of parameters are those of the published network."""
    state = [
        [key, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        for key, tensor in published_state(network).items()
    ]
    assert state == case.info["state"]
    assert sum(parameter.numel() for parameter in network.parameters()) == case.info["params"]
