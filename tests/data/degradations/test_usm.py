"""Sharpening of whole targets, as recorded from the published code; its filter is in test_degradations.py."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from data import usm_sharpen
from tests.golden import seeded_input


@pytest.mark.shared
@pytest.mark.parametrize("name", ["usm", "usm_small"])
def test_recorded_targets(name: str, shared: Path) -> None:
    record = json.loads((shared / "golden" / "gan" / f"{name}.json").read_text())
    image = seeded_input(record["input_name"], record["input_shape"])
    with np.load(shared / "golden" / "gan" / f"{name}.npz") as content:
        expected = torch.from_numpy(content["output"]).double()
    found = usm_sharpen(image)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)  # recorded in float32
    assert found.mean().item() == pytest.approx(record["mean"], rel=1e-12)
    assert (found - image).norm().item() == pytest.approx(record["change"], rel=1e-9)
    torch.testing.assert_close(usm_sharpen(image.float()).double(), found, rtol=0, atol=2e-6)
