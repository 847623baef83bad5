"""The progress bar on a terminal, and plain lines elsewhere."""

from __future__ import annotations

import io
import time

import pytest

from utils.progress import Progress, clock, console_line


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_lines_stand_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr("time.monotonic", iter([float(i) for i in range(100)]).__next__)
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
        outer.drop()
    assert stream.getvalue() == before + "\r\x1b[2K"


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
