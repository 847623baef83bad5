"""Images in, batches out: reading, resizing, data sets, the order of samples, loading."""

from typing import TYPE_CHECKING

from utils.on_demand import on_demand

if TYPE_CHECKING:
    from data.dataset_options import DatasetOptions
    from data.datasets import DATASETS, build_dataset
    from data.datasets.any_scale import AnyScaleOptions
    from data.datasets.paired import PairedImageOptions
    from data.datasets.realesrgan import RealESRGANOptions
    from data.datasets.single import SingleImageOptions
    from data.degradations import DegradationOptions, usm_sharpen
    from data.images.files import image_size, list_images, read_image, to_levels, to_tensor, to_uint8, write_image
    from data.loader import Batch, train_batches
    from data.resizing.matlab import downscale, imresize, mod_crop
    from data.samples import EvalDataset, Queries, Sample, SampleKey, TrainDataset

__all__ = [
    "DATASETS",
    "AnyScaleOptions",
    "Batch",
    "DatasetOptions",
    "DegradationOptions",
    "EvalDataset",
    "PairedImageOptions",
    "Queries",
    "RealESRGANOptions",
    "Sample",
    "SampleKey",
    "SingleImageOptions",
    "TrainDataset",
    "build_dataset",
    "downscale",
    "image_size",
    "imresize",
    "list_images",
    "mod_crop",
    "read_image",
    "to_levels",
    "to_tensor",
    "to_uint8",
    "train_batches",
    "usm_sharpen",
    "write_image",
]

__getattr__ = on_demand(
    __name__,
    {
        "data.dataset_options": ("DatasetOptions",),
        "data.datasets": ("DATASETS", "build_dataset"),
        "data.datasets.any_scale": ("AnyScaleOptions",),
        "data.datasets.paired": ("PairedImageOptions",),
        "data.datasets.realesrgan": ("RealESRGANOptions",),
        "data.datasets.single": ("SingleImageOptions",),
        "data.degradations": ("DegradationOptions", "usm_sharpen"),
        "data.images.files": (
            "image_size",
            "list_images",
            "read_image",
            "to_levels",
            "to_tensor",
            "to_uint8",
            "write_image",
        ),
        "data.loader": ("Batch", "train_batches"),
        "data.resizing.matlab": ("downscale", "imresize", "mod_crop"),
        "data.samples": ("EvalDataset", "Queries", "Sample", "SampleKey", "TrainDataset"),
    },
)  # fmt: skip
