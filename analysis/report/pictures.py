"""Images as each method shows them: LR, bicubic, the networks and HR, with the part of largest gain.

Outputs of tests are ``results/NAME/visualization/SET/IMAGE_SUFFIX.png``, those of validations
``experiments/NAME/visualization/SET/IMAGE/IMAGE_ITER.png``; HR and LR come from the data sets of the options.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from torch import Tensor

from analysis.report.model import Crop, Panel, Picture, ScoredSet
from analysis.report.runs import Notes, RunFiles, listed
from analysis.report.scores import BICUBIC, Key, at_iteration, evaluated_sets, keys_of, method_of
from analysis.report.thumbnails import FullPictures, Pixels, crops, thumbnails
from config.schema import ValOptions
from data import EvalDataset, Sample, build_dataset, read_image, to_uint8
from data.dataset_options import IoBackend
from data.resizing.matlab import Region
from models.evaluation.pictures import bicubic_to, cut_out, enlarged, most_improved_part
from utils.env import available_cores
from utils.errors import InputError
from utils.scale import as_scale
from utils.wording import first_few

_LARGEST = 1280  # pixels of a thumbnail's side
_PER_IMAGE = 700_000  # characters that a picture takes at most, however few there are
_PARTS = 6  # a crop is this part of the sides, but of small images
_CROP_SIDES = (48, 128)  # pixels, least and most
_CROPS_SHARE = 0.4  # of the characters of a picture
_EARLIER = 3  # iterations of a training run that are shown
_VALIDATED = re.compile(r"(.+)_(\d+)\.png")
_NAMED = 4
_THREADS = 4  # that read and compress pictures


@dataclass(frozen=True)
class _Output:
    """What a network made of an image."""

    run: str
    label: str
    file: Path


@dataclass(frozen=True)
class _Wanted:
    """An image to show."""

    key: Key
    name: str
    outputs: tuple[_Output, ...]


def pictures_of(
    runs: Sequence[RunFiles],
    sets: Mapping[Key, ScoredSet],
    notes: Notes,
    *,
    most: int,
    room: int,
    full: FullPictures | None = None,
    step: Callable[[int, int], None] | None = None,
) -> tuple[tuple[Picture, ...], dict[tuple[Key, str], int]]:
    """The pictures of a page, and the number of each by data set and name of the image.

    Args:
        runs: whose outputs are shown.
        sets: their scores, which say which images are worth showing.
        notes: gets what cannot be shown.
        most: number of images; of more, the worst and the best of each data set are shown.
        room: characters that all pictures together may take.
        full: writes full pictures too; None: the page has thumbnails alone.
        step: called with what is done and the total.
    """
    wanted = _chosen(_outputs(runs, notes), sets, most, notes)
    originals = _Originals(runs, notes, dict.fromkeys(image.key for image in wanted))
    scores = {key: {row.name: row.scores for row in table.images} for key, table in sets.items()}
    share = min(_PER_IMAGE, room // max(1, len(wanted)))

    def made_of(numbered: tuple[int, _Wanted]) -> Picture | None:
        number, image = numbered
        write = None if full is None else partial(full.write, (number, image.key[0], image.name))
        own = scores.get(image.key, {}).get(image.name, {})
        return _picture(image, originals.read(image.key, image.name), own, share, write, notes)

    made: list[Picture] = []
    numbers: dict[tuple[Key, str], int] = {}
    with ThreadPoolExecutor(min(_THREADS, available_cores()), thread_name_prefix="pictures") as pool:
        for count, (image, picture) in enumerate(zip(wanted, pool.map(made_of, enumerate(wanted)), strict=True)):
            if step is not None:
                step(count, len(wanted))
            if picture is not None:
                numbers[image.key, image.name] = len(made)
                made.append(picture)
    originals.note_unread()
    return tuple(made), numbers


def _outputs(runs: Sequence[RunFiles], notes: Notes) -> dict[tuple[Key, str], list[_Output]]:
    """Every image of which there are outputs, tests first."""
    found: dict[tuple[Key, str], list[_Output]] = {}
    most = _EARLIER if len(runs) == 1 else 1
    for files in sorted(runs, key=lambda files: files.run.kind == "train"):
        own = [
            (key, name, output)
            for called, key in keys_of(files)
            for name, output in _outputs_in(files.path / "visualization" / called, files, most)
        ]
        if not own:
            notes.add(files.run.name, "no pictures were saved (val.save_img), or they are gone")
        for key, name, output in own:
            found.setdefault((key, name), []).append(output)
    return found


def _outputs_in(folder: Path, files: RunFiles, most: int) -> Iterator[tuple[str, _Output]]:
    """Images of a data set and the outputs of a run; of a training run, of the last ``most`` validations."""
    run, options = files.run.name, files.options
    if files.run.kind == "test":
        suffix = files.run.options.get("name", run)
        if options is not None:
            suffix = (options.val or ValOptions()).suffix or options.name
        for file in _pictures_in(folder):
            if file.stem.endswith(f"_{suffix}"):
                yield file.stem.removesuffix(f"_{suffix}"), _Output(run, method_of(files), file)
        return
    for place in sorted(listed(folder)):
        saved = [(int(match[2]), file) for file in _pictures_in(place) if (match := _VALIDATED.fullmatch(file.name))]
        for step, file in sorted(saved, reverse=True)[:most]:
            yield place.name, _Output(run, at_iteration(run, step), file)


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(file for file in listed(folder) if file.suffix == ".png" and not file.name.startswith("."))


def _chosen(
    outputs: Mapping[tuple[Key, str], list[_Output]],
    sets: Mapping[Key, ScoredSet],
    most: int,
    notes: Notes,
) -> list[_Wanted]:
    """The images to show, in the order of their sets; of too many, those with the least and the largest gain."""
    by_set: dict[Key, list[str]] = {}
    for key, name in outputs:
        by_set.setdefault(key, []).append(name)
    each = max(1, most // max(1, len(by_set)))
    wanted = []
    for key, names in by_set.items():
        shown = names
        if len(names) > each:
            gains = _gains(sets.get(key))
            ranked = sorted(names, key=lambda name: gains.get(name, -math.inf))
            kept = {*ranked[: (each + 1) // 2], *ranked[len(ranked) - each // 2 :]}
            shown = [name for name in names if name in kept]
            note = f"{key[0]}: {len(shown)} of {len(names)} images are shown: those of least and of largest gain"
            notes.add(outputs[key, shown[0]][0].run, note)
        wanted += [_Wanted(key, name, tuple(outputs[key, name])) for name in shown]
    return wanted


def _gains(table: ScoredSet | None) -> dict[str, float]:
    """How well the first network does on each image: its first metric, over that of bicubic where there is one."""
    if table is None or not table.metrics:
        return {}
    metric = table.metrics[0]
    network = next((method for method in table.methods if method != BICUBIC), "")
    found = {}
    for row in table.images:
        gain = row.scores.get(network, {}).get(metric.name, math.nan)
        gain -= row.scores.get(BICUBIC, {}).get(metric.name, 0.0)
        found[row.name] = -math.inf if math.isnan(gain) else gain if metric.better == "higher" else -gain
    return found


class _Originals:
    """HR and LR of images, from the data sets of the options.

    Args:
        runs: whose options are asked, one after the other.
        notes: gets what is not found.
        keys: of the data sets.
    """

    def __init__(self, runs: Sequence[RunFiles], notes: Notes, keys: Iterable[Key]) -> None:
        self.runs, self.notes = runs, notes
        self.sets = {key: self._open(key) for key in keys}
        self.unread: dict[tuple[str, str], list[str]] = {}

    def read(self, key: Key, name: str) -> Sample | None:
        """The image of a data set; None where it is not found. Threads may read side by side."""
        found = self.sets[key]
        if found is None:
            return None
        try:
            if name not in found[1]:
                raise InputError(f"there is no such image in {key[0]} now")
            return found[0].read(found[1][name])
        except InputError as error:
            self.unread.setdefault((self.runs[0].run.name, str(error)), []).append(name)
            return None

    def note_unread(self) -> None:
        """Note the images that could not be read, once for each reason."""
        for (run, reason), names in sorted(self.unread.items()):
            self.notes.add(run, f"HR and LR of {first_few(sorted(names), _NAMED)} are not shown: {reason}")

    def _open(self, key: Key) -> tuple[EvalDataset, dict[str, int]] | None:
        problems = {}
        for files in self.runs:
            if files.options is None:
                continue
            phase: Literal["val", "test"] = "test" if files.run.kind == "test" else "val"
            known = key in [own for _, own in keys_of(files)]
            for dataset in evaluated_sets(files.options) if known else ():
                if dataset.name != key[0]:
                    continue
                try:
                    if dataset.io_backend.type == "memory":  # each image is read once, and need not be kept
                        dataset = dataclasses.replace(dataset, io_backend=IoBackend(type="disk"))
                    opened = build_dataset(dataset, scale=as_scale(key[1]), seed=0, phase=phase)
                    return opened, {opened.name_of(index): index for index in range(len(opened))}
                except InputError as error:
                    problems[files.run.name] = str(error)
        for run, problem in problems.items():
            self.notes.add(run, f"HR and LR of {key[0]} are not shown: {problem}")
        return None


def _picture(
    image: _Wanted,
    sample: Sample | None,
    scores: Mapping[str, Mapping[str, float]],
    share: int,
    full: Callable[[str, Path | Pixels], str] | None,
    notes: Notes,
) -> Picture | None:
    """One image; None where no output can be read.

    Args:
        image: what to show.
        sample: LR and HR; None where they are not known.
        scores: method -> metric -> value.
        share: characters that it may take.
        full: writes a full picture and returns its path.
        notes: gets what cannot be read.
    """
    outputs: dict[str, Pixels] = {}
    for output in image.outputs:
        try:
            outputs[output.label] = read_image(output.file)
        except InputError as error:
            notes.add(output.run, str(error))
    if not outputs:
        return None
    panels = _panels(outputs, sample)
    part = _part(panels, next(iter(outputs)))
    height, width = next(iter(outputs.values())).shape[:2]
    small = thumbnails(list(panels.values()), int(share * (1 - (_CROPS_SHARE if part else 0))), _LARGEST)
    files = {output.label: output.file for output in image.outputs}
    made = []
    for (label, pixels), src in zip(panels.items(), small, strict=True):
        where = None if full is None else full(label, files.get(label, pixels))
        made.append(Panel(label, src, where, width, height, dict(scores.get(label, {}))))
    picture = Picture(image.key[0], image.name, tuple(made))
    if part is None:
        return picture
    whole = {**panels, "LR": enlarged(panels["LR"], height, width)}
    cut = crops([cut_out(pixels, part) for pixels in whole.values()], int(share * _CROPS_SHARE))
    region = (part.left, part.top, part.width, part.height)
    return dataclasses.replace(picture, crop=region, crops=tuple(map(Crop, whole, cut)))


def _panels(outputs: Mapping[str, Pixels], sample: Sample | None) -> dict[str, Pixels]:
    """LR, bicubic, the outputs and HR, as far as they are of the size of the first output."""
    height, width = next(iter(outputs.values())).shape[:2]
    panels = {label: pixels for label, pixels in outputs.items() if pixels.shape[:2] == (height, width)}
    hr = None if sample is None or sample.gt is None else _pixels(sample.gt)
    if sample is None or (hr is not None and hr.shape[:2] != (height, width)):
        return panels
    low = {"LR": _pixels(sample.lq), BICUBIC: _pixels(bicubic_to(sample.lq, height, width))}
    return {**low, **panels, **({} if hr is None else {"HR": hr})}


def _part(panels: Mapping[str, Pixels], network: str) -> Region | None:
    """Where the network gains most over bicubic; None where that cannot be told."""
    if BICUBIC not in panels or "HR" not in panels:
        return None
    least, most = _CROP_SIDES
    sides = panels["HR"].shape[:2]
    height, width = (max(1, min(most, side // 2, max(least, side // _PARTS))) for side in sides)
    return most_improved_part(panels[BICUBIC], panels[network], panels["HR"], height, width)


def _pixels(values: Tensor) -> Pixels:
    """[C, H, W] in [0, 1] -> uint8 [H, W, 3]."""
    pixels = to_uint8(values)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
