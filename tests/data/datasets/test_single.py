from __future__ import annotations

from pathlib import Path

import pytest

from data.dataset_options import IoBackend
from data.datasets.single import SingleImageOptions
from data.images.files import to_tensor
from tests.data.images.test_sources import write_lmdb
from tests.data.pictures import BACKENDS, Backend, noise, write_folder
from utils.errors import InputError


@pytest.mark.parametrize("backend", BACKENDS)
def test_single_images(tmp_path: Path, backend: Backend) -> None:
    write_folder(tmp_path, ["a.png", "b.png"])
    options = SingleImageOptions(name="S", dataroot_lq=tmp_path, io_backend=IoBackend(type=backend))
    dataset = options.evaluation_set(4)
    assert (dataset.name, len(dataset)) == ("S", 2)
    for _ in range(2):
        sample = dataset.read(1)
        assert sample.lq.equal(to_tensor(noise(24, 32, 1)))
        assert (sample.gt, sample.name, sample.lq_path, sample.gt_path) == (None, "b", str(tmp_path / "b.png"), None)
    assert dataset.scan() == ()


def test_lists_and_lmdb(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a.png", "b.png"])
    (tmp_path / "meta.txt").write_text("b.png (24,32,3)\n")
    listed = SingleImageOptions(name="S", dataroot_lq=tmp_path, meta_info_file=tmp_path / "meta.txt")
    assert listed.evaluation_set(4).read(0).name == "b"
    folder = write_lmdb(tmp_path / "x.lmdb", ["k"])
    stored = SingleImageOptions(name="S", dataroot_lq=folder, io_backend=IoBackend(type="lmdb"), color="y")
    assert stored.evaluation_set(4).read(0).lq.shape == (1, 8, 10)


def test_bad_input(tmp_path: Path) -> None:
    options = SingleImageOptions(name="S", dataroot_lq=tmp_path)
    with pytest.raises(InputError, match=r"^S: the folder .* holds no images"):
        options.evaluation_set(4)
    (broken,) = write_folder(tmp_path, ["a.png"])
    with pytest.raises(InputError, match="no high-resolution images to train on"):
        options.training_set(4)
    broken.write_bytes(broken.read_bytes()[:99])
    dataset = options.evaluation_set(4)
    (problem,) = dataset.scan()
    assert "a.png" in problem
    with pytest.raises(InputError, match=r"a\.png"):
        dataset.read(0)
    with pytest.raises(InputError, match="meta_info_file"):
        SingleImageOptions(name="S", dataroot_lq=(tmp_path, tmp_path), meta_info_file=tmp_path)
