"""Every program starts from any folder, as its documentation calls it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import ROOT, environment

PROGRAMS = [ROOT / "train.py", ROOT / "test.py", *sorted((ROOT / "scripts").glob("*.py"))]

# Forked from one process, which imports torch once; each has the import path that Python gives a program.
START_EACH = """
import os, pathlib, runpy, sys, cv2, torch, yaml
standard = [path for path in sys.path if path]
codes = {}
for program in sys.argv[1:]:
    pid = os.fork()
    if pid == 0:
        sys.path[:] = [str(pathlib.Path(program).parent), *standard]
        sys.argv[:] = [program, "--help"]
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as leaving:
            sys.stdout.flush()
            os._exit(leaving.code or 0)  # without taking modules apart, 0.3 s
        os._exit(3)  # it has to leave by itself
    codes[program] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(codes, file=sys.stderr)
sys.exit(any(codes.values()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_every_program_prints_its_help_from_any_folder(tmp_path: Path) -> None:
    assert len(PROGRAMS) > 10
    command = [sys.executable, "-c", START_EACH, *map(str, PROGRAMS)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^usage: (\S+)", done.stdout, re.MULTILINE) == [program.name for program in PROGRAMS]
