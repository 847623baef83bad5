"""Recorded adversarial trainings: the published code's losses and weights over some iterations, and ours from the same.

An option mapping of a recording becomes an option file, with what a file needs beside it; VGG's weights, which the
recordings derive from names, become a weight file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from config import read
from config.schema import TrainOptions
from data.loader import Batch
from models.training.objectives import players_of
from models.training.players import build_players
from models.training.state import TrainState
from models.training.step import StepResult
from tests.golden import seeded, seeded_input
from tests.states import CPU

_AROUND = {
    "num_gpu": 0, "manual_seed": 0, "path": {}, "logger": {"print_freq": 1, "save_checkpoint_freq": 1},
}  # fmt: skip
_DATASET = {
    "name": "Recorded", "type": "PairedImageDataset", "dataroot_gt": "gt", "dataroot_lq": "lq",
    "io_backend": {"type": "disk"}, "batch_size_per_gpu": 2, "num_worker_per_gpu": 0,
}  # fmt: skip
"""What an option file has beside the mapping of a recording."""


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recorded training.

    Attributes:
        info: the content of its JSON file.
        arrays: images after the last iteration, float64.
    """

    info: Mapping[str, Any]
    arrays: Mapping[str, Tensor]

    @classmethod
    def open(cls, folder: Path, name: str) -> Recording:
        """The recording of a name."""
        info = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        with np.load(folder / f"{name}.npz") as content:
            return cls(info, {key: torch.from_numpy(content[key]).double() for key in content.files})

    def options(self, *overrides: str) -> TrainOptions:
        """Its options, read from a file ``recorded.yml`` that is written to the current folder."""
        mapping = {**_AROUND, **self.info["options"]}
        lq, scale = self.info["lq_shape"], self.info["scale"]
        mapping["datasets"] = {"train": {**_DATASET, "gt_size": scale * lq[2]}}
        own = {"total_iter": self.info["iterations"], "warmup_iter": self.info["warmup_iter"]}
        mapping["train"] = {**own, **mapping["train"]}
        if "perceptual_opt" in mapping["train"]:
            layers = mapping["train"]["perceptual_opt"]["layer_weights"]
            mapping["train"]["perceptual_opt"]["vgg_weights"] = str(vgg_file(Path(), layers))
        Path("recorded.yml").write_text(yaml.safe_dump(mapping))
        return read(Path("recorded.yml"), overrides, mode="train")

    def state(self, options: TrainOptions) -> TrainState:
        """The state before the first iteration; constants of the networks are float64 too, as they were."""
        with default_float64():
            state = TrainState(build_players(players_of(options), options, CPU), CPU)
        for player in state.players.values():
            seeded().fill(player.network.double())
            _seed_vectors(player.network)
            if player.ema is not None:
                player.ema.double().load_state_dict(player.network.state_dict())
        return state

    def batches(self) -> Iterator[Batch]:
        """What its iterations see."""
        shape, scale = self.info["lq_shape"], self.info["scale"]
        larger = [*shape[:2], scale * shape[2], scale * shape[3]]
        for i in range(1, self.info["iterations"] + 1):
            lq = seeded_input(f"{self.info['lq_prefix']}{i}", shape)
            gt = seeded_input(f"{self.info['gt_prefix']}{i}", larger)
            yield Batch.of_pair(lq, gt, tuple(f"batch_{i}_{j}" for j in range(shape[0])), epoch=0)

    def assert_logged(self, result: StepResult, rtol: float) -> None:
        """The losses and learning rates of an iteration are the recorded ones, and no others."""
        expected = self.info["logs"][result.step - 1]
        losses = {name: float(value) for name, value in result.losses.items()}
        assert set(losses) == set(expected["log"])
        assert losses == pytest.approx(expected["log"], rel=rtol, abs=1e-12)
        assert [rates[0] for rates in result.rates.values()] == pytest.approx(expected["lr"], rel=1e-15)

    def assert_gradients(self, state: TrainState, rtol: float) -> None:
        """The gradients that iteration 1 has left are the recorded ones."""
        for name, expected in self.info["grad_norm_of_iteration_1"].items():
            parameters = state.players[name.removeprefix("net_")].network.named_parameters()
            norms = {key: None if p.grad is None else p.grad.norm().item() for key, p in parameters}
            assert set(norms) == set(expected)
            for key, norm in expected.items():
                assert norms[key] == (None if norm is None else pytest.approx(norm, rel=rtol, abs=1e-12)), key

    def assert_final(self, state: TrainState, rtol: float) -> None:
        """The weights, EMA weights and buffers after the last iteration are the recorded ones, and what they make."""
        generator = state.generator
        networks = {"net_g": generator.network, "net_g_ema": generator.ema}
        if "d" in state.players:
            networks["net_d"] = state.players["d"].network
        for name, expected in self.info["final"].items():
            network = networks[name]
            assert network is not None
            parameters = dict(network.named_parameters())
            assert set(parameters) == set(expected["norm"])
            norms = {key: p.detach().norm().item() for key, p in parameters.items()}
            assert norms == pytest.approx(expected["norm"], rel=rtol, abs=1e-12)
            assert _probes(parameters) == pytest.approx(expected["probe"], rel=rtol, abs=1e-3 * rtol)
            buffers = dict(network.named_buffers())
            assert _probes({key: buffers[key] for key in expected.get("buffer_probe", {})}) == pytest.approx(
                expected.get("buffer_probe", {}), rel=rtol, abs=1e-3 * rtol
            )
        self._assert_images(networks)

    def _assert_images(self, networks: Mapping[str, nn.Module | None]) -> None:
        first = next(self.batches())
        made_by = {"output_g": "net_g", "output_ema": "net_g_ema", "output_d": "net_d"}
        for name, expected in self.arrays.items():
            network = networks[made_by[name]]
            assert network is not None
            network.eval()
            with torch.no_grad():
                found = network(first.gt if name == "output_d" else first.lq)[:1]
            network.train()
            torch.testing.assert_close(found, expected, rtol=self.info["rtol"], atol=self.info["rtol"])


@contextlib.contextmanager
def default_float64() -> Iterator[None]:
    """Within this context, new tensors are float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def vgg_file(folder: Path, layers: Mapping[str, float]) -> Path:
    """VGG19's convolutions up to the deepest of some layers, as recorded, in a file as torchvision writes it."""
    deepest = max(layers, key=lambda name: tuple(map(int, name.removeprefix("conv").split("_"))))
    block, number = map(int, deepest.removeprefix("conv").split("_"))
    state: dict[str, Tensor] = {}
    position, before = 0, 3
    for b, (width, depth) in enumerate(((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)), 1):
        for i in range(1, depth + 1):
            if (b, i) > (block, number):
                continue
            shape = (width, before, 3, 3)
            weight = seeded().seeded_array(f"features.{position}.weight", shape) / np.sqrt(9 * before)
            state[f"features.{position}.weight"] = torch.from_numpy(weight)
            bias = 0.1 * seeded().seeded_array(f"features.{position}.bias", (width,))
            state[f"features.{position}.bias"] = torch.from_numpy(bias)
            position, before = position + 2, width
        position += 1  # the pooling
    path = folder / "vgg19.pth"
    torch.save(state, path)
    return path


def _seed_vectors(network: nn.Module) -> None:
    """The vectors of spectral norms, which ``seeded.fill`` leaves as they are."""
    for key, buffer in network.named_buffers():
        if key.endswith((".weight_u", ".weight_v")):
            values = seeded().seeded_array(key, tuple(buffer.shape))
            buffer.copy_(torch.from_numpy(values / np.linalg.norm(values)))


def _probes(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """Products with arrays of the tensors' names."""
    found = {}
    for key, value in tensors.items():
        array = np.asarray(seeded().seeded_array(f"probe/{key}", tuple(value.shape)))
        found[key] = float((value.detach().double() * torch.from_numpy(array)).sum())
    return found
