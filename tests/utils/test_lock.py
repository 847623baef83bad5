"""One process at a time in a folder: refused, waited for, taken over; with locks of the system and without."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runs import ROOT
from utils import lock
from utils.errors import InputError
from utils.files import lock as really_lock
from utils.lock import Owner, exclusive, lock_file

HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import utils.lock
if sys.argv[3] == "without locks":
    utils.lock.lock = lambda file: None
with utils.lock.exclusive(Path(sys.argv[2]), "trains"):
    if sys.argv[4] == "with a child":
        import os
        if os.fork() == 0:
            print("held", flush=True)
            os.close(1)
            time.sleep(60)
            os._exit(0)
    else:
        print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(params=["with locks", "without locks"])
def locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "without locks" or sys.platform == "win32":
        monkeypatch.setattr(lock, "lock", lambda file: None)
    found: str = request.param
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "SILENCE", 0.6)
    monkeypatch.setattr(lock, "_WRITING", 0.2)
    monkeypatch.setattr(lock, "_LOOK", 0.02)


def start(folder: Path, locks: str, child: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(ROOT), str(folder), locks, child]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


@pytest.fixture
def holder(tmp_path: Path, locks: str) -> Iterator[subprocess.Popen[str]]:
    with start(tmp_path / "run", locks) as process:
        yield process
        process.kill()


def hand_written(path: Path, **changes: object) -> None:
    """A lock file that another process has left."""
    with exclusive(path.with_name("other"), "trains"):
        own = json.loads(lock_file(path.with_name("other")).read_text())
    path.write_text(json.dumps({**own, **changes}))


def nobody() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_another_process_is_refused_and_learns_by_whom(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    expected = rf"run: another process trains here \(.+, process {holder.pid}, since 20.+\); wait until it has ended"
    for _ in range(2):
        with pytest.raises(InputError, match=expected), exclusive(tmp_path / "run", "trains"):
            raise AssertionError
    assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]
    with exclusive(tmp_path / "other", "trains"):
        pass


def test_a_process_that_ends_within_the_patience_is_waited_for(
    tmp_path: Path, holder: subprocess.Popen[str], caplog: pytest.LogCaptureFixture
) -> None:
    timer = threading.Timer(0.3, lambda: holder.communicate("\n"))
    timer.start()
    with exclusive(tmp_path / "run", "trains", patience=60):
        assert holder.wait() == 0
    timer.join()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_a_killed_process_is_taken_over_from(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert lock_file(tmp_path / "run").exists()
    with exclusive(tmp_path / "run", "trains"):
        assert json.loads(lock_file(tmp_path / "run").read_text())["pid"] == os.getpid()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_outlives_a_killed_process_blocks_nobody(tmp_path: Path, locks: str) -> None:
    with start(tmp_path / "run", locks, "with a child") as holder:
        holder.kill()
        holder.wait()
        with exclusive(tmp_path / "run", "trains"):
            pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_leaves_the_block_releases_nothing(tmp_path: Path, locks: str) -> None:
    with exclusive(tmp_path / "run", "trains"):
        held = lock._registry.held[lock_file(tmp_path / "run")]
        child = os.fork()
        if child == 0:
            held.release()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert lock_file(tmp_path / "run").exists()


def test_a_second_time_in_one_process_is_refused(tmp_path: Path, locks: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with exclusive(tmp_path / "run", "tests"):
        for same in (tmp_path / "run", tmp_path / "link/run"):
            with (
                pytest.raises(InputError, match=rf"another process tests here \(.*process {os.getpid()},"),
                exclusive(same, "tests"),
            ):
                raise AssertionError
    with exclusive(tmp_path / "run", "tests"):
        pass


def test_of_many_at_once_one_gets_it(tmp_path: Path, locks: str) -> None:
    hand_written(lock_file(tmp_path / "run"), pid=nobody())
    inside = tmp_path / "inside"  # a second process there could not make it
    code = HOLDER.replace("sys.stdin.readline()", f"p = Path({str(inside)!r}); p.mkdir(); time.sleep(0.3); p.rmdir()")
    command = [sys.executable, "-c", code, str(ROOT), str(tmp_path / "run"), locks, ""]
    several = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    outcomes = [(*process.communicate(), process.returncode) for process in several]
    got = [code == 0 for _, _, code in outcomes]
    assert any(got), outcomes
    assert all(ok or "another process trains here" in err for ok, (_, err, _) in zip(got, outcomes, strict=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_later_process_of_the_same_number_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "lock", lambda file: None)
    hand_written(lock_file(tmp_path / "run"), started="1")
    with exclusive(tmp_path / "run", "trains"):
        pass
    hand_written(lock_file(tmp_path / "run"))
    with pytest.raises(InputError, match=f"process {os.getpid()}"), exclusive(tmp_path / "run", "trains"):
        raise AssertionError


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_whether_a_process_has_ended_is_known_of_this_machine() -> None:
    own = lock.this_process()
    assert lock.has_ended(own) is (None if sys.platform == "win32" else False)
    with subprocess.Popen([sys.executable, "-c", ""]) as other:
        other.wait()
    if sys.platform != "win32":
        assert lock.has_ended(dataclasses.replace(own, pid=other.pid)) is True
    assert lock.has_ended(dataclasses.replace(own, machine="another")) is None


def test_an_owner_who_ends_between_opening_and_locking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = lock_file(tmp_path / "run")

    def late(handle: int) -> bool | None:
        monkeypatch.setattr(lock, "lock", really_lock)
        path.unlink()
        return really_lock(handle)

    hand_written(path)
    monkeypatch.setattr(lock, "lock", late)
    with exclusive(tmp_path / "run", "trains"):
        assert path.exists()  # a file of its own, where others meet it


def test_another_machine_s_lock_is_watched(tmp_path: Path, locks: str) -> None:
    path = lock_file(tmp_path / "run")
    hand_written(path, host="node7", machine="another", pid=1)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.05):
            os.utime(path)

    beating = threading.Thread(target=beat)
    beating.start()
    with pytest.raises(InputError, match="node7, process 1"), exclusive(tmp_path / "run", "trains"):
        raise AssertionError
    ended.set()
    beating.join()
    with exclusive(tmp_path / "run", "trains"):  # silent for a while
        pass
    hand_written(path, host="node7", machine="another", pid=1)
    os.utime(path, (time.time() - 86400,) * 2)
    with exclusive(tmp_path / "run", "trains"):  # since yesterday
        pass


def test_a_quicker_one_s_lock_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / ".run.lock"
    hand_written(path, pid=5)
    mine = lock._content(path)
    assert mine is not None
    lock._set_aside(path, dataclasses.replace(mine, pid=6))  # what was judged stale has been replaced meanwhile
    assert lock._content(path) == mine
    lock._set_aside(path, mine)
    lock._set_aside(path, mine)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"held", b"\xff", b"[1]", b"{}"])
def test_a_file_that_names_nobody_is_no_lock(tmp_path: Path, content: bytes, locks: str) -> None:
    lock_file(tmp_path / "run").write_bytes(content)
    with exclusive(tmp_path / "run", "trains"):
        pass


def test_it_outlives_the_renaming_of_the_folder(tmp_path: Path, locks: str) -> None:
    (tmp_path / "run").mkdir()
    with exclusive(tmp_path / "run", "trains"):
        (tmp_path / "run").rename(tmp_path / "run_archived")
        with pytest.raises(InputError, match="another process"), exclusive(tmp_path / "run", "trains"):
            raise AssertionError


def test_folders_made_for_it_go_if_nothing_came_into_them(tmp_path: Path, locks: str) -> None:
    with exclusive(tmp_path / "a/b/run", "trains"):
        assert lock_file(tmp_path / "a/b/run").exists()
    assert not list(tmp_path.iterdir())
    with exclusive(tmp_path / "a/b/run", "trains"):
        (tmp_path / "a/b/run").mkdir()
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["run"]


@pytest.mark.parametrize("name", ["x" * 255, "a b", "[a]*?", "é\u202e", "-rf", ".hidden", "#%&'\"", "a\nb"])
def test_names_of_any_kind(tmp_path: Path, name: str, locks: str) -> None:
    with exclusive(tmp_path / name, "trains"), pytest.raises(InputError), exclusive(tmp_path / name, "trains"):
        raise AssertionError
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_beside_the_folder_it_is_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert lock_file(tmp_path / "run") == tmp_path / "run/.run.lock"
    assert lock_file(tmp_path / "new") == tmp_path / ".new.lock"


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / ".run.lock").mkdir()
    with pytest.raises(InputError, match=r"\.run\.lock cannot be written: it is a folder"), exclusive(
        tmp_path / "run", "trains"
    ):  # fmt: skip
        raise AssertionError
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, not a folder"), exclusive(tmp_path / "file/run", "trains"):
        raise AssertionError


def test_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("text")
    (tmp_path / ".run.lock").symlink_to("precious")
    with pytest.raises(OSError, match=r"\.run\.lock"), exclusive(tmp_path / "run", "trains"):
        raise AssertionError
    assert (tmp_path / "precious").read_text() == "text"


def test_an_owner_is_described_in_a_line() -> None:
    assert str(Owner("node7", 12, "2026-01-02 03:04:05+01:00", "m", "1")) == (
        "node7, process 12, since 2026-01-02 03:04:05+01:00"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_the_lock_of_another_user_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has it is named although the file cannot be written; left by a dead process, it is replaced."""
    opened, folder = os.open, tmp_path / "work place" / "tiny"
    folder.parent.mkdir()
    path = lock_file(folder)

    def of_another(name: Any, flags: int, *rest: Any, **more: Any) -> int:
        if Path(name) == path and flags & os.O_RDWR and not flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", str(name))
        return opened(name, flags, *rest, **more)

    with exclusive(folder, "trains"):
        written = path.read_bytes()
        monkeypatch.setattr(os, "open", of_another)
        monkeypatch.setattr(lock._registry, "held", {})  # as in another process
        with (
            pytest.raises(InputError, match=f"another process trains here .*process {os.getpid()}, since"),
            exclusive(folder, "trains"),
        ):
            pass
        assert path.read_bytes() == written
    path.write_bytes(written)  # what a killed process leaves
    with exclusive(folder, "trains"):
        assert path.is_file()
    assert not list(path.parent.glob(".*lock*"))
