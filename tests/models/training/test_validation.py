"""Validation of a run whose outputs are not finite: no best value, no end of the training."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import models.inference.upscale as inference
from models.distributed import World
from models.training.validation import stop_request
from tests.runs import run_here, workplace
from utils.errors import StorageError


def test_an_output_that_is_not_finite_is_reported_and_the_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    sound = inference.upscale
    calls: list[int] = []

    def broken(network: Any, lq: torch.Tensor, **arguments: Any) -> torch.Tensor:
        calls.append(len(calls))
        output = sound(network, lq, **arguments)
        return output * math.nan if calls[-1] // 2 in (0, 2) else output  # the first and third of four validations

    monkeypatch.setattr("models.evaluation.evaluate.upscale", broken)
    program = tmp_path / "a program.py"
    program.write_text("import sys; from pathlib import Path; Path(sys.argv[3]).write_text(f'page of {sys.argv[1]}')")
    monkeypatch.setattr("analysis.report.refresh._PROGRAM", program)
    arguments = ["train:total_iter=8", "val:val_freq=2", "val:save_img=true"]
    arguments += ["logger:use_tb_logger=true", "logger:report=true"]
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", *arguments) == 0
    printed = capsys.readouterr().err
    for step in (2, 6):
        failed = f"iteration {step}: 2 of 2 images of HeldOut have no score (held_out_0, held_out_1)"
        reason = "the output of PlainUSRUltra is not finite (NaN or infinity); the best scores stay as they are"
        assert f"{failed}: {reason}" in printed
    root = tmp_path / "experiments/tiny"
    lines = (root / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    found = {record["step"]: record["scores"]["psnr"] for record in records if record["kind"] == "val"}
    assert list(found) == [2, 4, 6, 8]
    assert found[2] is found[6] is None
    best = torch.load(root / "training_states/8.state", weights_only=True)["focalsr"]["best"]["HeldOut"]["psnr"]
    later = max((4, 8), key=lambda step: found[step])
    assert best == [found[4], 4]  # the state of iteration 8 was saved before its validation
    assert torch.load(root / "models/net_g_best.pth", weights_only=True)["focalsr"]["step"] == later
    written = sorted(path.name for path in (root / "visualization/HeldOut/held_out_0").iterdir())
    assert written == ["held_out_0_4.png", "held_out_0_8.png"]
    assert (root / "report.html").read_text() == "page of experiments/tiny"
    assert "one page that shows the run: python scripts/report.py experiments/tiny -o report" in printed
    last = json.loads((root / "validation.json").read_text())
    assert (last["step"], [image["name"] for image in last["datasets"]["HeldOut"]["images"]]) == (
        8, ["held_out_0", "held_out_1"],
    )  # fmt: skip
    assert last["datasets"]["HeldOut"]["mean"]["scores"]["psnr"] == found[8]


def test_a_rank_that_does_not_write_says_saved_only_when_the_one_that_does_has_written() -> None:
    class BesideABrokenDisk(World):
        def gather(self, value: Any) -> list[Any]:
            return [StorageError("the disk is full"), value]

    run: Any = SimpleNamespace(world=BesideABrokenDisk(1, 2), saver=SimpleNamespace(wait=lambda: None))
    with pytest.raises(StorageError, match="the disk is full"):
        stop_request(run, SimpleNamespace(step=4))  # type: ignore[arg-type]
