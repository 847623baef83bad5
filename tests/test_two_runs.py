"""Two runs in one folder: the second is refused as long as the first lives, and touches nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from models.training import run as training_run
from tests.forked import Program
from tests.runs import command, environment, run_here, run_line, start, torchrun, workplace
from utils.lock import exclusive

ENDLESS = ("--force_yml", "train:total_iter=1000000", "val=null", "logger:keep_last=3", "logger:print_freq=100")
LOCK = Path("experiments/.tiny.lock")


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def saved(folder: Path) -> bool:
    return any((folder / "experiments/tiny/training_states").glob("*.state"))


@contextmanager
def background(folder: Path, line: list[str]) -> Iterator[Program | subprocess.Popen[str]]:
    """A run that goes on until it has saved something, at least; killed at the end."""
    with (folder / "background.log").open("wb") as log:
        process = start(line, folder, environment(), stdout=log, stderr=log)
    with process:
        try:
            wait_for(lambda: saved(folder) or process.poll() is not None)
            assert process.poll() is None, (folder / "background.log").read_text()
            yield process
        finally:
            process.kill()


def lives(pid: int) -> bool:
    """Whether a process is there; not the remains of one, of which its parent has not taken notice."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_second_training_is_refused_until_the_first_is_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    monkeypatch.setattr(training_run, "_PATIENCE", 0.5)
    ours = [*ENDLESS, "datasets:train:num_worker_per_gpu=2", "logger:use_tb_logger=true"]
    with background(tmp_path, command("train.py", "-opt", "train.yml", *ours)) as first:
        workers = children(first.pid)
        refusal = rf"experiments/tiny: another process trains here \(.*, process {first.pid}, since .*\); wait until"
        for arguments in ((), ("--auto_resume",)):
            assert run_here("train.py", "-opt", "train.yml", *arguments) == 2
            assert re.search(refusal, capsys.readouterr().err)
        # Another experiments folder, whose TensorBoard folder would be the same.
        assert run_here("train.py", "-opt", "train.yml", *ours, "path:experiments_root=others") == 2
        assert "tb_logger/tiny: another process trains here" in capsys.readouterr().err
        assert run_here("train.py", "-opt", "train.yml", "--check") == 0  # which writes nothing
        assert sorted(path.name for path in Path("experiments").iterdir()) == [".tiny.lock", "tiny"]
        assert not Path("others").exists()
        first.kill()
        first.wait()
        assert len(workers) >= 2
        assert any(map(lives, workers))  # orphans, who will notice within seconds
        half = Path("experiments/tiny/models/.net_g_999.pth.1.part")
        half.write_bytes(b"begun")
        last = max(int(path.stem) for path in Path("experiments/tiny/training_states").glob("*.state"))
        assert run_here(
            "train.py", "-opt", "train.yml", "--auto_resume", "--force_yml", f"train:total_iter={last + 2}", "val=null"
        ) == 0  # fmt: skip
        said = capsys.readouterr().err
        assert re.search(rf"process that trains here before \(.*process {first.pid}.*\) ended without saying so", said)
        assert f"at iteration {last:,}" in said
        # Ours, and whatever it was writing when it was killed.
        assert re.search(r"removed [1-9]\d* files that a killed run had left half-written", said)
        log = max(Path("experiments/tiny").glob("train_tiny_*.log"), key=lambda path: path.stat().st_mtime)
        assert "ended without saying so" in log.read_text()
        assert not half.exists()
        assert not LOCK.exists()
        wait_for(lambda: not any(map(lives, workers)))


def test_a_second_test_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", "val=null", "train:total_iter=1") == 0
    with exclusive(Path("results/tiny_test"), "tests"):
        assert run_here("test.py", "-opt", "test.yml") == 2
        assert "results/tiny_test: another process tests here" in capsys.readouterr().err
        assert run_here("test.py", "-opt", "test.yml", "--check") == 0
        assert [path.name for path in Path("results").iterdir()] == [".tiny_test.lock"]
    assert run_here("test.py", "-opt", "test.yml") == 0
    assert [path.name for path in Path("results").iterdir()] == ["tiny_test"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_ranks_end_when_their_launcher_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    line = torchrun("train.py", "-opt", "train.yml", "--launcher", "pytorch", *ENDLESS)
    with background(tmp_path, line) as agent:
        ranks = children(agent.pid)
        assert len(ranks) == 2
        main = json.loads(LOCK.read_text())["pid"]
        assert main in ranks
        agent.kill()
        agent.wait()
        # At once, while the ranks are still there: waits for their end.
        assert run_here("train.py", "-opt", "train.yml", "--auto_resume", "--force_yml", "train:total_iter=1") == 0
        said = capsys.readouterr().err
        assert "another process trains here" in said
        assert "waiting up to" in said
        wait_for(lambda: not any(map(lives, ranks)))
    log = Path("background.log").read_text()
    assert f"the launcher is gone (process {agent.pid})" in log
    stopped = re.search(r"stopped at iteration ([\d,]+); ", log)
    assert stopped is not None, log
    assert f"at iteration {stopped[1]}" in said


@pytest.mark.slow
def test_a_refused_rank_0_ends_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    line = torchrun("train.py", "-opt", "train.yml", "--launcher", "pytorch")
    with exclusive(Path("experiments/tiny"), "trains"):
        done = run_line(tmp_path, line, new=True)
    assert done.returncode == 1, done.stderr  # torchrun's own
    # torchrun ends the other ranks when it has seen the first one end, which may be before they have said so.
    assert "another process trains here" in done.stderr
    assert "2" in re.findall(r"exitcode *: (\d+)", done.stderr)
    assert not Path("experiments").exists()
