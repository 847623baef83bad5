"""Networks are measured in the precision that an option file asks for, and are trained as ever."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import ROOT, run_here, workplace

NATIVE = "models.precision.choice.native_precisions"


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = workplace(tmp_path)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(NATIVE, lambda device: frozenset({"fp16", "bf16"}))
    assert run_here("train.py", "-opt", "train.yml") == 0
    return folder


def scored(*edits: str) -> tuple[dict[str, Any], float]:
    """``scores.json`` and the mean PSNR."""
    edits = ("val:save_img=false", *edits)
    assert run_here("test.py", "-opt", "test.yml", "--force_yml", *edits) == 0
    found = json.loads(Path("results/tiny_test/scores.json").read_text())
    return found, found["datasets"]["HeldOut"]["mean"]["scores"]["psnr"]


def test_a_test_measures_in_half_precision(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, full = scored()
    assert (found["precision"], found["float32_layers"], found["way"]) == ("fp32", [], "whole images")
    capsys.readouterr()
    found, half = scored("precision=bf16")
    assert 0 < abs(half - full) < 0.1
    assert (found["precision"], found["way"]) == ("bf16", "whole images, in bfloat16")
    assert "ours: whole images, in bfloat16" in capsys.readouterr().err
    assert scored("val:precision=bf16")[1] == half
    _, half = scored("precision=fp16", "val:precision=bf16")  # the top level goes before
    assert 0 < abs(half - full) < 0.02
    assert "PyTorch takes 1.0 to 1.3 times as long as with float32" in capsys.readouterr().err


def test_what_a_cpu_has_not_is_refused_or_float32(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(NATIVE, lambda device: frozenset())
    _, full = scored()
    for check in ((), ("--check",)):
        assert run_here("test.py", "-opt", "test.yml", *check, "--force_yml", "precision=fp16") == 2
        assert "precision: fp16: this CPU has no float16 arithmetic" in capsys.readouterr().err
        assert run_here("train.py", "-opt", "train.yml", *check, "--force_yml", "val:precision=fp16", "name=o") == 2
        assert "val.precision: fp16: this CPU has no float16 arithmetic" in capsys.readouterr().err
    assert not Path("experiments/o").exists()
    found, psnr = scored("precision=bf16")
    assert psnr == full
    assert found["precision"] == "fp32"
    assert found["options"]["precision"] == "bf16"


def test_a_training_that_validates_in_half_precision_trains_the_same(trained: Path) -> None:
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", "val:precision=bf16", "name=other") == 0
    files = [f"experiments/{name}/models/net_g_latest.pth" for name in ("tiny", "other")]
    first, second = (torch.load(file, weights_only=True)["params"] for file in files)
    assert all(torch.equal(first[key], second[key]) for key in first)
    scores = []
    for name in ("tiny", "other"):
        lines = map(json.loads, Path(f"experiments/{name}/metrics.jsonl").read_text().splitlines())
        scores.append([line["scores"]["psnr"] for line in lines if line["kind"] == "val"])
    assert scores[0] != scores[1]
    assert all(abs(a - b) < 0.1 for a, b in zip(*scores, strict=True))


def test_a_precision_that_there_is_not_is_a_mistake(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("test.py", "-opt", "test.yml", "--force_yml", "precision=fp8") == 2
    assert "precision" in capsys.readouterr().err


@pytest.mark.shared
def test_published_weights_lose_less_than_two_hundredths_of_a_decibel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NATIVE, lambda device: frozenset({"bf16"}))
    shared = Path(os.environ["FOCALSR_SHARED"])
    monkeypatch.chdir(tmp_path)
    psnr = {}
    for precision in ("fp32", "bf16"):
        edits = (
            f"path:pretrain_network_g={shared}/weights/PlainUSRU_Rep_x4.pth", f"precision={precision}",
            f"datasets:test_1:dataroot_gt={shared}/data/Set5/x4/HR", "datasets:test_2=null",
            f"datasets:test_1:dataroot_lq={shared}/data/Set5/x4/LR", "num_gpu=0", "val:save_img=false",
        )  # fmt: skip
        assert run_here("test.py", "-opt", str(ROOT / "options/test_plainusr_u_x4.yml"), "--force_yml", *edits) == 0
        found = json.loads(Path("results/test_plainusr_u_x4/scores.json").read_text())
        psnr[precision] = found["datasets"]["Set5"]["mean"]["scores"]["psnr"]
    assert 0 < abs(psnr["fp32"] - psnr["bf16"]) < 0.02
