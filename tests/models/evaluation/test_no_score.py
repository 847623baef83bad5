"""A test run says which weights it read, those that validation measured; without numbers there is no score."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from archs import build_network
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
