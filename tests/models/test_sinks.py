"""Where the figures of a run go."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from models.sinks import JsonLinesSink, LogSink, TensorBoardSink, TrainRecord, ValidationRecord
from models.state import Best

RECORD = TrainRecord(
    step=1000, epoch=3, lr=(2e-4,), losses={"l_pix": 0.0312}, grad_norm=0.5, images_per_second=160.0, seconds=0.1,
    data_seconds=0.002, eta_seconds=3661.0,
)  # fmt: skip
VALIDATION = ValidationRecord(
    1000, "Set5", {"psnr": 30.5}, {"psnr": Best(31.0, 500)}, {"baby": np.zeros((8, 8, 3), np.uint8)}
)


def test_the_log_line_is_basicsr_s(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    sink = LogSink("train_plainusr_x4")
    sink.training(RECORD)
    sink.validation(VALIDATION)
    sink.close()
    line, table = (record.getMessage() for record in caplog.records)
    assert line.startswith(
        "[train..][epoch:  3, iter:   1,000, lr:(2.000e-04,)] [eta: 1:01:01, time (data): 0.100 (0.002)] "
        "l_pix: 3.1200e-02 "
    )
    assert "[160.0 images/s, data wait 2%]" in line
    assert table == "Validation Set5\n\t # psnr: 30.5000\tBest: 31.0000 @ 500 iter"


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
