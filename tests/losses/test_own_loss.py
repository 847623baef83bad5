"""docs/adding_a_loss.md: its example is a loss, an option file can name it, and a run trains on it."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch

import losses
from losses import LossOptions
from tests.runs import run_here, workplace

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_loss.md"


@pytest.fixture
def edge_loss(monkeypatch: pytest.MonkeyPatch) -> type[LossOptions]:
    """The page's class, under the name that the page gives it."""
    [example] = re.findall(r"```python\n# losses/edge.py\n(.+?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    module = types.ModuleType("losses.edge")
    monkeypatch.setitem(sys.modules, "losses.edge", module)
    exec(example, vars(module))
    found: type[LossOptions] = module.EdgeLoss
    monkeypatch.setitem(losses.LOSSES, "EdgeLoss", found)
    return found


def test_the_example_adds_the_edges_to_the_pixels(edge_loss: type[LossOptions]) -> None:
    loss = losses.build(edge_loss(loss_weight=2.0, edge_weight=0.5), torch.device("cpu"))  # type: ignore[call-arg]
    ramp = torch.arange(8.0).expand(1, 3, 8, 8) / 8
    flat = torch.zeros_like(ramp)
    expected = losses.build(losses.L1Loss(loss_weight=2.0), torch.device("cpu"))
    assert float(loss(flat + 0.5, flat + 0.5)) == 0
    assert float(loss(ramp, flat)) > float(expected(ramp, flat))
    prediction = ramp.half().requires_grad_()
    loss(prediction, flat.half()).backward()
    assert prediction.grad is not None
    assert bool(prediction.grad.isfinite().all())


def test_an_option_file_that_names_the_example_trains(
    edge_loss: type[LossOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [described] = re.findall(r"pixel_opt: (\{type: EdgeLoss.*\})", PAGE.read_text(encoding="utf-8"))
    monkeypatch.chdir(workplace(tmp_path))
    text = Path("train.yml").read_text()
    Path("train.yml").write_text(re.sub(r"pixel_opt: \{.*\}", f"pixel_opt: {described}", text))
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", "train:total_iter=12", "val=~") == 0
    records = [json.loads(line) for line in Path("experiments/tiny/metrics.jsonl").read_text().splitlines()]
    assert records[-1]["l_pix"] < records[0]["l_pix"]
    assert "type: EdgeLoss" in Path("experiments/tiny/options_as_read.yml").read_text()


def test_a_misspelt_argument_of_the_example_is_named_with_its_line(
    edge_loss: type[LossOptions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    text = Path("train.yml").read_text()
    Path("train.yml").write_text(re.sub(r"pixel_opt: \{.*\}", "pixel_opt: {type: EdgeLoss, edge_wieght: 1}", text))
    assert run_here("train.py", "-opt", "train.yml", "--check") == 2
    assert 'did you mean "edge_weight"' in capsys.readouterr().err
