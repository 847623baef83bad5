"""The rows of a run, in files that hold all of them at any moment: an interrupted run loses only the row it was at."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from scripts.benchmarks.limits import Limits
from scripts.benchmarks.measure import Row
from scripts.benchmarks.report import page
from utils.env import hardware, versions
from utils.errors import InputError
from utils.files import write_json, write_text


class Record:
    """Rows, and the files that are written anew with each of them.

    Args:
        command: arguments of the run, for the page.
        limits: of the machine.
        json_file: for ``--compare`` and ``--resume``, or None.
        markdown_file: the page, or None.
        missing: rows that are going to be measured.
        rows: those that an earlier run has measured.
    """

    def __init__(
        self,
        command: str,
        limits: Limits,
        json_file: Path | None,
        markdown_file: Path | None,
        missing: int,
        rows: Sequence[Row] = (),
    ) -> None:
        self.command, self.limits, self.missing = command, limits, missing
        self.json_file, self.markdown_file = json_file, markdown_file
        self.rows = list(rows)
        self.machine = {"hardware": hardware(), "versions": versions()}

    def add(self, row: Row) -> None:
        """Keep a row, in place of an earlier one of its name, and write the files."""
        self.rows = [*(known for known in self.rows if known.key != row.key), row]
        self.missing -= 1
        self.write()

    def write(self, sections: Sequence[str] = ()) -> None:
        """Write the files.

        Args:
            sections: of the page, behind the rows.

        Raises:
            InputError, StorageError: a file cannot be written.
        """
        limits = self.limits.described()
        if self.json_file is not None:
            rows = [{**dataclasses.asdict(row), "speed": row.speed} for row in self.rows]
            write_json(self.json_file, {**self.machine, "limits": limits, "missing": self.missing, "rows": rows})
        if self.markdown_file is not None:
            facts = {**self.machine["hardware"], **self.machine["versions"], **limits}
            write_text(self.markdown_file, page(self.command, facts, self.rows, self.missing, sections))


def earlier_rows(file: Path) -> list[Row]:
    """What an earlier run on this machine has measured; nothing where the file does not exist.

    Rows that were left out or failed are not among them: they get another chance.

    Args:
        file: of ``--json``.

    Raises:
        InputError: the file is no ``--json``, or from other hardware or versions.
    """
    if not file.exists():
        return []
    names = [field.name for field in dataclasses.fields(Row)]
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        machine = {**held["hardware"], **held["versions"]}
        rows = [Row(**{name: row[name] for name in names}) for row in held["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--resume: {file} is no file that this version writes with --json ({type(error).__name__}: {error})"
        ) from None
    here = {**hardware(), **versions()}
    other = [f"{name} {machine.get(name)}, here {here[name]}" for name in here if machine.get(name) != here[name]]
    if other:
        raise InputError(f"--resume: {file} is from another machine ({'; '.join(other)}); choose another --json")
    return [row for row in rows if row.ours_ms is not None and row.baseline_ms is not None]
