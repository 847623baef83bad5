"""The state of a training on the disk, in BasicSR's forms.

``net_g_ITER.pth`` holds ``params`` and, with an average, ``params_ema``; ``ITER.state`` holds the optimiser, the
position in the training and the random generators. Both carry the options and versions of the run under the key
``focalsr``, which BasicSR ignores. What a weight file may look like is in :mod:`models.weights.files`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from config import to_dict
from config.schema import PathOptions, TrainOptions
from models.distributed import World
from models.training.schedule import scheduler_state
from models.training.state import Best, TrainState
from models.weights.files import (
    check_sums,
    first_line,
    read_checkpoint,
    select_weights,
    write_checkpoint,
    write_safetensors,
)
from utils.env import versions
from utils.errors import InputError
from utils.log import get_logger
from utils.seed import random_state, set_random_state


@dataclass(frozen=True)
class CheckpointFolder:
    """Where a run keeps its checkpoints.

    Attributes:
        root: ``experiments/NAME``.
    """

    root: Path

    @property
    def networks(self) -> Path:
        """Folder of the network files."""
        return self.root / "models"

    @property
    def states(self) -> Path:
        """Folder of the training states."""
        return self.root / "training_states"

    def network(self, step: int | str) -> Path:
        """The network file of an iteration, or ``latest``."""
        return self.networks / f"net_g_{step}.pth"

    def state(self, step: int) -> Path:
        """The training state of an iteration."""
        return self.states / f"{step}.state"

    def steps(self) -> list[int]:
        """Iterations that have a state, newest first."""
        found = [re.fullmatch(r"(\d+)\.state", path.name) for path in self.states.glob("*.state")]
        return sorted((int(match[1]) for match in found if match), reverse=True)


@dataclass(frozen=True)
class Snapshot:
    """A training state as it is written: copies on the CPU, which later iterations do not touch.

    Attributes:
        step: iterations done.
        network: content of the network file.
        state: content of the ``.state`` file.
    """

    step: int
    network: Mapping[str, Any]
    state: Mapping[str, Any]


def network_content(state: TrainState, options: TrainOptions) -> dict[str, Any]:
    """``params``, ``params_ema`` where there is an average, and where they come from."""
    content: dict[str, Any] = {"params": _cpu_state(state.network)}
    if state.ema is not None:
        content["params_ema"] = _cpu_state(state.ema)
    content["focalsr"] = _passport(state, options)
    return content


def snapshot(state: TrainState, options: TrainOptions, randoms: Sequence[Mapping[str, Any]]) -> Snapshot:
    """Everything that a run needs to continue; ``randoms`` are the random generators of each rank."""
    optimizer = state.optimizer
    bases = [group["initial_lr"] for group in optimizer.param_groups]
    content = {
        "epoch": state.epoch,
        "iter": state.step,
        "optimizers": [_copied(optimizer.state_dict())],
        "schedulers": [scheduler_state(options.train, bases, state.step)],
        "focalsr": {
            **_passport(state, options),
            "random": list(randoms),
            "validated": state.validated,
            "skipped": state.skipped,
            "best": _best(state),
            **({} if state.scaler is None else {"scaler": state.scaler.state_dict()}),
        },
    }
    return Snapshot(state.step, network_content(state, options), content)


def write(folder: CheckpointFolder, taken: Snapshot, *, safetensors: bool = False) -> None:
    """Write the network and then the state of an iteration; a state on the disk implies its network.

    Raises:
        StorageError: the disk is full or broken; what was there before is whole.
    """
    write_network(folder.network(taken.step), taken.network)
    if safetensors:
        write_safetensors(folder.network(taken.step).with_suffix(".safetensors"), taken.network)
    write_checkpoint(folder.state(taken.step), taken.state)


def write_network(path: Path, content: Mapping[str, Any]) -> None:
    """Write a network file (atomic).

    Raises:
        StorageError: the disk is full or broken.
    """
    write_checkpoint(path, content)


def save(folder: CheckpointFolder, state: TrainState, options: TrainOptions, world: World) -> None:
    """Take a snapshot and write it, now. Called by every rank, since each has random generators of its own."""
    randoms = world.gather(random_state())
    if world.is_main:
        write(folder, snapshot(state, options, randoms))


def prune(folder: CheckpointFolder, keep_last: int, keep_every: int | None) -> None:
    """Remove checkpoints but the newest ones, and those of multiples of ``keep_every``.

    The state goes first: a state on the disk implies its network.
    """
    for step in folder.steps()[keep_last:]:
        if keep_every is not None and step % keep_every == 0:
            continue
        folder.state(step).unlink(missing_ok=True)
        for ending in (".pth", ".safetensors"):
            folder.network(step).with_suffix(ending).unlink(missing_ok=True)


@dataclass(frozen=True)
class Resume:
    """A training state on the disk, read and ready to be put into a TrainState.

    Attributes:
        path: the ``.state`` file.
        content: what it holds.
        network: content of the network file, or None where the options say to ignore it.
    """

    path: Path
    content: Mapping[str, Any]
    network: Mapping[str, Any] | None

    @property
    def step(self) -> int:
        """Iterations done."""
        return int(self.content["iter"])

    @property
    def seed(self) -> int | None:
        """The seed of the run, where the state is one of ours."""
        seed: int | None = self.content.get("focalsr", {}).get("options", {}).get("manual_seed")
        return seed


def read_resume(path: Path, options: PathOptions) -> Resume:
    """Read a state and the network file that belongs to it (``../models/net_g_ITER.pth``).

    Raises:
        InputError: one of them is absent, damaged, or not what its name says.
    """
    content = read_checkpoint(path)
    check_sums(path)
    if not {"iter", "optimizers"} <= content.keys():
        raise InputError(f"{path}: not a training state; expected the entries iter and optimizers")
    folder = CheckpointFolder(path.parent.parent)
    ignored = "network_g" in options.ignore_resume_networks
    network = None
    if not ignored:
        weights = folder.network(int(content["iter"]))
        network = read_checkpoint(weights)
        check_sums(weights)
    return Resume(path, content, network)


def find_resume(folder: CheckpointFolder, options: PathOptions) -> Resume | None:
    """The newest readable state of a run; a damaged one is named and the one before it taken."""
    for step in folder.steps():
        try:
            return read_resume(folder.state(step), options)
        except InputError as error:
            get_logger().warning("skipped: %s", error)
    return None


def apply_resume(state: TrainState, resume: Resume, options: TrainOptions, world: World) -> None:
    """Put a read state into ``state``: weights, average, optimiser, position, random generators.

    Raises:
        InputError: it belongs to another network or optimiser.
    """
    if resume.network is not None:
        path = CheckpointFolder(resume.path.parent.parent).network(resume.step)
        _restore(state.network, resume.network, "params", path)
        if state.ema is not None:
            _restore(state.ema, resume.network, "params_ema", path)
    try:
        state.optimizer.load_state_dict(resume.content["optimizers"][0])
    except (ValueError, KeyError, IndexError) as error:
        raise InputError(f"{resume.path}: its optimiser does not fit train.optim_g: {first_line(error)}") from error
    for group in state.optimizer.param_groups:
        group["initial_lr"] = options.train.optim_g.lr  # the option file decides, as for the schedule
    state.step, state.epoch = resume.step, int(resume.content.get("epoch", 0))
    ours = resume.content.get("focalsr", {})
    state.validated, state.skipped = ours.get("validated", state.step), ours.get("skipped", 0)
    for dataset, metrics in ours.get("best", {}).items():
        state.best[dataset] = {metric: Best(value, step) for metric, (value, step) in metrics.items()}
    if state.scaler is not None and "scaler" in ours:
        state.scaler.load_state_dict(ours["scaler"])
    randoms = ours.get("random", [])
    if world.rank < len(randoms):
        set_random_state(randoms[world.rank])


def _copied(value: Any) -> Any:
    """Nested lists and mappings with every tensor copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _restore(network: nn.Module, content: Mapping[str, Any], key: str, path: Path) -> None:
    tensors = select_weights(content, key, path)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{path}: belongs to another network than network_g: {first_line(error)}") from error


def _passport(state: TrainState, options: TrainOptions) -> dict[str, Any]:
    return {"step": state.step, "options": to_dict(options), "versions": versions(), "metrics": _best(state)}


def _best(state: TrainState) -> dict[str, dict[str, list[float]]]:
    """Data set -> metric -> best value so far and its iteration."""
    return {
        dataset: {metric: [best.value, best.step] for metric, best in metrics.items()}
        for dataset, metrics in state.best.items()
    }


def _cpu_state(network: nn.Module) -> dict[str, Tensor]:
    """Copies on the CPU, dense: later iterations do not change what is being written."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in network.state_dict().items()}
