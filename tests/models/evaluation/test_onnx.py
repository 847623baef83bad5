"""test.py with an ONNX file in the place of the network: the same table, and the report says what ran."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from config import read
from models.evaluation.evaluate import evaluate
from models.evaluation.sets import evaluation_sets
from tests.onnx_graphs import FACTS, Tiny, any_scale_file, tiny_file
from tests.runs import run_here, workplace

pytest.importorskip("onnxruntime")

FILE = ("network_g={type: onnx, path: a folder/net.onnx}", "path:pretrain_network_g=null", "path:param_key_g=null")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workplace with an ONNX file, which is the current folder."""
    folder = workplace(tmp_path)
    tiny_file(folder / "a folder/net.onnx")
    monkeypatch.chdir(folder)
    return folder


def test_scores_are_those_of_pytorch(here: Path) -> None:
    assert run_here("test.py", "-opt", "test.yml", "--force_yml", *FILE) == 0
    found = json.loads((here / "results/tiny_test/scores.json").read_text())
    options = read("test.yml", mode="test")
    assert options.val is not None
    [dataset] = evaluation_sets(options.datasets.values(), options.val, scale=2, seed=0, phase="test")
    expected = evaluate(Tiny(), dataset, options.val, device=torch.device("cpu"))
    assert found["datasets"]["HeldOut"]["mean"]["scores"] == pytest.approx(expected.scores, abs=1e-3)
    assert found["weights"] == "a folder/net.onnx"
    assert (found["weights_entry"], found["other_entries"]) == (None, [])
    runtime = found["runtime"]
    assert (runtime["runtime"], runtime["provider"]) == ("ONNX Runtime", "CPUExecutionProvider")
    assert (runtime["file"], runtime["weights_sha256"]) == ("a folder/net.onnx", FACTS.weights_sha256)
    assert len(runtime["sha256"]) == 64
    assert found["options"]["network_g"] == {"type": "onnx", "path": "a folder/net.onnx"}


def test_the_check_says_what_would_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("test.py", "-opt", "test.yml", "--check", "--force_yml", *FILE) == 0
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert "network: a folder/net.onnx: Tiny, fp32, run by ONNX Runtime" in text
    assert "[1, 3, 20, 24] -> [1, 3, 40, 48]" in text
    assert not (here / "results").exists()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("network_g:path=absent.onnx", "weights absent.onnx: there is no such file"),
        ("network_g:provider=tensorrt", "network_g.provider: tensorrt: the installed ONNX Runtime"),
        ("network_g:path=x4.onnx", "scale: x4.onnx is a network for x4, not for x2; export one for that scale"),
        ("network_g:path=grey.onnx", "the images of HeldOut are R, G and B, and network_g takes 1 channel"),
        ("val:scales=[2, 3]", "val.scales: a folder/net.onnx is a network for x2, not for x3"),
        ("network_g:path=test.yml", "test.yml: is no ONNX file"),
    ],
)
def test_bad_input_is_one_sentence(here: Path, capsys: pytest.CaptureFixture[str], edit: str, message: str) -> None:
    tiny_file(here / "x4.onnx", dataclasses.replace(FACTS, scale=4))
    tiny_file(here / "grey.onnx", dataclasses.replace(FACTS, channels=1), sizes=("b", 1, "h", "w"))
    assert run_here("test.py", "-opt", "test.yml", "--force_yml", *FILE, edit) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert not (here / "results/tiny_test/scores.json").exists()


def test_a_file_for_any_scale_is_tested_at_several(here: Path) -> None:
    any_scale_file(here / "a folder/net.onnx")
    edits = (*FILE, "val:scales=[2, 3]", "val:bicubic=false")
    assert run_here("test.py", "-opt", "test.yml", "--force_yml", *edits) == 0
    found = json.loads((here / "results/tiny_test/scores.json").read_text())
    assert list(found["datasets"]) == ["HeldOut x2", "HeldOut x3"]
