"""From an option file to a network for any scale: train, stop, go on, compare bit for bit; test at several scales."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from analysis.report.build import Wish, build_report
from tests.models.training.objectives.test_any_scale import FILE
from tests.runs import run_here, run_line, torchrun, workplace
from tests.test_straight_line import losses

VALIDATION = """\
  val:
    name: HeldOut
    type: AnyScaleDataset
    dataroot_gt: held_out/HR
val:
  val_freq: 4
  scales: [2, 2.5, 6]
  metrics:
    psnr: {type: calculate_psnr_any_scale, protocol: benchmark}
logger: {print_freq: 1, save_checkpoint_freq: 4, use_tb_logger: true}
"""
TEST = """\
name: any_scale_test
published: ESC+LTE
model_type: SRModel
scale: 4
num_gpu: 0
datasets:
  test_1: {name: Set5, type: AnyScaleDataset, dataroot_gt: held_out/HR}
network_g:
  {type: ESCLTE, dim: 16, pdim: 4, kernel_size: 5, n_blocks: 1, conv_blocks: 1, window_size: 4, num_heads: 2,
   hidden_dim: 12, hidden_list: [10]}
path: {pretrain_network_g: experiments/any_scale/models/net_g_latest.pth}
val:
  scales: [3, 2.5]
  save_img: true
  suffix: ~
  bicubic: true
  metrics:
    psnr: {type: calculate_psnr_any_scale, protocol: benchmark}
"""


def trainable(folder: Path) -> Path:
    workplace(folder)
    (folder / "any_scale.yml").write_text(FILE.replace("network_g:", f"{VALIDATION}network_g:", 1))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace where a run of twelve iterations went through undisturbed."""
    folder = trainable(tmp_path_factory.mktemp("any scale"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_here("train.py", "-opt", "any_scale.yml") == 0
    return folder


def validations(folder: Path) -> list[tuple[int, str, float]]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(r["step"], r["dataset"], r["scores"]["psnr"]) for r in records if r["kind"] == "val"]


def test_every_scale_has_scores_of_its_own(trained: Path) -> None:
    root = trained / "experiments/any_scale"
    found = validations(root)
    sets = ["HeldOut x2", "HeldOut x2.5", "HeldOut x6"]
    assert [(step, name) for step, name, _ in found] == [(step, name) for step in (4, 8, 12) for name in sets]
    assert len({score for *_, score in found}) == 9  # of the weights of each moment
    (log,) = root.glob("train_any_scale_*.log")
    text = log.read_text()
    assert "network ESCLTE: " in text
    assert "scale x1 to x4" in text
    assert "HeldOut x2.5: 2 images to validate on" in text
    assert "Validation HeldOut x6" in text
    assert "Best: " in text
    (events,) = (trained / "tb_logger/any_scale").iterdir()
    assert b"metrics/HeldOut x2.5/psnr" in events.read_bytes()


def test_a_run_that_goes_on_ends_bit_for_bit_the_same(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trainable(tmp_path))
    edits = ("--force_yml", "datasets:train:num_worker_per_gpu=1", "train:accumulate=1")
    assert run_here("train.py", "-opt", "any_scale.yml", *edits, "train:total_iter=5") == 0
    assert run_here("train.py", "-opt", "any_scale.yml", "--auto_resume", *edits) == 0
    one, two = (folder / "experiments/any_scale" for folder in (trained, tmp_path))
    files = (folder / "models/net_g_latest.pth" for folder in (one, two))
    mine, theirs = (torch.load(file, weights_only=True)["params"] for file in files)
    assert mine.keys() == theirs.keys()
    assert all(mine[key].equal(theirs[key]) for key in mine)
    assert losses(one) == losses(two)
    assert [v for v in validations(two) if v[0] != 5] == validations(one)


def test_a_test_has_a_table_for_each_scale(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    Path("test.yml").write_text(TEST)
    assert run_here("test.py", "-opt", "test.yml", "--latex") == 0
    lines = capsys.readouterr().err.splitlines()
    first, second = lines.index("x3"), lines.index("x2.5")
    assert lines[first + 3].split()[0] == "Set5"
    assert "34.79" in lines[first + 3]
    assert "theirs" not in lines[second + 1]
    assert any(line.startswith("theirs: ESC+LTE x3, Table 6") for line in lines)
    assert "nothing comparable is published of ESC+LTE x2.5" in lines
    result = json.loads(Path("results/any_scale_test/scores.json").read_text())
    assert set(result["datasets"]) == {"Set5 x3", "Set5 x2.5"}
    assert result["published"]["scores"]["Set5 x3"]["psnr"] == 34.79
    validated = {name: score for step, name, score in validations(Path("experiments/any_scale")) if step == 12}
    assert result["datasets"]["Set5 x2.5"]["mean"]["scores"]["psnr"] == pytest.approx(
        validated["HeldOut x2.5"], rel=1e-5
    )
    table = Path("results/any_scale_test/table.tex").read_text().splitlines()
    assert [line.split(" & ")[1] for line in table if line.startswith("any\\_scale\\_test &")] == [
        r"$\times$2.5", r"$\times$3"
    ]  # fmt: skip
    assert set(table) <= set(lines)
    assert Path("results/any_scale_test/visualization/Set5 x2.5/held_out_0_any_scale_test.png").exists()
    page = build_report(Wish((Path("experiments/any_scale"), Path("results/any_scale_test")), "a command"))
    scored = {(table.name, table.scale): table.methods for table in page.sets}
    assert scored.keys() == {("Set5", 3), ("Set5", 2.5), ("HeldOut", 2), ("HeldOut", 2.5), ("HeldOut", 6)}
    assert scored["Set5", 2.5] == ("bicubic", "any_scale_test")
    assert scored["HeldOut", 6] == ("any_scale at 12",)
    published = {table.scale: table.published for table in page.sets if table.name == "Set5"}
    assert published[2.5] is None
    assert published[3] is not None
    assert published[3].scores == {"psnr": 34.79}
    assert [panel.label for panel in page.pictures[0].panels] == ["LR", "bicubic", "any_scale_test", "HR"]


def test_one_scale_from_the_command_line(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    Path("test.yml").write_text(TEST)
    assert run_here("test.py", "-opt", "test.yml", "--scale", "8", "--check") == 0
    assert run_here("test.py", "-opt", "test.yml", "--scale", "8") == 0
    assert set(json.loads(Path("results/any_scale_test/scores.json").read_text())["datasets"]) == {"Set5"}
    assert "27.24" in capsys.readouterr().err


def test_check_shows_the_plan(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    assert run_here("train.py", "-opt", "any_scale.yml", "--check") == 0
    printed = capsys.readouterr().err
    assert "scale x1 to x4" in printed
    assert "one batch: lq [4, 3, 8, 8], gt [4, 3, 48, 1] at 48 points of each of 4 patches" in printed
    assert "HeldOut x6: 2 images to validate on" in printed
    assert "the check is passed; nothing was written" in printed


def test_two_ranks_train_as_one_process_with_their_samples(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    # SGD moves by the gradient itself; Adam would enlarge rounding where one is close to 0.
    edits = ("--force_yml", "train:optim_g={type: SGD, lr: 0.05}", "train:total_iter=3", "val:val_freq=3")
    assert run_here("train.py", "-opt", "any_scale.yml", *edits, "name=one") == 0
    line = ("train.py", "-opt", "any_scale.yml", "--launcher", "pytorch", *edits, "name=two")
    done = run_line(trained, torchrun(*line, "datasets:train:batch_size_per_gpu=2"))
    assert done.returncode == 0, done.stderr
    runs = [trained / "experiments" / name for name in ("one", "two")]
    mine, theirs = (torch.load(run / "models/net_g_latest.pth", weights_only=True)["params"] for run in runs)
    for key, value in mine.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-5, atol=1e-7)
    one, two = map(validations, runs)
    assert [score for *_, score in one] == pytest.approx([score for *_, score in two], rel=1e-5)
