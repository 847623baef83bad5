"""Signals as requests, and as exceptions."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from utils.errors import StopRequested
from utils.signals import leave_at_once


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_raise_at_once_and_handlers_are_put_back(name: str) -> None:
    if not hasattr(signal, name):
        pytest.skip(f"this system has no {name}")
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(StopRequested, match=f"stopped by {name}") as caught, leave_at_once():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_ignored_and_other_threads_are_left_alone() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with leave_at_once():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    ended = []

    def work() -> None:
        with leave_at_once():
            ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended
