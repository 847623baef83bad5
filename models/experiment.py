"""The folders of a run, in BasicSR's layout, and the papers that lie in them."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from config import describe
from config.bases import written
from config.command import Command
from config.schema import TestOptions, TrainOptions
from utils.env import hardware, versions
from utils.files import archive_existing, make_folder, remove_all_unfinished, write_text
from utils.lock import exclusive
from utils.log import configure_logging


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes.

    Attributes:
        root: ``experiments/NAME`` or ``results/NAME``.
        tensorboard: ``tb_logger/NAME`` beside the experiments, or None.
        stamp: time of the start, part of the log file's name.
    """

    root: Path
    tensorboard: Path | None
    stamp: str

    @property
    def pictures(self) -> Path:
        """Folder of the images that validation or testing saves."""
        return self.root / "visualization"

    @property
    def page_command(self) -> str:
        """What makes a page that shows the run, for the end of its log."""
        return f"python scripts/report.py {shlex.quote(str(self.root))} -o report"


def training_folder(options: TrainOptions) -> RunFolder:
    """The folders of a training run; nothing is made yet."""
    parent = options.path.experiments_root
    board = parent.parent / "tb_logger" / options.name if options.logger.use_tb_logger else None
    return RunFolder(parent / options.name, board, _now())


def test_folder(options: TestOptions) -> RunFolder:
    """The folders of a test run; nothing is made yet."""
    return RunFolder(options.path.results_root / options.name, None, _now())


@contextlib.contextmanager
def reserved(folder: RunFolder, doing: str, *, patience: float = 0.0) -> Iterator[None]:
    """Keep other processes from these folders; to be held before anything in them is looked at, renamed or written.

    Args:
        folder: the places.
        doing: ``trains`` or ``tests``, for the message to the other process.
        patience: seconds to wait for a process that is about to end.

    Raises:
        InputError: another process works there; the message says which one.
    """
    with contextlib.ExitStack() as stack:
        # Experiments of one name in different folders may share that of TensorBoard.
        for path in (folder.root, folder.tensorboard):
            if path is not None:
                stack.enter_context(exclusive(path, doing, patience=patience))
        yield


def open_run(folder: RunFolder, kind: str, options: TrainOptions | TestOptions, command: Command, fresh: bool) -> None:
    """Make the folders, start the log file, and write down what the run was made with.

    Args:
        folder: the places.
        kind: ``train`` or ``test``; begins the log file's name.
        options: as read, overrides included.
        command: what was typed.
        fresh: rename folders of an earlier run of this name first.
    """
    removed = remove_all_unfinished(folder.root)
    moved = [archive_existing(path) for path in (folder.root, folder.tensorboard) if fresh and path is not None]
    make_folder(folder.root)
    logger = configure_logging(folder.root / f"{kind}_{folder.root.name}_{folder.stamp}.log")
    for path in moved:
        if path is not None:
            logger.info("an earlier run of this name was kept as %s", path)
    if removed:
        logger.info("removed %d files that a killed run had left half-written", removed)
    head = f"# GENERATE TIME: {datetime.now():%a %b %d %H:%M:%S %Y}\n# CMD:\n# {shlex.join(command.argv)}\n\n"
    write_text(folder.root / command.option_file.name, head + written(command.option_file))
    facts = {**versions(), **hardware()}
    described = "".join(f"# {name}: {value}\n" for name, value in facts.items())
    write_text(folder.root / "options_as_read.yml", described + describe(options))
    for note in options.notes:
        logger.info("%s", note)
    logger.info("%s", ", ".join(f"{name} {value}" for name, value in facts.items()))


def _now() -> str:
    return datetime.now().strftime("%Y%m%d_%H%M%S")
