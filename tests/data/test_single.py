from __future__ import annotations

from pathlib import Path

import pytest

from data.dataset_options import IoBackend
from data.images.files import to_tensor
from data.single import SingleImageDataset
from tests.data.images.test_sources import write_lmdb
from tests.data.pictures import BACKENDS, Backend, noise, write_folder
from utils.errors import InputError


@pytest.mark.parametrize("backend", BACKENDS)
def test_single_images(tmp_path: Path, backend: Backend) -> None:
    write_folder(tmp_path, ["a.png", "b.png"])
    options = SingleImageDataset.Options(name="S", dataroot_lq=tmp_path, io_backend=IoBackend(type=backend))
    dataset = SingleImageDataset(options)
    assert (dataset.name, dataset.phase, len(dataset)) == ("S", "test", 2)
    for _ in range(2):
        sample = dataset.read(1)
        assert sample.lq.equal(to_tensor(noise(24, 32, 1)))
        assert (sample.gt, sample.name, sample.lq_path, sample.gt_path) == (None, "b", str(tmp_path / "b.png"), None)
    assert dataset.scan() == ()


def test_lists_and_lmdb(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a.png", "b.png"])
    (tmp_path / "meta.txt").write_text("b.png (24,32,3)\n")
    listed = SingleImageDataset.Options(name="S", dataroot_lq=tmp_path, meta_info_file=tmp_path / "meta.txt")
    assert SingleImageDataset(listed).read(0).name == "b"
    folder = write_lmdb(tmp_path / "x.lmdb", ["k"])
    stored = SingleImageDataset.Options(name="S", dataroot_lq=folder, io_backend=IoBackend(type="lmdb"), color="y")
    assert SingleImageDataset(stored).read(0).lq.shape == (1, 8, 10)


def test_bad_input(tmp_path: Path) -> None:
    options = SingleImageDataset.Options(name="S", dataroot_lq=tmp_path)
    with pytest.raises(InputError, match=r"^S: the folder .* holds no images"):
        SingleImageDataset(options)
    (broken,) = write_folder(tmp_path, ["a.png"])
    with pytest.raises(InputError, match="no high-resolution images to train on"):
        SingleImageDataset(options, phase="train")
    broken.write_bytes(broken.read_bytes()[:99])
    dataset = SingleImageDataset(options)
    (problem,) = dataset.scan()
    assert "a.png" in problem
    with pytest.raises(InputError, match=r"a\.png"):
        dataset.read(0)
    with pytest.raises(InputError, match="meta_info_file"):
        SingleImageDataset.Options(name="S", dataroot_lq=(tmp_path, tmp_path), meta_info_file=tmp_path)
