"""The cache of compiled kernels: built once, by one process; trusted, and never a reason to wait for ever."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ops
from ops import build, kernel_cache
from ops.kernel_cache import BuildTarget, Unusable, cache_folder, is_built, libraries, library
from ops.registry import ENVIRONMENT
from tests.ops.kernels import needs_compiler
from tests.runs import ROOT, environment, has_ended, start
from utils.errors import InputError
from utils.progress import Progress
from utils.trust import CACHE

pytestmark = pytest.mark.usefixtures("private_cache")

GOOD = 'extern "C" int answer() { return 42; }\n'
BAD = 'extern "C" int answer() { return fortytwo; }\n'


@pytest.fixture
def target(tmp_path: Path) -> Callable[[str], BuildTarget]:
    """Makes a target for one small file; its compiler notes every call in the file "calls" and takes a moment."""
    compiler = tmp_path / "compiler"
    text = f"#!/bin/sh\necho call >> '{tmp_path}/calls'\nsleep 0.3\nexec '{build.find_compiler()}' \"$@\"\n"
    compiler.write_text(text)
    compiler.chmod(0o755)

    def make(text: str) -> BuildTarget:
        source = tmp_path / "answer.cpp"
        source.write_text(text)
        step = (str(compiler), "-c", str(source), "-fPIC")
        return BuildTarget("CPU answer", 1, (step,), (str(compiler), "-shared"), (text,))

    return make


def calls(tmp_path: Path) -> int:
    noted = tmp_path / "calls"
    return len(noted.read_text().splitlines()) if noted.exists() else 0


@needs_compiler
@pytest.mark.build
def test_builds_once(target: Callable[[str], BuildTarget], tmp_path: Path, log: list[tuple[int, str]]) -> None:
    found = library(target(GOOD))
    assert ctypes.CDLL(str(found)).answer() == 42
    assert library(target(GOOD)) == found
    assert calls(tmp_path) == 2  # one file, one link
    assert sorted(path.name for path in found.parent.iterdir()) == ["kernels.so"]
    assert [level for level, _ in log] == [logging.INFO] * 2
    assert log[0][1].startswith("compiling the CPU answer kernels, once, about 1 s, into ")
    assert library(target(GOOD.replace("42", "43"))) != found


@needs_compiler
@pytest.mark.build
def test_what_is_going_to_be_wanted_is_compiled_in_the_same_time(
    target: Callable[[str], BuildTarget], monkeypatch: pytest.MonkeyPatch, log: list[tuple[int, str]]
) -> None:
    drawn: list[tuple[int, str]] = []

    class Bar(Progress):
        def advance(self, units: int = 1, note: str | None = None, done: int | None = None) -> None:
            super().advance(units, note, done)
            drawn.append((self.done, f"{self.total} {self.note}"))

    monkeypatch.setattr(kernel_cache, "Progress", Bar)
    monkeypatch.setattr(kernel_cache, "available_cores", lambda: 3)
    first = target(GOOD)
    other = replace(target(GOOD), name="CPU other")  # of the same source, which the next one replaces
    broken = replace(first, name="CPU broken", steps=(("false",),))
    found = libraries([first], beside=[other, broken])
    assert [path.parent.name.partition("-answer")[0] for path in found] == ["cpu"]
    assert is_built(first)
    assert is_built(other)
    assert not is_built(broken)
    said = [text for _, text in log]
    assert max(said.index(line) for line in said if line.startswith("compiling the CPU")) < min(
        said.index(line) for line in said if line.startswith("compiled the CPU")
    )
    assert drawn[0][0] <= drawn[-1][0] == 3
    assert drawn[-1][1].startswith("3 CPU answer, CPU other, CPU broken  ")
    drawn.clear()
    libraries([first], beside=[other])
    assert not drawn  # nothing was to be compiled


@needs_compiler
@pytest.mark.build
def test_a_failure_is_remembered(target: Callable[[str], BuildTarget], tmp_path: Path, private_cache: Path) -> None:
    with pytest.raises(Unusable, match=r"compiling them failed: .*fortytwo.*\(all of it in .*failed.txt\)"):
        library(target(BAD))
    assert calls(tmp_path) == 1
    with pytest.raises(Unusable, match=r"failed before: .*fortytwo.*FOCALSR_OPS=native retries"):
        library(target(BAD))
    assert calls(tmp_path) == 1
    with pytest.raises(Unusable, match="failed: "):
        library(target(BAD), retry=True)
    assert calls(tmp_path) == 2
    assert "-fPIC" in next(private_cache.glob("cpu-answer-*/failed.txt")).read_text()  # the command is there
    assert ctypes.CDLL(str(library(target(GOOD)))).answer() == 42  # another key
    repaired = replace(target(GOOD), facts=(BAD,))  # the key of the failure: something outside was mended
    assert ctypes.CDLL(str(library(repaired, retry=True))).answer() == 42
    assert not list(private_cache.glob("building-*"))


@needs_compiler
@pytest.mark.build
def test_a_killed_compiler_is_not_remembered(tmp_path: Path, target: Callable[[str], BuildTarget]) -> None:
    good = target(GOOD)
    script = tmp_path / "compiler"
    text = script.read_text()
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(Unusable, match="compiler was stopped: signal 9"):
        library(good)
    script.write_text(text)
    assert library(good).exists()


@needs_compiler
@pytest.mark.build
def test_a_folder_that_vanishes_is_no_fault_of_the_sources(
    tmp_path: Path, target: Callable[[str], BuildTarget], private_cache: Path
) -> None:
    good = target(GOOD)
    script = tmp_path / "compiler"
    text = script.read_text()
    script.write_text(f"#!/bin/sh\nrm -r '{private_cache}'/building-*\necho error: no such folder >&2\nexit 1\n")
    with pytest.raises(Unusable, match="the folder to compile in was removed"):
        library(good)
    script.write_text(text)
    assert library(good).exists()


BUILDER = """
import sys
from pathlib import Path
from ops.kernel_cache import BuildTarget, cache_folder, library
tool, source, first = sys.argv[1:]
assert first == "no" or not cache_folder().exists()  # importing has built nothing
step = (tool, "-c", source, "-fPIC")
print(library(BuildTarget("CPU answer", 1, (step,), (tool, "-shared"), ("same",))))
"""


@needs_compiler
@pytest.mark.build
def test_two_processes_build_once(tmp_path: Path, target: Callable[[str], BuildTarget]) -> None:
    target(GOOD)
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "compiler"), str(tmp_path / "answer.cpp"), "no"]
    outputs = [tmp_path / name for name in ("one", "two")]
    with ExitStack() as files:
        written = [files.enter_context(path.open("w")) for path in outputs]
        processes = [start(command, ROOT, environment(), stdout=file) for file in written]
        assert [process.wait(60) for process in processes] == [0, 0]
    said = [path.read_text() for path in outputs]
    assert said[0]
    assert said[0] == said[1]
    assert calls(tmp_path) == 2


@needs_compiler
@pytest.mark.build
def test_importing_builds_nothing_and_a_killed_process_blocks_nobody(
    tmp_path: Path, target: Callable[[str], BuildTarget], private_cache: Path
) -> None:
    target(GOOD)
    slow, started = tmp_path / "slow", tmp_path / "started"
    slow.write_text(f"#!/bin/sh\necho $$ > '{tmp_path}/new' && mv '{tmp_path}/new' '{started}'\nsleep 60\n")
    slow.chmod(0o755)
    command = [sys.executable, "-c", BUILDER, str(slow), str(tmp_path / "answer.cpp"), "yes"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.05)
    [work] = private_cache.glob("building-*")
    process.kill()  # its compiler lives on
    process.wait()
    step = (str(slow), "-c", str(tmp_path / "answer.cpp"), "-fPIC")
    same = BuildTarget("CPU answer", 1, (step,), (str(slow), "-shared"), ("same",))
    slow.write_text((tmp_path / "compiler").read_text())
    try:
        assert library(same).exists()
    finally:
        os.killpg(int(started.read_text()), 9)
    assert work.exists()  # it may have been at work
    os.utime(work, (0, 0))
    library(target(GOOD))
    assert not work.exists()


@needs_compiler
def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE, str(tmp_path / "file"))
    assert "a part of this path is a file" in str(build.cpu_extension("smm"))


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "focalsr" / "ops"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "focalsr" / "ops"


def test_a_user_without_a_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(CACHE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InputError, match="there is no home folder to keep compiled code in; set FOCALSR_CACHE"):
        cache_folder()


@needs_compiler
@pytest.mark.build
@pytest.mark.parametrize("which", ["kernels.so", "folder", "cache", "parent"])
def test_what_others_can_write_is_not_loaded(
    which: str, target: Callable[[str], BuildTarget], tmp_path: Path, private_cache: Path
) -> None:
    built = library(target(GOOD))
    places = {"kernels.so": built, "folder": built.parent, "cache": private_cache, "parent": private_cache.parent}
    place = places[which]
    assert place.stat().st_mode & 0o777 == 0o700
    assert library(target(GOOD)) == built
    place.chmod(0o777)
    with pytest.raises(InputError) as refused:
        library(target(GOOD))
    message = str(refused.value)
    assert message.startswith(f"{place} can be written by everybody, and code that others could have put there is not ")
    remedy = "let nobody else write there (chmod go-w)" if which == "parent" else "remove it, and it is made again,"
    assert f"; {remedy} or set FOCALSR_CACHE to a folder of your own" in message
    assert calls(tmp_path) == 2
    place.chmod(0o700)
    assert library(target(GOOD)) == built


@needs_compiler
def test_a_folder_that_others_can_write_is_left_alone(
    target: Callable[[str], BuildTarget], tmp_path: Path, private_cache: Path
) -> None:
    """Nothing in it is removed, locked or written; a file of the user could be behind a link there."""
    private_cache.mkdir(parents=True)
    old = private_cache / "building-old"
    old.mkdir()
    os.utime(old, (0, 0))
    private_cache.chmod(0o777)
    with pytest.raises(InputError, match="can be written by everybody"):
        library(target(GOOD))
    assert [path.name for path in private_cache.iterdir()] == ["building-old"]
    assert calls(tmp_path) == 0


@needs_compiler
def test_untrusted_kernels_leave_pytorch(
    monkeypatch: pytest.MonkeyPatch, private_cache: Path, log: list[tuple[int, str]]
) -> None:
    private_cache.mkdir(parents=True)
    private_cache.chmod(0o777)
    q, index = torch.randn(1, 4, 3), torch.zeros(1, 4, 2, dtype=torch.int32)
    assert torch.equal(ops.smm_qmk(q, q.mT, index), ops.smm_qmk(q, q.mT, index, backend="reference"))
    assert [level for level, _ in log] == [logging.WARNING]
    assert f"CPU smm kernels are not used: {private_cache} can be written by everybody" in log[0][1]
    monkeypatch.setenv(ENVIRONMENT, "native")
    with pytest.raises(InputError, match=r"FOCALSR_OPS=native, but smm_qmk: .* can be written by everybody"):
        ops.smm_qmk(q, q.mT, index)


@pytest.fixture
def hanging(tmp_path: Path) -> BuildTarget:
    """A target whose compiler starts another program, and both wait for ever, whatever SIGTERM says."""
    compiler = tmp_path / "compiler"
    compiler.write_text(
        f"#!/bin/sh\ntrap '' TERM\necho $$ >> '{tmp_path}/calls'\nsleep 600 &\necho $! >> '{tmp_path}/calls'\n"
        "while true; do sleep 1; done\n"
    )
    compiler.chmod(0o755)
    return BuildTarget("CPU answer", 1, ((str(compiler), "-c", "answer.cpp"),), (str(compiler), "-shared"), ())


def running(tmp_path: Path) -> list[int]:
    """The processes of the compiler that are left."""
    noted = [int(line) for line in (tmp_path / "calls").read_text().split()]
    return [process for process in noted if not has_ended(process)]


def short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_cache, "_LEAST_LIMIT", 1.0)
    monkeypatch.setattr(kernel_cache, "_LIMIT_FACTOR", 1.0)


@needs_compiler
def test_a_compiler_that_hangs_is_ended_and_the_next_is_not_tried(
    hanging: BuildTarget, tmp_path: Path, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hanging.limit == 300
    assert replace(hanging, seconds=60).limit == 1200
    short_limit(monkeypatch)
    with pytest.raises(Unusable, match="compiler did not end within 1 s and was stopped"):
        library(hanging)
    assert not running(tmp_path)
    assert not [*private_cache.glob("building-*"), *private_cache.glob("*/failed.txt")]
    with pytest.raises(
        Unusable, match=r"none is compiled any more in this process, in which .* did not end within 1 s"
    ):
        library(replace(hanging, facts=("another",)))
    assert calls(tmp_path) == 2
    build.ask_again()
    with pytest.raises(Unusable, match="compiler did not end"):  # it is no fault of the sources
        library(hanging)
    assert calls(tmp_path) == 4


@needs_compiler
@pytest.mark.build
def test_a_slow_compiler_is_reported(
    target: Callable[[str], BuildTarget], monkeypatch: pytest.MonkeyPatch, log: list[tuple[int, str]]
) -> None:
    monkeypatch.setattr(kernel_cache, "_FIRST_NOTE", 0.15)
    good = replace(target(GOOD), seconds=0)
    library(good)
    notes = [line for _, line in log if line.startswith("still compiling the CPU answer kernels after ")]
    assert notes
    assert notes[0].endswith(" s (expected: 0 s, at most 300 s); FOCALSR_OPS=reference does without")


HANGS = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from ops import build, kernel_cache
from utils.command import run_command
from utils.errors import StopRequested
from utils.log import configure_logging
from utils.signals import catch_signals, leave_at_once

tool, way = sys.argv[2:]
target = kernel_cache.BuildTarget("CPU answer", 1, ((tool, "-c", "answer.cpp"),), (tool, "-shared"), ())

def work():
    build.cpu_targets = lambda part: [target]
    print("answer:", build.cpu_extension("answer"), flush=True)

def main(argv):
    configure_logging()
    if way == "plain":
        with leave_at_once():
            work()
        return 0
    with catch_signals() as stop:
        if way == "flag":
            work()
        else:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        raise StopRequested("the state is saved", stop.exit_code)

sys.exit(run_command(main))
"""


@needs_compiler
@pytest.mark.parametrize(
    ("way", "number", "code"),
    [
        ("plain", signal.SIGTERM, 143),
        ("plain", signal.SIGINT, 130),
        ("flag", signal.SIGTERM, 143),
        ("thread", signal.SIGINT, 130),
    ],
)
def test_a_signal_ends_the_compiler_at_once(
    way: str, number: signal.Signals, code: int, hanging: BuildTarget, tmp_path: Path, private_cache: Path
) -> None:
    line = [sys.executable, "-c", HANGS, str(ROOT), hanging.link[0], way]
    texts = tmp_path / "out", tmp_path / "err"
    with texts[0].open("w") as stdout, texts[1].open("w") as stderr:
        process = start(line, tmp_path, environment(), stdout=stdout, stderr=stderr)
        while calls(tmp_path) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        ended = process.wait(60)  # a build that does not answer takes two minutes
    out, err = (path.read_text() for path in texts)
    assert ended == code, err
    assert "Traceback" not in err
    assert not running(tmp_path)
    assert not list(private_cache.glob("building-*"))
    if way != "plain":  # the operators of PyTorch serve until the next safe point
        assert f"answer: compiling was stopped by {number.name}" in out
        assert "the state is saved" in err


@needs_compiler
def test_waiting_for_another_process_that_hangs(
    hanging: BuildTarget, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    private_cache.mkdir(parents=True, mode=0o700)
    private_cache.parent.chmod(0o700)
    lock = private_cache / f"cpu-answer-{hanging.key()}.lock"
    short_limit(monkeypatch)
    monkeypatch.setattr(kernel_cache, "_GRACE", -0.8)
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Unusable, match="another process compiled the same for more than 1 s"):
            library(hanging)
        build.ask_again()
        monkeypatch.setattr(kernel_cache, "_GRACE", 60.0)

        def give_up() -> None:
            file.write(b"hung")
            file.close()

        end = threading.Timer(0.3, give_up)
        end.start()
        with pytest.raises(Unusable, match="the compiler hung in another process"):
            library(hanging)
        end.join()
