"""What is done in a thread beside the network, and what is not."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch

from models.evaluation import beside
from models.evaluation.beside import Beside


def thread(_: int = 0) -> str:
    return threading.current_thread().name


@pytest.mark.parametrize("asynchronous", [False, True])
def test_images_are_read_ahead_on_every_device_and_scored_there_where_it_is_the_host(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    monkeypatch.setattr(beside, "abilities", lambda device: SimpleNamespace(asynchronous=asynchronous))
    with Beside.of(torch.device("cpu")) as thread_beside:
        readers = [reading() for reading in thread_beside.ahead(thread, range(3))]
        scorer = thread_beside.start(thread)()
    assert all(name.startswith("beside") for name in readers)
    assert scorer.startswith("beside") != asynchronous


def test_the_next_image_is_read_when_one_is_taken_and_no_sooner() -> None:
    read: list[int] = []
    with Beside(measures=True) as thread_beside:
        readings = thread_beside.ahead(read.append, range(3))
        next(readings)()
        thread_beside.start(thread)()  # waits for all before
        assert read == [0, 1]
        for reading in readings:
            reading()
    assert read == [0, 1, 2]


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    def broken(number: int) -> None:
        raise ValueError(f"image {number}")

    with Beside(measures=True) as thread_beside:
        first, second = thread_beside.ahead(broken, range(2))
        with pytest.raises(ValueError, match="image 1"):
            second()
        with pytest.raises(ValueError, match="image 0"):
            first()
