"""Other programs: what they say, and how they end."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import has_ended
from utils.programs import run_program

STARTS_ANOTHER = """
import subprocess, sys, time
other = subprocess.Popen(["sleep", "60"])
open(sys.argv[1], "w").write(f"{other.pid} ")
time.sleep(60)
"""


def test_what_a_program_says_and_reads() -> None:
    code = "import sys; print(sys.stdin.read()); print('oh', file=sys.stderr); sys.exit(3)"
    assert run_program([sys.executable, "-c", code], limit=60, given=b"word") == (3, "word\n", "oh\n")
    assert run_program([sys.executable, "-c", code], limit=60).out == "\n"  # no terminal, no waiting
    with pytest.raises(FileNotFoundError):
        run_program(["no such program"], limit=60)


def test_much_is_read_and_written_while_it_is_watched() -> None:
    code = "import sys, time; sys.stdout.write(sys.stdin.read()); sys.stdout.flush(); time.sleep(0.5)"
    looks: list[float] = []
    given = b"0123456789" * 100_000
    done = run_program(
        [sys.executable, "-c", code], limit=60, given=given, watch=lambda: looks.append(time.monotonic())
    )
    assert done.out.encode() == given
    assert len(looks) >= 3


def test_the_limit_ends_a_program() -> None:
    with pytest.raises(subprocess.TimeoutExpired, match=r"timed out after 0.3 seconds"):
        run_program([sys.executable, "-c", "import time; time.sleep(60)"], limit=0.3)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_an_exception_ends_a_program_and_what_it_has_started(tmp_path: Path) -> None:
    note = tmp_path / "started"

    def interrupted() -> None:
        if note.exists() and note.read_text().endswith(" "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_program([sys.executable, "-c", STARTS_ANOTHER, str(note)], limit=60, watch=interrupted)
    assert has_ended(int(note.read_text()))
