"""Images in, batches out: reading, resizing, data sets, the order of samples, loading."""

from data.dataset_options import DatasetOptions
from data.datasets import DATASETS, build_dataset
from data.degradations import DegradationOptions, usm_sharpen
from data.downsample import DownsampleImageDataset
from data.imagenet import ImageNetPairedDataset
from data.images import image_size, list_images, read_image, to_levels, to_tensor, to_uint8, write_image
from data.imresize import downscale, imresize, mod_crop
from data.loader import Batch, train_batches
from data.paired import PairedImageDataset
from data.realesrgan import RealESRGANDataset
from data.sampler import SampleKey
from data.samples import EvalDataset, Sample, TrainDataset
from data.single import SingleImageDataset

__all__ = [
    "DATASETS",
    "Batch",
    "DatasetOptions",
    "DegradationOptions",
    "DownsampleImageDataset",
    "EvalDataset",
    "ImageNetPairedDataset",
    "PairedImageDataset",
    "RealESRGANDataset",
    "Sample",
    "SampleKey",
    "SingleImageDataset",
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
