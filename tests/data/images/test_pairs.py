"""Pairs of images: read when asked for, kept on request, refused with a reason."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from data.dataset_options import DatasetOptions, IoBackend
from data.images.pairs import ImagePairs, SmallestImage, read_gt
from tests.data.pictures import BACKENDS, Backend, noise, write_folder
from utils.errors import InputError

SMALLEST = SmallestImage(8, "8 x 8", "enlarge it")


def pairs_of(folder: Path, backend: Backend = "disk") -> ImagePairs:
    options = DatasetOptions(name="P", io_backend=IoBackend(type=backend))
    return ImagePairs(options, [folder], [], [], "{}", partial(read_gt, smallest=SMALLEST))


@pytest.mark.parametrize("backend", BACKENDS)
def test_pixels_are_those_of_the_files(tmp_path: Path, backend: Backend) -> None:
    write_folder(tmp_path, ["a.png", "b.png"])
    pairs = pairs_of(tmp_path, backend)
    assert len(pairs) == 2
    for index in (1, 0, 1):
        assert np.array_equal(pairs[index].gt, noise(24, 32, index))
        assert pairs[index].lq is None


def test_only_what_is_in_memory_is_kept(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a.png", "b.png"])
    disk, memory = pairs_of(tmp_path), pairs_of(tmp_path, "memory")
    assert disk.waiting == []
    assert memory.waiting == [0, 1]
    for pairs in (disk, memory):
        assert pairs[1].gt.shape == (24, 32, 3)
    assert memory.waiting == [0]
    (tmp_path / "b.png").unlink()
    assert memory[1].gt.shape == (24, 32, 3)
    with pytest.raises(InputError, match=r"b\.png"):
        disk[1]


def test_small_images_are_refused_with_what_is_needed(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a.png", "b.png"], 7, 40)
    problem = r"a\.png: the image is 7 x 40 \(height x width\), smaller than 8 x 8; enlarge it"
    with pytest.raises(InputError, match=problem):
        pairs_of(tmp_path)[0]
    assert len(pairs_of(tmp_path).scan()) == 2
