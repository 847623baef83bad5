"""Whether a disturbed training is the undisturbed one: weights, optimiser, random generators, figures, folders."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.training.checkpoint import CheckpointFolder
from models.weights.files import read_checkpoint
from scripts.faults.reader import jsonl_problem
from scripts.faults.settings import NAME, Setting
from utils.errors import InputError
from utils.wording import first_few

_TIMED = ("images_per_second", "data_share", "memory")  # figures of the machine, not of the training
_TIMED_TAGS = "speed/"


def compare(whole: Path, disturbed: Path, setting: Setting) -> list[str]:
    """How a disturbed training differs from the undisturbed one; nothing where it does not.

    Args:
        whole: folder of the undisturbed training.
        disturbed: folder of the other.
        setting: of both.
    """
    ours, theirs = (CheckpointFolder(place / "experiments" / NAME) for place in (disturbed, whole))
    pairs = [
        [
            folder.network("best"), folder.state(setting.steps),
            *(folder.network(step, name) for step in ("latest", setting.steps) for name in setting.players),
        ] for folder in (ours, theirs)
    ]  # fmt: skip
    found = []
    for mine, other in zip(*pairs, strict=True):
        if not mine.exists():
            found.append(f"{mine.name} is missing")
            continue
        try:
            contents = [dict(_flat(read_checkpoint(path))) for path in (mine, other)]
        except InputError as error:
            found.append(f"at the end: {error}")
            continue
        found += [f"{mine.name}: {name}" for name in _differences(*contents)]
    found += _figures(whole / "experiments" / NAME, disturbed / "experiments" / NAME)
    found += _curves(whole, disturbed)
    leftovers = [path for path in disturbed.rglob("*.part") if path.is_file()]
    found += [f"left behind: {path.relative_to(disturbed)}" for path in leftovers]
    return found


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Name -> tensor or plain value, of everything that a checkpoint holds but the place and time of its run."""
    if name in ("focalsr.options", "focalsr.digests"):
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _flat(item, f"{name}[{i}]")
    else:
        yield name, value


def _differences(mine: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for name in mine.keys() ^ other.keys():
        yield f"{name} is in one of the two only"
    for name in mine.keys() & other.keys():
        one, two = mine[name], other[name]
        if isinstance(one, Tensor) and isinstance(two, Tensor):
            if one.dtype != two.dtype or not torch.equal(one, two):
                yield f"{name} has other values"
        elif one != two and not (isinstance(one, float) and math.isnan(one)):
            yield f"{name} is {one}, not {two}"


def _figures(whole: Path, disturbed: Path) -> Iterator[str]:
    """Differences of ``metrics.jsonl``."""
    texts = [(folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace") for folder in (disturbed, whole)]
    problem = jsonl_problem(texts[0])
    if problem:
        yield f"metrics.jsonl: {problem}"
        return
    mine, other = (
        [{key: value for key, value in json.loads(line).items() if key not in _TIMED} for line in text.splitlines()]
        for text in texts
    )
    if mine != other:
        wrong = [one for one in mine if one not in other] + [one for one in other if one not in mine]
        counts = Counter(json.dumps(one) for one in mine)
        wrong += [json.loads(line) for line, count in counts.items() if count > 1]
        yield f"metrics.jsonl: {len(mine)} records instead of {len(other)}, other ones: {wrong[:4]}"


def _curves(whole: Path, disturbed: Path) -> Iterator[str]:
    """Differences of TensorBoard's curves: a point that is missing, is there twice or has another value."""
    mine, other = (_points(place / "tb_logger" / NAME) for place in (disturbed, whole))
    found: defaultdict[str, list[str]] = defaultdict(list)
    for tag in sorted(mine.keys() | other.keys()):
        ours, theirs = mine.get(tag, []), other.get(tag, [])
        steps = [step for step, _ in ours]
        twice = sorted(step for step, count in Counter(steps).items() if count > 1)
        missing = sorted({step for step, _ in theirs} ^ set(steps))
        if twice:
            found[f"iterations are there twice: {twice[:10]}"].append(tag)
        elif missing:
            found[f"iterations that only one of the two has: {missing[:10]}"].append(tag)
        elif not tag.startswith(_TIMED_TAGS) and ours != theirs:
            found["other values"].append(tag)
    for what, tags in found.items():
        yield f"TensorBoard: {what}; of {first_few(tags, 4)}"


def _points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> iterations and values, as TensorBoard shows them; of pictures the number of bytes. Empty: no folder."""
    if not folder.is_dir():
        return {}
    from tensorboard.backend.event_processing.event_accumulator import IMAGES, SCALARS, TENSORS, EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0, IMAGES: 0, TENSORS: 0}).Reload()
    points = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()[SCALARS]}
    points |= {
        tag: [(event.step, float(len(event.encoded_image_string))) for event in events.Images(tag)]
        for tag in events.Tags()[IMAGES]
    }
    return points
