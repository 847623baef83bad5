"""Where the figures of a training run go: console and log file, JSON files, TensorBoard, Weights & Biases."""

from __future__ import annotations

import contextlib
import importlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from config.schema import WandbOptions
from models.training.events import EventFile
from models.training.record_file import RecordFile
from models.training.state import Best
from utils.errors import InputError
from utils.files import json_text, write_json, write_text
from utils.log import get_logger
from utils.progress import clock
from utils.records import read_records
from utils.wording import first_few


@dataclass(frozen=True)
class TrainRecord:
    """The figures of an iteration that is logged.

    Attributes:
        step: the iteration, from 1.
        epoch: of its first sample.
        rates: player ("g", "d") -> learning rate of each of its parameter groups.
        losses: terms by their log names, means over the ranks.
        grad_norms: player -> L2 norm of its gradient before clipping; without those that did not move.
        images_per_second: over the iterations since the last record, all ranks.
        seconds: per iteration, since the last record.
        data_seconds: of these, spent waiting for the batch.
        eta_seconds: to the end of the run.
        memory: most bytes in use so far: of the GPU, or of this process on the CPU; 0 where it is unknown.
    """

    step: int
    epoch: int
    rates: Mapping[str, tuple[float, ...]]
    losses: Mapping[str, float]
    grad_norms: Mapping[str, float]
    images_per_second: float
    seconds: float
    data_seconds: float
    eta_seconds: float
    memory: int = 0

    @property
    def data_share(self) -> float:
        """Part of the time that was spent waiting for data."""
        return self.data_seconds / self.seconds if self.seconds > 0 else 0.0

    def as_json(self) -> dict[str, Any]:
        """As ``metrics.jsonl`` has it: of kind ``train``, without times."""
        return {
            "kind": "train", "step": self.step, "epoch": self.epoch,
            **{_of_player("lr", player): list(rates) for player, rates in self.rates.items()}, **self.losses,
            **{_of_player("grad_norm", player): self.grad_norms.get(player) for player in self.rates},
            "images_per_second": round(self.images_per_second, 2),
            "data_share": round(self.data_share, 4), "memory": self.memory,
        }  # fmt: skip

    def curves(self) -> dict[str, float]:
        """As TensorBoard and Weights & Biases have it, under BasicSR's tags: ``losses/l_pix``, ``out_d_real``."""
        return {
            **{f"losses/{name}" if name.startswith("l_") else name: loss for name, loss in self.losses.items()},
            **{_of_player("lr", player): rates[0] for player, rates in self.rates.items()},
            **{_of_player("grad_norm", player): norm for player, norm in self.grad_norms.items()},
            "speed/images_per_second": self.images_per_second,
        }


def _of_player(figure: str, player: str) -> str:
    """The name of a figure that each player has: the generator's has the plain one."""
    return figure if player == "g" else f"{figure}_{player}"


@dataclass(frozen=True)
class ValidationRecord:
    """Means over a validation set, with the best so far, and pictures to look at.

    Attributes:
        step: iterations done.
        dataset: its name.
        scores: metric -> mean; NaN where an image has no score.
        best: metric -> best value so far, of those that have had any.
        pictures: image name -> LR, bicubic, ours, HR side by side, uint8 [H,W,3] RGB.
        images: the scores of each image, in the form of ``scores.json``.
    """

    step: int
    dataset: str
    scores: Mapping[str, float]
    best: Mapping[str, Best]
    pictures: Mapping[str, NDArray[np.uint8]]
    images: Mapping[str, object] = field(default_factory=dict)


class Sink(Protocol):
    """Somewhere that records go."""

    def training(self, record: TrainRecord) -> None:
        """An iteration."""

    def validation(self, record: ValidationRecord) -> None:
        """A validation set."""

    def close(self) -> None:
        """Flush and release."""


class LogSink:
    """Lines in BasicSR's form, with the run's whole name: BasicSR cuts it to five letters, often those of "train"."""

    def __init__(self, name: str) -> None:
        self.name = name

    def training(self, record: TrainRecord) -> None:
        """``[NAME][epoch: 0, iter: 1,000, lr:(2e-04,)] [eta: 1:02:03, time (data): 0.1 (0.0)] l_pix: 3e-02``."""
        rates = ", ".join(
            f"{_of_player('lr', player)}:({''.join(f'{rate:.3e},' for rate in rates)})"
            for player, rates in record.rates.items()
        )
        losses = " ".join(f"{name}: {value:.4e}" for name, value in record.losses.items())
        get_logger().info(
            "[%s][epoch:%3d, iter:%8s, %s] [eta: %s, time (data): %.3f (%.3f)] %s "
            "[%.1f images/s, data wait %.0f%%%s]",
            self.name, record.epoch, f"{record.step:,}", rates, clock(record.eta_seconds), record.seconds,
            record.data_seconds, losses, record.images_per_second, 100 * record.data_share,
            f", {record.memory / 2**30:.1f} GiB" if record.memory else "",
        )  # fmt: skip

    def validation(self, record: ValidationRecord) -> None:
        """``Validation SET`` and a line per metric with the best so far."""
        lines = [f"Validation {record.dataset}"]
        for metric, value in record.scores.items():
            best = record.best.get(metric)
            known = "" if best is None else f"\tBest: {best.value:.4f} @ {best.step} iter"
            lines.append(f"\t # {metric}: {'no score' if math.isnan(value) else f'{value:.4f}'}{known}")
        get_logger().info("%s", "\n".join(lines))

    def close(self) -> None:
        """Nothing: the logger outlives the run."""


class JsonLinesSink:
    """``metrics.jsonl``: one JSON object per record, for programs.

    On resuming, records of iterations after the resumed one are taken out, so that the file reads as if the run had
    never stopped; lines that are no records are too, with a warning.

    Args:
        path: of the file.
        step: the resumed iteration; 0 at the beginning.
        validated: the last iteration whose validation is complete.
        unlogged: the figures of iteration ``step``, where the run that stopped there could not write them everywhere.

    Attributes:
        resumed: the record of the resumed iteration, if there is one.
    """

    def __init__(self, path: Path, step: int, validated: int, unlogged: Mapping[str, Any] | None = None) -> None:
        self.resumed: TrainRecord | None = None
        if path.exists():
            records = read_records(path)
            kept = [(line, record) for line, record in records.lines if _is_past(record, step, validated)]
            if records.dropped:
                lines = first_few([str(number) for number in records.dropped], 4)
                get_logger().warning("%s: %d damaged lines were dropped: line %s", path, len(records.dropped), lines)
            write_text(path, "".join(line + "\n" for line, _ in kept))
            last = next((record for _, record in reversed(kept) if record["kind"] == "train"), None)
            self.resumed = _as_written(last) if last is not None and last["step"] == step else None
        self.file = RecordFile(path)
        if unlogged is not None and self.resumed is None:
            self._write(unlogged)
            self.resumed = _as_written(unlogged)

    def training(self, record: TrainRecord) -> None:
        """Kind ``train``, with every figure of the record; null where it is not finite."""
        self._write(record.as_json())

    def validation(self, record: ValidationRecord) -> None:
        """Kind ``val``, with the means; null where there is none."""
        self._write({"kind": "val", "step": record.step, "dataset": record.dataset, "scores": dict(record.scores)})

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _write(self, value: Mapping[str, object]) -> None:
        self.file.write((json_text(value) + "\n").encode())


class ImageScoresSink:
    """``validation.json``: the scores of each image in the last validation, by data set as in ``scores.json``.

    Args:
        path: of the file, which each data set of a validation writes anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.step = 0
        self.datasets: dict[str, Mapping[str, object]] = {}

    def training(self, record: TrainRecord) -> None:
        """Nothing: an iteration has no images to score."""

    def validation(self, record: ValidationRecord) -> None:
        """The images of a data set, beside those that were scored at the same iteration."""
        if record.step != self.step:
            self.step, self.datasets = record.step, {}
        self.datasets[record.dataset] = record.images
        write_json(self.path, {"step": self.step, "datasets": self.datasets})

    def close(self) -> None:
        """Nothing: the file is closed."""


class TensorBoardSink:
    """Scalars ``losses/l_X``, ``metrics/SET/NAME``, ``lr``, ``grad_norm``, ``speed/...``; validation pictures.

    Args:
        folder: of the event files.
        step: iterations done; what an earlier process has written of later ones is taken back.
        options_text: shown beside the curves.
        repeated: the record of iteration ``step``, where not all of that iteration is there: what is there of it is
            taken back too, and this is written again.
        complete: whether all of iteration ``step`` is there: its record, and the validation after it.
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        options_text: str,
        *,
        repeated: TrainRecord | None = None,
        complete: bool = True,
    ) -> None:
        self.folder = folder
        self.options_text = options_text
        self.events = self._open(step, step + 1 if complete else step)
        if repeated is not None and not complete:
            self._write(repeated)

    def _open(self, step: int, purged: int) -> EventFile:
        events = EventFile(self.folder, purged if step else None)
        if not step:
            events.text("options", f"```yaml\n{self.options_text}\n```")
        return events

    def _reopen_if_lost(self, step: int) -> None:
        """Somebody removed the folder: what follows goes into a new one instead of nowhere."""
        if not self.folder.is_dir():
            get_logger().warning("%s is gone; TensorBoard's curves begin again there", self.folder)
            with contextlib.suppress(OSError):
                self.events.close()
            self.events = self._open(step, step + 1)

    def training(self, record: TrainRecord) -> None:
        """Losses, rate, gradient norm, speed."""
        self._reopen_if_lost(record.step)
        self._write(record)

    def _write(self, record: TrainRecord) -> None:
        more = {"speed/data_share": record.data_share, "speed/memory_gib": record.memory / 2**30}
        self.events.scalars({**record.curves(), **more}, record.step)

    def validation(self, record: ValidationRecord) -> None:
        """Means and pictures."""
        self._reopen_if_lost(record.step)
        scores = _known(record.scores)
        self.events.scalars({f"metrics/{record.dataset}/{name}": value for name, value in scores.items()}, record.step)
        for name, picture in record.pictures.items():
            self.events.picture(f"{record.dataset}/{name}", picture, record.step)

    def close(self) -> None:
        """Close the file."""
        self.events.close()


class WandbSink:
    """Weights & Biases, with the names of the TensorBoard curves; a run goes on without it where it fails.

    Args:
        folder: where its files go.
        name: of the run.
        options: project and the run to continue.
        configuration: the options of the run, as plain values.

    Raises:
        InputError: the package wandb is not installed.
    """

    def __init__(self, folder: Path, name: str, options: WandbOptions, configuration: Mapping[str, object]) -> None:
        try:
            self.wandb: Any = importlib.import_module("wandb")
        except ModuleNotFoundError as error:
            raise InputError(
                "logger.wandb: the package wandb is not installed; `pip install wandb`, or set logger.wandb to null"
            ) from error
        arguments = {
            "project": options.project, "name": name, "id": options.resume_id, "resume": "allow",
            "dir": str(folder), "config": dict(configuration),
        }  # fmt: skip
        self.run: Any = None
        try:
            self.run = self.wandb.init(**arguments)
        except self.wandb.errors.Error as error:
            get_logger().warning("wandb: %s; logging offline, `wandb sync` sends it later", error)
            self.run = self.wandb.init(**arguments, mode="offline")

    def training(self, record: TrainRecord) -> None:
        """Losses, rate, gradient norm, speed."""
        self._send(record.curves(), record.step)

    def validation(self, record: ValidationRecord) -> None:
        """Means and pictures."""
        values: dict[str, object] = {
            f"metrics/{record.dataset}/{metric}": value for metric, value in _known(record.scores).items()
        }
        for name, picture in record.pictures.items():
            values[f"{record.dataset}/{name}"] = self.wandb.Image(picture)
        self._send(values, record.step)

    def close(self) -> None:
        """Send what is left."""
        if self.run is not None:
            self.run.finish()

    def _send(self, values: Mapping[str, object], step: int) -> None:
        if self.run is None:
            return
        try:
            self.run.log(dict(values), step=step)
        except (self.wandb.errors.Error, OSError) as error:
            get_logger().warning("wandb: %s; the run goes on without it", error)
            self.run = None


def _known(scores: Mapping[str, float]) -> dict[str, float]:
    """The scores that there are."""
    return {metric: value for metric, value in scores.items() if not math.isnan(value)}


def _is_past(record: Mapping[str, Any], step: int, validated: int) -> bool:
    return bool(record["step"] <= (validated if record["kind"] == "val" else step))


_NO_LOSS = {"kind", "step", "epoch", "images_per_second", "data_share", "memory"}
_OF_PLAYER = re.compile(r"(lr|grad_norm)(?:_(\w+))?")


def _as_written(record: Mapping[str, Any]) -> TrainRecord:
    """A record as :class:`JsonLinesSink` has written it, but for times, which it leaves out."""
    figures: dict[str, dict[str, Any]] = {"lr": {}, "grad_norm": {}}
    losses = {}
    for key, value in record.items():
        found = _OF_PLAYER.fullmatch(key)
        if found:
            figures[found[1]][found[2] or "g"] = value
        elif key not in _NO_LOSS:
            losses[key] = _number(value)
    share = record.get("data_share") or 0.0
    return TrainRecord(
        step=record["step"], epoch=record.get("epoch") or 0,
        rates={player: tuple(_number(rate) for rate in rates) for player, rates in figures["lr"].items()},
        losses=losses, grad_norms={player: norm for player, norm in figures["grad_norm"].items() if norm is not None},
        images_per_second=record.get("images_per_second") or 0.0, seconds=1.0,
        data_seconds=share, eta_seconds=0.0, memory=record.get("memory") or 0,
    )  # fmt: skip


def _number(value: float | None) -> float:
    return math.nan if value is None else value
