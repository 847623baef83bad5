"""The data sets that an option file evaluates on, each at every scale that is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

from config.schema import ValOptions
from data import DatasetOptions, EvalDataset, build_dataset
from utils.scale import as_scale, scale_text


def evaluation_sets(
    datasets: Iterable[DatasetOptions],
    val: ValOptions | None,
    *,
    scale: float,
    seed: int,
    phase: Literal["val", "test"],
) -> tuple[EvalDataset, ...]:
    """Every data set, or with ``val.scales`` every one at each of these scales, called as in "Set5 x3".

    Args:
        datasets: in the order in which they are evaluated.
        val: the section of the option file.
        scale: of the file, where it names no others.
        seed: ``manual_seed``.
        phase: what they are for.

    Raises:
        InputError: the images are missing or do not pair, or a data set cannot serve this phase or a scale.
    """
    scales = None if val is None else val.scales
    found = []
    for dataset in datasets:
        for own in scales or (scale,):
            named = dataset if scales is None else dataclasses.replace(dataset, name=at_scale(dataset.name, own))
            found.append(build_dataset(named, scale=as_scale(own), seed=seed, phase=phase))
    return tuple(found)


def at_scale(name: str, scale: float) -> str:
    """What a data set is called at one of several scales: "Set5 x3"."""
    return f"{name} {scale_text(scale)}"
