"""A test run whose network gives no numbers: no score, no success."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from archs import build_network
from tests.runs import run_here, workplace


@pytest.fixture
def diverged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workplace with weights, all of them finite, whose outputs overflow."""
    folder = workplace(tmp_path)
    network = build_network({"type": "PlainUSR_ultra", "n_feat": 8, "im_feat": [8, 4], "scale": 2})
    state = {name: torch.full_like(value, 1e20) for name, value in network.state_dict().items()}
    weights = folder / "experiments/tiny/models/net_g_latest.pth"
    weights.parent.mkdir(parents=True)
    torch.save({"params_ema": state}, weights)
    monkeypatch.chdir(folder)
    return folder


def test_a_network_that_gives_no_numbers_has_no_score(diverged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("test.py", "-opt", "test.yml") == 1
    printed = capsys.readouterr().err
    row = next(line for line in printed.splitlines() if line.startswith("HeldOut"))
    assert row.count("no score") == 2  # PSNR and SSIM; those of bicubic are there
    assert "ERROR: weights experiments/tiny/models/net_g_latest.pth, network PlainUSR_ultra:" in printed
    assert "2 of 2 images of HeldOut have no score (held_out_0, held_out_1): the output of" in printed
    assert "Traceback" not in printed
    root = diverged / "results/tiny_test"
    found = json.loads((root / "scores.json").read_text(), parse_constant=pytest.fail)
    assert found["datasets"]["HeldOut"]["mean"]["scores"] == {"psnr": None, "ssim": None}
    assert not list((root / "visualization").rglob("*.png"))


def test_check_finds_a_network_that_gives_no_numbers(diverged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("test.py", "-opt", "test.yml", "--check") == 2
    printed = capsys.readouterr().err
    assert "net_g_latest.pth: the output of PlainUSR_ultra for HeldOut is not finite (NaN or infinity)" in printed
