"""Train a network from an option file: ``python train.py -opt options/demo/train_plainusr_x4.yml``.

Exit codes: 0 done, 1 failed, 2 bad input, 130 Ctrl-C and 143 SIGTERM (a resumable state is saved first).
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

from collections.abc import Sequence

from analysis.report.refresh import PageOfRun
from config import read
from config.command import parse_command
from models.distributed import world
from models.evaluation.check import reading
from models.training.check import check_training
from models.training.loop import train
from utils.command import run_command


def main(argv: Sequence[str]) -> None:
    """Read the options and train."""
    command = parse_command(argv, "train")
    with reading(check=command.check):
        options = read(command.option_file, command.overrides, mode="train", debug=command.debug)
    with world(command.launcher, options.dist_params, options.num_gpu, command.device) as ranks:
        if command.check:
            check_training(options, ranks, largest_batch=command.largest_batch, verbose=command.verbose)
        else:
            train(options, command, ranks, PageOfRun)


if __name__ == "__main__":
    sys.exit(run_command(main))
