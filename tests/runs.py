"""Small training and test runs for the tests: pictures, option files, commands."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from scripts.faults.workplace import DISCRIMINATOR, TRAIN_FILE, changed, picture, write_pictures
from tests.forked import ROOT, start
from utils.command import run_command

__all__ = [
    "ROOT", "TEST_FILE", "TRAIN_FILE", "TWO_RANKS", "adversarial", "command", "environment", "main_of", "picture",
    "run", "run_here", "run_line", "start", "torchrun", "workplace",
]  # fmt: skip

TEST_FILE = """\
name: tiny_test
model_type: SRModel
scale: 2
num_gpu: 0
manual_seed: 0
datasets:
  test_1:
    name: HeldOut
    type: PairedImageDataset
    dataroot_gt: held_out/HR
    io_backend: {type: disk}
network_g: {type: PlainUSR_ultra, n_feat: 8, im_feat: [8, 4], scale: 2}
path: {pretrain_network_g: experiments/tiny/models/net_g_latest.pth, param_key_g: params_ema}
val:
  save_img: true
  suffix: ~
  bicubic: true
  metrics:
    psnr: {type: calculate_psnr, crop_border: 2, test_y_channel: true}
    ssim: {type: calculate_ssim, crop_border: 2, test_y_channel: true}
"""


def adversarial(text: str) -> str:
    """A training file of the tests with a discriminator beside the network."""
    return changed(text, DISCRIMINATOR)


def workplace(folder: Path) -> Path:
    """A folder with pictures and option files, ready for train.py and test.py."""
    write_pictures(folder)
    (folder / "train.yml").write_text(TRAIN_FILE)
    (folder / "test.yml").write_text(TEST_FILE)
    return folder


def has_ended(process: int) -> bool:
    """Whether a process has ended, or does so within seconds (Linux)."""
    state = Path(f"/proc/{process}/stat")
    for _ in range(100):
        try:
            if state.read_text().rpartition(")")[2].split()[0] == "Z":  # nobody has asked yet how it ended
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def command(script: str, *arguments: str) -> list[str]:
    """The command line of ``train.py`` or ``test.py`` with arguments."""
    return [sys.executable, str(ROOT / script), *arguments]


def environment() -> dict[str, str]:
    """Variables for a command: one thread, so that two tests side by side do not fight for cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


TWO_RANKS = ("--standalone", "--nproc-per-node", "2")


def torchrun(script: str, *arguments: str, launch: Sequence[str] = TWO_RANKS) -> list[str]:
    """The command line of torchrun, whose own arguments are ``launch``, with a script."""
    return [sys.executable, "-m", "torch.distributed.run", *launch, *command(script, *arguments)[1:]]


def run(folder: Path, script: str, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run a command in ``folder``; its output and exit code are the caller's to judge."""
    return run_line(folder, command(script, *arguments), timeout=timeout)


def run_line(
    folder: Path, line: Sequence[str], *, given: str = "", timeout: float = 300, new: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command line of :func:`command` or :func:`torchrun`, forked or as a ``new`` interpreter.

    Args:
        folder: where it starts.
        line: the command line, as :func:`tests.forked.start` takes it.
        given: what it reads from its standard input.
        timeout: seconds, after which it is ended and an exception raised.
        new: an interpreter of its own.
    """
    if new:
        return subprocess.run(
            line, cwd=folder, env=environment(), input=given, capture_output=True, text=True, timeout=timeout,
            check=False,
        )  # fmt: skip
    with ExitStack() as files:
        stdin, stdout, stderr = (files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3))
        stdin.write(given)
        stdin.seek(0)
        program = start(line, folder, environment(), stdin=stdin, stdout=stdout, stderr=stderr)
        try:
            program.wait(timeout)
        finally:
            program.kill()  # nothing where it has ended
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read())
        return subprocess.CompletedProcess(list(line), program.wait(), *texts)


def run_here(script: str, *arguments: str) -> int:
    """Run a command in this process and in the current folder, without the seconds that a new process takes."""
    return run_command(main_of(script), arguments)


def main_of(script: str) -> Callable[[Sequence[str]], int | None]:
    """The function ``main`` of a script; loaded by path, because ``import test`` may find Python's own."""
    spec = importlib.util.spec_from_file_location(f"focalsr_{Path(script).stem}", ROOT / script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[Sequence[str]], int | None] = module.main
    return main
