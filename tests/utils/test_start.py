"""The first and the last moments of a program: signals while it imports, streams that are closed, nobody who reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.runs import ROOT, workplace

PROGRAMS = ["train.py", "test.py", "scripts/upscale.py", "scripts/prepare_dataset.py", "scripts/run_recipe.py"]
unix = pytest.mark.skipif(sys.platform == "win32", reason="signals and streams of Unix")


def importing(folder: Path, program: str) -> subprocess.Popen[str]:
    """A program in the middle of its imports: of its packages, the first is one that takes for ever."""
    for name in ("numpy", "torch", "yaml", "cv2"):
        (folder / f"{name}.py").write_text(f"import time\nopen(r'{folder}/importing', 'w').close()\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / program)], stderr=subprocess.PIPE, text=True, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    while not (folder / "importing").exists():
        assert process.poll() is None
        time.sleep(0.02)
    return process


@unix
@pytest.mark.parametrize("program", PROGRAMS)
def test_ctrl_c_while_a_program_imports(tmp_path: Path, program: str) -> None:
    process = importing(tmp_path, program)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "error: interrupted\n"
    assert process.returncode == 130


@unix
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_other_signals_while_a_program_imports(tmp_path: Path, name: str, code: int) -> None:
    process = importing(tmp_path, "train.py")
    process.send_signal(getattr(signal, name))
    assert process.communicate(timeout=60)[1] == f"error: stopped by {name}\n"
    assert process.returncode == code


@unix
def test_what_is_ignored_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        process = importing(tmp_path, "train.py")
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


def ran(code: str, unbuffered: str = "", **streams: int) -> subprocess.CompletedProcess[str]:
    """A program whose work is ``code``."""
    text = (
        "import sys\nfrom utils.start import start\nstart()\nfrom utils.command import run_command\n"
        f"def main(argv):\n    {code}\nsys.exit(run_command(main))\n"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    line = [sys.executable, "-c", text]
    return subprocess.run(line, cwd=ROOT, text=True, timeout=60, check=False, env=environment, **streams)  # type: ignore[call-overload, no-any-return]


@unix
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "code",
    [
        "print('line', flush=True)",
        "print('line')",  # which is found out at the end
        "[print(i) for i in range(100_000)]",
        "from utils.progress import console_line; console_line('line', sys.stdout)",
        "import argparse; argparse.ArgumentParser().parse_args(['--help'])",
    ],
)
def test_nobody_reads_the_output(code: str, unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = ran(code, unbuffered, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert done.stderr == ""
    assert done.returncode == (0 if "argparse" in code else 141)


@unix
def test_garbage_is_collected_again_when_the_work_begins() -> None:
    done = ran("import gc; print(gc.isenabled(), gc.get_freeze_count() > 1000)", stdout=subprocess.PIPE)
    assert done.stdout == "True True\n"


@unix
def test_another_broken_pipe_is_a_fault() -> None:
    done = ran("raise BrokenPipeError('elsewhere')", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert "this is a fault of the program" in done.stderr
    assert done.returncode == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_reported() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = ran("print('line')", stdout=full.fileno(), stderr=subprocess.PIPE)
    assert done.stderr == "error: the standard output could not be written: No space left on device\n"
    assert done.returncode == 1


@unix
def test_a_console_that_is_gone_does_not_end_the_work(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    log = tmp_path / "run.log"
    code = (
        "import pathlib; from utils.log import configure_logging as c; from utils.progress import console_line as l; "
        f"g = c(pathlib.Path({str(log)!r})); g.info('one'); g.info('two'); l('three', sys.stderr); print('done')"
    )
    try:
        done = ran(code, stdout=subprocess.PIPE, stderr=writing)
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert done.stdout == "done\n"
    lines = [line.partition(" ")[2].partition(" ")[2] for line in log.read_text().splitlines()]
    assert sorted(lines) == [
        "INFO: one",
        "INFO: two",
        "WARNING: the console is gone; the run goes on, and its log file has the rest",
    ]


@unix
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere(tmp_path: Path, closed: str) -> None:
    """No file takes their numbers: what libraries print there would end up in it."""
    code = (
        "import os, sys; from utils.start import start; start(); from utils.command import run_command\n"
        "def main(argv):\n"
        "    with open(argv[0], 'w') as file:\n"
        "        file.write(str(file.fileno() > 2))\n"
        "        print('line'); sys.stderr.write('line'); sys.stdin.read()\n"
        "        os.write(1, b'line'); os.write(2, b'line')\n"
        "sys.exit(run_command(main))\n"
    )
    (tmp_path / "code.py").write_text(code)
    line = f'"$0" "$1/code.py" "$1/out" {closed}'
    done = subprocess.run(
        ["sh", "-c", line, sys.executable, str(tmp_path)], cwd=ROOT, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0
    assert (tmp_path / "out").read_text() == "True"


@unix
def test_a_training_saves_when_its_terminal_is_closed(tmp_path: Path) -> None:
    """SIGHUP, and a standard error that nobody reads."""
    folder = workplace(tmp_path)
    reading, writing = os.pipe()
    line = [sys.executable, str(ROOT / "train.py"), "-opt", "train.yml", "--force_yml", "train:total_iter=100000"]
    process = subprocess.Popen(line, cwd=folder, stderr=writing, env={**os.environ, "OMP_NUM_THREADS": "1"})
    os.close(writing)
    with os.fdopen(reading) as console:
        while "iter:" not in (said := console.readline()):
            assert said, process.wait()
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 129
    [state] = (folder / "experiments/tiny/training_states").glob("*.state")
    log = next((folder / "experiments/tiny").glob("train_*.log")).read_text()
    assert f"stopped at iteration {state.stem}" in log
    assert "the console is gone" in log
