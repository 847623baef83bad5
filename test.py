"""Evaluate a network on the data sets of an option file: ``python test.py -opt options/test_plainusr_x4.yml``.

Exit codes: 0 done, 1 failed, 2 bad input, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

from collections.abc import Sequence

from config import only_sets, read
from config.command import parse_command
from models.distributed import world
from models.evaluation.check import check_testing, reading
from models.evaluation.tester import test
from utils.command import run_command


def main(argv: Sequence[str]) -> None:
    """Read the options and evaluate."""
    command = parse_command(argv, "test")
    with reading(check=command.check):
        options = read(command.option_file, command.overrides, mode="test", debug=command.debug, scale=command.scale)
        options = only_sets(options, command.sets)
    with world(command.launcher, options.dist_params, options.num_gpu, command.device) as ranks:
        if command.check:
            check_testing(options, ranks, verbose=command.verbose)
        else:
            test(options, command, ranks)


if __name__ == "__main__":
    sys.exit(run_command(main))
