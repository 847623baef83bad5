"""Shows that nothing is lost: ``python scripts/soak.py --minutes 60``.

A tiny network is trained undisturbed, then again while it is killed, stopped by signals, run out of disk, robbed of its
worker processes and ranks, started a second time beside itself, and its newest files are damaged; all the time another
process reads what it writes. It is started again until it ends, and has to end with the bits of the undisturbed
training: weights, EMA weights, optimiser, random generators, every figure in metrics.jsonl and TensorBoard, and nothing
left behind. Then the next round begins with other settings: workers, ranks, AMP, dropout, LMDB, ...

What happens, and when, is drawn from --seed; moments are hit as well as a machine does. A deviation is in the record
with the command that draws the same round again. It needs Linux.

Exit codes: 0 no deviation, 1 there was one, 2 bad input, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
import importlib
import shutil
import time
from collections.abc import Sequence

from scripts.faults.record import Record, read_record, rewrite_page
from scripts.faults.rounds import Soak
from scripts.faults.settings import SETTINGS, chosen
from utils.command import run_command
from utils.errors import InputError
from utils.files import make_folder
from utils.progress import Progress
from utils.signals import leave_at_once

ROOT = Path(__file__).resolve().parents[1]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="soak.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60.0, metavar="M",
                        help="60; the round that is on is then finished without disturbances")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of all that is drawn: 0")
    parser.add_argument("--rounds", type=int, metavar="N", help="stop after so many, though there may be time left")
    parser.add_argument("--round", type=int, metavar="N", help="only this round, as a record names it")
    parser.add_argument("--setting", nargs="+", action="extend", default=[], metavar="NAME",
                        choices=[setting.name for setting in SETTINGS],
                        help=f"only these, several allowed: {', '.join(repr(one.name) for one in SETTINGS)}",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "soak", metavar="DIR",
                        help="for the record, soak.json and soak.md, and what went wrong: results/soak")  # fmt: skip
    parser.add_argument("--keep", action="store_true", help="keep the folders of all rounds")
    parser.add_argument("--page", type=Path, metavar="FILE",
                        help="run nothing: write the record that --output has into its place in this page")  # fmt: skip
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Read the command line and run the rounds."""
    typed = parse(argv)
    if typed.page is not None:
        rewrite_page(typed.page, read_record(typed.output))
        return 0
    if not sys.platform.startswith("linux"):
        raise InputError("soak.py needs Linux: it forks, and looks for processes in /proc")
    if not 0 < typed.minutes < 10**6:
        raise InputError(f"--minutes: expected a number above 0, got {typed.minutes:g}")
    if min(typed.seed, typed.round or 0) < 0 or (typed.rounds is not None and typed.rounds < 1):
        raise InputError("--seed, --round: expected a whole number from 0 on; --rounds: from 1 on")
    with leave_at_once():
        record = soak(typed)
    print(record.summary())
    return 1 if record.deviations() else 0


def soak(typed: argparse.Namespace) -> Record:
    """Rounds until time is up; at least one."""
    importlib.import_module("torch._dynamo")  # by the first optimiser: here, once for all the processes that are forked
    work = make_folder(typed.output.resolve()) / "work"
    if work.exists():
        shutil.rmtree(work)
    decisive = ["--seed", str(typed.seed), *(["--setting", *typed.setting] if typed.setting else [])]
    record = Record(typed.output, decisive, typed.minutes)
    settings = chosen(typed.setting)
    seconds, started = 60 * typed.minutes, time.monotonic()
    number, last = typed.round or 0, 1 if typed.round is not None else typed.rounds
    with Progress(round(seconds), "soak", unit="s", plain=lambda line: print(line, flush=True)) as progress:

        def tick(note: str) -> None:
            progress.advance(note=note, done=min(progress.total, int(time.monotonic() - started)))

        place = Soak(make_folder(work), typed.seed, tick, lambda: time.monotonic() - started > seconds)
        while True:
            done = place.round(number, settings[number % len(settings)], small_disk=number % 2 == 0, keep=typed.keep)
            record.add(done, time.monotonic() - started)
            number += 1
            if len(record.rounds) == last or time.monotonic() - started > seconds:
                break
    if not typed.keep and not record.deviations():
        shutil.rmtree(work)
    return record


if __name__ == "__main__":
    sys.exit(run_command(main))
