"""The table of data sets that option files may name, and how one is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, overload

from data.dataset_options import DatasetOptions, whole_scale
from data.datasets.any_scale import AnyScaleOptions
from data.datasets.downsample import DownsampleImageOptions
from data.datasets.imagenet import ImageNetPairedOptions
from data.datasets.paired import PairedImageOptions
from data.datasets.realesrgan import RealESRGANOptions
from data.datasets.single import SingleImageOptions
from data.degradations import DegradationOptions
from data.samples import EvalDataset, Phase, TrainDataset
from utils.errors import InputError

DATASETS: Mapping[str, type[DatasetOptions]] = {
    "PairedImageDataset": PairedImageOptions,
    "SingleImageDataset": SingleImageOptions,
    "ImageNetPairedDataset": ImageNetPairedOptions,
    "DownsampleImageDataset": DownsampleImageOptions,
    "RealESRGANDataset": RealESRGANOptions,
    "AnyScaleDataset": AnyScaleOptions,
}


@overload
def build_dataset(
    options: DatasetOptions, *, scale: float | tuple[float, float], seed: int = 0, phase: Literal["train"],
    degradations: DegradationOptions | None = None,
) -> TrainDataset: ...  # fmt: skip


@overload
def build_dataset(
    options: DatasetOptions, *, scale: float, seed: int = 0, phase: Literal["val", "test"],
    degradations: DegradationOptions | None = None,
) -> EvalDataset: ...  # fmt: skip


def build_dataset(
    options: DatasetOptions, *, scale: float | tuple[float, float], seed: int = 0, phase: Phase,
    degradations: DegradationOptions | None = None,
) -> TrainDataset | EvalDataset:  # fmt: skip
    """The data set that ``options``, one of the classes of DATASETS, describes.

    Args:
        options: a section of ``datasets``.
        scale: high-resolution size / low-resolution size; any number for whole images, and for training with
            AnyScaleDataset, which takes the least and the largest one too.
        seed: ``manual_seed``; decides the order of training samples, their crops and flips.
        phase: "train" for random patches, "val" or "test" for whole images.
        degradations: for RealESRGANDataset; None: as published.

    Raises:
        InputError: the images are missing or do not pair, or the data set cannot serve this phase.
    """
    if phase == "train" and isinstance(options, AnyScaleOptions):
        return options.training_set(scale, seed, degradations)
    if isinstance(scale, tuple):
        raise InputError(f"{options.name}: a range of scales is for training with AnyScaleDataset")
    if phase != "train":
        return options.evaluation_set(scale)
    return options.training_set(whole_scale(options.name, scale), seed, degradations)
