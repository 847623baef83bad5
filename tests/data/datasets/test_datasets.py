from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest

import data
from data.dataset_options import DatasetOptions, IoBackend
from data.datasets import DATASETS, build_dataset
from data.datasets.paired import PairedImageOptions
from data.datasets.single import SingleImageOptions, SingleImages
from data.patches.dataset import PatchDataset
from data.whole import WholeImages
from tests.data.pictures import write_folder
from utils.errors import InputError
from utils.scalars import PlainText
from utils.typed import OneOf, Report, fields_of, read

Section = Annotated[DatasetOptions, OneOf(lambda: DATASETS, "dataset")]

# As the published training files write it; values are unquoted texts.
PUBLISHED: dict[str, Any] = {
    "name": "DF2K",
    "type": "PairedImageDataset",
    "dataroot_gt": "hr",
    "dataroot_lq": "lr",
    "meta_info_file": "meta.txt",
    "filename_tmpl": "{}x4",
    "io_backend": {"type": "disk"},
    "gt_size": "192",
    "use_hflip": "true",
    "use_rot": "yes",
    "use_shuffle": "true",
    "task": "SR",
    "color": "~",
    "mean": "~",
    "num_worker_per_gpu": "6",
    "batch_size_per_gpu": "4",
    "dataset_enlarge_ratio": "1",
    "prefetch_mode": "~",
    "pin_memory": "true",
    "persistent_workers": "true",
}


def plain(value: Any) -> Any:
    return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else PlainText(value)


def test_published_keys_are_read() -> None:
    report = Report()
    options = read(plain(PUBLISHED), Section, report)
    assert report.problems == []
    assert {note.path[-1] for note in report.notes} == {"use_shuffle", "task"}
    assert options == PairedImageOptions(
        name="DF2K", dataroot_gt=Path("hr"), dataroot_lq=Path("lr"), meta_info_file=Path("meta.txt"),
        filename_tmpl="{}x4", gt_size=192, num_worker_per_gpu=6, batch_size_per_gpu=4, pin_memory=True,
        persistent_workers=True,
    )  # fmt: skip


def test_lists_of_folders_are_read() -> None:
    report = Report()
    section = {"name": "DF2K", "type": "PairedImageDataset", "dataroot_gt": [PlainText("a"), PlainText("b")]}
    assert read(section, Section, report).dataroot_gt == (Path("a"), Path("b"))
    assert report.problems == []


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("io_backend", {"type": "memcached"}, "expected one of disk, memory, lmdb"),
        ("filename_tmpl", "x4", "filename_tmpl"),
        ("dataset_enlarge_ratio", "0.5", "at least 1"),
        ("gt_sise", "3", "gt_size"),
        ("mean", ["0.1"] * 2, "expected 3 numbers"),
        ("prefetch_mode", "gpu", "one of"),
        ("type", "PairedImageDatset", "PairedImageDataset"),
    ],
)
def test_mistakes_are_reported(key: str, value: Any, words: str) -> None:
    report = Report()
    values = [PlainText(item) for item in value] if isinstance(value, list) else plain(value)
    read({**plain(PUBLISHED), key: values}, Section, report)
    assert len(report.problems) == 1
    assert words in report.problems[0].message


@pytest.mark.parametrize("name", DATASETS)
def test_every_key_is_explained(name: str) -> None:
    for field in fields_of(DATASETS[name]).values():
        assert field.help, field.name


def test_data_sets_are_built(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a.png", "b.png"])
    options = PairedImageOptions(name="T", dataroot_gt=tmp_path, gt_size=8, dataset_enlarge_ratio=2.5)
    training = build_dataset(options, scale=2, seed=4, phase="train")
    assert isinstance(training, PatchDataset)
    assert (training.seed, training.epoch_length) == (4, 5)
    assert isinstance(build_dataset(options, scale=2, phase="val"), WholeImages)
    testing = build_dataset(SingleImageOptions(name="S", dataroot_lq=tmp_path), scale=2, phase="test")
    assert isinstance(testing, SingleImages)
    with pytest.raises(InputError, match="no high-resolution images to train on"):
        build_dataset(SingleImageOptions(name="S", dataroot_lq=tmp_path), scale=2, phase="train")
    with pytest.raises(ValueError, match="DatasetOptions"):
        build_dataset(DatasetOptions(name="T", io_backend=IoBackend()), scale=2, phase="test")


def test_names_of_the_package() -> None:
    for name in data.__all__:
        assert getattr(data, name) is not None
    assert callable(data.imresize)
