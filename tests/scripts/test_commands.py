"""Every command that README and the pages show is one that the programs take, from any folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.pages import PAGES, ROOT, code_of
from tests.runs import environment, run_here, run_line

BASH = shutil.which("bash")
README = ROOT / "README.md"
PROGRAMS = {path.name: path for path in [ROOT / "train.py", ROOT / "test.py", *(ROOT / "scripts").glob("*.py")]}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BASH is None or not hasattr(os, "fork"), reason="needs bash and fork"),
]

# Started in one process, which imports torch once, and forked from it. A program is stopped when its own parser has
# taken the command line; train.py and test.py, when they have read the option file with the edits of --force_yml.
TAKE_EACH = """
import argparse, json, os, pathlib, runpy, sys, traceback
root, commands = pathlib.Path(sys.argv[1]), json.loads(sys.stdin.read())
sys.path.insert(0, str(root))
import config, models.training.loop, models.evaluation.tester, models.recipe, scripts.benchmark, scripts.upscale
parse, read = argparse.ArgumentParser.parse_args, config.read

def parsed(self, arguments=None, namespace=None):
    typed = parse(self, arguments, namespace)
    option_file = getattr(typed, "opt", None)
    if not (self.prog in ("train.py", "test.py") and option_file.is_file()):
        os._exit(0)
    return typed
def read_and_stopped(*arguments, **named):
    read(*arguments, **named)
    os._exit(0)
argparse.ArgumentParser.parse_args, config.read = parsed, read_and_stopped
wrong = []
for program, *arguments in commands:
    pid = os.fork()
    if pid == 0:
        sys.argv[:] = [program, *arguments]
        try:
            runpy.run_path(program, run_name="__main__")
        except BaseException:
            traceback.print_exc()
        os._exit(3)  # it was neither taken nor refused
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        print("not taken:", program, *arguments, file=sys.stderr)
        wrong.append(program)
sys.exit(bool(wrong))
"""

# Stands in for .venv/bin/python in a copy of the shell scripts: what is not for the environment itself is written down.
PYTHON = """#!/usr/bin/env bash
case "$*" in
    -|"- "*|"-c "*version_info*) exec "{real}" "$@" ;;
    *"import sys, torch"*) exit 1 ;;  # no GPU
    "-m pip "*) ;;
    *) printf '%s\\n' "$(printf '%q ' "$@")" >>"{log}" ;;
esac
"""


def commands() -> list[list[str]]:
    """The words of every command on the pages and in the Makefile, without variables and what starts a program."""
    shortened = {"$P ": "python scripts/prepare_dataset.py "}  # as docs/data.md defines it
    lines = [code for page in PAGES for code in code_of(page)]
    for short, long in shortened.items():
        lines = [line.replace(short, long) for line in lines]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    made = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = []
    for line in [*lines, *made.splitlines()]:
        if not re.match(r"(\w+=\S+ )*(python|\.venv/bin/python|bash|torchrun|srun|pip) ", line.strip()):
            continue
        words = shlex.split(line, comments=True)
        while "=" in words[0] or words[0] == "srun":
            words.pop(0)
        if words not in found:
            found.append(words)
    return found


def of_programs(found: Sequence[Sequence[str]]) -> list[list[str]]:
    """The commands that start programs of ours; option files that exist are named by their whole path."""
    taken = []
    for words in found:
        name = next((word for word in words if Path(word).name in PROGRAMS), None)
        if name is None or words[0] == "bash":
            continue
        arguments = [str(ROOT / word) if (ROOT / word).is_file() else word for word in words[words.index(name) + 1 :]]
        taken.append([str(PROGRAMS[Path(name).name]), *arguments])
    return taken


def take(commands: Sequence[Sequence[str]], folder: Path) -> subprocess.CompletedProcess[str]:
    """Start each command in ``folder``."""
    return run_line(folder, [sys.executable, "-c", TAKE_EACH, str(ROOT)], given=json.dumps(commands))


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_programs_take_every_command_of_the_pages_from_another_folder(tmp_path: Path) -> None:
    shown = of_programs(commands())
    assert len(shown) > 40
    assert {Path(program).name for program, *_ in shown} >= {"train.py", "test.py", "plot.py", "upscale.py"}
    done = take(shown, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_wrong_command_would_be_found(tmp_path: Path) -> None:
    wrong = [
        ["plot.py", "a", "--smoth", "3"],
        ["train.py", "-opt", str(ROOT / "options/train_hat_x4.yml"), "--force_yml", "train:total_itre=3"],
        ["train.py"],
        ["prepare_dataset.py", "pac", "-i", "photos"],
    ]
    done = take([[str(PROGRAMS[program]), *arguments] for program, *arguments in wrong], tmp_path)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("not taken: ")] == [
        f"not taken: {' '.join([str(PROGRAMS[program]), *arguments])}" for program, *arguments in wrong
    ]


def test_shell_scripts_run_their_commands_from_another_folder(tmp_path: Path) -> None:
    """In a copy, whose folder has a space, with a Python that writes down what it is asked to run."""
    root, log = tmp_path / "focal sr", tmp_path / "commands"
    shutil.copytree(
        ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("*.py", "benchmarks", "__pycache__")
    )
    for path in (*ROOT.glob("requirements*.txt"), ROOT / "constraints.txt"):
        shutil.copy(path, root)
    python = root / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON.format(real=sys.executable, log=log), encoding="utf-8")
    python.chmod(0o755)
    shown = [words for words in commands() if words[0] == "bash"]
    assert {Path(words[1]).name for words in shown} >= {"quickstart.sh", "run_tests.sh", "run_gpu.sh"}
    clean = {name: value for name, value in environment().items() if name != "FOCALSR_SHARED"} | {"PYTHON": str(python)}
    for words in shown:
        line = [str(BASH), str(root / words[1]), *words[2:]]
        done = subprocess.run(line, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    inner = of_programs([["python", *shlex.split(line)] for line in log.read_text(encoding="utf-8").splitlines()])
    assert {Path(program).name for program, *_ in inner} == {
        "prepare_demo_data.py", "train.py", "test.py", "visualise.py", "run_gpu.py",
    }  # fmt: skip
    done = take(inner, tmp_path)
    assert done.returncode == 0, done.stderr


def test_commands_of_the_readme_work_on_a_fresh_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photographs and the check as README has them; the training in three iterations."""
    [section] = re.findall(r"^## Your own data.*?```bash\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    more = {
        "scripts/prepare_demo_data.py": ["-o", "datasets/demo"],  # by itself it writes to the repository
        "train.py": ["--force_yml", "train:total_iter=3", "num_gpu=0"],
        "test.py": ["num_gpu=0"],
    }
    (tmp_path / "options").symlink_to(ROOT / "options")
    monkeypatch.chdir(tmp_path)
    for line in section.splitlines():
        _, program, *arguments = shlex.split(line, comments=True)
        assert run_here(program, *arguments, *more.get(program, [])) == 0, line
    assert {path.name for path in (tmp_path / "upscaled").iterdir()} == {"chelsea.png", "coffee.png"}


def test_files_and_modules_of_other_commands_exist() -> None:
    """``pip install -r FILE``, ``python -m MODULE``, ``python -c CODE``."""
    found = commands()
    files = [words[i + 1] for words in found for i, word in enumerate(words) if word == "-r" and "pip" in words]
    assert files
    assert not [name for name in files if not (ROOT / name).is_file()]
    tests = [word for words in found for word in words if word.startswith("tests/")]
    assert not [name for name in tests if not (ROOT / name).exists()]
    code = [words[words.index("-c") + 1] for words in found if "-c" in words and "python" in words[0]]
    assert code
    for line in code:
        done = subprocess.run([sys.executable, "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout
