"""200 iterations of every demo, whole, killed and resumed, and in half precision.

``python -m scripts.benchmarks.gpu.trainings --output DIR``. Each training is a process of train.py in a folder of its
own, several side by side. ``trainings_DEVICE.json`` is written anew with every training that ends: losses, validation,
seconds, and by how much the weights of the training that was killed and resumed differ from those of the one that was
not. The page sets the losses of two devices side by side.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import torch

from models.weights.files import read_checkpoint
from scripts.benchmarks.gpu.stages import ROOT
from utils.command import run_command
from utils.errors import InputError
from utils.files import make_folder, write_json

ITERATIONS, PRINTED, SAVED, TINY = 200, 10, 50, 4
WHOLE, KILLED = "float32", "float32, killed and resumed"
HALF = ("bf16", "fp16")
_KILL_AT = 0.6  # of the iterations
_STOCHASTIC = ("hat", "rgt")  # demos whose layers are dropped by the device's own random numbers
_PATIENCE = 300.0  # seconds, for a training
_TURN = 0.05


class Job(NamedTuple):
    """One training.

    Attributes:
        file: option file of the demo.
        way: WHOLE, KILLED, or a type of HALF.
    """

    file: Path
    way: str

    @property
    def name(self) -> str:
        """Of the demo."""
        return self.file.stem.removeprefix("train_")


def jobs(device: str, *, tiny: bool) -> list[Job]:
    """All trainings: those that take longest first; on a CPU only those in float32, whole."""
    files = sorted((ROOT / "options" / "demo").glob("train_*.yml"))
    if tiny:
        return [Job(file, WHOLE) for file in files if "plainusr" in file.name]
    ways = (WHOLE,) if device == "cpu" else (WHOLE, KILLED, *HALF)
    return [Job(file, way) for way in ways for file in files]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="trainings", description="Short trainings of every demo.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="trainings_DEVICE.json goes there")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="one demo, a few iterations")
    parser.add_argument("--processes", type=int, metavar="N", help="side by side; default: half of the cores")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Train, write, print a line for each; 1 where a training failed or ended in NaN."""
    typed = parse(argv)
    folder = make_folder(typed.output / f"trainings_{typed.device}").resolve()
    subprocess.run(
        [sys.executable, str(ROOT / "scripts/prepare_demo_data.py"), "-o", str(folder / "datasets/demo")], check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    iterations = TINY if typed.tiny else ITERATIONS
    found: dict[str, dict[str, Any]] = {}
    failures = 0
    with ThreadPoolExecutor(typed.processes or max(1, (os.cpu_count() or 2) // 2)) as pool:
        running = {pool.submit(trained, job, folder, typed.device, iterations): job
                   for job in jobs(typed.device, tiny=typed.tiny)}  # fmt: skip
        for done in as_completed(running):
            job, record = running[done], done.result()
            found.setdefault(job.name, {})[job.way] = record
            both = found[job.name]
            if WHOLE in both and KILLED in both and "error" not in both[WHOLE] | both[KILLED]:
                both[KILLED]["difference"] = difference(*(place(folder, job.name, way) for way in (WHOLE, KILLED)))
            write_json(typed.output / file_of(typed.device), {"iterations": iterations, "trainings": found})
            wrong = record.get("error") or ("a loss is not finite" if not finite(record) else "")
            failures += bool(wrong)
            print(f"{job.name}, {job.way}: {wrong or 'done'} ({record['seconds']:.0f} s)", flush=True)
    return 1 if failures else 0


def file_of(device: str) -> str:
    """Name of the results."""
    return f"trainings_{device}.json"


def place(folder: Path, name: str, way: str) -> Path:
    """Folder of a training."""
    return folder / f"{name}_{re.sub('[^a-z0-9]+', '_', way)}"


def trained(job: Job, folder: Path, device: str, iterations: int) -> dict[str, Any]:
    """Losses by iteration, validation and seconds of a training; ``error`` where it failed."""
    here = make_folder(place(folder, job.name, job.way))
    data = here / "datasets"
    if not data.exists():
        data.symlink_to(folder / "datasets", target_is_directory=True)
    printed, saved = (1, TINY) if iterations == TINY else (PRINTED, SAVED)
    changes = [
        f"name={job.name}", f"train:total_iter={iterations}", f"logger:print_freq={printed}",
        f"logger:save_checkpoint_freq={saved}", "logger:use_tb_logger=false", f"val:val_freq={iterations}",
        "path:pretrain_network_g=null", *([f"train:amp={job.way}"] if job.way in HALF else ()),
        *(["network_g:drop_path_rate=0"] if job.name.startswith(_STOCHASTIC) else ()),
    ]  # fmt: skip
    command = [
        sys.executable, str(ROOT / "train.py"), "-opt", str(job.file), "--device", device, "--force_yml", *changes,
    ]  # fmt: skip
    log, records = here / "train.log", here / "experiments" / job.name / "metrics.jsonl"
    started = time.monotonic()
    try:
        if job.way == KILLED:
            run(command, here, log, lambda: _iteration(records) >= _KILL_AT * iterations)
            command.append("--auto_resume")
        run(command, here, log)
        return {**_figures(records), "seconds": time.monotonic() - started}
    except RuntimeError as error:
        return {"error": str(error), "seconds": time.monotonic() - started}


def run(command: Sequence[str], here: Path, log: Path, killed: Callable[[], bool] | None = None) -> None:
    """Run to the end, or until ``killed`` says so.

    Raises:
        RuntimeError: it failed, took too long, or ended before it could be killed.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=here, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        deadline = time.monotonic() + _PATIENCE
        try:
            while process.poll() is None and time.monotonic() < deadline and not (killed and killed()):
                time.sleep(_TURN)
            ended = process.poll()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if killed is not None and ended is None and killed():
        return
    if ended != 0 or killed is not None:
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        reason = "took too long" if ended is None else f"ended with {ended}"
        raise RuntimeError(f"{reason}: {' / '.join(lines[-3:])[:500]}")


def _records(file: Path) -> Iterator[Mapping[str, Any]]:
    """Of a training that may be writing."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # half a line
            return


def _iteration(file: Path) -> int:
    return max((int(one.get("step", 0)) for one in _records(file)), default=0)


def _figures(file: Path) -> dict[str, Any]:
    """Losses by name and iteration; what the last validation gave."""
    losses: dict[str, dict[str, float]] = {}
    validation: dict[str, Any] = {}
    for one in _records(file):
        if one.get("kind") == "train":
            for name, value in one.items():
                if name.startswith("l_"):
                    losses.setdefault(name, {})[str(one["step"])] = value
        else:
            validation = dict(one["scores"])
    return {"losses": losses, "validation": validation}


def finite(record: Mapping[str, Any]) -> bool:
    """Whether all losses are numbers."""
    return all(
        value is not None and math.isfinite(value)
        for one in record.get("losses", {}).values() for value in one.values()
    )  # fmt: skip


def difference(whole: Path, killed: Path) -> float:
    """The largest difference between the last weights of two trainings of one demo; 0 where all bits are alike."""
    [mine], [other] = (list(folder.glob("experiments/*/models/net_g_latest.pth")) for folder in (killed, whole))
    a, b = read_checkpoint(mine), read_checkpoint(other)
    return max(
        float((a[part][name].double() - value.double()).abs().max())
        for part in ("params", "params_ema") if part in b for name, value in b[part].items()
    )  # fmt: skip


_HEAD = """\
## Trainings

Every demo without stochastic depth, {iterations} iterations from the same start with the same data on this GPU and on
a CPU; the loss is the mean of the {printed} iterations before. "deviation" is the largest of the loss between the two
devices in the first quarter, as a part of it; "killed" is the largest difference of a weight between a training that
was killed and resumed and one that was not: PyTorch's backward pass of attention adds in an order that differs from
run to run. PSNR is that of the last validation. The noise of real_esc_x2 is drawn on the device, and so another one
on each; the initial weights of HAT, PFT and RGT depend on PyTorch's version.
"""


def read_section(folder: Path) -> list[str]:
    """The section of the page from the files in a folder; empty where a device's is not there.

    Raises:
        InputError: a file is none of those that :func:`main` writes.
    """
    files = [folder / file_of(device) for device in ("cuda", "cpu")]
    if not all(file.exists() for file in files):
        return []
    try:
        ours, other = (json.loads(file.read_text(encoding="utf-8")) for file in files)
        return [section(ours, other)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}: expected the trainings of two devices ({error!r})") from None


def section(ours: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Of the page: the trainings of a GPU beside those of a CPU.

    Args:
        ours: of the GPU, as :func:`main` writes them.
        other: of the CPU.
    """
    last = str(ours["iterations"])
    head = ["demo", "loss: GPU, CPU", "deviation", "killed", "bf16, fp16", "PSNR: GPU, CPU", "bf16, fp16", "s"]
    lines = ["| " + " | ".join(head) + " |", "| --- " + "| ---: " * (len(head) - 1) + "|"]
    for name, ways in sorted(ours["trainings"].items()):
        whole, cpu = ways.get(WHOLE, {}), other["trainings"].get(name, {}).get(WHOLE, {})
        first = int(last) // 4
        half = [ways.get(way, {}) for way in HALF]
        killed = ways.get(KILLED, {})
        cells = [
            name, f"{_loss(whole, last)}, {_loss(cpu, last)}", _deviation(whole, cpu, first),
            killed.get("error") or ("-" if "difference" not in killed else f"{killed['difference']:.1e}"),
            ", ".join(_loss(one, last) for one in half), f"{_psnr(whole)}, {_psnr(cpu)}",
            ", ".join(_psnr(one) for one in half), f"{whole['seconds']:.0f}" if "seconds" in whole else "-",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return _HEAD.format(iterations=last, printed=PRINTED) + "\n" + "\n".join(lines) + "\n"


def _curve(record: Mapping[str, Any]) -> dict[str, float]:
    """Loss of the pixels by iteration, whatever the objective calls it."""
    losses = record.get("losses", {})
    found: dict[str, float] = losses.get("l_pix") or losses.get("l_g_pix") or {}
    return found


def _loss(record: Mapping[str, Any], step: str) -> str:
    value = _curve(record).get(step)
    return ("failed" if "error" in record else "-") if value is None else f"{value:.5f}"


def _psnr(record: Mapping[str, Any]) -> str:
    values = [value for name, value in record.get("validation", {}).items() if name.startswith("psnr")]
    return f"{values[0]:.2f}" if values else "-"


def _deviation(mine: Mapping[str, Any], other: Mapping[str, Any], last: int) -> str:
    """Largest relative difference of two curves at the iterations up to ``last`` that both have."""
    a, b = _curve(mine), _curve(other)
    both = [abs(a[step] - b[step]) / abs(b[step]) for step in a.keys() & b.keys() if int(step) <= last]
    return f"{max(both):.1e}" if both else "-"


if __name__ == "__main__":
    if "--device" not in sys.argv and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device that torch can use")
    sys.exit(run_command(main))
