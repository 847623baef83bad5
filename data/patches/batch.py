"""Patches copied into the tensors of a batch.

Shapes: B samples, H W high-resolution and h w low-resolution pixels, Q pixels that are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.images.files import in_unit
from data.ring import batch_memory
from data.samples import Points


class Patch(NamedTuple):
    """The pixels of a patch of both images of a pair.

    Attributes:
        gt: [H, W, 3], uint8, or float32 in [0, 1]; [Q, 1, 3] where only some of its pixels are asked for.
        lq: [h, w, 3]; None where it is to be made of ``gt``.
        chosen: those pixels, [Q], counted row by row; None: all.
        side: of the patch that they were taken from.
    """

    gt: NDArray[Any]
    lq: NDArray[Any] | None
    chosen: NDArray[np.int64] | None = None
    side: int = 0


def stack_patches(patches: Sequence[Patch]) -> tuple[Tensor | None, Tensor, Points | None]:
    """Patches of one size as batches: lq [B, 3, h, w] or None, gt [B, 3, H, W], and which pixels these are.

    Images are uint8 where all patches are, else float32 in [0, 1].
    """
    low = [patch.lq for patch in patches if patch.lq is not None]
    return _stack(low) if low else None, _stack([patch.gt for patch in patches]), _points(patches)


def _points(patches: Sequence[Patch]) -> Points | None:
    chosen = [patch.chosen for patch in patches if patch.chosen is not None]
    if not chosen:
        return None
    index = batch_memory((len(chosen), len(chosen[0])), torch.int32)
    for row, numbers in zip(index.numpy(), chosen, strict=True):
        row[...] = numbers
    return Points(index, torch.tensor([patch.side for patch in patches], dtype=torch.int32))


def _stack(images: Sequence[NDArray[Any]]) -> Tensor:
    """Images [H, W, 3] -> [B, 3, H, W]."""
    floating = any(image.dtype != np.uint8 for image in images)
    batch = batch_memory((len(images), 3, *images[0].shape[:2]), torch.float32 if floating else torch.uint8)
    for planes, image in zip(batch.numpy(), images, strict=True):
        cv2.split(in_unit(image) if floating else image, [*planes])  # a fifth of NumPy's time for it
    return batch
