"""A test run reads the weights that validation measured, and says which they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models.weights.recognise import network_from_weights
from tests.runs import run_here, workplace

WEIGHTS = Path("experiments/tiny/models/net_g_latest.pth")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace with a training whose EMA is far behind its weights."""
    folder = workplace(tmp_path_factory.mktemp("tester"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_here("train.py", "-opt", "train.yml", "--force_yml", "train:ema_decay=0.999") == 0
    return folder


def scored(*edits: str) -> tuple[dict[str, object], dict[str, float], str]:
    """``scores.json``, its means and the log of a test run with edits."""
    assert run_here("test.py", "-opt", "test.yml", "--force_yml", "val:save_img=false", *edits) == 0
    found = json.loads(Path("results/tiny_test/scores.json").read_text())
    [log] = Path("results/tiny_test").glob("test_*.log")
    return found, found["datasets"]["HeldOut"]["mean"]["scores"], log.read_text()


def test_without_a_key_the_table_equals_the_validation(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    lines = Path("experiments/tiny/metrics.jsonl").read_text().splitlines()
    validated = [record["scores"] for record in map(json.loads, lines) if record["kind"] == "val"][-1]
    for edits in ("path:param_key_g=null",), ("path:param_key_g=params_ema",):
        found, scores, log = scored(*edits)
        assert scores == validated
        assert (found["weights_entry"], found["other_entries"]) == ("params_ema", ["params"])
        assert f'weights: {WEIGHTS}: entry "params_ema" was read (there is also "params")' in log
    found, scores, log = scored("path:param_key_g=params")
    assert scores["psnr"] > validated["psnr"] + 1
    assert (found["weights_entry"], found["other_entries"]) == ("params", ["params_ema"])
    assert 'entry "params" was read (there is also "params_ema")' in log
    averaged = torch.load(WEIGHTS, weights_only=True)["params_ema"]["tail.0.bias"]
    assert torch.equal(network_from_weights(WEIGHTS).state_dict()["tail.0.bias"], averaged)


def test_an_entry_that_is_missing_is_reported(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    torch.save({"params": torch.load(WEIGHTS, weights_only=True)["params"]}, "plain.pth")
    torch.save(torch.load(WEIGHTS, weights_only=True)["params"], "bare.pth")
    found, _, log = scored("path:pretrain_network_g=plain.pth", "path:param_key_g=params_ema")
    assert (found["weights_entry"], found["other_entries"]) == ("params", [])
    assert 'weights: plain.pth: no entry "params_ema", entry "params" was read' in log
    found, _, log = scored("path:pretrain_network_g=bare.pth", "path:param_key_g=null")
    assert found["weights_entry"] is None
    assert "weights: bare.pth: the file itself is the state dict" in log


def test_weights_that_are_no_numbers_are_no_scores(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    content = torch.load(WEIGHTS, weights_only=True)
    content["params_ema"]["tail.0.bias"][0] = torch.nan
    torch.save(content, "broken.pth")
    assert run_here("test.py", "-opt", "test.yml", "--force_yml", "path:pretrain_network_g=broken.pth") == 2
    assert "broken.pth: 1 of " in capsys.readouterr().err
    assert (
        run_here("train.py", "-opt", "train.yml", "--force_yml", "path:pretrain_network_g=broken.pth", "name=next") == 2
    )
