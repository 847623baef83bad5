"""What the repository promises beside its code: licence, pinned versions, scripts that parse, links that lead on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
BINARY = (".png", ".jpg", ".npz", ".pth", ".safetensors")
SCRIPTS = sorted([*ROOT.glob("scripts/**/*.sh"), ROOT / ".ci" / "run"])
REQUIREMENTS = ("requirements.txt", "requirements-export.txt", "requirements-dev.txt")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def text_files() -> list[Path]:
    """Everything that is, or is about to be, in the repository and can be read."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git clone")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout.split("\0")
    found = [ROOT / name for name in listed if name and not name.endswith(BINARY)]
    return [path for path in found if path.is_file()]


def tracked(*options: str) -> list[str]:
    """What git lists of the repository."""
    text_files()  # which skips the test where there is no clone
    command = ["git", "ls-files", "-z", *options]
    listed = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    return [name for name in listed.split("\0") if name]


def requirements(name: str) -> list[Requirement]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def names_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_file_of_the_repository_is_ignored_or_a_link() -> None:
    assert not tracked("--cached", "--ignored", "--exclude-standard")
    assert not [name for name in tracked() if (ROOT / name).is_symlink()]


def test_every_python_file_of_the_repository_is_linted() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--show-files", "."]
    shown = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout.splitlines()
    linted = {Path(line).resolve() for line in shown}
    assert not [name for name in tracked() if name.endswith(".py") and (ROOT / name).resolve() not in linted]


def test_licence_is_apache_2() -> None:
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


@pytest.mark.parametrize("python", PYTHONS)
def test_each_requirement_is_pinned_once_for_each_python(python: str) -> None:
    environment = {**{k: str(v) for k, v in default_environment().items()}, "python_version": python}
    pins: dict[str, list[Requirement]] = {}
    for pin in requirements("constraints.txt"):
        assert [clause.operator for clause in pin.specifier] == ["=="], f"{pin} pins no version"
        if pin.marker is None or pin.marker.evaluate(environment):
            pins.setdefault(canonicalize_name(pin.name), []).append(pin)
    assert not {name: found for name, found in pins.items() if len(found) > 1}
    for wanted in (wanted for name in REQUIREMENTS for wanted in requirements(name)):
        found = pins.get(canonicalize_name(wanted.name), [])
        assert len(found) == 1, f"{wanted.name} has {len(found)} pins for Python {python}"
        [pin] = found
        [clause] = pin.specifier
        assert wanted.specifier.contains(clause.version), f"{pin} is outside {wanted}"


def test_requirements_are_ranges() -> None:
    for wanted in (wanted for name in REQUIREMENTS for wanted in requirements(name)):
        assert {clause.operator for clause in wanted.specifier} <= {">=", "<", "!="}
        assert str(wanted.specifier), f"{wanted} has no lower bound"


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("script", SCRIPTS, ids=names_of)
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_ci_runs_the_checks_and_nothing_else() -> None:
    script = ROOT / ".ci" / "run"
    commands = [line.strip() for line in script.read_text(encoding="utf-8").splitlines()]
    assert [line for line in commands if "scripts/" in line] == ["exec bash scripts/run_tests.sh"]
    assert commands[-1] == "exec bash scripts/run_tests.sh"
    assert os.access(script, os.X_OK)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("given", [None, "given"])
@pytest.mark.parametrize("beside", [False, True])
def test_ci_finds_the_shared_folder(tmp_path: Path, given: str | None, beside: bool) -> None:
    root = tmp_path / "a folder" / "main"
    (root / ".ci").mkdir(parents=True)
    (root / "scripts").mkdir()
    shutil.copy(ROOT / ".ci" / "run", root / ".ci")
    (root / "scripts" / "run_tests.sh").write_text('echo "${FOCALSR_SHARED:-none} from $PWD"\n', encoding="utf-8")
    if beside:
        (root.parent / "shared").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "FOCALSR_SHARED"}
    if given:
        environment["FOCALSR_SHARED"] = given
    done = subprocess.run(
        ["bash", str(root / ".ci" / "run")], cwd=tmp_path, env=environment, text=True, capture_output=True, check=True
    )
    expected = given or (str(root.parent / "shared") if beside else "none")
    assert done.stdout.strip() == f"{expected} from {root}"


def test_no_path_of_one_machine_and_no_registry() -> None:
    rules = [
        re.compile(r"(?<![\w.}])/(?:root|work)/\w|/tmp/[a-z]"),
        re.compile(r"(?:pypi|pythonhosted|pytorch|anaconda|npmjs|debian)\.(?:org|com|io)/(?!get-started)"),
        re.compile(r"--(?:extra-)?index-url|--find-links"),
    ]
    texts = {path: path.read_text(encoding="utf-8") for path in text_files() if path != Path(__file__)}
    wrong = [
        f"{names_of(path)}: {match[0]}"
        for path, text in texts.items()
        for rule in rules
        for match in rule.finditer(text)
    ]
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=names_of)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    own = [target for target in targets if not re.match(r"[a-z]+:", target)]
    wrong = [target for target in own if not (page.parent / target.split("#")[0]).exists()]
    wrong += [target for target in own if target.startswith("#") and target[1:] not in headings(text)]
    assert not wrong


def headings(text: str) -> set[str]:
    """The anchors of a page, as hosting sites make them from its headings."""
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_no_test_writes_an_interpreter_into_a_first_line() -> None:
    """``#!`` cannot name a path that has a space, as that of a virtual environment may have."""
    texts = {path: path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py")}
    assert not [path for path, text in texts.items() if re.search(r"#!\s*\{", text)]


def test_readme_names_only_files_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"(?:bash|python|-opt) ((?:[\w.-]+/)*[\w.-]+\.(?:py|sh|yml))", text)
    assert named
    assert not [name for name in named if not (ROOT / name).exists()]
