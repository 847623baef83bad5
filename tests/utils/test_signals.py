"""Signals as requests, and as exceptions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.runs import ROOT
from utils import signals
from utils.errors import StopRequested
from utils.signals import ending_with_parent, leave_at_once


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_raise_at_once_and_handlers_are_put_back(name: str) -> None:
    if not hasattr(signal, name):
        pytest.skip(f"this system has no {name}")
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(StopRequested, match=f"stopped by {name}") as caught, leave_at_once():
        signal.raise_signal(number)
    assert caught.value.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_ignored_and_other_threads_are_left_alone() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with leave_at_once():
            signal.raise_signal(signal.SIGTERM)
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


LAUNCHER = """
import subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.PIPE)
rank.stdout.readline()
"""
RANK = """
import contextlib, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from utils import signals
signals.GRACE, signals._LOOK = 0.3, 0.05
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listening = signals.catch_signals() if sys.argv[2] != "deaf" else contextlib.nullcontext()
if sys.argv[2] != "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
if sys.argv[2] == "imported too long":
    import os
    from utils import start
    start._parents[os.getpid()] = 2**30  # gone by now
with listening as stop, signals.ending_with_parent("the launcher"):  # listens before it can be asked
    print("watches", flush=True)
    while not stop:
        time.sleep(0.01)
    Path("said").write_text(str(stop.exit_code))
"""


@pytest.mark.skipif(os.name != "posix", reason="an orphan does not learn of it")
@pytest.mark.parametrize("kind", ["listens", "imported too long", "deaf"])
def test_an_orphan_is_asked_to_stop_and_then_ended(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LAUNCHER, RANK, str(ROOT), kind]
    # Ends when the launcher and the orphan, which inherits its standard error, are gone.
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert "the launcher is gone (process" in done.stderr
    assert [path.read_text() for path in tmp_path.iterdir()] == ([] if kind == "deaf" else ["143"])


@pytest.mark.skipif(os.name != "posix", reason="no orphans")
def test_a_process_with_a_parent_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_LOOK", 0.01)
    with ending_with_parent("the launcher"):
        time.sleep(0.1)
    deadline = time.monotonic() + 5
    while any(thread.name == "parent" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
