"""Measure the figures of a GPU: ``python -m scripts.benchmarks.gpu.measure --output DIR``.

The file is written anew with every figure. A figure that fails does not stop the others; after an error that leaves the
GPU unusable for this process, a new process goes on. The exit code is 1 where a figure failed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
import traceback
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch

from scripts.benchmarks.gpu.figures import figures, precise
from scripts.benchmarks.gpu.results import FILE, Result, Results, kept, read_results, same_machine
from scripts.benchmarks.gpu.tables import Figure
from scripts.benchmarks.gpu.timing import measured
from scripts.benchmarks.limits import Limits
from scripts.benchmarks.needs import missing
from utils.command import run_command
from utils.env import hardware, versions
from utils.errors import InputError
from utils.progress import console_line

_LONGEST_NOTE = 150  # characters of an error's message in a table
_RESTARTED = "--restarted"


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="measure", description="Measure the figures of a GPU.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=f"{FILE} is written there")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, which say nothing about speed")
    parser.add_argument("--only", metavar="PATTERN", help='figures whose names fit: "esc/*", "*compiled*"')
    parser.add_argument("--list", action="store_true", help="print the names, and measure nothing")
    parser.add_argument("--resume", action="store_true", help="leave out what the file holds already")
    parser.add_argument(_RESTARTED, action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def chosen(typed: argparse.Namespace) -> list[Figure]:
    """The figures that a command line asks for.

    Raises:
        InputError: none fits.
    """
    found = [one for one in figures(tiny=typed.tiny) if not typed.only or fnmatchcase(one.key, typed.only)]
    if not found:
        raise InputError(f"no figure fits --only {typed.only}; --list shows the names")
    return found


def machine_of(device: str) -> dict[str, str]:
    """Card, versions and date."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else "none"
    facts = {"gpu": gpu, "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(), **versions()}
    if device == "cuda":
        facts["gpu memory"] = f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"
    return {**facts, "cpu": hardware()["cpu"], "cores": hardware()["cores"]}


def result_of(figure: Figure, device: str, limits: Limits) -> Result:
    """The figure, whatever happens in it."""
    lacking = missing(figure.needs, device)
    if lacking is not None:
        return Result(figure.key, note=f"left out: {lacking}")
    if "torch._dynamo" in sys.modules:  # of several graphs of one class, later ones would run uncompiled
        torch.compiler.reset()
    precise(figure)
    try:
        timing = measured(figure.prepare, figure.protocol, device)
        share, limit = None, None
        if figure.cost is not None:
            share, limit = limits.share(figure.cost, timing.ms / 1000, device)
        return Result(figure.key, **timing._asdict(), share=share, limit=limit)
    except (torch.OutOfMemoryError, MemoryError):
        return Result(figure.key, note="the memory does not suffice")
    except Exception as error:  # noqa: BLE001  reported with its traceback; the other figures are worth measuring
        console_line(f"{figure.key}:\n{traceback.format_exc()}", sys.stderr)
        first = next(iter(str(error).splitlines()), "")
        return Result(figure.key, note=f"failed: {type(error).__name__}: {first}"[:_LONGEST_NOTE], failed=True)


def usable(device: str) -> bool:
    """Whether this process can still use the device: an illegal access ends that for good."""
    if device == "cpu":
        return True
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device=device).item()
    except RuntimeError:
        return False
    return True


def main(argv: Sequence[str]) -> int:
    """Measure, print, write; 1 where something failed."""
    typed = parse(argv)
    todo = chosen(typed)
    if typed.list:
        print("\n".join(one.key for one in todo))
        return 0
    if typed.device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no CUDA device that torch can use")
    file, limits = typed.output / FILE, Limits(typed.tiny)
    machine, rows = machine_of(typed.device), list[Result]()
    if (typed.resume or typed.restarted) and file.exists():
        known = read_results(file)
        if not same_machine(known, machine, tiny=typed.tiny):
            raise InputError(f"--resume: {file} is from another GPU or another torch; choose another --output")
        rows = kept(known.rows, failed=typed.restarted)
        machine = {**known.machine, **machine}  # with the limits that the earlier figures are compared with
    done = {row.key for row in rows}
    todo = [one for one in todo if one.key not in done]
    for position, figure in enumerate(todo, 1):
        started = time.perf_counter()
        row = result_of(figure, typed.device, limits)
        rows.append(row)
        Results({**machine, **limits.described()}, typed.tiny, len(todo) - position, tuple(rows)).write(file)
        seconds = time.perf_counter() - started
        print(f"{position}/{len(todo)} {line(row)}  ({seconds:.1f} s)", flush=True)
        if row.failed and not usable(typed.device):
            console_line("the GPU is lost to this process; another one goes on", sys.stderr)
            sys.stdout.flush()
            others = [word for word in argv if word != _RESTARTED]
            os.execv(sys.executable, [sys.executable, "-m", "scripts.benchmarks.gpu.measure", *others, _RESTARTED])
    return 1 if any(row.failed for row in rows) else 0


def line(row: Result) -> str:
    """A result in a line."""
    if row.ms is None:
        return f"{row.key}: {row.note}"
    memory = "" if row.mib is None else f", {row.mib:.0f} MiB"
    share = "" if row.share is None else f", {row.share:.0%} of the {row.limit}"
    return f"{row.key}: {row.ms:.3g} ms{memory}{share}"


if __name__ == "__main__":
    sys.exit(run_command(main))
