"""A process that reads everything a training writes, all the time, and must never see anything half-written."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from pathlib import Path
from types import FrameType

import yaml

from models.weights.files import read_checkpoint
from utils.errors import InputError
from utils.files import write_json

Identity = tuple[int, int]
"""Of what a file holds: inode and time of its last change."""

_STATES = ("models/*.pth", "training_states/*.state")


def identity(path: Path) -> Identity:
    """Of a file as it is now."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def read_all_the_time(root: Path, report: Path, damaged: frozenset[Identity]) -> int:
    """Read until SIGTERM comes; writes what was read, and what was wrong with it, to ``report``.

    Args:
        root: ``experiments/NAME``.
        report: JSON file: ``reads`` by kind, ``problems``.
        damaged: files that are known to be damaged.
    """
    left = False

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal left
        left = True

    signal.signal(signal.SIGTERM, leave)
    reads: Counter[str] = Counter()
    problems: list[str] = []
    while not left and len(problems) < 20:
        for path in [*(path for pattern in _STATES for path in root.glob(pattern)), *root.glob("[!.]*.*")]:
            try:
                before = identity(path)
                if before not in damaged and path.is_file():
                    problem = _problem(path)
                    reads[path.suffix] += 1
                    # Another file may have taken its name in between; one that changes in place was half-written.
                    if problem and path.stat().st_ino == before[0]:
                        problems.append(f"a reader saw {path.name}: {problem}")
            except FileNotFoundError:  # pruned, or archived
                continue
            time.sleep(0.003)
        time.sleep(0.01)
    write_json(report, {"reads": reads, "problems": problems})
    return 0


def _problem(path: Path) -> str:
    """What is wrong with a file; nothing where it is whole."""
    if path.suffix in (".pth", ".state"):
        try:
            read_checkpoint(path)
        except InputError as error:
            return str(error)
        return ""
    content = path.read_bytes()
    try:
        text = content.decode()
        if path.suffix == ".yml":
            return "" if isinstance(yaml.safe_load(text), dict) else "no option file"
        return jsonl_problem(text) if path.suffix == ".jsonl" else ""
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        return f"{type(error).__name__}: {error}"


def jsonl_problem(text: str) -> str:
    """What is wrong with ``metrics.jsonl``, whose last line may still be on its way."""
    steps = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            return f"line {number} is no JSON: {line[:80]!r}"
        if record["kind"] == "train":
            steps.append(record["step"])
    if steps != list(range(1, len(steps) + 1)):
        return f"iterations are missing or there twice: {steps[:200]}"
    return ""
