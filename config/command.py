"""The command lines of train.py and test.py, with BasicSR's flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils import devices

LAUNCHERS = ("none", "pytorch", "slurm")


@dataclass(frozen=True)
class Command:
    """What was typed.

    Attributes:
        option_file: ``-opt``.
        overrides: the edits of ``--force_yml``, as typed.
        launcher: how the processes of the run find each other.
        auto_resume: continue from the newest state of this experiment.
        debug: the short run that BasicSR's ``--debug`` makes.
        check: build everything, read all images, print the plan and stop.
        latex: write the scores as a LaTeX table and print it; for tests.
        largest_batch: with ``check``, find the largest batch that fits into the memory; for training.
        argv: the whole command line, for the log.
        scale: overrides the file's factor; for tests.
        per_image: print the scores of each image; for tests.
        sets: the names of the data sets to test on; none: all of the file.
        verbose: with ``check``, print the options as read.
        restart: begin anew in spite of ``auto_resume``; what is there is kept under another name.
        goes_on: how a run that was stopped is continued, for messages: "continue with ...".
        device: where the network runs; None: the file's num_gpu decides.
    """

    option_file: Path
    overrides: tuple[str, ...]
    launcher: Literal["none", "pytorch", "slurm"]
    auto_resume: bool
    debug: bool
    check: bool
    argv: tuple[str, ...]
    scale: float | None = None
    per_image: bool = False
    largest_batch: bool = False
    sets: tuple[str, ...] = ()
    verbose: bool = False
    goes_on: str = "--auto_resume"
    restart: bool = False
    device: str | None = None
    latex: bool = False


def parse_command(argv: Sequence[str], mode: Literal["train", "test"]) -> Command:
    """Read a command line; leaves with exit code 2 and a usage message where it is wrong."""
    parser = _train_parser() if mode == "train" else _test_parser()
    # torch's old launcher passes one or the other spelling; torchrun sets the rank in the environment instead.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--device", metavar="NAME", help=device_help())
    typed = parser.parse_args(argv)
    largest_batch = getattr(typed, "largest_batch", False)
    if largest_batch and (not typed.check or typed.launcher != "none"):
        parser.error("--largest_batch belongs to --check, of a single process")
    if typed.verbose and not typed.check:
        parser.error("--verbose belongs to --check")
    return Command(
        option_file=typed.opt,
        overrides=tuple(typed.force_yml),
        launcher=typed.launcher,
        auto_resume=typed.auto_resume,
        debug=typed.debug,
        check=typed.check,
        argv=(parser.prog, *argv),
        scale=getattr(typed, "scale", None),
        per_image=getattr(typed, "per_image", False),
        largest_batch=largest_batch,
        sets=tuple(getattr(typed, "sets", ())),
        verbose=typed.verbose,
        restart=getattr(typed, "restart", False),
        device=typed.device,
        latex=getattr(typed, "latex", False),
    )


def device_help(default: str = "num_gpu of the option file") -> str:
    """The help of ``--device``, whose value :func:`utils.devices.choose` reads; ``default`` says what holds without."""
    return f"where the network runs: {devices.CHOICES} (default: {default})"


def _train_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train.py", description="Train a network from an option file.", allow_abbrev=False
    )
    parser.add_argument("-opt", required=True, type=Path, metavar="FILE", help="option file (YAML) of a training")
    parser.add_argument(
        "--force_yml", nargs="+", default=(), metavar="A:B=VALUE", help="change options, e.g. train:optim_g:lr=1e-4"
    )
    parser.add_argument("--auto_resume", action="store_true", help="continue from the newest state of this experiment")
    parser.add_argument(
        "--restart",
        action="store_true",
        help="begin anew in spite of --auto_resume, as where no state can be read; the earlier run is kept under "
        "another name",
    )
    parser.add_argument(
        "--check", action="store_true", help="build everything, read all images, iterate a little, write nothing"
    )
    parser.add_argument("--verbose", action="store_true", help="with --check: print every option, defaults included")
    parser.add_argument(
        "--largest_batch", action="store_true", help="with --check: find the largest batch that fits into memory"
    )
    parser.add_argument("--debug", action="store_true", help="a short run: validate and save every 8 iterations")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="none", help="how several processes train together")
    return parser


def _test_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="test.py", description="Evaluate a network from an option file.", allow_abbrev=False
    )
    parser.add_argument("-opt", required=True, type=Path, metavar="FILE", help="option file (YAML) of a test")
    parser.add_argument(
        "--force_yml", nargs="+", default=(), metavar="A:B=VALUE", help="change options, e.g. val:save_img=false"
    )
    parser.add_argument(
        "--sets", nargs="+", default=(), metavar="NAME", help="only these data sets of the file, such as Set5 Set14"
    )
    parser.add_argument(
        "--scale", type=number, metavar="S", help="super-resolution factor instead of the file's, such as 3.7"
    )
    parser.add_argument(
        "--latex",
        action="store_true",
        help="write table.tex, and print it: the scores beside those that are published, for a paper (booktabs)",
    )
    parser.add_argument("--per_image", action="store_true", help="print the scores of each image too")
    parser.add_argument(
        "--check", action="store_true", help="load the weights, read all images, upscale one patch, write nothing"
    )
    parser.add_argument("--verbose", action="store_true", help="with --check: print every option, defaults included")
    parser.add_argument("--debug", action="store_true", help="the results go to debug_NAME")
    parser.add_argument("--launcher", choices=LAUNCHERS, default="none", help="how several processes share the images")
    # BasicSR's test program takes it, and does nothing with it either.
    parser.add_argument("--auto_resume", action="store_true", help=argparse.SUPPRESS)
    return parser


def number(text: str) -> float:
    """A factor as typed; whole ones stay whole.

    Raises:
        ValueError: it is no number from 1 on.
    """
    value = float(text)
    if not 1 <= value < float("inf"):
        raise ValueError(text)
    return int(value) if value == int(value) else value
