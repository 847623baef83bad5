"""The table of data sets that option files may name, and how one is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, overload

from data.dataset_options import DatasetOptions
from data.paired import PairedImageDataset
from data.samples import EvalDataset, Phase, TrainDataset
from data.single import SingleImageDataset

DATASETS: Mapping[str, type[DatasetOptions]] = {
    "PairedImageDataset": PairedImageDataset.Options,
    "SingleImageDataset": SingleImageDataset.Options,
}


@overload
def build_dataset(options: DatasetOptions, *, scale: int, seed: int = 0, phase: Literal["train"]) -> TrainDataset: ...


@overload
def build_dataset(
    options: DatasetOptions, *, scale: int, seed: int = 0, phase: Literal["val", "test"]
) -> EvalDataset: ...


def build_dataset(options: DatasetOptions, *, scale: int, seed: int = 0, phase: Phase) -> TrainDataset | EvalDataset:
    """The data set that ``options``, one of the classes of DATASETS, describes.

    Args:
        options: a section of ``datasets``.
        scale: high-resolution size / low-resolution size.
        seed: ``manual_seed``; decides the order of training samples, their crops and flips.
        phase: "train" for random patches, "val" or "test" for whole images.

    Raises:
        InputError: the images are missing or do not pair, or the data set cannot serve this phase.
    """
    if isinstance(options, PairedImageDataset.Options):
        return PairedImageDataset(options, scale, seed, phase)
    if isinstance(options, SingleImageDataset.Options):
        return SingleImageDataset(options, phase)
    raise ValueError(f"no data set is known for options of the type {type(options).__name__}")
