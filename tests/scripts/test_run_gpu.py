"""scripts/run_gpu.py: stages with time limits, what is missing, and a dry run of everything on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

from scripts.benchmarks.gpu.outcomes import read_outcomes
from scripts.benchmarks.gpu.stages import ROOT, Stage, Step, limits, missing, run_stage
from utils.errors import InputError

BASH = shutil.which("bash")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def run_gpu() -> ModuleType:
    """scripts/run_gpu.py as a module."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("focalsr_run_gpu", ROOT / "scripts/run_gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python(name: str, code: str, **more: tuple[str, ...]) -> Step:
    """A step that runs a little Python."""
    return Step(name, (sys.executable, "-u", "-c", code), {}, **more)


def stage(*steps: Step, seconds: float = 30) -> Stage:
    return Stage(3, "a stage", seconds, steps)


def test_steps_run_side_by_side_and_log(tmp_path: Path) -> None:
    wait = (
        "import pathlib, time\npathlib.Path({mine!r}).touch()\n"
        "while not pathlib.Path({other!r}).exists(): time.sleep(0.01)\nprint('met')"
    )
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    steps = [python("one", wait.format(mine=a, other=b)), python("two", wait.format(mine=b, other=a))]
    report = run_stage(stage(*steps), 30, tmp_path)
    assert (report.number, report.title, report.outcome, report.notes) == (3, "a stage", "done", ())
    assert (tmp_path / "one.log").read_text() == (tmp_path / "two.log").read_text() == "met\n"


def test_a_stage_out_of_time_is_stopped_with_its_children_and_keeps_what_it_wrote(tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = (
        "import subprocess, sys, time\n"
        "process = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(child)!r}, 'w').write(str(process.pid)); print('half', flush=True); time.sleep(60)"
    )
    started = time.monotonic()
    report = run_stage(stage(python("slow", code), python("fast", "print(1)")), 3, tmp_path)
    assert report.outcome == "out of time"
    assert report.notes == ("slow: stopped after 3 s; what it had written stays",)
    assert time.monotonic() - started < 20
    assert (tmp_path / "slow.log").read_text() == "half\n"
    deadline = time.monotonic() + 10
    while _alive(int(child.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(int(child.read_text()))


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_failure_is_reported_with_its_error(tmp_path: Path) -> None:
    report = run_stage(stage(python("bad", "print('x'); raise ValueError('of this')")), 30, tmp_path)
    assert report.outcome == "failed"
    assert report.notes == ("bad: exit code 1; ValueError: of this",)


def test_what_is_not_there_is_said_and_the_rest_runs(tmp_path: Path) -> None:
    absent = Step("check", ("no-such-program", "x"), {})
    report = run_stage(stage(absent, python("fine", "print(1)")), 30, tmp_path)
    assert (report.outcome, report.notes) == ("not possible", ("check: there is no program no-such-program",))
    assert (tmp_path / "fine.log").read_text() == "1\n"
    assert missing(python("a", "", modules=("scripts.benchmarks.gpu.cases", "json"))) is None
    assert missing(python("a", "", modules=("no_such.module",))) == "a: there is no module no_such.module"
    assert missing(python("a", "", files=("tests/none.py",))) == "a: there is no file tests/none.py"


def test_seconds_are_shared_in_proportion() -> None:
    two = [stage(seconds=90), stage(seconds=150)]
    assert limits(two, None) == [90, 150]
    assert limits(two, 120) == [45, 75]
    with pytest.raises(InputError, match="--seconds 2 leaves a stage less than a second"):
        limits(two, 2)


def test_the_kernels_come_first_and_full_memory_is_tested_beside_nothing(run_gpu: ModuleType, tmp_path: Path) -> None:
    def asked(*argv: str) -> list[Stage]:
        typed = run_gpu.parse([*argv, "--output", str(tmp_path)])
        found: list[Stage] = run_gpu.chosen(typed, run_gpu.stages(typed, {}, dry=False))
        return found

    assert [one.number for one in asked()] == [1, 2, 3, 4, 5, 6]
    assert [one.number for one in asked("--stage", "5", "--stage", "3")] == [1, 3, 5]
    names = {step.name: step for one in asked() for step in one.steps}
    assert {"1_memory_tests", "2_tests", "4_memcheck", "4_racecheck"} <= names.keys()
    assert "1_memory_tests" not in {step.name for one in asked("--stage", "3") for step in one.steps}
    alone, together = names["1_memory_tests"].files, names["2_tests"].files
    assert sorted((*alone, *together)) == sorted(run_gpu.test_files())
    assert alone
    assert len(together) >= 10
    # Twice seven minutes, with a minute for starting.
    assert all(sum(one.seconds for one in asked("--stage", *numbers)) <= 400 for numbers in (("1", "2"), "345"))
    assert all(missing(step) is None for step in names.values() if step.argv[0] == sys.executable)


@without_gpu
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = run("--output", str(tmp_path))
    assert done.returncode == 2
    assert "there is no CUDA device that torch can use" in done.stderr
    assert not any(tmp_path.iterdir())


def test_stages_follow_each_other_whatever_happens_and_the_exit_code_says_it(
    run_gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = {"python": "3", "torch": "2", "cuda": "13", "gpus": ["a card"]}
    small = {
        1: Stage(1, "one", 30, (python("1", "print(1)"),)),
        2: Stage(2, "two", 1, (python("2", "import time; time.sleep(60)"),)),
        3: Stage(3, "three", 30, (python("3", "print(3)"),)),
    }
    monkeypatch.setattr(run_gpu, "with_wheels", lambda wheels: ({}, facts))
    monkeypatch.setattr(run_gpu, "stages", lambda typed, environment, dry: small)
    assert run_gpu.main(["--output", str(tmp_path)]) == 1
    written = json.loads((tmp_path / "1_2_3_summary.json").read_text())
    assert written["facts"] == facts
    assert [one["outcome"] for one in written["stages"]] == ["done", "out of time", "done"]
    printed = capsys.readouterr().out
    assert "stage 2, two: out of time" in printed
    assert "no page: " in printed, "stage 3 has written no figures"
    assert run_gpu.main(["--output", str(tmp_path), "--stage", "1"]) == 0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, from another folder than the repository's."""
    command = [sys.executable, str(ROOT / "scripts/run_gpu.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd="/")


@pytest.mark.slow
def test_a_missing_package_is_named_and_installed_from_its_wheel(
    run_gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without torch, whose import takes seconds each time: its facts are in the dry run.
    monkeypatch.setattr(run_gpu, "MODULES", {"yaml": "pyyaml", "focalsr_wheel_test": "focalsr-wheel-test"})
    monkeypatch.setenv("FOCALSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(InputError, match="lacks focalsr-wheel-test; install that, or name a folder of wheels"):
        run_gpu.with_wheels(None)
    with pytest.raises(InputError, match="there is no such folder"):
        run_gpu.with_wheels(tmp_path / "none")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with pytest.raises(InputError, match=r"lacks focalsr-wheel-test, and --wheels .* holds no wheel of some of them"):
        run_gpu.with_wheels(wheels)
    (wheels / "focalsr_wheel_test-0.1-py3-none-any.whl").write_text("no wheel")
    with pytest.raises(InputError, match=r"lacks focalsr-wheel-test, and --wheels .* does not help: "):
        run_gpu.with_wheels(wheels)
    make_wheel(wheels, "focalsr_wheel_test")
    environment, facts = run_gpu.with_wheels(wheels)
    assert "focalsr_wheel_test" in facts["modules"]
    found = subprocess.run([sys.executable, "-c", "import focalsr_wheel_test"], env={**os.environ, **environment})
    assert found.returncode == 0


def make_wheel(folder: Path, name: str) -> None:
    """A package with nothing in it."""
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


TESTS = """
import time, pytest
def test_good(): pass
def test_bad(): assert 1 == 2, "one is not two"
@pytest.mark.skip(reason="not today")
def test_left_out(): pass
@pytest.fixture
def broken(): raise OSError("no such thing")
def test_with_a_broken_fixture(broken): pass
def test_hangs(): time.sleep({seconds})
"""


@pytest.mark.parametrize("processes", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_outcomes_of_tests_are_written_as_they_come(
    run_gpu: ModuleType, tmp_path: Path, processes: tuple[str, ...]
) -> None:
    (tmp_path / "test_some.py").write_text(TESTS.format(seconds=300))
    file = tmp_path / run_gpu.TESTS
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "scripts.benchmarks.gpu.outcomes",
        "--outcomes", str(file), "-c", os.devnull, "--rootdir", str(tmp_path), *processes, str(tmp_path),
    ]  # fmt: skip
    step = Step("tests", tuple(command), {"PYTHONPATH": str(ROOT)})
    running = subprocess.Popen(step.argv, cwd=ROOT, env={**os.environ, **step.environment}, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(read_outcomes(file)) < 4 and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        running.terminate()
        running.wait()
    outcomes = {one.name.rpartition("::")[2]: one for one in read_outcomes(file)}
    assert {name: one.outcome for name, one in outcomes.items()} == {
        "test_good": "passed", "test_bad": "failed", "test_left_out": "skipped", "test_with_a_broken_fixture": "failed",
    }  # fmt: skip
    assert "one is not two" in outcomes["test_bad"].lines
    notes = run_gpu.notes_on_tests(tmp_path)
    assert notes[0] == "1 passed, 2 failed, 1 skipped"
    assert any("test_bad" in note and "one is not two" in note for note in notes)


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "outcomes"
    file.write_text('{"name": "a", "outcome": "passed", "seconds": 1.0, "lines": ""}\n{"name": "b", "outc')
    assert [one.name for one in read_outcomes(file)] == ["a"]
    assert read_outcomes(tmp_path / "none") == []


@pytest.mark.build
@pytest.mark.slow
@pytest.mark.skipif(BASH is None, reason="needs bash")
def test_a_dry_run_goes_through_everything_on_the_cpu(run_gpu: ModuleType, tmp_path: Path) -> None:
    """Nothing of the run on a GPU fails for want of a file, a module, a figure or a test."""
    assert BASH is not None
    command = [BASH, str(ROOT / "scripts/run_gpu.sh"), "--here", "--dry", "--output", "out"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
        env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "out"
    absent = [line for line in done.stdout.splitlines() if line.startswith("not on this machine")]
    assert all("compute-sanitizer" in line for line in absent), absent
    [summary] = out.glob("*summary.json")
    stages = json.loads(summary.read_text())["stages"]
    assert [(one["number"], one["outcome"]) for one in stages] == [(number, "done") for number in range(1, 7)]
    collected = (out / "2_tests.log").read_text()
    assert "error" not in collected.lower().splitlines()[-1]
    assert int(collected.splitlines()[-1].partition("/")[0]) >= 100
    assert json.loads((out / "figures.json").read_text())["rows"]
    assert "kernels that ran" in (out / "4_cases.log").read_text()
    assert "| kernel | calls | ms | share |" in (out / "profile.md").read_text()
    with pytest.raises(InputError, match="these figures are of a dry run"):
        run_gpu.main(["--output", str(out), "--page", str(tmp_path / "page.md")])
    assert not (tmp_path / "page.md").exists()


def test_compute_sanitizer_is_found_off_the_path(
    run_gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    program = tmp_path / "bin/compute-sanitizer"
    program.parent.mkdir()
    program.touch(0o755)
    assert run_gpu.sanitizer() == str(program)


def test_make_gpu_calls_the_script() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    assert lines[next(i for i, line in enumerate(lines) if line.startswith("gpu:")) + 1].startswith(
        "\tbash scripts/run_gpu.sh"
    )


@pytest.mark.skipif(BASH is None, reason="needs bash")
@pytest.mark.parametrize(
    ("arguments", "gpu", "uses"),
    [(["--here"], False, "here"), ([], True, "here"), ([], False, "venv")],
    ids=["--here", "its torch finds a GPU", "no GPU"],
)
def test_the_python_that_is_there_is_used(tmp_path: Path, arguments: list[str], gpu: bool, uses: str) -> None:
    assert BASH is not None
    root = tmp_path / "root with spaces"
    (root / "scripts/lib").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/run_gpu.sh", root / "scripts")
    (root / "scripts/lib/environment.sh").write_text(
        f'ROOT="{root}"; VENV_PYTHON="{tmp_path}/venv"\nfail() {{ exit 2; }}\n'
        "asks_for_help() { false; }\nensure_environment() { :; }\n"
    )
    for name in ("here", "venv"):
        program = tmp_path / name
        answers = f'case "$2" in *is_available*) exit {int(not gpu)};; *parse*) exit 0;; esac'
        program.write_text(f'#!/usr/bin/env bash\n{answers}\necho {name} "$@"\n')
        program.chmod(0o755)
    done = subprocess.run(
        [BASH, str(root / "scripts/run_gpu.sh"), *arguments, "--stage", "1"], capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHON": str(tmp_path / "here")},
    )  # fmt: skip
    words = " ".join([f"{root}/scripts/run_gpu.py", *arguments, "--stage 1"])
    assert done.stdout == f"{uses} {words}\n"
