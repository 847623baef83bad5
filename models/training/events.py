"""TensorBoard's event files, each record on the disk when the call returns.

PyTorch's SummaryWriter hands records to a thread that writes them up to two minutes later: a run that is killed loses
them, and where the disk is full that thread prints a traceback of its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.training.records import RecordFile


class EventFile:
    """A new event file in a folder.

    Args:
        folder: made where it does not exist.
        purge_from: TensorBoard forgets what earlier files of the folder say of this step and later ones; None: nothing.

    Raises:
        StorageError: the disk is full or broken.
        InputError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path, purge_from: int | None = None) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self._event = Event
        self._file = RecordFile(_new_name(folder))
        head = [Event(file_version="brain.Event:2")]
        if purge_from is not None:
            head.append(Event(step=purge_from, file_version="brain.Event:2"))
            head.append(Event(step=purge_from, session_log=SessionLog(status=SessionLog.START)))
        with contextlib.ExitStack() as closing:
            closing.callback(self._file.close)
            for event in head:
                self._write(event)
            closing.pop_all()

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Points of curves, by their tags."""
        from torch.utils.tensorboard.summary import scalar

        for tag, value in values.items():
            self._write(self._event(step=step, summary=scalar(tag, value)))

    def picture(self, tag: str, pixels: NDArray[np.uint8], step: int) -> None:
        """A picture [H, W, 3]."""
        from torch.utils.tensorboard.summary import image

        self._write(self._event(step=step, summary=image(tag, pixels, dataformats="HWC")))

    def text(self, tag: str, markdown: str) -> None:
        """A page of text."""
        from torch.utils.tensorboard.summary import text

        self._write(self._event(step=0, summary=text(tag, markdown)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, event: object) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        event.wall_time = time.time()  # type: ignore[attr-defined]
        RecordWriter(self._file).write(event.SerializeToString())  # type: ignore[attr-defined]


def _new_name(folder: Path) -> Path:
    """As TensorBoard names its files: files of one folder are read in the order of their names."""
    begun = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
    number = 0
    while (path := folder / f"{begun}.{number}").exists():
        number += 1
    return path
