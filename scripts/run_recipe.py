"""Run a chain of trainings: ``python scripts/run_recipe.py options/recipes/hat_x4_imagenet.yml``.

The plan is printed first. After a kill or a stop the same command resumes; finished stages are not run
again. Several GPUs: ``torchrun --nproc-per-node 8 scripts/run_recipe.py FILE --launcher pytorch``.

Exit codes: 0 done, 1 failed, 2 bad input, 130 Ctrl-C and 143 SIGTERM (a resumable state is saved first).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
from collections.abc import Sequence

from config.command import Command, device_help
from config.recipe import read_recipe
from models.distributed import world
from models.evaluation.check import reading
from models.recipe import check_recipe, run_recipe
from utils.command import run_command


def main(argv: Sequence[str]) -> None:
    """Read the recipe and run it."""
    command_line = parser()
    typed = command_line.parse_args(argv)
    if typed.verbose and not typed.check:
        command_line.error("--verbose belongs to --check")
    with reading(check=typed.check):
        recipe = read_recipe(typed.recipe, typed.force_yml, debug=typed.debug)
        if typed.only:
            recipe = recipe.only(typed.only)
    command = Command(
        option_file=typed.recipe,
        overrides=tuple(typed.force_yml),
        launcher=typed.launcher,
        auto_resume=True,
        debug=typed.debug,
        check=typed.check,
        argv=("scripts/run_recipe.py", *argv),
        goes_on="the same command",
        device=typed.device,
    )
    first = recipe.stages[0].options
    with world(typed.launcher, first.dist_params, first.num_gpu, typed.device) as ranks:
        if typed.check:
            check_recipe(recipe, ranks, verbose=typed.verbose)
        else:
            run_recipe(recipe, command, ranks, restart=typed.restart)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="run_recipe.py", description="Run the trainings of a recipe, one after the other.", allow_abbrev=False
    )
    result.add_argument("recipe", type=Path, help="recipe file (YAML), such as options/recipes/hat_x4_imagenet.yml")
    result.add_argument(
        "--only", nargs="+", default=(), metavar="STAGE", help="these stages, and those that they start from"
    )
    result.add_argument("--restart", metavar="STAGE", help="begin this stage, and those that start from it, anew")
    result.add_argument("--check", action="store_true", help="print the plan, check every stage and stop")
    result.add_argument("--verbose", action="store_true", help="with --check: print every option of every stage")
    result.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="distributed mode")
    result.add_argument("--debug", action="store_true", help="short runs: validate and save every 8 iterations")
    result.add_argument(
        "--force_yml",
        nargs="+",
        default=(),
        metavar="[STAGE:]A:B=VALUE",
        help="change options of all stages, or of one",
    )
    result.add_argument("--device", metavar="NAME", help=device_help("num_gpu of each stage"))
    result.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return result


if __name__ == "__main__":
    sys.exit(run_command(main))
