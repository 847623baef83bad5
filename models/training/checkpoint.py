"""Reading and writing weights and training states, in BasicSR's forms.

``net_g_ITER.pth`` holds ``params`` and, with an average, ``params_ema``; ``ITER.state`` holds the optimiser, the
position in the training and the random generators. Both carry the options and versions of the run under the key
``focalsr``, which BasicSR ignores. Everything is read with torch's weights-only loader: no code from files.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import archs
from config import to_dict
from config.schema import PathOptions, TrainOptions
from models.distributed import World
from models.training.schedule import scheduler_state
from models.training.state import Best, TrainState
from models.weights.fit import LoadReport, fit
from utils.env import versions
from utils.errors import InputError
from utils.files import atomic_write
from utils.log import get_logger
from utils.seed import random_state, set_random_state


def load_weights(
    network: nn.Module,
    path: Path | str,
    key: str | None = "params_ema",
    strict: bool = True,
    *,
    resize_tables: bool = False,
) -> LoadReport:
    """Fill a network from a ``.pth`` (BasicSR's forms or a bare state dict) or ``.safetensors`` file.

    Args:
        network: filled in place, in its own dtype and on its own device.
        path: the file.
        key: entry of the checkpoint; where it is absent, ``params`` serves, and a bare state dict is taken as it is.
            None: the file itself is the state dict.
        strict: every tensor must fit; False leaves out those that do not, and reports them.
        resize_tables: tables of relative positions of another window are resized, and fit then.

    Returns:
        What was loaded, converted and left out (nothing when strict).

    Raises:
        InputError: the file cannot be read, or does not fit; says what would.
    """
    report = _fill(network, Path(path), key, strict, resize_tables)
    if report:
        get_logger().warning("%s was loaded in part: %s", path, report.summary())
    elif report.converted:
        get_logger().info("%s: %s", path, report.summary())
    return report


def _fill(network: nn.Module, path: Path, key: str | None, strict: bool, resize_tables: bool) -> LoadReport:
    tensors = select_weights(read_checkpoint(path), key, path)
    taken, report = fit(network, tensors, resize_tables=resize_tables)
    if report and strict:
        raise InputError(_misfit(path, network, tensors, report))
    try:
        network.load_state_dict(taken, strict=False)
    except RuntimeError as error:  # a stored table that does not follow from the network's arguments
        raise InputError(f"{path}: {str(error).strip().splitlines()[-1].strip()}") from error
    return report


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, on the CPU; tensors and plain values only.

    Raises:
        InputError: absent, damaged, of another kind, or wanting to run code.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about pickle protocols of files that are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        _, _, reason = str(error).partition("WeightsUnpickler error: ")
        raise InputError(
            f"{path}: refused, because it is damaged or holds more than tensors and plain values "
            f"(loading it could run code): {reason.split('. Please')[0].split(' was not')[0] or _first_line(error)}"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, IndexError) as error:
        raise InputError(f"{path}: not a readable checkpoint (damaged or cut off?): {_first_line(error)}") from error
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: expected a dictionary of tensors, found {type(content).__name__}")
    return dict(content)


def select_weights(content: Mapping[str, Any], key: str | None, path: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint's content, without any leading ``module.``.

    Raises:
        InputError: there is none under that key.
    """
    if key is not None and key in content:
        chosen = content[key]
    elif key is not None and "params" in content:
        get_logger().info('%s has no "%s"; using "params"', path, key)
        chosen = content["params"]
    elif isinstance(content.get("model"), Mapping) and "sd" in content["model"]:
        chosen = content["model"]["sd"]  # the form of LIIF and its successors
    else:
        chosen = content
    tensors = {
        name.removeprefix("module."): value for name, value in chosen.items() if isinstance(value, Tensor)
    } if isinstance(chosen, Mapping) else {}  # fmt: skip
    if not tensors:
        raise InputError(f'{path}: holds no weights under "{key}"; its entries: {", ".join(map(str, content))}')
    return tensors


def load_pretrained(network: nn.Module, path: PathOptions) -> LoadReport | None:
    """Fill a network from ``path.pretrain_network_g``, if there is one."""
    if path.pretrain_network_g is None:
        return None
    return load_weights(
        network, path.pretrain_network_g, path.param_key_g, path.strict_load_g,
        resize_tables=path.resize_position_tables,
    )  # fmt: skip


def load_pretrained_ema(ema: nn.Module, path: PathOptions) -> None:
    """Fill an average, already a copy of the loaded network, from the file's own average.

    What the file lacks or holds in another shape stays a copy of the network, for which that has been said already.
    """
    if path.pretrain_network_g is None or path.param_key_g is None:
        return
    _fill(ema, Path(path.pretrain_network_g), "params_ema", path.strict_load_g, path.resize_position_tables)


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
        _write_safetensors(folder.network(taken.step).with_suffix(".safetensors"), taken.network)
    _write(folder.state(taken.step), taken.state)


def write_network(path: Path, content: Mapping[str, Any]) -> None:
    """Write a network file (atomic).

    Raises:
        StorageError: the disk is full or broken.
    """
    _write(path, content)


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
    _check_sums(path)
    if not {"iter", "optimizers"} <= content.keys():
        raise InputError(f"{path}: not a training state; expected the entries iter and optimizers")
    folder = CheckpointFolder(path.parent.parent)
    ignored = "network_g" in options.ignore_resume_networks
    network = None
    if not ignored:
        weights = folder.network(int(content["iter"]))
        network = read_checkpoint(weights)
        _check_sums(weights)
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
        raise InputError(f"{resume.path}: its optimiser does not fit train.optim_g: {_first_line(error)}") from error
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


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Save atomically; in memory first, because torch hides a full disk behind an error of its own."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    with atomic_write(path) as file:
        file.write(buffer.getbuffer())


def _write_safetensors(path: Path, content: Mapping[str, Any]) -> None:
    """The averaged weights if there are some, with the options as metadata."""
    from safetensors.torch import save

    passport = content["focalsr"]
    metadata = {key: json.dumps(value) for key, value in passport.items()}
    metadata["network_g"] = json.dumps(passport["options"]["network_g"])
    weights = content.get("params_ema", content["params"])
    with atomic_write(path) as file:
        file.write(save(weights, {"format": "pt", **metadata}))


def _check_sums(path: Path) -> None:
    """Compare a file with the checksums inside it; torch itself does not look at them.

    Raises:
        InputError: they differ.
    """
    if not zipfile.is_zipfile(path):
        return  # a form older than the checksums
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise InputError(f"{path}: damaged: the checksum of its part {damaged} is wrong")


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
        raise InputError(f"{path}: belongs to another network than network_g: {_first_line(error)}") from error


def _misfit(path: Path, network: nn.Module, tensors: Mapping[str, Tensor], report: LoadReport) -> str:
    message = f"{path}: does not fit {type(network).__name__}: {report}."
    held = archs.identify(tensors)
    if held is None:
        return message + " Its keys belong to no network known here."
    described = ", ".join(f"{key}: {value}" for key, value in held.items())
    return message + f" The file fits network_g: {{{described}}}."


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


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]
