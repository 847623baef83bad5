"""scripts/upscale.py in several processes: the ranks of torchrun, and the parts of --part."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import ROOT, TWO_RANKS, command, run_line, torchrun
from tests.scripts.upscale.runs import picture

COUNTS = re.compile(r"^\d+ upscaled, .*$", re.MULTILINE)

# Runs the program. Each result is noted in "made", with the rank and the start that have made it. In the first start,
# rank 1 dies at its first picture, when rank 0 has done one and begun another, at which it waits for torchrun.
DYING = f"""
import os, pathlib, signal, sys, time
sys.path[0] = {str(ROOT)!r}
from scripts import upscale
from utils.command import run_command
rank, start = os.environ.get("RANK", "0"), os.environ.get("TORCHELASTIC_RESTART_COUNT", "1")
begun, sign, once = [], pathlib.Path("sign"), upscale.upscale_picture
def watched(job, *others):
    begun.append(job)
    if start == "0" and rank == "1":
        while not sign.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    if start == "0" and len(begun) == 2:
        sign.touch()
        time.sleep(60)
    said = once(job, *others)
    with open("made", "a") as file:
        file.write(f"{{job.source.stem}} {{rank}} {{start}}\\n")
    return said
upscale.upscale_picture = watched
sys.exit(run_command(upscale.main))
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def pictures(folder: Path) -> Path:
    """Six pictures and one that cannot be read."""
    for i, name in enumerate(("d.png", "e.png", "f.png")):
        picture(folder / name, 30 + i, 40, seed=i)
    (folder / "bad.png").write_bytes(b"no picture")
    return folder


@pytest.fixture
def alone(run: Callable[..., int], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """The results of one process."""
    output = tmp_path / "alone"
    assert run(pictures, "--cpu", output=output) == 1
    assert "6 upscaled, 0 left as they were, 1 failed\n" in capsys.readouterr().out
    return output


def test_two_ranks_make_and_report_what_one_process_does(
    pictures: Path, weights: Path, alone: Path, tmp_path: Path
) -> None:
    picture(tmp_path / "out/a.png", 3, 3)
    (pictures / "x.heic").write_bytes(b"")
    arguments = ("-i", str(pictures), "-o", "out", "-w", str(weights), "--cpu")
    # Exit code 1 makes torchrun start the ranks again, who have nothing to add.
    launch = (*TWO_RANKS, "--max-restarts", "1")
    done = run_line(tmp_path, torchrun("scripts/upscale.py", *arguments, launch=launch))
    assert done.returncode == 1, done.stderr
    assert COUNTS.findall(done.stdout) == ["5 upscaled, 1 left as they were, 1 failed, 1 left out"]
    assert len(re.findall("^failed: .*bad.png", done.stderr, re.MULTILINE)) == 1
    assert len(re.findall("HEIC picture cannot be read", done.stderr)) == 1
    assert "stopped by SIGTERM" not in done.stderr
    (tmp_path / "out/a.png").write_bytes((alone / "a.png").read_bytes())
    assert contents(tmp_path / "out") == contents(alone)
    refused = run_line(tmp_path, torchrun("scripts/upscale.py", *arguments, "--tile", "wide"))
    assert refused.returncode == 1
    assert refused.stderr.count("--tile must be auto, 0 (whole pictures) or a number of pixels, got wide") == 1
    assert refused.stderr.count("Traceback") == 1  # torchrun's own


def test_ranks_that_are_started_again_do_what_is_left_once(
    pictures: Path, weights: Path, alone: Path, tmp_path: Path
) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    picture(tmp_path / "out/a.png", 3, 3)
    # The results lie in the folder itself: those that are there by the second start are not taken for pictures.
    for path in contents(pictures):
        (pictures / path).rename(tmp_path / "out" / path)
    arguments = ("-i", "out", "-o", "out", "--suffix", "_x2", "-w", str(weights), "--cpu", "--overwrite")
    launch = (*TWO_RANKS, "--max-restarts", "1")
    done = run_line(tmp_path, torchrun(str(tmp_path / "dying.py"), *arguments, launch=launch))
    assert COUNTS.findall(done.stdout) == ["6 upscaled, 0 left as they were, 1 failed"], done.stderr
    made = [line.split() for line in (tmp_path / "made").read_text().splitlines()]
    assert sorted(name for name, _, _ in made) == ["a", "b", "c", "d", "e", "f"]
    assert {start for _, _, start in made} == {"0", "1"}
    results = {
        name.replace("_x2", ""): content for name, content in contents(tmp_path / "out").items() if "_x2" in name
    }
    assert results == contents(alone)
    assert not [name for name in contents(tmp_path / "out") if name.startswith(".")]


def test_what_a_killed_rank_has_left_is_done_by_the_same_command(
    pictures: Path, weights: Path, alone: Path, tmp_path: Path
) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    arguments = ("-i", str(pictures), "-o", "out", "-w", str(weights), "--cpu")
    done = run_line(tmp_path, torchrun(str(tmp_path / "dying.py"), *arguments))
    assert done.returncode == 1
    assert COUNTS.findall(done.stdout) == []
    assert "-9" in re.findall(r"exitcode *: (-?\d+)", done.stderr)
    assert len(contents(tmp_path / "out")) == 1
    again = run_line(tmp_path, command(str(tmp_path / "dying.py"), *arguments))
    assert COUNTS.findall(again.stdout) == ["5 upscaled, 1 left as they were, 1 failed"]
    assert contents(tmp_path / "out") == contents(alone)


def test_parts_make_what_one_run_does(
    run: Callable[..., int], pictures: Path, alone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "x.heic").write_bytes(b"")
    codes, said, made = [], [], []
    for part in ("3/3", "1/3", "2/3"):  # in any order
        before = set(contents(tmp_path / "out")) if (tmp_path / "out").exists() else set()
        codes.append(run(pictures, "--cpu", "--part", part))
        said += COUNTS.findall(capsys.readouterr().out)
        made.append(set(contents(tmp_path / "out")) - before)
    assert contents(tmp_path / "out") == contents(alone)
    assert all(made)
    assert sum(int(line.split()[0]) for line in said) == 6
    assert sum(int(line.split(", ")[2].split()[0]) for line in said) == 1
    assert [line.partition(" (")[2] for line in said] == ["part 3/3)", "part 1/3)", "part 2/3)"]
    assert ["1 left out" in line for line in said] == [False, True, False]
    assert codes[1] == 1
    # A part is the same whatever is done already; what a lost one has left is done without --part.
    (tmp_path / "out" / min(made[0])).unlink()
    assert run(pictures, "--cpu", "--part", "1/3") == 1
    assert COUNTS.findall(capsys.readouterr().out)[0].startswith(f"0 upscaled, {len(made[1])} left as they were, ")
    assert run(pictures, "--cpu") == 1
    assert "1 upscaled, 5 left as they were, 1 failed, 1 left out\n" in capsys.readouterr().out
    assert run(pictures, "--part", "0/3") == 2
    assert "--part must be i/n with i from 1 to n" in capsys.readouterr().err


def test_a_part_is_shared_among_ranks(pictures: Path, weights: Path, alone: Path, tmp_path: Path) -> None:
    arguments = ("-i", str(pictures), "-o", "out", "-w", str(weights), "--cpu", "--part")
    first = run_line(tmp_path, torchrun("scripts/upscale.py", *arguments, "1/2"))
    second = run_line(tmp_path, command("scripts/upscale.py", *arguments, "2/2"))
    lines = COUNTS.findall(first.stdout + second.stdout)
    assert sorted(line[-10:] for line in lines) == ["(part 1/2)", "(part 2/2)"], first.stderr
    assert contents(tmp_path / "out") == contents(alone)
