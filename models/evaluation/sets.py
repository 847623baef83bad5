"""The data sets that an option file evaluates on, each at every scale that is asked for; whether networks take them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import nn

from archs.contract import contract_of
from config.schema import ValOptions
from data import DatasetOptions, EvalDataset, build_dataset
from utils.errors import InputError
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


def check_channels(network: nn.Module, datasets: Mapping[str, DatasetOptions]) -> None:
    """Look whether the images of data sets have as many channels as a network.

    Args:
        network: of the option file.
        datasets: by their keys there.

    Raises:
        InputError: those of one have not.
    """
    wanted = contract_of(network).channels
    for key, dataset in datasets.items():
        if dataset.channels != wanted:
            own = {1: "luminance (color: y)", 3: "R, G and B"}[dataset.channels]
            raise InputError(
                f"datasets.{key}: the images of {dataset.name} are {own}, and network_g takes {wanted} "
                f"channel{'s' if wanted > 1 else ''}; change color there, or the network"
            )
