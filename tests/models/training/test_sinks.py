"""Where the figures of a run go."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from config.schema import WandbOptions
from models.training.sinks import (
    ImageScoresSink,
    JsonLinesSink,
    LogSink,
    TensorBoardSink,
    TrainRecord,
    ValidationRecord,
    WandbSink,
)
from models.training.state import Best
from utils.errors import InputError

RECORD = TrainRecord(
    step=1000, epoch=3, rates={"g": (2e-4,)}, losses={"l_pix": 0.0312}, grad_norms={"g": 0.5},
    images_per_second=160.0, seconds=0.1, data_seconds=0.002, eta_seconds=3661.0, memory=3 << 29,
)  # fmt: skip
OF_TWO = dataclasses.replace(
    RECORD, rates={"g": (2e-4,), "d": (1e-4, 0.0)}, grad_norms={"d": 0.25},
    losses={"l_d_real": 0.5, "out_d_real": -0.25, "l_d_fake": 0.75, "out_d_fake": -0.5},
)  # fmt: skip
"""Of an iteration of an adversarial training in which the generator did not move."""
VALIDATION = ValidationRecord(
    1000, "Set5", {"psnr": 30.5}, {"psnr": Best(31.0, 500)}, {"baby": np.zeros((8, 8, 3), np.uint8)}
)


def test_the_log_line_is_basicsr_s_with_the_whole_name_of_the_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    sink = LogSink("train_plainusr_x4")
    sink.training(RECORD)
    sink.validation(VALIDATION)
    sink.close()
    line, table = (record.getMessage() for record in caplog.records)
    assert line.startswith(
        "[train_plainusr_x4][epoch:  3, iter:   1,000, lr:(2.000e-04,)] [eta: 1:01:01, time (data): 0.100 (0.002)] "
        "l_pix: 3.1200e-02 "
    )
    assert "[160.0 images/s, data wait 2%, 1.5 GiB]" in line
    assert table == "Validation Set5\n\t # psnr: 30.5000\tBest: 31.0000 @ 500 iter"


def test_figures_of_both_players_are_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    caplog.set_level("INFO")
    fake = FakeWandb(online=True, fails=False)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    path, board = tmp_path / "metrics.jsonl", tmp_path / "board"
    sinks = (
        LogSink("x"), JsonLinesSink(path, 0, -1), TensorBoardSink(board, 0, ""),
        WandbSink(tmp_path, "x4", WandbOptions(project="sr"), {}),
    )  # fmt: skip
    for sink in sinks:
        sink.training(OF_TWO)
        sink.close()
    assert "iter:   1,000, lr:(2.000e-04,), lr_d:(1.000e-04,0.000e+00,)] " in caplog.text
    assert "l_d_real: 5.0000e-01 out_d_real: -2.5000e-01 l_d_fake: " in caplog.text
    (record,) = map(json.loads, path.read_text().splitlines())
    assert (record["lr"], record["lr_d"]) == ([2e-4], [1e-4, 0.0])
    assert (record["grad_norm"], record["grad_norm_d"]) == (None, 0.25)
    expected = {
        "losses/l_d_real": 0.5, "out_d_real": -0.25, "losses/l_d_fake": 0.75, "out_d_fake": -0.5, "lr": 2e-4,
        "lr_d": 1e-4, "grad_norm_d": 0.25,
    }  # fmt: skip
    assert {tag: value for tag, value in fake.logged[0][1].items() if not tag.startswith("speed/")} == expected
    events = EventAccumulator(str(board))
    events.Reload()
    assert {tag for tag in events.Tags()["scalars"] if not tag.startswith("speed/")} == set(expected)
    resumed = JsonLinesSink(path, 1000, 0)
    resumed.close()
    again = resumed.resumed
    assert again is not None
    assert (again.rates, again.losses, again.grad_norms) == (OF_TWO.rates, OF_TWO.losses, OF_TWO.grad_norms)


def test_json_lines_read_as_if_the_run_had_never_stopped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonLinesSink(path, 0, -1)
    for step in (10, 20, 30):
        sink.training(dataclasses.replace(RECORD, step=step))
        sink.validation(dataclasses.replace(VALIDATION, step=step))
    sink.close()
    with path.open("a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    sink = JsonLinesSink(path, 20, 10)  # the state of iteration 20, saved before its validation
    sink.validation(dataclasses.replace(VALIDATION, step=20))
    sink.close()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(record["kind"], record["step"]) for record in records] == [
        ("train", 10),
        ("val", 10),
        ("train", 20),
        ("val", 20),
    ]
    assert records[0]["l_pix"] == 0.0312
    assert records[1]["scores"] == {"psnr": 30.5}


def test_damaged_json_lines_are_dropped_with_a_warning(tmp_path: Path, log: list[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonLinesSink(path, 0, -1)
    sink.training(dataclasses.replace(RECORD, step=10))
    sink.close()
    whole = path.read_bytes()
    path.write_bytes(b'\xff\xfe\x00\n{"kind": "train"}\n[1]\n' + whole + b'{"kind": "tr')
    JsonLinesSink(path, 20, 10).close()
    assert path.read_bytes() == whole
    assert any("3 damaged lines were dropped: line 1, 2, 3" in line for line in log)


def test_a_validation_that_is_made_up_for_is_in_tensorboard_once(tmp_path: Path) -> None:
    """A run that was killed between validating and saving validates again when it is resumed."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, validated in ((0, -1), (20, 10)):
        lines = JsonLinesSink(tmp_path / "metrics.jsonl", start, validated)
        board = TensorBoardSink(
            tmp_path / "board", start, "", repeated=lines.resumed, complete=validated >= start
        )  # fmt: skip
        if start:
            for sink in (lines, board):
                sink.validation(dataclasses.replace(VALIDATION, step=20))
        for step in range(start + 10, start + 30, 10):
            for sink in (lines, board):
                sink.training(dataclasses.replace(RECORD, step=step))
                sink.validation(dataclasses.replace(VALIDATION, step=step))
        lines.close()
        board.close()
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    for tag in events.Tags()["scalars"]:
        assert [event.step for event in events.Scalars(tag)] == [10, 20, 30, 40], tag
    assert [event.step for event in events.Images("Set5/baby")] == [10, 20, 30, 40]
    assert [event.value for event in events.Scalars("losses/l_pix")] == pytest.approx([0.0312] * 4)


@pytest.mark.parametrize("lacking", ["lines", "board"])
def test_figures_that_a_full_disk_has_kept_from_a_place_are_written_on_resuming(tmp_path: Path, lacking: str) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    unlogged = None
    for start in (0, 20):
        lines = JsonLinesSink(tmp_path / "metrics.jsonl", start, start, unlogged)
        board = TensorBoardSink(tmp_path / "board", start, "", repeated=lines.resumed, complete=unlogged is None)
        for step in (start + 10, start + 20):
            record = dataclasses.replace(RECORD, step=step)
            if step != 20 or lacking != "lines":
                lines.training(record)
            if step != 20:
                board.training(record)
            if step == 20:
                unlogged = record.as_json()
        lines.close()
        board.close()
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in found] == [10, 20, 30, 40]
    assert found[1] == {**found[0], "step": 20}
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert [event.step for event in events.Scalars("losses/l_pix")] == [10, 20, 30, 40]


def test_tensorboard_gets_scalars_and_pictures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = TensorBoardSink(tmp_path, 0, "name: x")
    sink.training(RECORD)
    sink.validation(VALIDATION)
    sink.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert {"losses/l_pix", "lr", "grad_norm", "metrics/Set5/psnr"} <= set(events.Tags()["scalars"])
    assert events.Scalars("losses/l_pix")[0].value == pytest.approx(0.0312)
    assert events.Tags()["images"] == ["Set5/baby"]


def test_a_lost_tensorboard_folder_is_made_again(tmp_path: Path, log: list[str]) -> None:
    folder = tmp_path / "board"
    sink = TensorBoardSink(folder, 0, "name: x")
    sink.training(RECORD)
    shutil.rmtree(folder)
    sink.training(dataclasses.replace(RECORD, step=1100))
    sink.close()
    assert len(list(folder.iterdir())) == 1
    assert sum("board is gone" in line for line in log) == 1


def test_what_is_no_number_is_no_figure_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    caplog.set_level("INFO")
    fake = FakeWandb(online=True, fails=False)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    path = tmp_path / "metrics.jsonl"
    scores = {"psnr": math.nan, "ssim": 0.9, "first": math.nan}
    undefined = ValidationRecord(1000, "Set5", scores, {"psnr": Best(31.0, 500), "ssim": Best(0.9, 1000)}, {})
    skipped = dataclasses.replace(RECORD, losses={"l_pix": math.nan}, grad_norms={"g": math.inf})
    sinks = (
        LogSink("x"), JsonLinesSink(path, 0, -1), TensorBoardSink(tmp_path / "board", 0, ""),
        WandbSink(tmp_path, "x4", WandbOptions(project="sr"), {}),
    )  # fmt: skip
    for sink in sinks:
        sink.training(skipped)
        sink.validation(undefined)
        sink.close()
    text = caplog.text
    assert "# psnr: no score\tBest: 31.0000 @ 500 iter" in text
    assert "# first: no score\n" in text
    train, val = (json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines())
    assert (train["l_pix"], train["grad_norm"]) == (None, None)
    assert val["scores"] == {"psnr": None, "ssim": 0.9, "first": None}
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert {tag for tag in events.Tags()["scalars"] if tag.startswith("metrics")} == {"metrics/Set5/ssim"}
    assert [values for _, values in fake.logged if "metrics/Set5/ssim" in values] == [{"metrics/Set5/ssim": 0.9}]


class FakeWandb:
    """The part of wandb that is used; fails online, and at a chosen log call."""

    class errors:  # noqa: N801  as in wandb
        class Error(Exception):
            pass

    def __init__(self, online: bool, fails: bool) -> None:
        self.online, self.fails = online, fails
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.finished = 0

    def init(self, **arguments: Any) -> Any:
        self.started.append(arguments)
        if not self.online and arguments.get("mode") != "offline":
            raise self.errors.Error("no network")
        return SimpleNamespace(log=self.log, finish=self.finish)

    def log(self, values: dict[str, Any], step: int) -> None:
        if self.fails:
            raise self.errors.Error("the connection is lost")
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1

    def Image(self, picture: Any) -> Any:  # noqa: N802  as in wandb
        return picture.shape


@pytest.mark.parametrize("online", [True, False])
def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, online: bool) -> None:
    fake = FakeWandb(online, fails=False)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    sink = WandbSink(tmp_path, "x4", WandbOptions(project="sr", resume_id="abc"), {"scale": 4})
    sink.training(RECORD)
    sink.validation(VALIDATION)
    sink.close()
    assert fake.started[-1].get("mode") == (None if online else "offline")
    assert (fake.started[-1]["project"], fake.started[-1]["id"], fake.started[-1]["config"]) == (
        "sr",
        "abc",
        {"scale": 4},
    )
    assert fake.logged[0] == (
        1000, {"losses/l_pix": 0.0312, "lr": 2e-4, "speed/images_per_second": 160.0, "grad_norm": 0.5}
    )  # fmt: skip
    assert fake.logged[1] == (1000, {"metrics/Set5/psnr": 30.5, "Set5/baby": (8, 8, 3)})
    assert fake.finished == 1


def test_a_run_goes_on_without_weights_and_biases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(True, fails=True))
    sink = WandbSink(tmp_path, "x4", WandbOptions(project="sr"), {})
    for _ in range(3):
        sink.training(RECORD)
    sink.close()
    assert sum("the run goes on without it" in line for line in log) == 1
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"logger.wandb: the package wandb is not installed; `pip install wandb`"):
        WandbSink(tmp_path, "x4", WandbOptions(project="sr"), {})


def test_the_scores_of_images_are_those_of_the_last_validation(tmp_path: Path) -> None:
    path = tmp_path / "a run" / "validation.json"
    sink = ImageScoresSink(path)

    def validated(step: int, dataset: str, value: float) -> None:
        images = {"images": [{"name": "baby", "scores": {"psnr": value}}]}
        sink.validation(ValidationRecord(step, dataset, {"psnr": value}, {}, {}, images))

    for step, dataset, value in ((500, "Set5", 30.0), (500, "Set14", 27.0), (1000, "Set5", math.nan)):
        validated(step, dataset, value)
        if step == 500 and dataset == "Set14":
            assert list(json.loads(path.read_text())["datasets"]) == ["Set5", "Set14"]
    sink.training(RECORD)
    sink.close()
    image = {"name": "baby", "scores": {"psnr": None}}
    assert json.loads(path.read_text()) == {"step": 1000, "datasets": {"Set5": {"images": [image]}}}
