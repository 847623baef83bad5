"""From the command line to the first training step, and what importing takes; each in a process of its own.

The plain path is what nobody can save: a script that imports torch, builds the same network and does one step.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from archs.plainusr import PlainUSRUltra
from config import read
from scripts.benchmarks.measure import Comparison, Side, Work
from scripts.prepare_demo_data import package_folder, prepare

ROOT = Path(__file__).resolve().parents[2]
FIRST_STEP = "iter:       1,"  # in the line that train.py logs after it
_EDITS = (
    "train:total_iter=1", "logger:print_freq=1", "logger:use_tb_logger=false", "logger:save_checkpoint_freq=100",
    "val:val_freq=100", "num_gpu=0",
)  # fmt: skip
_BARE = f"""
import json, sys, torch
sys.path.insert(0, sys.argv[1])
from archs import build_network
batch, side, scale = json.loads(sys.argv[3])
network = build_network(json.loads(sys.argv[2]))
optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
gt = torch.rand(batch, 3, side * scale, side * scale)
torch.nn.functional.l1_loss(network(torch.rand(batch, 3, side, side)), gt).backward()
optimizer.step()
print("{FIRST_STEP}", flush=True)
"""

# Python's files of compiled modules are written and read, as on a user's machine.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

_folders: list[tempfile.TemporaryDirectory[str]] = []  # live as long as the process


def comparisons() -> list[Comparison]:
    """Two demo option files, and what programs take beyond importing torch."""
    found = [
        Comparison(
            f"startup/first_step_{name}",
            f"a process until the first step of options/demo/train_{name}_x4.yml, float32",
            Side("a script with torch, the network and one step", functools.partial(_bare, name)),
            Side("train.py", functools.partial(_train, name)),
            quick=name == "plainusr",
            memory=False,
        )
        for name in ("plainusr", "hat")
    ]
    programs = [
        ("import", "a process that imports and ends", "torch, archs, ops", lambda: _importing("torch, archs, ops")),
        ("check", "train.py --check of options/demo/train_plainusr_x4.yml", "train.py --check", _check),
        ("upscale", "upscale.py, PlainUSR-U x4, one picture of 48 x 48", "upscale.py", _upscale),
    ]
    beside_torch = Side("importing torch", lambda: _importing("torch"))
    found += [
        Comparison(f"startup/{name}", work, beside_torch, Side(ours, make), memory=False)
        for name, work, ours, make in programs
    ]
    return found


def until_line(command: list[str], folder: Path, text: str) -> None:
    """Run a command until it writes a line that holds ``text``, then end it.

    Raises:
        RuntimeError: it ends without that line; the message is what it wrote.
    """
    seen = []
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        env=_ENVIRONMENT,
    )  # fmt: skip
    with process:  # waits
        assert process.stdout is not None
        try:
            for line in process.stdout:
                seen.append(line)
                if text in line:
                    return
        finally:
            process.kill()  # Ctrl-C too
    raise RuntimeError(f"{' '.join(command[:3])} ended before {text!r}:\n{''.join(seen[-20:])}")


def _demo(name: str) -> Path:
    return ROOT / "options" / "demo" / f"train_{name}_x4.yml"


@functools.cache
def _workplace() -> Path:
    """A folder with the photographs that the demo files name."""
    holder = tempfile.TemporaryDirectory()
    _folders.append(holder)
    prepare(package_folder(), Path(holder.name) / "datasets" / "demo")
    return Path(holder.name)


def _train(name: str) -> Work:
    command = [sys.executable, str(ROOT / "train.py"), "-opt", str(_demo(name)), "--force_yml", *_EDITS]
    return functools.partial(until_line, command, _workplace(), FIRST_STEP)


def _bare(name: str) -> Work:
    options = read(_demo(name), mode="train")
    network = {"type": options.network_g.type, **options.network_g.arguments}
    side: int = getattr(options.train_dataset, "gt_size")  # noqa: B009  of this class of data set, not of all
    sizes = (options.train_dataset.batch_size_per_gpu, int(side // options.largest_scale), options.largest_scale)
    command = [sys.executable, "-c", _BARE, str(ROOT), json.dumps(network), json.dumps(sizes)]
    return functools.partial(until_line, command, _workplace(), FIRST_STEP)


def _importing(names: str) -> Work:
    return _ends([sys.executable, "-c", f"import {names}"], ROOT)


def _check() -> Work:
    return _ends([sys.executable, str(ROOT / "train.py"), "-opt", str(_demo("plainusr")), "--check"], _workplace())


def _upscale() -> Work:
    folder = _workplace()
    torch.save(PlainUSRUltra(scale=4).state_dict(), folder / "weights.pth")
    cv2.imwrite(str(folder / "small.png"), np.zeros((48, 48, 3), np.uint8))
    program = str(ROOT / "scripts" / "upscale.py")
    files = ["-i", "small.png", "-o", "large.png", "-w", "weights.pth"]
    return _ends([sys.executable, program, *files, "--overwrite", "--cpu"], folder)


def _ends(command: list[str], folder: Path) -> Work:
    return lambda: subprocess.run(command, cwd=folder, check=True, env=_ENVIRONMENT, capture_output=True)
