"""scripts/lib/environment.sh: one .venv, made once, installed into only when there is something to install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASH = shutil.which("bash")

pytestmark = pytest.mark.skipif(BASH is None, reason="needs bash")

# Stands in for .venv/bin/python: pip only writes down what it was asked for.
PYTHON = """#!/usr/bin/env bash
case "$*" in
    "-m pip --version") ;;
    "-m pip "*) printf '%s\\n' "$*" >>"{log}"; exit {pip_exit} ;;
    *) exec "{real}" "$@" ;;
esac
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with just what environment.sh reads, in a folder whose name is awkward."""
    root = tmp_path / "a folder with it's spaces"
    (root / "scripts" / "lib").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "lib" / "environment.sh", root / "scripts" / "lib")
    for path in (*ROOT.glob("requirements*.txt"), ROOT / "constraints.txt"):
        shutil.copy(path, root)
    return root


def fake_python(path: Path, version: str) -> Path:
    """An interpreter that only prints its version."""
    return executable(path, f"#!/usr/bin/env bash\necho {version}\n")


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)
    return path


def venv_with_fake_pip(root: Path, pip_exit: int = 0) -> Path:
    """A .venv whose pip writes its arguments into the file that is returned."""
    log = root / "pip.log"
    executable(root / ".venv/bin/python", PYTHON.format(log=log, real=sys.executable, pip_exit=pip_exit))
    return log


def shell(root: Path, commands: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``commands`` after environment.sh, from another folder than the repository's."""
    script = f'set -euo pipefail; source "$1"; {commands}'
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "FOCALSR_SHARED")}
    return subprocess.run(
        [str(BASH), "-c", script, "test.sh", str(root / "scripts" / "lib" / "environment.sh")],
        cwd=root.parent, env={**kept, **environment}, text=True, capture_output=True, check=False, timeout=60,
    )  # fmt: skip


def test_root_is_found_from_any_folder(root: Path) -> None:
    done = shell(root, 'enter_root; pwd; echo "$VENV_PYTHON"', CDPATH=str(root.parent))
    assert done.stdout.splitlines() == [str(root), str(root / ".venv" / "bin" / "python")]


def test_a_relative_shared_folder_keeps_its_meaning(root: Path) -> None:
    (root.parent / "shared data").mkdir()
    done = shell(root, 'enter_root; echo "$FOCALSR_SHARED"', FOCALSR_SHARED="shared data")
    assert done.stdout.strip() == str(root.parent / "shared data")


@pytest.mark.parametrize("version", ["2.7", "3.1", "3.9", "3.15", "4.0"])
def test_a_python_that_does_not_fit_is_named_with_what_fits(root: Path, tmp_path: Path, version: str) -> None:
    chosen = fake_python(tmp_path / "some python", version)
    done = shell(root, "make_venv", PYTHON=str(chosen))
    assert done.returncode == 2
    assert str(chosen) in done.stderr
    assert f"is Python {version}" in done.stderr
    assert "3.10 3.11 3.12 3.13 3.14" in done.stderr
    assert not (root / ".venv").exists()


def test_a_python_that_does_not_run_is_named(root: Path) -> None:
    done = shell(root, "make_venv", PYTHON="no-such-python")
    assert done.returncode == 2
    assert "PYTHON=no-such-python does not run" in done.stderr


@pytest.mark.parametrize(("variable", "mark"), [("FORCE_COLOR", "\x1b[1;31merror:\x1b[0m"), ("NO_COLOR", "error:")])
def test_errors_are_coloured_as_those_of_the_programs(root: Path, variable: str, mark: str) -> None:
    assert shell(root, "fail 'it is wrong'", **{variable: "1"}).stderr == f"{mark} it is wrong\n"


def test_the_first_python_that_fits_is_taken(root: Path, tmp_path: Path) -> None:
    for name, version in (("python3", "3.8"), ("python", "2.7"), ("python3.13", "3.13"), ("python3.12", "3.12")):
        fake_python(tmp_path / "bin" / name, version)
    done = shell(root, "find_interpreter", PATH=f"{tmp_path / 'bin'}{os.pathsep}{Path(str(BASH)).parent}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "python3.13"


def test_no_python_that_fits_lists_what_was_found(root: Path, tmp_path: Path) -> None:
    for name in ("python3", "python", *(f"python3.{minor}" for minor in range(10, 15))):
        fake_python(tmp_path / "bin" / name, "3.8")
    done = shell(root, "find_interpreter", PATH=f"{tmp_path / 'bin'}{os.pathsep}{Path(str(BASH)).parent}")
    assert done.returncode == 2
    assert "python3 is 3.8" in done.stderr
    assert "PYTHON=" in done.stderr


def test_a_venv_of_another_python_is_not_used(root: Path, tmp_path: Path) -> None:
    fake_python(root / ".venv/bin/python", "3.9")
    done = shell(root, "make_venv")
    assert done.returncode == 2
    assert "holds Python 3.9" in done.stderr
    assert "delete that folder" in done.stderr


def test_a_venv_is_not_used_against_the_wish(root: Path, tmp_path: Path) -> None:
    fake_python(root / ".venv/bin/python", "3.11")
    done = shell(root, "make_venv", PYTHON=str(fake_python(tmp_path / "python", "3.12")))
    assert done.returncode == 2
    assert "holds Python 3.11" in done.stderr


def test_a_broken_venv_is_named(root: Path) -> None:
    (root / ".venv").mkdir()
    done = shell(root, "make_venv")
    assert done.returncode == 2
    assert "does not hold a Python that runs" in done.stderr


def test_a_python_without_venv_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    text = '#!/usr/bin/env bash\n[ "$1" = -c ] && { echo 3.11; exit; }\nmkdir -p "$3/bin"; echo half made; exit 1\n'
    done = shell(root, "make_venv", PYTHON=str(executable(tmp_path / "python", text)))
    assert done.returncode == 2
    assert "apt install python3-venv" in done.stderr
    assert not (root / ".venv").exists()


def test_installing_happens_once_and_again_when_the_requirements_change(root: Path) -> None:
    log = venv_with_fake_pip(root)
    assert shell(root, "ensure_environment requirements.txt").returncode == 0
    first = log.read_text(encoding="utf-8").splitlines()
    assert len(first) == 1
    assert f"-r {root}/requirements.txt -c {root}/constraints.txt" in first[0]

    again = shell(root, "ensure_environment requirements.txt")
    assert again.returncode == 0
    assert log.read_text(encoding="utf-8").splitlines() == first

    with (root / "constraints.txt").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert shell(root, "ensure_environment requirements.txt").returncode == 0
    assert len(log.read_text(encoding="utf-8").splitlines()) == 2


def test_the_checks_install_more_than_the_quick_start(root: Path) -> None:
    log = venv_with_fake_pip(root)
    shell(root, "ensure_environment requirements.txt")
    shell(root, "ensure_environment requirements-dev.txt")
    assert "requirements-dev.txt" in log.read_text(encoding="utf-8").splitlines()[1]


def test_the_quick_start_needs_nothing_after_the_checks(root: Path) -> None:
    log = venv_with_fake_pip(root)
    shell(root, "ensure_environment requirements-dev.txt")
    shell(root, "ensure_environment requirements.txt")
    assert len(log.read_text(encoding="utf-8").splitlines()) == 1


def test_a_failed_installation_is_tried_again(root: Path) -> None:
    venv_with_fake_pip(root, pip_exit=1)
    failed = shell(root, "ensure_environment requirements.txt")
    assert failed.returncode == 2
    assert "pip could not install requirements.txt" in failed.stderr

    log = venv_with_fake_pip(root)
    assert shell(root, "ensure_environment requirements.txt").returncode == 0
    assert len(log.read_text(encoding="utf-8").splitlines()) == 2


def test_another_opencv_is_recognised(root: Path, tmp_path: Path) -> None:
    record = tmp_path / "site" / "opencv_python-4.10.0.dist-info" / "METADATA"
    record.parent.mkdir(parents=True)
    record.write_text("Metadata-Version: 2.1\nName: opencv-python\nVersion: 4.10.0\n", encoding="utf-8")
    venv_with_fake_pip(root)
    assert shell(root, "has_other_opencv", PYTHONPATH=str(tmp_path / "site")).returncode == 0


def test_another_opencv_is_kept(root: Path, tmp_path: Path) -> None:
    log = venv_with_fake_pip(root)
    # rm is silenced, so that what pip was given can be looked at.
    silenced = "has_other_opencv() { true; }; rm() { true; }; ensure_environment requirements-dev.txt"
    done = shell(root, silenced, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    folder = Path(log.read_text(encoding="utf-8").split(" -r ")[1].split("/requirements-dev.txt")[0])
    asked = (folder / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert "torch>=2.6" in asked
    assert not [line for line in asked if line.startswith("opencv")]
    included = (folder / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    named = [line.removeprefix("-r ") for line in included if line.startswith("-r ")]
    assert named == ["requirements.txt", "requirements-export.txt", "requirements-analysis.txt"]
    assert all((folder / name).is_file() for name in named)
