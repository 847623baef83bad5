"""The table of data sets that option files may name, and how one is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, overload

from data.any_scale import AnyScaleDataset
from data.dataset_options import DatasetOptions
from data.degradations import DegradationOptions
from data.patches.downsample import DownsampleImageDataset
from data.patches.imagenet import ImageNetPairedDataset
from data.patches.paired import PairedImageDataset
from data.patches.realesrgan import RealESRGANDataset
from data.samples import EvalDataset, Phase, TrainDataset
from data.single import SingleImageDataset
from utils.errors import InputError

DATASETS: Mapping[str, type[DatasetOptions]] = {
    "PairedImageDataset": PairedImageDataset.Options,
    "SingleImageDataset": SingleImageDataset.Options,
    "ImageNetPairedDataset": ImageNetPairedDataset.Options,
    "DownsampleImageDataset": DownsampleImageDataset.Options,
    "RealESRGANDataset": RealESRGANDataset.Options,
}


@overload
def build_dataset(
    options: DatasetOptions, *, scale: int, seed: int = 0, phase: Literal["train"],
    degradations: DegradationOptions | None = None,
) -> TrainDataset: ...  # fmt: skip


@overload
def build_dataset(
    options: DatasetOptions, *, scale: float, seed: int = 0, phase: Literal["val", "test"],
    degradations: DegradationOptions | None = None,
) -> EvalDataset: ...  # fmt: skip


def build_dataset(
    options: DatasetOptions, *, scale: float, seed: int = 0, phase: Phase,
    degradations: DegradationOptions | None = None,
) -> TrainDataset | EvalDataset:  # fmt: skip
    """The data set that ``options``, one of the classes of DATASETS, describes.

    Args:
        options: a section of ``datasets``.
        scale: high-resolution size / low-resolution size; any number for whole images.
        seed: ``manual_seed``; decides the order of training samples, their crops and flips.
        phase: "train" for random patches, "val" or "test" for whole images.
        degradations: for RealESRGANDataset; None: as published.

    Raises:
        InputError: the images are missing or do not pair, or the data set cannot serve this phase.
    """
    if isinstance(options, SingleImageDataset.Options):
        return SingleImageDataset(options, phase)
    if not isinstance(scale, int):
        if not isinstance(options, PairedImageDataset.Options) or phase == "train":
            raise InputError(f"{options.name}: scale {scale:g} is no whole number; only tests on image pairs take one")
        return AnyScaleDataset(options, scale)
    if isinstance(options, PairedImageDataset.Options):
        return PairedImageDataset(options, scale, seed, phase)
    if isinstance(options, ImageNetPairedDataset.Options):
        return ImageNetPairedDataset(options, scale, seed, phase)
    if isinstance(options, DownsampleImageDataset.Options):
        return DownsampleImageDataset(options, scale, seed, phase)
    if isinstance(options, RealESRGANDataset.Options):
        if phase != "train":
            raise InputError(
                f"{options.name}: RealESRGANDataset makes random low-resolution images, which is for training; "
                "evaluate with PairedImageDataset or SingleImageDataset"
            )
        return RealESRGANDataset(options, scale, seed, degradations)
    raise ValueError(f"no data set is known for options of the type {type(options).__name__}")
