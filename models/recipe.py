"""Running a recipe: print the plan, then run stage after stage; finished stages of an interrupted run are skipped."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import archs
from config import to_dict
from config.command import Command
from config.recipe import Recipe, Stage
from models.distributed import World, restarts
from models.evaluation.check import verdict
from models.evaluation.evaluate import format_table
from models.experiment import reserved, training_folder
from models.inputs import Missing, missing_inputs, raise_missing
from models.training.check import inspect_training
from models.training.checkpoint import CheckpointFolder, find_resume, value_at
from models.training.loop import train
from models.training.objectives import players_of
from models.weights.files import read_checkpoint
from models.weights.fit import fit
from utils.errors import InputError
from utils.files import archive_existing
from utils.log import configure_logging, copied_log, get_logger
from utils.scale import scale_text

# A run under a stage's name whose options differ in one of these is another training.
_IDENTITY = ("scale", "network_g", "network_d", "path.pretrain_network_g", "path.pretrain_network_d")


@dataclass(frozen=True)
class StageProgress:
    """How many iterations of a stage are done.

    Attributes:
        done: iterations.
        total: of the stage.
        finished: whether its last weights are written.
    """

    done: int
    total: int
    finished: bool

    def __str__(self) -> str:
        if self.finished:
            return "done"
        return f"at {self.done:,}" if self.done else "to do"


def run_recipe(recipe: Recipe, command: Command, world: World, *, restart: str | None = None) -> None:
    """Run every stage that is not done yet, each from where it was left.

    Args:
        recipe: its stages, in order.
        command: what was typed; ``auto_resume`` and the option file are set for each stage.
        world: the processes, of all stages.
        restart: this stage, and those that start from it, begin anew; what they had done is kept under another name.

    Raises:
        InputError: a stage cannot be run as it stands; found before the first one starts, where it can be.
        StopRequested: SIGINT or SIGTERM came; running the recipe again goes on from there.
    """
    configure_logging(rank=world.rank)
    with copied_log():  # for the log file of the stage that is on
        _run_stages(recipe, command, world, restart)
    configure_logging(rank=world.rank)
    weights = [str(_folder(stage).network("latest")) for stage in recipe.stages]
    get_logger().info("recipe %s is done; its weights are\n%s", recipe.name, "\n".join(weights))


def _run_stages(recipe: Recipe, command: Command, world: World, restart: str | None) -> None:
    if restart is not None and restarts() == 0:  # a later start by torchrun goes on with what has begun anew
        _set_aside(recipe.after(restart), world)
    states = _progress(recipe, world)
    get_logger().info("recipe %s\n%s", recipe.name, stage_table(recipe, states))
    _check_inputs(recipe, states)
    check_chain(recipe, states)
    for stage, state in zip(recipe.stages, states, strict=True):
        if state.finished:
            continue
        configure_logging(rank=world.rank)
        get_logger().info("recipe %s: stage %s", recipe.name, stage.name)
        here = dataclasses.replace(command, option_file=stage.option_file, auto_resume=True)
        train(stage.options, here, world)


def check_recipe(recipe: Recipe, world: World, *, verbose: bool = False) -> None:
    """The plan, and all that ``train.py --check`` does, for each stage; nothing is written.

    Args:
        recipe: its stages, in order.
        world: the processes, of all stages.
        verbose: log the options of each stage as read.

    Raises:
        InputError: something cannot be used.
    """
    configure_logging(rank=world.rank)
    with verdict():
        _inspect_stages(recipe, world, verbose=verbose)


def _inspect_stages(recipe: Recipe, world: World, *, verbose: bool) -> None:
    states = _progress(recipe, world)
    get_logger().info("recipe %s\n%s", recipe.name, stage_table(recipe, states))
    _check_inputs(recipe, states)
    check_chain(recipe, states)
    for stage in recipe.stages:
        options, path = stage.options, stage.options.path
        # What the stage before has not written yet.
        if "g" in stage.inherited and not _is_there(path.pretrain_network_g):
            path = dataclasses.replace(path, pretrain_network_g=None)
        if "d" in stage.inherited and not _is_there(path.pretrain_network_d):
            path = dataclasses.replace(path, pretrain_network_d=None)
        options = dataclasses.replace(options, path=path)
        get_logger().info("stage %s", stage.name)
        inspect_training(options, world, verbose=verbose)


def _is_there(path: Path | None) -> bool:
    return path is not None and path.is_file()


def _check_inputs(recipe: Recipe, states: Sequence[StageProgress]) -> None:
    """Raise InputError where a stage that is to run lacks data or weights that no earlier stage makes."""
    found: list[Missing] = []
    for stage, state in zip(recipe.stages, states, strict=True):
        if not state.finished:
            found += missing_inputs(stage.options, "gd" if state.done else stage.inherited)
    raise_missing(found)


def stage_table(recipe: Recipe, states: Sequence[StageProgress]) -> str:
    """The stages as a table: what is trained on what, from what, how far it is."""
    rows = []
    for stage, state in zip(recipe.stages, states, strict=True):
        options = stage.options
        start = stage.start_from or (options.path.pretrain_network_g and str(options.path.pretrain_network_g))
        rows.append([
            stage.name,
            f"{options.network_g.type} {scale_text(options.scale)}",
            options.train_dataset.name,
            f"{state.total:,}",
            start or "scratch",
            options.name,
            str(state),
        ])  # fmt: skip
    return format_table(["stage", "network", "data", "iterations", "starts from", "run", "state"], rows, means=False)


def check_chain(recipe: Recipe, states: Sequence[StageProgress]) -> None:
    """Report how the weights of each stage will fit the next, before days are spent on the first.

    Raises:
        InputError: they will not, and the option file wants all of them.
    """
    for stage, state in zip(recipe.stages, states, strict=True):
        if stage.start_from is None or state.done:
            continue
        source = archs.build_network(recipe.stage(stage.start_from).options.network_g.as_mapping())
        target = archs.build_network(stage.options.network_g.as_mapping())
        path = stage.options.path
        _, report = fit(target, source.state_dict(), resize_tables=path.resize_position_tables)
        if report and path.strict_load_g:
            raise InputError(
                f"stage {stage.name}: the weights of {stage.start_from} will not fit its network: {report}; to leave "
                'out what does not fit, set "path: strict_load_g: false"'
            )
        get_logger().info("stage %s from %s: %s", stage.name, stage.start_from, report.summary())


def _progress(recipe: Recipe, world: World) -> list[StageProgress]:
    """As the main process sees it, so that all agree."""
    return world.from_main(world.together(lambda: [_state_of(stage) for stage in recipe.stages if world.is_main]))


def _state_of(stage: Stage) -> StageProgress:
    """How far a stage is.

    Raises:
        InputError: its folder holds another training.
    """
    total, folder = stage.options.train.total_iter, _folder(stage)
    latest = [folder.network("latest", player) for player in players_of(stage.options)]
    if all(path.is_file() for path in latest):
        done = min(_finished_at(stage, path) for path in latest)
        if done >= total:
            return StageProgress(done, total, finished=True)
    resume = find_resume(folder, stage.options.path, World())
    if resume is None:
        return StageProgress(0, total, finished=False)
    _check_identity(stage, value_at(resume.metadata, "options"))
    return StageProgress(resume.step, total, finished=False)


def _finished_at(stage: Stage, latest: Path) -> int:
    """The iteration of the last weights of a network; 0 where they are damaged: the stage's states are looked at."""
    try:
        content = read_checkpoint(latest)
    except InputError as error:
        get_logger().warning("skipped: %s", error)
        return 0
    _check_identity(stage, value_at(content, "focalsr.options"))
    step = value_at(content, "focalsr.step")
    return step if isinstance(step, int) else 0


def _check_identity(stage: Stage, recorded: Any) -> None:
    wanted = to_dict(stage.options)
    for key in _IDENTITY:
        had, want = value_at(recorded, key), value_at(wanted, key)
        if recorded and had != want:
            raise InputError(
                f"stage {stage.name}: {_folder(stage).root} holds another training, whose {key} is {had}, not {want}; "
                f"give the stage another name, move the folder away, or begin it anew with --restart {stage.name}"
            )


def _set_aside(stages: Sequence[Stage], world: World) -> None:
    with contextlib.ExitStack() as locks:
        for stage in stages:  # all of them first: where one is being trained, none is renamed
            locks.enter_context(world.on_main(reserved(training_folder(stage.options), "trains")))
        for stage in stages if world.is_main else ():
            kept = archive_existing(_folder(stage).root)
            if kept is not None:
                get_logger().info("stage %s begins anew; what it had done is kept as %s", stage.name, kept)
    world.barrier()


def _folder(stage: Stage) -> CheckpointFolder:
    return CheckpointFolder(training_folder(stage.options).root)
