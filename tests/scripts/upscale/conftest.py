"""A folder of pictures, a file of weights, and the command that upscales with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import archs
from scripts.upscale import main
from tests.scripts.upscale.runs import NETWORK, picture
from utils.command import run_command


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return archs.build_network(NETWORK)


@pytest.fixture
def weights(tmp_path: Path, network: torch.nn.Module) -> Path:
    path = tmp_path / "net_g_latest.pth"
    torch.save({"params": network.state_dict()}, path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    for i, name in enumerate(("a.png", "b.bmp", "c.png")):
        picture(folder / name, 20 + i, 26, seed=i)
    return folder


@pytest.fixture
def run(weights: Path, tmp_path: Path) -> Callable[..., int]:
    """Runs the command and returns its exit code."""

    def call(source: Path, *more: str, output: Path | None = None, weights: Path = weights) -> int:
        target = tmp_path / "out" if output is None else output
        return run_command(main, ["-i", str(source), "-o", str(target), "-w", str(weights), *more])

    return call
