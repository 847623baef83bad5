"""The trainings of a run on a GPU: which there are, what is compared, the section of the page."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from scripts.benchmarks.gpu import trainings
from scripts.benchmarks.gpu.trainings import KILLED, WHOLE, difference, finite, jobs, place, read_section, section
from utils.errors import InputError


def record(losses: dict[str, float], psnr: float = 30.0) -> dict[str, object]:
    return {"losses": {"l_pix": losses}, "validation": {"psnr": psnr}, "seconds": 7.2}


def test_every_demo_is_trained_in_every_way() -> None:
    demos = Counter(job.name for job in jobs("cuda", tiny=False))
    assert {"esc_x4", "hat_x4", "pft_x4", "plainusr_x4", "rgt_x4", "esc_lte", "real_esc_x2_gan"} <= demos.keys()
    assert set(demos.values()) == {4}
    assert {job.way for job in jobs("cpu", tiny=False)} == {WHOLE}
    assert [job.way for job in jobs("cpu", tiny=True)] == [WHOLE]


def test_the_section_sets_two_devices_side_by_side() -> None:
    ours = {"iterations": 20, "trainings": {"hat_x4": {
        WHOLE: record({"5": 0.22, "20": 0.11}, 28.123), KILLED: {**record({"20": 0.11}), "difference": 2e-7},
        "bf16": record({"20": 0.12}, 28.0), "fp16": {"error": "ended with 1", "seconds": 1.0},
    }}}  # fmt: skip
    other = {"iterations": 20, "trainings": {"hat_x4": {WHOLE: record({"5": 0.2, "20": 0.08}, 28.1)}}}
    [line] = [line for line in section(ours, other).splitlines() if line.startswith("| hat_x4")]
    assert [cell.strip() for cell in line.strip("|").split("|")] == [
        "hat_x4", "0.11000, 0.08000", "1.0e-01", "2.0e-07", "0.12000, failed", "28.12, 28.10", "28.00, -", "7",
    ]  # fmt: skip


def test_a_loss_that_is_no_number_counts_as_failed() -> None:
    assert finite(record({"10": 0.2}))
    assert not finite(record({"10": float("nan")}))
    assert not finite({"losses": {"l_pix": {"10": None}}})


def test_weights_of_two_trainings_are_compared(tmp_path: Path) -> None:
    folders = [place(tmp_path, "hat_x4", way) for way in (WHOLE, KILLED)]
    for folder, value in zip(folders, (1.0, 1.25), strict=True):
        models = folder / "experiments" / "hat_x4" / "models"
        models.mkdir(parents=True)
        weights = {"params": {"w": torch.ones(2)}, "params_ema": {"w": torch.tensor([1.0, value])}}
        torch.save(weights, models / "net_g_latest.pth")
    assert difference(*folders) == 0.25


def test_a_training_is_killed_when_it_is_time(tmp_path: Path) -> None:
    log, seen = tmp_path / "log", tmp_path / "seen"
    endless = [sys.executable, "-c", f"import time; open({str(seen)!r}, 'w'); time.sleep(600)"]
    trainings.run(endless, tmp_path, log, seen.exists)
    with pytest.raises(RuntimeError, match="ended with 0"):
        trainings.run([sys.executable, "-c", "print('over')"], tmp_path, log, lambda: False)
    with pytest.raises(RuntimeError, match="ended with 3: over / of this"):
        trainings.run([sys.executable, "-c", "print('of this'); raise SystemExit(3)"], tmp_path, log)


def test_files_of_both_devices_make_a_section(tmp_path: Path) -> None:
    one = {"iterations": 40, "trainings": {"esc_x4": {WHOLE: record({"10": 0.3, "40": 0.2})}}}
    (tmp_path / trainings.file_of("cuda")).write_text(json.dumps(one))
    assert read_section(tmp_path) == []
    (tmp_path / trainings.file_of("cpu")).write_text(json.dumps(one))
    assert "| esc_x4 | 0.20000, 0.20000 | 0.0e+00 | - |" in read_section(tmp_path)[0]
    (tmp_path / trainings.file_of("cpu")).write_text("[]")
    with pytest.raises(InputError, match="expected the trainings of two devices"):
        read_section(tmp_path)
