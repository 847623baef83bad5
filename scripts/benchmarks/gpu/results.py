"""The figures of a run, in a file that holds all of them at any moment."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import InputError
from utils.files import write_json

FILE = "figures.json"


@dataclass(frozen=True)
class Result:
    """A figure, measured or not.

    Attributes:
        key: of the figure.
        ms: median, or None where ``note`` says why there is none.
        low: the fastest call.
        high: the slowest call.
        mib: most memory of the device, weights and inputs included.
        calls: that count.
        warm_ups: before them.
        share: the least time that the limits of the device allow, as a part of the median.
        limit: which limit that is.
        note: why there is no time.
        failed: it raised an error.
    """

    key: str
    ms: float | None = None
    low: float | None = None
    high: float | None = None
    mib: float | None = None
    calls: int = 0
    warm_ups: int = 0
    share: float | None = None
    limit: str | None = None
    note: str = ""
    failed: bool = False


@dataclass(frozen=True)
class Results:
    """What a run has measured.

    Attributes:
        machine: card, versions, date, limits.
        tiny: small sizes, for a dry run: no figures to publish.
        missing: figures that were asked for and have not had their turn.
        rows: in the order of the run.
    """

    machine: dict[str, str]
    tiny: bool
    missing: int
    rows: tuple[Result, ...]

    def write(self, file: Path) -> None:
        """Write them.

        Raises:
            InputError, StorageError: the file cannot be written.
        """
        write_json(file, dataclasses.asdict(self))


def read_results(file: Path) -> Results:
    """What a run has written.

    Raises:
        InputError: the file is not there, or no such file.
    """
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        rows = tuple(Result(**row) for row in held["rows"])
        return Results(dict(held["machine"]), bool(held["tiny"]), int(held["missing"]), rows)
    except FileNotFoundError:
        raise InputError(f"{file}: there are no figures yet; stage 3 of scripts/run_gpu.py measures them") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: expected the figures of a run ({type(error).__name__}: {error})") from None


def same_machine(known: Results, machine: dict[str, str], *, tiny: bool) -> bool:
    """Whether figures can stand beside those of another run."""
    return known.tiny == tiny and all(known.machine.get(name) == machine[name] for name in ("gpu", "torch", "cuda"))


def kept(rows: Sequence[Result], *, failed: bool) -> list[Result]:
    """The rows that need not be measured again: all with a time, and, if wanted, those that failed."""
    return [row for row in rows if row.ms is not None or (failed and row.failed)]
