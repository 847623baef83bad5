"""Look into networks: ``python scripts/analyse.py KIND -w WEIGHTS -i PICTURES -o FOLDER``.

Each kind writes a picture, the numbers as JSON and ``.npz``, and prints what a paper's text would say. ``analyse.py
KIND --help`` lists its flags; docs/analysis.md shows what comes out.

Exit codes: 0 done, 1 failed, 2 bad input, 130 Ctrl-C, 143 SIGTERM.
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
from collections.abc import Sequence
from typing import Any

from utils.command import run_command
from utils.errors import InputError
from utils.log import configure_logging
from utils.suggest import near_miss

KINDS = {
    "lam": "which pixels decide about a window of the output: local attribution maps (LAM), diffusion index (DI)",
    "erf": "how far a network looks: effective receptive field over a folder",
    "attention": "where pixels look, layer by layer; mean attention distances",
    "maps": "what a network computes inside: importance maps, gates, alphas, kernels, features",
    "cka": "how alike layers are, of one network, two networks, or two checkpoints: CKA",
    "frequency": "which frequencies features have over depth, and the error of the output",
    "complexity": "parameters, multiply-adds, FLOPs, latency, memory, beside the papers' figures",
}
"""Kind -> what it shows; each is a module of scripts/analyses."""


def module_of(kind: str) -> Any:
    """The module of a kind, imported when it is asked for.

    Raises:
        InputError: there is no such kind.
    """
    if kind not in KINDS:
        hint = near_miss(kind, KINDS) or f"; expected one of {', '.join(KINDS)}"
        raise InputError(f"there is no analysis {kind!r}{hint}")
    return importlib.import_module(f"scripts.analyses.{kind}")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; of all kinds, only the one that is asked for is imported."""
    kinds = "\n".join(f"  {name:<12} {shows}" for name, shows in KINDS.items())
    if not argv or argv[0].startswith("-"):
        parser = argparse.ArgumentParser(
            prog="analyse.py", description="Look into networks.", usage="analyse.py KIND ... | KIND --help",
            epilog=f"kinds:\n{kinds}", formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        parser.add_argument("kind", metavar="KIND", choices=KINDS, help="what to look at")
        parser.parse_args(argv)
    module = module_of(argv[0])
    parser = argparse.ArgumentParser(
        prog=f"analyse.py {argv[0]}", description=KINDS[argv[0]][:1].upper() + KINDS[argv[0]][1:] + ".",
        allow_abbrev=False,
    )  # fmt: skip
    parser.set_defaults(kind=argv[0])
    module.add_arguments(parser)
    return parser.parse_args(argv[1:])


def main(argv: Sequence[str]) -> None:
    """Do what the command line asks for."""
    typed = parse(argv)
    configure_logging()
    module_of(typed.kind).run(typed)


if __name__ == "__main__":
    sys.exit(run_command(main))
