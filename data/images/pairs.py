"""The images of a data set as pairs of arrays: read, checked, and kept where that is asked for.

Shapes: H W high-resolution and h w low-resolution pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from data.dataset_options import DatasetOptions, check_backend
from data.images.listing import Pair, list_pairs
from data.images.photo import picture_size
from data.images.scan import about, scan, size_text
from data.images.sources import FileImage, ImageSource
from utils.errors import InputError

_HEADS = 256  # files that are looked at to learn how large the images are


class PairPixels(NamedTuple):
    """The pixels of a pair, or of a patch of both its images.

    Attributes:
        gt: [H, W, 3], uint8, or float32 in [0, 1].
        lq: [h, w, 3]; None where it is to be made of ``gt``.
    """

    gt: NDArray[Any]
    lq: NDArray[Any] | None


class ImagePairs:
    """The pairs of a data set, each read when it is asked for; with ``io_backend: memory`` read once and kept.

    Args:
        options: name and ``io_backend``.
        gt_folders: of high-resolution images.
        lq_folders: of low-resolution images, one for each of them, or none.
        meta_files: lists of the images to use, one for each of them, or none.
        template: name of a low-resolution image, ``{}`` standing for the high-resolution one's.
        read: returns the pixels of a pair that can be used; raises InputError for one that cannot.

    Raises:
        InputError: a folder is missing or empty, is of another kind than ``io_backend``, or images do not pair.
    """

    def __init__(
        self,
        options: DatasetOptions,
        gt_folders: Sequence[Path],
        lq_folders: Sequence[Path],
        meta_files: Sequence[Path],
        template: str,
        read: Callable[[Pair], PairPixels],
    ) -> None:
        self.name, self._read = options.name, read
        check_backend(options, (*gt_folders, *lq_folders))
        with about(self.name):
            self.sources = list_pairs(gt_folders, lq_folders, meta_files, template)
        self._keeps = options.io_backend.type == "memory"
        self._kept: dict[int, PairPixels] = {}

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> PairPixels:
        """The pixels of a pair; raises InputError where it cannot be used."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        pixels = self._read(self.sources[index])
        if self._keeps:
            self._kept[index] = pixels
        return pixels

    @property
    def waiting(self) -> list[int]:
        """The pairs that are to be kept, but have not been read."""
        return [index for index in range(len(self)) if index not in self._kept] if self._keeps else []

    @property
    def kept_bytes(self) -> int:
        """What images that are kept in memory will take at least, from the heads of some of their files; else 0."""
        if not self._keeps:
            return 0
        chosen = range(0, len(self), -(-len(self) // _HEADS))
        sizes = [picture_size(source.path) for i in chosen if isinstance(source := self.sources[i].gt, FileImage)]
        pixels = sum(height * width for height, width in filter(None, sizes))
        return 3 * pixels * len(self) // max(len(chosen), 1)

    def scan(self) -> tuple[str, ...]:
        """Read all images; returns what is wrong, an entry for each pair that cannot be used."""
        return scan(self.__getitem__, len(self), self.name)


@dataclass(frozen=True)
class SmallestImage:
    """The size that a high-resolution image has to have.

    Attributes:
        side: least number of pixels of each side.
        words: what has so many, for messages.
        advice: what to do about smaller ones.
    """

    side: int
    words: str
    advice: str = "leave the image out"

    def check(self, source: ImageSource, image: NDArray[Any]) -> None:
        """Raise InputError where ``image`` [H, W, C] is smaller."""
        if min(image.shape[:2]) < self.side:
            raise InputError(
                f"{source.label}: the image is {size_text(image)}, smaller than {self.words}; {self.advice}"
            )


def read_gt(pair: Pair, smallest: SmallestImage) -> PairPixels:
    """The high-resolution image of a pair, whose low-resolution one is made of it later."""
    image = pair.gt.read()
    smallest.check(pair.gt, image)
    return PairPixels(image, None)
