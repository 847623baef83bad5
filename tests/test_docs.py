"""What the documentation says and a test can check: examples run, and every name that a page gives exists."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch

import config
from config.docs_generator import sections
from ops.build import CPU_SECONDS
from scripts.benchmark import comparisons
from tests.pages import DOCS, PAGES, ROOT, on_pages, text_of
from utils.typed import fields_of

MODULES = DOCS / "modules.md"
EXAMPLES = re.findall(r"^## `?(\w+)`?\n(.*?)(?=^## |\Z)", MODULES.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

PACKAGES = ("archs", "config", "data", "losses", "metrics", "models", "ops", "scripts", "utils")
FOLDERS = (*PACKAGES, "docs", "options", "tests")
PROGRAMS = {path.name: path for path in [ROOT / "train.py", ROOT / "test.py", *ROOT.glob("scripts/*.py")]}
ANALYSES = sorted(ROOT.glob("scripts/analyses/*.py"))  # the flags of analyse.py
COMMAND_LINE = ROOT / "config" / "command.py"  # of train.py and test.py
# Flags of the programs of others that the pages name.
OTHER_FLAGS = {
    "--array", "--help", "--logdir", "--max-restarts", "--nnodes", "--nproc-per-node", "--rdzv-backend",
    "--rdzv-endpoint", "--signal", "--standalone",
    *("--maxShapes", "--minShapes", "--onnx", "--optShapes", "--saveEngine", "--stronglyTyped"),  # trtexec
}  # fmt: skip
OTHER_FILES = {"metrics.jsonl"}  # of a run, and named like something in a package
# Written with a colon as keys of option files are, and something else.
OTHER_KEYS = {"Shapes", "base", "basicsr"}


def shown_files() -> set[str]:
    """Files that a page prints under their names, for the reader to write."""
    return {name for _, name in on_pages(r"^# ([\w/-]+\.\w+)$")}


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one; or in a file that a page shows."""
    for file in shown_files():
        shown = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        if name == shown or name.startswith(f"{shown}."):
            return True
    module, attributes = name, list[str]()
    while not (ROOT / module.replace(".", "/")).exists() and not (ROOT / f"{module.replace('.', '/')}.py").exists():
        module, _, last = module.rpartition(".")
        attributes.insert(0, last)
    if not attributes:
        return True
    found: object = importlib.import_module(module)
    for attribute in attributes:
        if not hasattr(found, attribute):
            return False
        found = getattr(found, attribute)
    return True


def option_keys() -> dict[str, set[str]]:
    """Section as a page writes it, with "" for all of them together -> the keys that it may hold."""
    keys: dict[str, set[str]] = {"": set()}
    for section in sections():
        own = {"type", *fields_of(section.target)}
        keys.setdefault(section.path or "top level", set()).update(own)
        keys[""] |= own | {part for part in section.path.split(".") if part}
    return keys


@pytest.mark.parametrize(("title", "text"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_example_of_a_block_runs(title: str, text: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert blocks, "a block is shown in use"
    with torch.random.fork_rng(devices=[]):
        for block in blocks:
            exec(compile(block, f"{MODULES.name}, {title}", "exec"), {})


def test_every_listed_block_has_an_example() -> None:
    listed = re.findall(r"^\| `archs\.[\w.]+\.(\w+)`", text_of(MODULES), re.MULTILINE)
    assert listed == [title for title, _ in EXAMPLES]


def test_example_of_an_operator_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for block in re.findall(
        r"^```python\n(.*?)^```", text_of(DOCS / "adding_an_operator.md"), re.MULTILINE | re.DOTALL
    ):
        exec(compile(block, "adding_an_operator.md", "exec"), {})
    assert "window_attention" in capsys.readouterr().out


def test_code_of_the_pages_passes_the_lint(tmp_path: Path) -> None:
    for page in PAGES:
        for i, block in enumerate(re.findall(r"^```python\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)):
            if not re.match(r"# \S+\.py\n", block):  # a file: tests/test_following_pages.py lints it in its place
                (tmp_path / f"{page.stem}_{i}.py").write_text(block, encoding="utf-8")
    assert len(list(tmp_path.iterdir())) > 5
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache", str(tmp_path)]
    # An example has no docstring of a file, and may print.
    for command in (["check", "--ignore", "D100,T201,INP001"], ["format", "--check", "--diff"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, *settings], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_paths_on_the_pages_exist() -> None:
    """Paths of this repository; names in capitals are placeholders, and rows of the benchmark are no paths."""
    found = on_pages(rf"(?<![\w./:-])(?:(?:{'|'.join(FOLDERS)})/[\w.*/-]*|[\w-]+\.(?:py|sh|toml)\b)")
    assert len(found) > 60
    rows = {key.split("/")[0] for key in comparisons()}
    shown = shown_files()
    files = {path.name for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    wrong = []
    for page, name in found:
        placeholder = re.search(r"[A-Z]", name)
        row = page == "performance.md" and name.split("/")[0] in rows and not Path(name).suffix
        exists = any(ROOT.glob(name.rstrip("/"))) or name in PROGRAMS or name in files
        if not (placeholder or row or exists or name in shown):
            wrong.append((page, name))
    assert not wrong


def test_rows_of_the_benchmark_on_the_pages_exist() -> None:
    groups = "|".join(sorted({key.split("/")[0] for key in comparisons()}))
    found = on_pages(rf"^(?:{groups})/[\w*]+$", [DOCS / "performance.md"])
    assert found
    assert not [name for _, name in found if not any(fnmatchcase(key, f"{name}*") for key in comparisons())]


def test_modules_and_functions_on_the_pages_exist() -> None:
    found = on_pages(rf"(?<![\w./-])(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z]\w*)+(?![\w/*])")
    assert len(found) > 20
    ours = [(page, name) for page, name in found if name not in OTHER_FILES]
    assert not [(page, name) for page, name in ours if not resolves(name) and not (ROOT / name).exists()]


def test_option_keys_on_the_pages_exist() -> None:
    keys = option_keys()
    names = {"train", "path", "val", "logger", "tile", "dist_params"}
    dotted = on_pages(rf"(?<![\w./:-])(?:{'|'.join(sorted(names))})\.(?!py\b)\w+")
    assert dotted
    assert not [(page, name) for page, name in dotted if name.split(".")[1] not in keys[name.split(".")[0]]]
    of_data = on_pages(r"datasets[.:]\w+[.:](\w+)")
    assert of_data
    assert not [(page, name) for page, name in of_data if name not in keys["datasets.NAME"]]
    written = on_pages(r"^(\w+): ")
    assert len(written) > 10
    assert not [(p, name) for p, name in written if name not in keys[""] | OTHER_KEYS and not name.isupper()]


def test_edits_on_the_pages_name_keys() -> None:
    """What follows ``--force_yml``: every key of an edit but names of data sets and of stages."""
    known = option_keys()[""]
    edits = [(page, name) for page, name in on_pages(r"(?<![\w./:-])((?:\w+:)+\w+)=") if not name.startswith("rdzv")]
    assert edits
    names = re.compile(r"train|val(_\w+)?|test_\w+|x\d")  # data sets, and stages of recipes
    unknown = [(page, key) for page, edit in edits for key in edit.split(":") if key not in known]
    assert not [(page, key) for page, key in unknown if not names.fullmatch(key)]


def test_flags_on_the_pages_exist() -> None:
    sources = [text_of(path) for path in [*PROGRAMS.values(), COMMAND_LINE, *ANALYSES]]
    found = on_pages(r"(?<![\w-])(--[a-z][\w-]*)")
    assert len(found) > 20
    ours = [(page, flag) for page, flag in found if flag not in OTHER_FLAGS]
    assert not [(page, flag) for page, flag in ours if not any(f'"{flag}"' in source for source in sources)]


def test_commands_on_the_pages_have_the_flags_they_use() -> None:
    lines = on_pages(r"(?:python|torchrun.*?|srun python) ((?:scripts/)?\w+\.py\b.*)")
    checked = 0
    wrong = []
    for page, line in lines:
        program, _, rest = line.split("#")[0].partition(" ")
        path = PROGRAMS.get(Path(program).name)
        if path is None:  # a program that the page itself shows
            continue
        source = text_of(path) + (text_of(COMMAND_LINE) if path.parent == ROOT else "")
        if path.name == "analyse.py":
            source += "".join(map(text_of, ANALYSES))
        flags = re.findall(r"(?<!\S)(-[\w-]*[A-Za-z][\w-]*)", rest)
        wrong += [(page, line, flag) for flag in flags if f'"{flag}"' not in source]
        checked += 1
    assert checked > 30
    assert not wrong


def test_check_of_readme_needs_nothing_but_the_demo_photographs() -> None:
    """The first command that a reader tries works on a fresh clone."""
    lines = text_of(ROOT / "README.md").splitlines()
    commands = [line for line in lines if re.match(r"python (?:train|test)\.py -opt", line)]
    assert any("--check" in line for line in commands)
    made = next(i for i, line in enumerate(lines) if line.startswith("python scripts/prepare_demo_data.py"))
    for line in commands:
        file = ROOT / line.split()[3]
        mode = "train" if "train.py" in line else "test"
        options = config.read(file, mode=mode)  # type: ignore[call-overload]
        roots = [str(dataset.dataroot_gt) for dataset in options.datasets.values()]
        assert roots
        assert all(root.startswith("datasets/demo") for root in roots), line
        assert lines.index(line) > made


def test_targets_of_make_on_the_pages_exist() -> None:
    targets = re.findall(r"^([\w-]+):", text_of(ROOT / "Makefile"), re.MULTILINE)
    named = on_pages(r"^make ([\w-]+)")
    assert named
    assert not [(page, name) for page, name in named if name not in targets]


def test_the_time_of_compiling_is_said_once_and_is_that_of_the_log() -> None:
    said = re.compile(r"compil.*\b(\w+ seconds|minutes?)\b")
    assert [page.name for page in PAGES for line in text_of(page).splitlines() if said.search(line)] == ["README.md"]
    assert f"in about {CPU_SECONDS} seconds each" in text_of(ROOT / "README.md")


def test_pages_that_readme_lists_are_all_pages() -> None:
    listed = set(re.findall(r"\]\((docs/\w+\.md)\)", text_of(ROOT / "README.md")))
    assert listed == {f"docs/{page.name}" for page in DOCS.glob("*.md")}


def test_map_of_readme_shows_every_folder() -> None:
    [drawn] = re.findall(r"^## Map\n\n```\n(.*?)^```", text_of(ROOT / "README.md"), re.MULTILINE | re.DOTALL)
    lines = [re.fullmatch(r"(\S+(?:  \S+)?) {2,}(\S.*)", line) for line in drawn.splitlines()]
    rows = [(line[1].split(), line[2]) for line in lines if line]
    assert len(rows) == len(lines)
    names = {name.rstrip("/") for shown, _ in rows for name in shown}
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert names == folders | {"train.py", "test.py", "options", "scripts", "tests", "docs", "experiments"}
    inner = [(ROOT / shown[0] / name) for shown, text in rows for name in re.findall(r"(\w+)/", text)]
    assert inner
    assert not [folder for folder in inner if not folder.is_dir()]


@pytest.mark.parametrize(
    "word",
    ["EMA", "MLP", "gradient accumulation", "micro-batch", "mixed precision", "gradient clipping", "self-ensemble",
     "worker process", "rank", "baseline", "speed-up", "metadata", "fine-tuning"],
)  # fmt: skip
def test_a_search_for_a_word_of_the_field_finds_a_page(word: str) -> None:
    assert any(re.search(rf"\b{word}", text_of(page), re.IGNORECASE) for page in PAGES)


@pytest.mark.parametrize("word", ["passport", "fellow", "in pieces", "averaged weights", "named once"])
def test_pages_do_not_use_words_that_nobody_searches_for(word: str) -> None:
    assert not [page.name for page in PAGES if re.search(rf"\b{word}", text_of(page), re.IGNORECASE)]
