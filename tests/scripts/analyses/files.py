"""Weights and pictures for the tests of kinds of analysis."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.images.files import write_image
from scripts.analyse import main
from tests.archs.test_contract import SMALL
from tests.models.export.networks import weights_of
from utils.command import run_command


def small_weights(folder: Path, name: str, file: str = "") -> Path:
    """Weights of a small network of a name."""
    return weights_of({"type": name, **SMALL[name]}, folder / f"{file or name}.pth")


def pictures(folder: Path, count: int = 3, height: int = 24, width: int = 26) -> Path:
    """A folder of pictures with something smooth and some noise."""
    random = np.random.default_rng(0)
    for number in range(count):
        smooth = np.add.outer(np.arange(height), np.arange(width))[..., None] * np.array([3, 2, 1]) * (number + 1)
        noise = random.integers(0, 60, (height, width, 3))
        write_image(folder / f"picture {number}.png", ((smooth + noise) % 256).astype(np.uint8))
    return folder


def analyse(*arguments: object) -> int:
    """The exit code of ``analyse.py``."""
    return run_command(main, [str(argument) for argument in arguments])


def record(folder: Path, kind: str) -> Mapping[str, Any]:
    """The JSON file of results."""
    found: Mapping[str, Any] = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
    return found
