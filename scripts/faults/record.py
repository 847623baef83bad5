"""What a soak did, as JSON, as Markdown, and in its place on a page."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import textwrap
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from scripts.faults.rounds import Round
from utils.env import hardware, versions
from utils.errors import InputError
from utils.files import write_json, write_text
from utils.marked import replace_marked
from utils.progress import clock

BEGIN, END = "<!-- soak: written by scripts/soak.py --page -->", "<!-- soak: end -->"
JSON, MARKDOWN = "soak.json", "soak.md"


class Record:
    """The rounds of a soak, in files that hold all of them at any moment.

    Args:
        folder: of ``soak.json`` and ``soak.md``.
        arguments: of the command line, that decide what is drawn.
        minutes: that were asked for.
    """

    def __init__(self, folder: Path, arguments: Sequence[str], minutes: float) -> None:
        self.folder = folder
        chosen = shlex.join(arguments)
        self.facts: dict[str, Any] = {
            "command": f"python scripts/soak.py --minutes {minutes:g} {chosen}",
            "again": f"python scripts/soak.py {chosen} --round",
            "date": f"{datetime.now(timezone.utc):%Y-%m-%d}", "seconds": 0.0,
            "versions": versions(), "hardware": {**hardware(), "threads": "1 a process"},
        }  # fmt: skip
        self.rounds: list[Round] = []

    def add(self, done: Round, seconds: float) -> None:
        """Keep a round, and write the files; ``seconds`` since the beginning of the soak."""
        self.rounds.append(done)
        self.facts["seconds"] = round(seconds, 1)
        write_json(self.folder / JSON, self.content())
        write_text(self.folder / MARKDOWN, markdown(self.content()))

    def content(self) -> dict[str, Any]:
        """As it is written."""
        return {**self.facts, "rounds": [dataclasses.asdict(done) for done in self.rounds]}

    def deviations(self) -> list[str]:
        """Of all rounds."""
        return [text for done in self.rounds for text in done.deviations]

    def summary(self) -> str:
        """One line for the console, and one for each deviation."""
        runs = sum(len(done.runs) for done in self.rounds)
        lines = [
            f"{len(self.rounds)} rounds, {runs} runs, {len(self.deviations())} deviations; the record is in "
            f"{self.folder / MARKDOWN}"
        ]
        for done in self.rounds:
            lines += [f"round {done.number}, {done.setting}: {text}" for text in done.deviations]
        if self.deviations():
            lines.append(f"the same round again: {self.facts['again']} N")
        return "\n".join(lines)


def read_record(folder: Path) -> dict[str, Any]:
    """The record of an earlier soak.

    Raises:
        InputError: there is none.
    """
    path = folder / JSON
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        markdown(content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: no record of a soak ({type(error).__name__}: {error}); run one first") from error
    return content


def rewrite_page(page: Path, content: Mapping[str, Any]) -> None:
    """Put a record between the marks of a page, in place of the one that was there.

    Raises:
        InputError: the page has no marks.
    """
    replace_marked(page, (BEGIN, END), markdown(content))


def markdown(content: Mapping[str, Any]) -> str:
    """A record as tables: what it ran on, the settings, what happened, what deviated."""
    rounds = content["rounds"]
    runs = [run for done in rounds for run in done["runs"]]
    deviations = [(done, text) for done in rounds for text in done["deviations"]]
    reads = sum((Counter(done["reads"]) for done in rounds), Counter[str]())
    facts = {**content["hardware"], **content["versions"]}
    text = (
        f"{clock(content['seconds'])} (h:mm:ss), {len(rounds)} rounds, {len(runs)} runs, {len(deviations)} deviations. "
        f"Meanwhile a second process read {reads['.pth'] + reads['.state']:,} checkpoint files and {reads['.jsonl']:,} "
        f"times `metrics.jsonl`. {content['date']}; {', '.join(f'{name} {value}' for name, value in facts.items())}."
    )
    lines = textwrap.fill(text, 118, break_on_hyphens=False, break_long_words=False)
    text = f"`{content['command']}`:\n{lines}\n\n"
    return text + _happened(runs) + "\n" + _settings(rounds) + _deviations(content, deviations)


def _happened(runs: list[dict[str, Any]]) -> str:
    lines = ["| what happened | times | exit codes of the run |", "| --- | ---: | --- |"]
    codes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for run in runs:
        codes[run["disturbance"]][str(run["code"])] += 1
    for kind, found in sorted(codes.items()):
        shown = ", ".join(f"{code} ({count})" for code, count in sorted(found.items()))
        lines.append(f"| {'nothing, to the end' if kind == 'none' else kind} | {found.total()} | {shown} |")
    damages = Counter(re.sub(":.*", "", run["damage"]) for run in runs if run["damage"])
    lines += [f"| {kind}, between two runs | {count} | |" for kind, count in sorted(damages.items())]
    return "\n".join(lines) + "\n"


def _settings(rounds: list[dict[str, Any]]) -> str:
    lines = ["| training | rounds | runs | deviations |", "| --- | ---: | ---: | ---: |"]
    for name in dict.fromkeys(done["setting"] for done in rounds):
        own = [done for done in rounds if done["setting"] == name]
        counts = [sum(len(done[key]) for done in own) for key in ("runs", "deviations")]
        lines.append(f"| {name} | {len(own)} | {counts[0]} | {counts[1]} |")
    return "\n".join(lines) + "\n"


def _deviations(content: Mapping[str, Any], deviations: list[tuple[dict[str, Any], str]]) -> str:
    lines = []
    for done, text in deviations:
        again = f"{content['again']} {done['number']}"
        first = " ".join(text.split())[:200].replace("`", "'")
        lines.append(f"- round {done['number']} ({done['setting']}): {first}; again: `{again}`")
    return "\n" + "\n".join(lines) + "\n" if lines else ""
