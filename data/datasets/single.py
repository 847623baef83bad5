"""SingleImageDataset: low-resolution images on their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from data.dataset_options import DatasetOptions, check_backend, folders
from data.degradations import DegradationOptions
from data.images.colour import convert
from data.images.files import Pixels, planes
from data.images.listing import list_singles
from data.images.scan import about, scan
from data.samples import Sample, TrainDataset
from utils.errors import InputError
from utils.typed import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class SingleImageOptions(DatasetOptions):
    """Images to upscale, without ground truth."""

    IGNORED: ClassVar[Mapping[str, str]] = {
        **DatasetOptions.IGNORED,
        **dict.fromkeys(("gt_size", "use_hflip", "use_rot"), "single images are never cut into patches"),
        **dict.fromkeys(("dataroot_gt", "filename_tmpl"), "single images have no partners; PairedImageDataset has"),
    }

    dataroot_lq: Path | tuple[Path, ...] = option(
        "folder of low-resolution images; a list of folders is joined in its order"
    )
    meta_info_file: Path | tuple[Path, ...] | None = option(
        "text file that lists the images to use, one name per line; null: all images of the folder", None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        count = len(folders(self.dataroot_lq))
        if count == 0:
            raise InputError("dataroot_lq: expected a folder, or a list of them, got an empty list")
        if self.meta_info_file is not None and len(folders(self.meta_info_file)) != count:
            raise InputError(f"meta_info_file: expected one for each folder of dataroot_lq ({count})")

    def training_set(self, scale: int, seed: int = 0, degradations: DegradationOptions | None = None) -> TrainDataset:
        """Refused: there is nothing to train on."""
        raise InputError(
            f"{self.name}: SingleImageDataset has no high-resolution images to train on; use PairedImageDataset"
        )

    def evaluation_set(self, scale: float) -> SingleImages:
        """The images; see :meth:`data.dataset_options.DatasetOptions.evaluation_set`."""
        return SingleImages(self, scale)


class SingleImages:
    """Low-resolution images without ground truth, for testing only.

    Args:
        options: the section of the option file.
        scale: what they are upscaled by.

    Raises:
        InputError: the folder is missing or empty.
    """

    def __init__(self, options: SingleImageOptions, scale: float) -> None:
        self.options, self.name, self.scale = options, options.name, scale
        roots = folders(options.dataroot_lq)
        check_backend(options, roots)
        with about(self.name):
            self.images = list_singles(roots, folders(options.meta_info_file))
        self._kept: dict[int, Pixels] = {}

    def __len__(self) -> int:
        return len(self.images)

    def name_of(self, index: int) -> str:
        """Base name of the file."""
        return self.images[index].name

    def read(self, index: int) -> Sample:
        """The image ``index``, lq [C, h, w]; raises InputError when it cannot be read."""
        source = self.images[index]
        return Sample(convert(planes(self._load(index)), self.options), None, source.name, source.label, None)

    def scan(self) -> tuple[str, ...]:
        """Read all images; returns what is wrong, an entry for each image that cannot be used."""
        return scan(self._load, len(self), self.name)

    def _load(self, index: int) -> Pixels:
        if index in self._kept:
            return self._kept[index]
        pixels = self.images[index].read()
        if self.options.io_backend.type == "memory":
            self._kept[index] = pixels
        return pixels
