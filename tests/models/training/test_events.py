"""Event files of TensorBoard, and what a full disk makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.training import events
from models.training.events import EventFile
from models.training.records import RecordFile
from utils.errors import StorageError

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")


def test_a_record_is_in_the_file_at_once_and_a_later_file_forgets_what_follows_its_step(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "tb logger"
    first = EventFile(folder)
    for step in (1, 2, 3):
        first.scalars({"lr": step / 10}, step)
    first.picture("Set5/baby", np.zeros((4, 4, 3), np.uint8), 3)
    first.text("options", "scale: 4")
    # Not closed: a killed run closes nothing.
    read = EventAccumulator(str(folder))
    read.Reload()
    assert [event.step for event in read.Scalars("lr")] == [1, 2, 3]
    second = EventFile(folder, purge_from=3)
    second.scalars({"lr": 0.5}, 3)
    again = EventAccumulator(str(folder))
    again.Reload()
    assert [(event.step, round(event.value, 3)) for event in again.Scalars("lr")] == [(1, 0.1), (2, 0.2), (3, 0.5)]
    assert len(list(folder.iterdir())) == 2
    first.close()
    second.close()


@needs_full
def test_a_full_disk_is_one_sentence_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(events, "_new_name", lambda _: Path("/dev/full"))
    with pytest.raises(StorageError, match="the disk is full: /dev/full could not be written; free some space"):
        EventFile(tmp_path)
    file = RecordFile(Path("/dev/full"))
    with pytest.raises(StorageError, match="the disk is full: /dev/full"):
        file.write(b"line")
    file.close()  # nothing is held back that closing would try to write again
    assert "Traceback" not in capfd.readouterr().err
