"""The state of a training on the disk, in BasicSR's forms.

``net_g_ITER.pth`` holds ``params`` and, with EMA, ``params_ema``; ``ITER.state`` holds the optimisers, the position in
the training and the random generators. Both carry the options and versions of the run under the key ``focalsr``, which
BasicSR ignores. What a weight file may look like is in :mod:`models.weights.files`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from archs.layers.constants import constant_keys
from config import to_dict
from config.schema import PathOptions, TrainOptions
from models.distributed import World
from models.training.optim import check_optimizer, resume_optimizer
from models.training.schedule import scheduler_state
from models.training.state import Best, Player, TrainState
from models.training.state_form import check_form
from models.weights.entries import entry_for
from models.weights.files import (
    read_checkpoint,
    refuse_nonfinite,
    write_checkpoint,
    write_network,
)
from utils.env import versions
from utils.errors import InputError
from utils.files import archive_existing, storage_error, sync_file, sync_folder
from utils.log import get_logger
from utils.seed import set_random_state
from utils.wording import first_few, first_line

FORMAT = 2
"""Of what is written under ``focalsr``; 1 had no number, one network, and one ``scaler`` in place of ``scalers``."""

_PLAYERS = ("g", "d")  # in the order in which BasicSR lists their optimisers
_LISTED = 6  # names in a message
_DECISIVE = (
    "model_type", "scale", "network_g", "network_d", "l1_gt_usm", "percep_gt_usm", "gan_gt_usm", "gt_size", "datasets",
    "train",
)  # fmt: skip
"""Options whose changes are logged."""


class NewerFormatError(InputError):
    """A checkpoint of a later version: nothing is wrong with it, but it cannot be understood here."""


class DamagedStateError(InputError):
    """A training state contradicts itself; the one before it may be whole."""


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

    @property
    def figures(self) -> Path:
        """The file that grows by a line for each record of the training."""
        return self.root / "metrics.jsonl"

    def network(self, step: int | str, player: str = "g") -> Path:
        """The network file of an iteration, or of ``latest`` or ``best``."""
        return self.networks / f"net_{player}_{step}.pth"

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
        networks: player -> content of its network file.
        state: content of the ``.state`` file.
    """

    step: int
    networks: Mapping[str, Mapping[str, Any]]
    state: Mapping[str, Any]


def network_content(state: TrainState, player: str, options: TrainOptions) -> dict[str, Any]:
    """``params``, ``params_ema`` where there are EMA weights, and the metadata of the run."""
    own = state.players[player]
    content: dict[str, Any] = {"params": _cpu_state(own.network)}
    if own.ema is not None:
        content["params_ema"] = _cpu_state(own.ema)
    content["focalsr"] = _metadata(state, options)
    return content


def snapshot(state: TrainState, options: TrainOptions, randoms: Sequence[Mapping[str, Any]]) -> Snapshot:
    """Everything that a run needs to continue; ``randoms`` are the random generators of each rank."""
    optimizers = {name: player.optimizer for name, player in state.players.items()}
    scalers = {name: player.scaler for name, player in state.players.items()}
    bases = [[group["initial_lr"] for group in optimizer.param_groups] for optimizer in optimizers.values()]
    content = {
        "epoch": state.epoch,
        "iter": state.step,
        "optimizers": [_copied(optimizer.state_dict()) for optimizer in optimizers.values()],
        "schedulers": [scheduler_state(options.train, own, state.step) for own in bases],
        "focalsr": {
            **_metadata(state, options),
            "players": {name: type(optimizer).__name__ for name, optimizer in optimizers.items()},
            "scalers": {name: scaler.state_dict() for name, scaler in scalers.items() if scaler is not None},
            "random": list(randoms),
            "validated": state.validated,
            "skipped": state.skipped,
            "best": _best(state),
            **({} if state.unlogged is None else {"unlogged": dict(state.unlogged)}),
        },
    }
    networks = {name: network_content(state, name, options) for name in state.players}
    return Snapshot(state.step, networks, content)


def write(folder: CheckpointFolder, taken: Snapshot, *, safetensors: bool = False) -> None:
    """Write the networks and then the state of an iteration; a state on the disk implies its networks.

    And it implies the figures of its iterations, which a resumed run does not write again.

    Raises:
        StorageError: the disk is full or broken; what was there before is whole.
    """
    sync_file(folder.figures)
    for player, content in taken.networks.items():
        path = folder.network(taken.step, player)
        write_checkpoint(path, content)
        if safetensors:
            write_network(path.with_suffix(".safetensors"), content)
    write_checkpoint(folder.state(taken.step), taken.state)


def prune(folder: CheckpointFolder, keep_last: int, keep_every: int | None, newest: int) -> None:
    """Remove checkpoints but the newest ones, and those of multiples of ``keep_every``.

    The states go first, on the disk too: a state there implies its networks. ``newest`` was written just now: later
    ones are none of this run, do not count, and stay.

    Raises:
        StorageError: the disk is broken.
    """
    own = [step for step in folder.steps() if step <= newest]
    steps = [step for step in own[keep_last:] if keep_every is None or step % keep_every]
    if not steps:
        return
    try:
        for step in steps:
            folder.state(step).unlink(missing_ok=True)
        sync_folder(folder.states)
        for step in steps:
            for path in folder.networks.glob(f"net_*_{step}.*"):
                if path.suffix in (".pth", ".safetensors"):
                    path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(folder.states, error) from error


def set_aside_later(folder: CheckpointFolder, step: int) -> None:
    """Rename the states of later iterations than ``step``, from which a run goes on: they are not of its future.

    They are damaged, or of a run that went on from there in another way. Their networks are about to be overwritten,
    and the next ``--auto_resume`` would take them for the newest.
    """
    for later in folder.steps():
        if later > step:
            kept = archive_existing(folder.state(later))
            get_logger().warning("the run goes on from iteration %s; the later state was kept as %s", f"{step:,}", kept)


@dataclass(frozen=True)
class Resume:
    """A training state on the disk, read and ready to be put into a TrainState.

    Attributes:
        path: the ``.state`` file.
        content: what it holds.
        networks: player -> content of its network file; those that the options say to ignore are absent.
    """

    path: Path
    content: Mapping[str, Any]
    networks: Mapping[str, Mapping[str, Any]]

    @property
    def step(self) -> int:
        """Iterations done."""
        step: int = self.content["iter"]
        return step

    @property
    def optimizers(self) -> Mapping[str, Any]:
        """Player -> state of its optimiser."""
        players = self.metadata.get("players") or _PLAYERS
        return dict(zip(players, self.content["optimizers"], strict=False))

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What this framework adds to BasicSR's entries; empty in a state that BasicSR wrote."""
        found: Mapping[str, Any] = self.content.get("focalsr", {})
        return found

    @property
    def seed(self) -> int | None:
        """The seed of the run, where the state is one of ours."""
        seed: int | None = self.metadata.get("options", {}).get("manual_seed")
        return seed

    def was_saved_with(self, options: TrainOptions, key: str) -> bool:
        """Whether the options of the saved run have this value under a dotted key too; False where they are unknown."""
        saved = value_at(self.metadata, f"options.{key}")
        return saved is not None and saved == value_at(to_dict(options), key)


def read_resume(path: Path, options: PathOptions) -> Resume:
    """Read a state and the network files that belong to it (``../models/net_g_ITER.pth``).

    Raises:
        NewerFormatError: a later version has written it.
        InputError: one of them is absent, damaged, or not what its name says.
    """
    content = read_checkpoint(path)
    _check_version(path, content)
    check_form(path, content)
    folder = CheckpointFolder(path.parent.parent)
    players = content.get("focalsr", {}).get("players") or _PLAYERS[: len(content["optimizers"])]
    networks = {
        player: read_checkpoint(folder.network(content["iter"], player))
        for player in players
        if f"network_{player}" not in options.ignore_resume_networks
    }
    return Resume(path, content, networks)


def _check_version(path: Path, content: Mapping[str, Any]) -> None:
    ours = content.get("focalsr", {})
    version = ours.get("format_version", 1) if isinstance(ours, Mapping) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(f"{path}: not a sound training state: its entry focalsr says no format_version")
    if version > FORMAT:
        raise NewerFormatError(
            f"{path}: has checkpoint format {version}, this version reads up to {FORMAT}; update FocalSR, or begin a "
            "new run from its weights (path.pretrain_network_g)"
        )


def find_resume(
    folder: CheckpointFolder, options: PathOptions, world: World, before: int | None = None
) -> Resume | None:
    """The newest state of a run that every rank can read; a damaged one is logged and the one before it taken.

    Args:
        folder: of the run.
        options: say which networks are not taken from it.
        world: the ranks that call this, all of them.
        before: only states of earlier iterations than this one.

    Returns:
        None where the run has no state.

    Raises:
        NewerFormatError: a later version has written the newest.
        InputError: there are states, and none of them can be used.
    """
    skipped = []
    for step in world.from_main(folder.steps()):
        if before is not None and step >= before:
            skipped.append(step)  # the caller has tried it
            continue
        try:
            return world.together(partial(read_resume, folder.state(step), options))
        except NewerFormatError:
            raise
        except InputError as error:
            _log_skipped(error, world)
            skipped.append(step)
    if skipped:
        names = first_few([f"{step}.state" for step in skipped], _LISTED)
        raise InputError(
            f"{folder.states}: no training state there can be used ({names}; the lines above say why). Put whole ones "
            "in their place, or begin anew with --restart (in a recipe --restart STAGE), which keeps what is there "
            "under another name"
        )
    return None


def _log_skipped(error: InputError, world: World) -> None:
    if world.is_main:  # else each rank would show it
        get_logger().warning("skipped: %s", error)


def take_over(state: TrainState, resume: Resume, options: TrainOptions, world: World) -> Resume:
    """:func:`apply_resume`, or where that state turns out to be damaged, of the newest one before it that is not.

    Returns:
        The state that was taken.

    Raises:
        InputError: the state belongs to other networks or optimisers, or there is no other one.
    """
    while True:
        try:
            apply_resume(state, resume, options, world)
        except DamagedStateError as error:
            if options.path.resume_state is not None:
                raise
            _log_skipped(error, world)
            earlier = find_resume(CheckpointFolder(resume.path.parent.parent), options.path, world, resume.step)
            if earlier is None:  # somebody has emptied the folder
                raise
            resume = earlier
        else:
            return resume


def apply_resume(state: TrainState, resume: Resume, options: TrainOptions, world: World) -> None:
    """Put a read state into ``state``: weights, EMA weights, optimisers, position, random generators.

    The option file rules: arguments of optimisers and everything else that it says are followed; what differs from
    the options of the saved run is logged. Nothing is changed before every rank has looked at everything. A player
    whose network is not taken from the run (``path.ignore_resume_networks``) keeps a new optimiser: what the saved one
    remembers is of other weights.

    Raises:
        DamagedStateError: something in it cannot have been saved so.
        InputError: the state belongs to other networks or optimisers.
    """
    ours, saved = resume.metadata, resume.optimizers
    fitted = world.together(partial(_fitting, state, resume, options))
    for name, player in state.players.items():
        if name not in resume.networks:
            get_logger().info(
                "network_%s: its weights are not taken from %s (path.ignore_resume_networks), and its optimiser begins "
                "anew", name, resume.path,
            )  # fmt: skip
            continue
        for network, tensors in fitted[name]:
            _load(network, tensors, name, resume.path)
        resume_optimizer(player.optimizer, saved[name])
        scalers = ours.get("scalers") or {"g": ours.get("scaler")}
        if player.scaler is not None and scalers.get(name):
            player.scaler.load_state_dict(scalers[name])
    state.step, state.epoch = resume.step, resume.content.get("epoch", 0)
    state.validated, state.skipped = ours.get("validated", state.step), ours.get("skipped", 0)
    state.unlogged = ours.get("unlogged")
    for dataset, metrics in ours.get("best", {}).items():
        state.best[dataset] = {metric: Best(value, step) for metric, (value, step) in metrics.items()}
    for change in changed_options(ours.get("options", {}), to_dict(options)):
        get_logger().info("the resumed run goes on with %s", change)
    randoms = ours.get("random", [])
    if world.rank < len(randoms):
        set_random_state(randoms[world.rank])


def changed_options(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """What of the options that decide about a training differs from a saved run's: ``key: value (was value)``."""
    for key in before if prefix else (key for key in _DECISIVE if key in before):
        name, old, new = f"{prefix}{key}", before[key], now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from changed_options(old, new, f"{name}.")
        elif old != new:
            yield f"{name}: {new} (was {old})"


_Filling = list[tuple[nn.Module, Mapping[str, Tensor]]]
"""Networks, each with the tensors for it."""


def _fitting(state: TrainState, resume: Resume, options: TrainOptions) -> dict[str, _Filling]:
    """What the networks of each player are filled with, if they are; its optimiser has been looked at too."""
    saved = resume.optimizers
    if set(saved) != set(state.players):
        raise InputError(
            f"{resume.path}: holds the training of {', '.join(saved)}, and this option file trains "
            f"{', '.join(state.players)}; begin a new run from its weights (path.pretrain_network_g) instead"
        )
    taken = {name: player for name, player in state.players.items() if name in resume.networks}
    fitted = {name: _fitting_weights(player, name, resume, options) for name, player in taken.items()}
    for name, player in taken.items():
        _check_optimizer(player, name, saved[name], resume, options)
    return fitted


def _fitting_weights(player: Player, name: str, resume: Resume, options: TrainOptions) -> _Filling:
    """The networks of a player, each with the tensors for it."""
    path = CheckpointFolder(resume.path.parent.parent).network(resume.step, name)
    wanted = [(player.network, "params"), *([] if player.ema is None else [(player.ema, "params_ema")])]
    try:
        return [(network, _fitting_tensors(network, name, resume.networks[name], key, path)) for network, key in wanted]
    except InputError as error:
        if resume.was_saved_with(options, f"network_{name}"):  # with this network it was saved, and it does not fit
            raise DamagedStateError(str(error)) from error
        raise


def _fitting_tensors(
    network: nn.Module, player: str, content: Mapping[str, Any], key: str, path: Path
) -> Mapping[str, Tensor]:
    entry = entry_for(network, content, key, path)
    own = network.state_dict()
    misfit = [
        name for name, value in own.items() if name not in entry.tensors or entry.tensors[name].shape != value.shape
    ]
    surplus = [name for name in entry.tensors if name not in own and name not in constant_keys(network)]
    if misfit or surplus:
        named = first_few([*misfit, *surplus], _LISTED)
        raise InputError(f"{path}: belongs to another network than network_{player}; these tensors do not fit: {named}")
    refuse_nonfinite(network, entry.tensors, entry.name, path)
    return entry.tensors


def _load(network: nn.Module, tensors: Mapping[str, Tensor], player: str, path: Path) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:  # a stored table that does not follow from the network's arguments
        raise InputError(f"{path}: belongs to another network than network_{player}: {first_line(error)}") from error


def _check_optimizer(player: Player, name: str, saved: Any, resume: Resume, options: TrainOptions) -> None:
    try:
        check_optimizer(player.optimizer, saved, _saved_kind(resume.metadata, name))
    except ValueError as error:
        keys = (f"network_{name}", f"train.optim_{name}", "train.decay_norms_and_biases")
        if all(resume.was_saved_with(options, key) for key in keys):
            raise DamagedStateError(f"{resume.path}: its optimiser is not as it was saved: {error}") from error
        raise InputError(
            f"{resume.path}: its optimiser does not fit train.optim_{name}: {error}. Give the option "
            f"file the optimiser of the saved run, or begin a new run from its weights (path.pretrain_network_{name})"
        ) from error


def _saved_kind(ours: Mapping[str, Any], player: str) -> str | None:
    """The class of a saved optimiser; states of format 1 tell by their options, those of BasicSR not at all."""
    kind = ours.get("players", {}).get(player) or value_at(ours, f"options.train.optim_{player}.type")
    return kind if isinstance(kind, str) else None


def value_at(mapping: Any, key: str) -> Any:
    """The value under a dotted key of nested mappings; None where there is none."""
    value = mapping
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _copied(value: Any) -> Any:
    """Nested lists and mappings with every tensor copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _metadata(state: TrainState, options: TrainOptions) -> dict[str, Any]:
    return {
        "format_version": FORMAT,
        "step": state.step,
        "options": to_dict(options),
        "versions": versions(),
        "metrics": _best(state),
    }


def _best(state: TrainState) -> dict[str, dict[str, list[float]]]:
    """Data set -> metric -> best value so far and its iteration."""
    return {
        dataset: {metric: [best.value, best.step] for metric, best in metrics.items()}
        for dataset, metrics in state.best.items()
    }


def _cpu_state(network: nn.Module) -> dict[str, Tensor]:
    """Copies on the CPU, dense: later iterations do not change what is being written."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in network.state_dict().items()}
