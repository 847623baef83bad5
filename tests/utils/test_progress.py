"""The progress bar on a terminal, and plain lines elsewhere."""

from __future__ import annotations

import io
import os
import re
import time

import pytest

from utils.progress import Progress, clock, console_line, share_terminal
from utils.terminal import columns_of


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_lines_stand_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("time.monotonic", iter([float(i) for i in range(100)]).__next__)
    monkeypatch.setenv("COLUMNS", "100")
    with Progress(4, "training", stream=stream) as bar:
        bar.advance(2, note="l_pix 0.1")
        console_line("a line of log", stream)
        bar.advance(2)
    text = stream.getvalue()
    assert "[##########----------] training 2/4" in text
    assert "images/s  ETA 0:00:0" in text
    assert "\r\x1b[2Ka line of log\n" in text
    assert text.endswith("l_pix 0.1\n")


def test_a_bar_of_work_that_failed_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("time.monotonic", iter([float(i) for i in range(100)]).__next__)
    with Progress(9, "outer", stream=stream) as outer:
        outer.advance()
        with pytest.raises(OSError, match="full"), Progress(4, "inner", stream=stream) as inner:
            inner.advance(2)
            raise OSError("full")
        assert stream.getvalue().endswith("\r\x1b[2K")  # the line is free for the message
        assert "\n" not in stream.getvalue()
        before = stream.getvalue()
        outer.finish(keep=False)
    assert stream.getvalue() == before + "\r\x1b[2K"


def test_a_bar_that_is_not_shown_leaves_the_one_around_it_to_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("time.monotonic", iter([float(i) for i in range(100)]).__next__)
    with Progress(9, "outer", stream=stream) as outer, Progress(4, "inner", stream=stream, shown=False) as inner:
        outer.advance()
        inner.advance()
        console_line("a line of log", stream)
    assert "\r\x1b[2Ka line of log\n" in stream.getvalue()
    assert "inner" not in stream.getvalue()


def test_lines_are_written_over_the_bar_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, elsewhere = Terminal(), io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("utils.progress._others", [])
    console_line("before", screen)
    share_terminal()
    console_line("a line", screen)
    console_line("a line", elsewhere)
    assert screen.getvalue() == "before\n\r\x1b[2Ka line\n\r\x1b[2K"
    assert elsewhere.getvalue() == "a line\n"


def test_without_a_terminal_plain_lines_come_not_more_often_than_asked() -> None:
    stream = io.StringIO()
    lines: list[str] = []
    with Progress(1000, "scan", stream=stream, plain=lines.append, line_seconds=0.05) as bar:
        for _ in range(100):
            bar.advance(10)
            time.sleep(0.001)
    assert stream.getvalue() == ""
    assert 1 <= len(lines) <= 10
    assert lines[0].startswith("scan ")


def test_units_of_an_earlier_run_do_not_count_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", iter([0.0, 10.0, 10.0, 10.0]).__next__)
    bar = Progress(100, "train", done=80, stream=io.StringIO())
    bar.advance(10)
    assert bar.text() == "train 90/100  1 images/s  ETA 0:00:10"
    bar.finish()
    bar.finish()


def test_nested_bars_end_from_inside_out() -> None:
    stream = Terminal()
    with Progress(2, "outer", stream=stream) as outer:
        with Progress(2, "inner", stream=stream):
            pass
        console_line("between", stream)
        outer.advance()
    console_line("after", stream)
    assert stream.getvalue().endswith("\nafter\n")  # no bar is taken off the line any more
    assert stream.getvalue().index("inner") < stream.getvalue().index("between")


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0:00:00"), (3661, "1:01:01"), (90061, "1 day, 1:01:01"), (2e5, "2 days, 7:33:20")]
)
def test_clock_shows_days_hours_minutes_and_seconds(seconds: float, text: str) -> None:
    assert clock(seconds) == text


TRAINING = {
    120: "[######--------------] demo_plainusr_x4 1,600/5,500  20 iter/s  ETA 0:03:15  l_pix 0.0223  data wait 12%",
    100: "[###-------] demo_plainusr_x4 1,600/5,500  20 iter/s  ETA 0:03:15  l_pix 0.0223  data wait 12%",
    80: "[###-------] demo_plainusr_x4 1,600/5,500  20 iter/s  ETA 0:03:15  l_pix 0.0223",
    70: "[###-------] demo_plainusr_x4 1,600/5,500  20 iter/s  ETA 0:03:15",
    60: "demo_plainusr_x4 1,600/5,500  20 iter/s  ETA 0:03:15",
    42: "demo_plainusr_x4 1,600/5,500  ETA 0:03:15",
    40: "demo_plainusr_… 1,600/5,500  ETA 0:03:15",
    10: "1,600/5,5…",
}
"""Columns -> the line that is drawn."""


def training(monkeypatch: pytest.MonkeyPatch, description: str = "demo_plainusr_x4") -> Progress:
    """A bar as training has it, in the middle of a run."""
    monkeypatch.setattr("time.monotonic", iter([0.0, *[80.0] * 999]).__next__)
    bar = Progress(5500, description, unit="iter", stream=io.StringIO())
    bar.advance(1600, note="l_pix 0.0223  data wait 12%")
    bar.finish()
    return bar


@pytest.mark.parametrize("columns", TRAINING)
def test_what_a_narrow_terminal_cannot_hold_is_left_out(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert training(monkeypatch).line(columns) == TRAINING[columns]


@pytest.mark.parametrize(
    "description", ["demo", "写真の高解像度化", "a" * 200, "film\n\x1b[31m.mp4", "e\u0301te\u0301 👩‍👩‍👧", ""]
)
def test_no_line_is_wider_than_the_terminal(description: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bar = training(monkeypatch, description)
    for columns in range(140):
        line = bar.line(columns)
        assert columns_of(line) <= columns
        assert line.isprintable() or "\u200d" in line
        assert columns < 36 or "1,600/5,500  ETA 0:03:15" in line or "iter/s  ETA 0:03:15" in line


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs terminals that a program can make")
@pytest.mark.parametrize("columns", [80, 40])
def test_updates_stay_on_one_line_of_a_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    master, slave = os.openpty()
    resize(slave, columns)
    with os.fdopen(slave, "w", encoding="utf-8") as stream:
        with Progress(10**6, "写真 of a training with a long name", unit="iter", stream=stream) as bar:
            bar.interval = 0.0
            for _ in range(20):
                bar.advance(1000, note="l_pix 0.0223  data wait 12%")
            console_line("a line of log", stream)
        raw = b""
        while raw.count(b"\r\n") < 2:  # of the log line and of the end; a terminal makes CR LF of line feeds
            raw += os.read(master, 4096)
    os.close(master)
    written = raw.decode()
    assert written.count("\r\n") == 2
    updates = re.split(r"\r\x1b\[2K|\r\n", written)
    assert len(updates) > 20
    assert max(columns_of(update) for update in updates) < columns


def resize(terminal: int, columns: int) -> None:
    """Set the width of a terminal (a function of termios from Python 3.11 on)."""
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))


def test_a_bar_that_an_error_stops_is_taken_off_the_screen() -> None:
    stream = Terminal()

    def fail() -> None:
        with Progress(10, "film.mp4", stream=stream) as bar:
            bar.interval = 0.0
            bar.advance(3)
            raise ValueError("no frame")

    with pytest.raises(ValueError, match="no frame"):
        fail()
    assert "film.mp4 3/10" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[2K")
    assert "\n" not in stream.getvalue()


def test_a_terminal_that_only_appends_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream, lines = Terminal(), list[str]()
    with Progress(10, "scan", stream=stream, plain=lines.append, line_seconds=0.0) as bar:
        bar.advance(10)
    assert stream.getvalue() == ""
    assert lines[0].startswith("scan 10/10")


def test_a_bar_that_is_not_shown_only_counts() -> None:
    stream, lines = Terminal(), list[str]()
    with Progress(10, "rank 1", stream=stream, plain=lines.append, line_seconds=0.0, shown=False) as bar:
        bar.advance(10)
        console_line("a line", stream)
    assert bar.done == 10
    assert stream.getvalue() == "a line\n"
    assert not lines
