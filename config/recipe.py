"""Recipes: chains of trainings (stages), each with an option file, each from the weights of an earlier one.

    name: hat_x4_imagenet
    stages:
      pretrain: {opt: ../train_hat_x4_imagenet.yml}
      finetune: {opt: ../train_hat_x4_finetune.yml, start_from: pretrain}

Paths of option files start from the folder of the recipe. What a stage says under ``options`` is put over its option
file as an including file is put over its base.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from config.bases import load, merge
from config.document import Document, Place
from config.network import read_discriminator, same_network
from config.overrides import FLAG
from config.reader import interpret
from config.schema import NetworkOptions, TrainOptions
from utils.checked import Checked
from utils.errors import InputError
from utils.reading import is_regular
from utils.suggest import near_miss
from utils.typed import INVALID, KeyPath, Report, fields_of, option, read


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageOptions(Checked):
    """One training of a recipe."""

    opt: Path = option("its option file, as seen from the recipe")
    start_from: str | None = option("the earlier stage whose weights it starts from; null: as its file says", None)
    weights: Literal["latest", "best"] = option(
        "which weights of that stage: the last, or the best; of its discriminator, if both train the same one, always "
        "the last",
        "latest",
    )
    options: Mapping[str, Any] = option("put over the option file", default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeOptions(Checked):
    """A recipe file."""

    name: str = option("name of the recipe, for messages")
    stages: Mapping[str, StageOptions] = option("stage -> what it does, in their order")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A training of a recipe, ready to run.

    Attributes:
        name: its name in the recipe.
        option_file: its option file.
        options: that file's, with everything put over it; ``path.pretrain_network_g`` names the weights of the stage
            that it starts from.
        start_from: that stage, or None.
        inherited: the networks that start from its weights: "g", and "d" where both train the same discriminator.
    """

    name: str
    option_file: Path
    options: TrainOptions
    start_from: str | None
    inherited: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The stages of a recipe, in the order in which they run."""

    name: str
    stages: tuple[Stage, ...]

    def stage(self, name: str) -> Stage:
        """A stage by its name.

        Raises:
            InputError: there is none.
        """
        known = {stage.name: stage for stage in self.stages}
        if name not in known:
            guess = near_miss(name, known) or f"; known: {', '.join(known)}"
            raise InputError(f'the recipe {self.name} has no stage "{name}"{guess}')
        return known[name]

    def only(self, names: Sequence[str]) -> Recipe:
        """The recipe with these stages, and those that they start from."""
        wanted = {self.stage(name).name for name in names}
        for stage in reversed(self.stages):
            if stage.name in wanted and stage.start_from is not None:
                wanted.add(stage.start_from)
        return dataclasses.replace(self, stages=tuple(stage for stage in self.stages if stage.name in wanted))

    def after(self, name: str) -> tuple[Stage, ...]:
        """A stage and all that start from it, directly or not."""
        found = [self.stage(name)]
        for stage in self.stages:
            if stage.start_from in [earlier.name for earlier in found]:
                found.append(stage)
        return tuple(found)


def read_recipe(path: str | Path, overrides: Sequence[str] = (), *, debug: bool = False) -> Recipe:
    """A recipe with the options of all its stages.

    Args:
        path: YAML file.
        overrides: edits as ``train:optim_g:lr=1e-4``, for every stage, or ``STAGE:train:optim_g:lr=1e-4``.
        debug: short trial runs, whose names get the prefix ``debug_``.

    Raises:
        InputError: the recipe, or an option file of it, cannot be read or used.
    """
    path = Path(path)
    document = load(path)
    if "stages" not in document.value and "network_g" in document.value:
        program = "train.py" if "train" in document.value else "test.py"
        advice = f"run it by python {program} -opt {path}"
        raise InputError(f'{path}: this is no recipe, which has "stages:", but the option file of one run; {advice}')
    report = Report()
    found = read(document.value, RecipeOptions, report)
    if found is not INVALID:
        _check(document, found, report)
    mistakes = [*document.mistakes, *(document.mistake(*problem) for problem in report.problems)]
    if mistakes:
        raise InputError("\n".join(map(str, dict.fromkeys(mistakes))))
    stages: dict[str, Stage] = {}
    for name, settings in found.stages.items():
        edits = _edits_for(name, overrides, found.stages)
        stages[name] = _stage(document, name, settings, stages, edits, debug)
    _check_runs(document, stages)
    return Recipe(found.name, tuple(stages.values()))


def _check(document: Document, recipe: RecipeOptions, report: Report) -> None:
    if not recipe.stages:
        report.problem(("stages",), "expected at least one stage, as in 'pretrain: {opt: train.yml}'")
    earlier: list[str] = []
    keys = set(fields_of(TrainOptions))
    for name, stage in recipe.stages.items():
        here: KeyPath = ("stages", name)
        if name in keys:
            report.problem(here, f'a stage cannot be called "{name}", which is a key of option files')
        if stage.start_from is not None and stage.start_from not in earlier:
            guess = near_miss(stage.start_from, earlier) or f"; earlier ones: {', '.join(earlier) or 'none'}"
            report.problem((*here, "start_from"), f'expected an earlier stage, got "{stage.start_from}"{guess}')
        if stage.start_from is None and document.get((*here, "weights")) is not None:
            report.problem((*here, "weights"), "says which weights of another stage to take: needs start_from")
        earlier.append(name)


def _stage(
    recipe: Document,
    name: str,
    settings: StageOptions,
    earlier: Mapping[str, Stage],
    overrides: Sequence[str],
    debug: bool,
) -> Stage:
    here: KeyPath = ("stages", name)
    option_file = Path(recipe.place((*here, "opt")).source).parent / settings.opt.expanduser()
    try:
        document = load(option_file)
    except InputError as error:
        if is_regular(option_file):
            raise
        raise InputError(str(recipe.mistake((*here, "opt"), str(error)))) from None
    document = merge(document, _part(recipe, (*here, "options"), option_file))
    inherited: dict[str, str] = {}
    if settings.start_from is not None:
        inherited = _weights_of(earlier[settings.start_from].options, settings, document)
        place = recipe.place((*here, "start_from"))
        wired = {f"pretrain_network_{network}": path for network, path in inherited.items()}
        places: dict[KeyPath, Place] = {("path",): place, **{("path", key): place for key in wired}}
        document = merge(document, Document(str(option_file), {"path": wired}, places))
    options = interpret(document, TrainOptions, overrides, debug=debug)
    return Stage(name, option_file, options, settings.start_from, tuple(inherited))


def _weights_of(source: TrainOptions, settings: StageOptions, document: Document) -> dict[str, str]:
    """Network -> the file of an earlier stage from which it starts.

    The generator always does; a discriminator does where the earlier stage trains the same one.
    """
    folder = source.path.experiments_root / source.name / "models"
    found = {"g": str(folder / f"net_g_{settings.weights}.pth")}
    own = read_discriminator(document, Report())
    if source.network_d is not None and isinstance(own, NetworkOptions) and same_network(own, source.network_d):
        found["d"] = str(folder / "net_d_latest.pth")
    return found


def _part(document: Document, path: KeyPath, source: Path) -> Document:
    """The mapping at a path as a document of its own; its keys keep their places."""
    value = document.get(path)
    places = {
        place[len(path) :]: where
        for place, where in document.places.items()
        if place[: len(path)] == path and len(place) > len(path)
    }
    return Document(str(source), value if isinstance(value, Mapping) else {}, places)


def _edits_for(name: str, overrides: Sequence[str], stages: Mapping[str, StageOptions]) -> list[str]:
    """The edits for a stage: those for all, and those that begin with its name, without it."""
    result = []
    for edit in overrides:
        first, colon, rest = edit.partition(":")
        if not colon or first.strip() not in stages:
            result.append(edit)
        elif first.strip() == name:
            result.append(rest)
    return result


def _check_runs(document: Document, stages: Mapping[str, Stage]) -> None:
    """Two stages cannot write into one folder."""
    names: dict[Path, str] = {}
    for name, stage in stages.items():
        folder = stage.options.path.experiments_root / stage.options.name
        if folder in names:
            problem = (
                f'runs as "{stage.options.name}", as the stage {names[folder]} does; give one of them another name'
            )
            raise InputError(str(document.mistake(("stages", name), f"{problem} (options: name: ..., or {FLAG})")))
        names[folder] = name
