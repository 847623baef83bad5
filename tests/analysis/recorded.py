"""Recorded cases of ``golden/analysis``, and the seeded arrays that they are made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.golden import Case, seeded


def analysis_case(shared: Path, name: str) -> Case:
    """The case of a name."""
    path = shared / "golden" / "analysis" / f"{name}.json"
    return Case(path, json.loads(path.read_text(encoding="utf-8")))


def seeded_array(name: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers, float64."""
    return torch.from_numpy(seeded().seeded_array(name, shape))


def seeded_features(name: str, shape: tuple[int, ...]) -> Tensor:
    """Noise and something smooth, as features are, float64."""
    smooth = seeded_array(f"{name}/smooth", shape).cumsum(-2).cumsum(-1)
    return torch.from_numpy(np.asarray(seeded_array(name, shape) + 0.05 * smooth))
