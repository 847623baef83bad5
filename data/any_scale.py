"""Evaluation at a scale that is no whole number.

Shapes: H W high-resolution and h w low-resolution pixels, s scale.
"""

from __future__ import annotations

from data.dataset_options import check_backend, folders
from data.images.colour import convert
from data.images.files import Pixels, planes
from data.images.listing import list_pairs
from data.images.scan import about, scan, size_text
from data.patches.paired import PairedImageDataset
from data.resizing.pillow import pil_bicubic_to
from data.samples import Phase, Sample
from utils.errors import InputError
from utils.scale import scaled_length, unscaled_length


class AnyScaleDataset:
    """Whole pairs of images, the low-resolution one given or made, at any real scale.

    A low-resolution image of h pixels belongs to round(s h) high-resolution ones; what is beyond them is cropped. It is
    made by 8-bit bicubic downscaling as the Pillow library does it, which is how arbitrary scales are published.

    Args:
        options: the section of the option file.
        scale: s.

    Raises:
        InputError: a folder is missing or empty, or images do not pair.
    """

    def __init__(self, options: PairedImageDataset.Options, scale: float) -> None:
        self.options, self.scale, self.name = options, scale, options.name
        self.phase: Phase = "test"
        gt_folders, lq_folders = folders(options.dataroot_gt), folders(options.dataroot_lq)
        check_backend(options, (*gt_folders, *lq_folders))
        with about(self.name):
            self.pairs = list_pairs(gt_folders, lq_folders, folders(options.meta_info_file), options.filename_tmpl)

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, index: int) -> Sample:
        """The pair ``index``: lq [C, h, w], gt [C, round(s h), round(s w)]; raises InputError if it cannot be used."""
        gt, lq = self._load(index)
        pair = self.pairs[index]
        source = pair.lq or pair.gt
        small, large = (convert(planes(image), self.options) for image in (lq, gt))
        return Sample(small, large, source.name, source.label, pair.gt.label)

    def scan(self) -> tuple[str, ...]:
        """Read all images; returns what is wrong, an entry for each image that cannot be used."""
        return scan(self._load, len(self), self.name)

    def _load(self, index: int) -> tuple[Pixels, Pixels]:
        pair = self.pairs[index]
        gt = pair.gt.read()
        low = [unscaled_length(side, self.scale) for side in gt.shape[:2]]
        if min(low) < 1:
            raise InputError(
                f"{pair.gt.label}: the image is {size_text(gt)}, smaller than one pixel at x{self.scale:g}"
            )
        lq = None if pair.lq is None else pair.lq.read()
        if lq is not None:
            low = list(lq.shape[:2])
        height, width = (scaled_length(side, self.scale) for side in low)
        if lq is not None and (height > gt.shape[0] or width > gt.shape[1]):
            assert pair.lq is not None
            raise InputError(
                f"{pair.lq.label}: the low-resolution image is {size_text(lq)}, and at x{self.scale:g} larger than "
                f"{pair.gt.label}, {size_text(gt)}"
            )
        cropped = gt[:height, :width]
        if lq is None:
            small: Pixels = pil_bicubic_to(planes(cropped), (low[0], low[1])).numpy()
            lq = small.transpose(1, 2, 0)
        return cropped, lq
