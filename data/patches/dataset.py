"""A data set of training patches: pairs of images, a cutter and an LR rule.

Shapes: B samples, C channels, H W high-resolution and h w low-resolution pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from data.images.colour import convert
from data.images.faults import fault_lines
from data.images.pairs import ImagePairs
from data.images.scan import in_threads
from data.patches.batch import Patch, stack_patches
from data.patches.cutter import Cutter
from data.patches.options import PatchOptions
from data.patches.rules import LrRule
from data.patches.sampler import epoch_length, shares_of
from data.samples import PixelBatch, Sample, SampleKey, Share
from utils.errors import InputError
from utils.log import get_logger
from utils.seed import random_stream

_ATTEMPTS = 100  # bad images in a row, after which something else is wrong

LONGEST_EPOCH = 200_000_000
"""Samples; their order takes 8 bytes for each."""


class PatchDataset:
    """Random patches that only depend on their keys.

    Args:
        options: the section of the option file.
        seed: ``manual_seed``; decides everything random together with the samples' keys.
        pairs: the images.
        cutter: where a patch is cut out of them.
        rule: how the low-resolution patches are made of what is cut.
        pool_size: pairs that are kept and mixed into later batches; 0: none.
    """

    def __init__(
        self, options: PatchOptions, seed: int, pairs: ImagePairs, cutter: Cutter, rule: LrRule, pool_size: int = 0
    ) -> None:
        self.options, self.seed, self.name, self.pool_size = options, seed, options.name, pool_size
        self.pairs, self.cutter, self.rule = pairs, cutter, rule
        self._bad: dict[int, str] = {}
        if self.epoch_length > LONGEST_EPOCH:
            keys = "dataset_enlarge_ratio" if options.dataroot_weights is None else "dataroot_weights"
            raise InputError(
                f"{self.name}: {keys}: an epoch of {self.epoch_length:,} samples ({len(pairs):,} images) is too long; "
                f"at most {LONGEST_EPOCH:,} are put in order"
            )

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def shares(self) -> tuple[Share, ...]:
        """What part of an epoch each folder has; empty where all images count alike."""
        weights, ratio = self.options.dataroot_weights, self.options.dataset_enlarge_ratio
        return () if weights is None else shares_of(self.pairs.sources.counts, weights, ratio)

    @property
    def epoch_length(self) -> int:
        """Samples of one epoch."""
        return epoch_length(len(self), self.options.dataset_enlarge_ratio, self.shares)

    @property
    def kept_bytes(self) -> int:
        """Bytes that images kept in memory will take, at least; 0 where none are kept."""
        return self.pairs.kept_bytes

    def sample(self, key: SampleKey) -> Sample:
        """One training patch: lq [C, h, w], gt [C, H, W] with H = W = ``gt_size``.

        Raises:
            InputError: its image cannot be used, and ``on_error`` is ``stop``.
        """
        lq, gt = self.finish(self.collect([key]))
        pair = self.pairs.sources[key.image]
        source = pair.lq or pair.gt
        return Sample(lq[0], gt[0], source.name, source.label, pair.gt.label)

    def collect(
        self, keys: Sequence[SampleKey], step: int = 0, reading: Callable[[str], None] | None = None
    ) -> PixelBatch:
        """The patches of batch ``step``; ``reading`` is called with each file before; errors as :meth:`sample`."""
        skipped: list[str] = []
        patches, names = zip(*(self._usable(key, skipped, reading) for key in keys), strict=True)
        lq, gt, points = stack_patches(patches)
        batch = PixelBatch(lq, gt, names, keys[0].epoch, step, tuple(skipped), points=points)
        return self.rule.prepare(batch, keys)

    def finish(self, batch: PixelBatch) -> tuple[Tensor, Tensor]:
        """Lq and gt as the network sees them, float32 [B, C, h, w] and [B, C, H, W], on the device of the batch."""
        lq, gt = self.rule.finish(batch)
        return convert(lq, self.options), convert(gt, self.options)

    def preload(self) -> None:
        """With ``io_backend: memory``: decode all images that have not been, by several threads.

        Raises:
            InputError: an image cannot be used, and ``on_error`` is ``stop``.
        """

        def load(index: int) -> None:
            try:
                self.pairs[index]
            except InputError as error:
                if self.options.on_error == "stop":
                    raise
                self._bad[index] = str(error)

        in_threads(load, self.pairs.waiting, f"{self.name}: decoding")
        for line in fault_lines(self._bad.values()):
            get_logger().warning("%s: left out: %s", self.name, line)
        self.rule.compile()

    def scan(self) -> tuple[str, ...]:
        """Read all images; returns what is wrong, an entry for each image that cannot be used."""
        return self.pairs.scan()

    def _usable(self, key: SampleKey, skipped: list[str], reading: Callable[[str], None] | None) -> tuple[Patch, str]:
        """The patch of a key, or of the image that takes the place of one that cannot be used; and its file."""
        for attempt in range(1, _ATTEMPTS + 1):
            label = self.pairs.sources[key.image].gt.label
            if reading is not None:
                reading(label)
            try:
                if key.image in self._bad:
                    raise InputError(self._bad[key.image])
                images = self.pairs[key.image]
                return self.cutter.cut(images, random_stream(self.seed, key.epoch, key.position)), label
            except InputError as error:
                problem = str(error)
                if self.options.on_error == "stop":
                    raise
                if key.image not in self._bad:
                    skipped.append(problem)
                self._bad[key.image] = problem
            stream = random_stream(self.seed, key.epoch, key.position, attempt)
            key = key._replace(image=int(stream.integers(len(self))))
        raise InputError(f"{self.name}: {_ATTEMPTS} images drawn one after another cannot be used; the last: {problem}")
