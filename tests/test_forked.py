"""Forked programs are what new interpreters are, for everything that the tests with them look at."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import start
from tests.runs import TWO_RANKS, environment, run_line, torchrun

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere they are new interpreters")

SHOW = """
import atexit, json, os, signal, sys, threading
handlers = [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())]
shown = {"argv": sys.argv, "folder": os.getcwd(), "path": sys.path[:1], "name": __name__, "handlers": handlers}
shown |= {"variables": {name: value for name, value in os.environ.items() if name != "LC_CTYPE"}, "file": __file__}
shown |= {"main": sys.modules["__main__"].__dict__ is globals(), "threads": threading.active_count()}
for stream in (sys.stdin, sys.stdout, sys.stderr):
    facts = stream.fileno(), stream.mode, stream.encoding, stream.errors, stream.line_buffering, stream.write_through
    shown[stream.name] = *facts, stream.buffer.__class__.__name__
shown["input"] = sys.stdin.read()
shown |= {"open": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1]}
atexit.register(print, "the end")
print(json.dumps(shown))
print("wörter \\udcff", file=sys.stderr)
exec(sys.argv[1])
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "show.py"
    path.write_text(SHOW)
    return path


@pytest.mark.parametrize(
    ("last", "unbuffered"),
    [
        ("sys.exit(7)", ""), ("sys.exit('words')", "1"), ("1 / 0", ""), ("pass", "1"), ("os._exit(3)", ""),
        ("os._exit(3)", "1"), ("os.kill(os.getpid(), 15)", ""), ("os.kill(os.getpid(), 2)", ""),
    ],
)  # fmt: skip
def test_a_program_finds_and_leaves_what_a_new_interpreter_does(
    tmp_path: Path, script: Path, last: str, unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    line = [sys.executable, str(script), last, "an argument"]
    forked, new = (run_line(tmp_path, line, given="words", new=new) for new in (False, True))
    assert forked.returncode == new.returncode
    assert forked.stderr.splitlines()[-1] == new.stderr.splitlines()[-1]
    ours, theirs = (done.stdout.partition("\n") for done in (forked, new))
    assert ours[2] == theirs[2]
    assert json.loads(ours[0] or "{}") == json.loads(theirs[0] or "{}")


def test_code_is_run_as_a_new_interpreter_does(tmp_path: Path) -> None:
    shown = "import sys; print(sys.argv, sys.path[0], sorted(globals()), sys.modules['__main__'].sys.argv)"
    line = [sys.executable, "-c", shown, "one", "-c"]
    forked, new = (run_line(tmp_path, line, new=new) for new in (False, True))
    assert forked.stdout == new.stdout


def test_a_program_is_read_watched_and_ended(tmp_path: Path, script: Path) -> None:
    line = [sys.executable, str(script), "import time; time.sleep(60)"]
    with (tmp_path / "out").open("w") as out, start(line, tmp_path, environment(), stderr=subprocess.PIPE) as one:
        assert one.stderr is not None
        assert one.stderr.readline() == "w\xf6rter \\udcff\n"
        with pytest.raises(subprocess.TimeoutExpired):
            one.wait(0.01)
        assert one.poll() is None
        with start(line, tmp_path, environment(), stdout=out, stderr=out) as two:
            one.terminate()
            assert one.wait(20) == -signal.SIGTERM
            assert two.poll() is None
            two.kill()
            assert two.wait(20) == two.poll() == -signal.SIGKILL
        assert one.stderr.read() == ""


RANK = """
import json, os, signal, sys, time
handlers = [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
shown = [sys.argv[1:], os.getcwd(), __name__, handlers, os.getsid(0) == os.getpid(), sys.path[0], os.getppid()]
rank, start = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
with open(f"{rank} {start}.json", "w") as file:
    json.dump(shown, file)
if start == "1":
    sys.exit(0)
if rank == "1":
    sys.exit(3)
time.sleep(60)
"""


def test_torchrun_s_ranks_are_its_children_and_are_ended_and_started_again(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    line = torchrun(str(tmp_path / "rank.py"), "--word", launch=(*TWO_RANKS, "--max-restarts", "1"))
    with (tmp_path / "out").open("w") as out, start(line, tmp_path, environment(), stdout=out, stderr=out) as agent:
        assert agent.wait(60) == 0, (tmp_path / "out").read_text()
    handlers = ["<built-in function default_int_handler>", "0", "0"]
    expected = [["--word"], str(tmp_path), "__main__", handlers, True, str(tmp_path), agent.pid]
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert found == {f"{rank} {start}": expected for rank in range(2) for start in range(2)}
    assert "exitcode: 3" in (tmp_path / "out").read_text()
