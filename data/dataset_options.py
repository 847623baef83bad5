"""The keys that every data set of an option file shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from data.degradations import DegradationOptions
from data.samples import EvalDataset, TrainDataset
from utils.checked import Checked
from utils.errors import InputError
from utils.typed import option

_LARGEST = 1000  # of mean and std
SET_BY_BASICSR = "BasicSR sets it itself"  # why a key has no effect


@dataclasses.dataclass(frozen=True, kw_only=True)
class IoBackend(Checked):
    """Where the pixels come from."""

    IGNORED: ClassVar[Mapping[str, str]] = dict.fromkeys(("db_paths", "client_keys"), SET_BY_BASICSR)

    type: Literal["disk", "memory", "lmdb", "pack"] = option(
        "disk: read and decode a file whenever it is needed; memory: decode every image once and keep it (8 bit: "
        "3 bytes per pixel); lmdb: the folders are LMDB data sets, NAME.lmdb; pack: they are packs, NAME.pack, whose "
        "crops are read without decoding",
        "disk",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetOptions(Checked):
    """What every data set has; the keys about batches only matter in training."""

    IGNORED: ClassVar[Mapping[str, str]] = {
        "use_shuffle": "training data are always shuffled, others never",
        "task": "nothing depends on it",
        "phase": SET_BY_BASICSR,
        "scale": SET_BY_BASICSR,
        "meta_info": "meta_info_file lists the images to use",
    }

    name: str = option("name of the data set, for logs and result folders")
    io_backend: IoBackend = option("mapping with the key type: disk, memory, lmdb or pack", default_factory=IoBackend)
    color: Literal["y", "n"] | None = option("y: luminance (BT.601) instead of R G B; n or null: R G B", None)
    mean: tuple[float, ...] | None = option("subtracted from each channel of images in [0, 1]; null: 0", None)
    std: tuple[float, ...] | None = option("each channel is divided by it, after mean; null: 1", None)
    batch_size_per_gpu: int = option("samples per batch, on each GPU or rank", 1, minimum=1, maximum=1_000_000)
    num_worker_per_gpu: int = option(
        "worker processes that prepare batches, for each GPU or rank; 0: prepared in the training process. The samples "
        "are the same for every number; more than there are cores are not started",
        0,
        minimum=0,
        maximum=1024,
    )
    dataset_enlarge_ratio: float = option("an epoch sees each image this many times", 1.0, minimum=1, maximum=1e8)
    prefetch_mode: Literal["cpu", "cuda"] | None = option(
        "cpu: a thread prepares batches ahead; cuda: the next batch is copied to the GPU, of any make, while this one "
        "is computed; null: neither",
        None,
    )
    num_prefetch_queue: int = option("batches that prefetch_mode cpu prepares ahead", 1, minimum=1, maximum=10_000)
    pin_memory: bool = option(
        "workers' batches go straight into page-locked memory, through which all go to a GPU", False
    )
    persistent_workers: bool = option("accepted: worker processes always live as long as the training", False)

    @property
    def copies_ahead(self) -> bool:
        """Whether the next batch is to be copied to the device while this one is computed."""
        return self.prefetch_mode == "cuda"

    @property
    def channels(self) -> int:
        """Of the images."""
        return 1 if self.color == "y" else 3

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in (1, self.channels):
                raise InputError(f"{key}: expected {self.channels} numbers, one per channel, got {len(values)}")
        for key in ("mean", "std"):
            values = getattr(self, key)
            if values is not None and max(map(abs, values)) > _LARGEST:
                raise InputError(f"{key}: expected numbers up to {_LARGEST}, for images in [0, 1], got {list(values)}")
        if self.std is not None and min(self.std) <= 0:
            raise InputError(f"std: expected numbers above 0, got {min(self.std):g}")

    def training_set(self, scale: int, seed: int = 0, degradations: DegradationOptions | None = None) -> TrainDataset:
        """Random patches of the images that these options name.

        Args:
            scale: high-resolution size / low-resolution size.
            seed: ``manual_seed``; decides the order of samples, their crops and flips.
            degradations: the keys at the top level of the option file, for those that degrade; None: as published.

        Raises:
            InputError: the images are missing or do not pair, or they are not for training.
        """
        raise ValueError(f"no data set is known for options of the type {type(self).__name__}")

    def evaluation_set(self, scale: float) -> EvalDataset:
        """The whole images that these options name, at any scale.

        Raises:
            InputError: the images are missing or do not pair, or they are not for this scale, or not for evaluation.
        """
        raise ValueError(f"no data set is known for options of the type {type(self).__name__}")


def whole_scale(name: str, scale: float) -> int:
    """``scale`` for what needs a whole number; raises InputError for another one, which opens with ``name``."""
    if not isinstance(scale, int):
        raise InputError(f"{name}: scale {scale:g} is no whole number; only tests on image pairs take one")
    return scale


def folders(roots: Path | tuple[Path, ...] | None) -> tuple[Path, ...]:
    """One folder, several, or none, as a tuple; ``~`` is the home folder."""
    listed = () if roots is None else roots if isinstance(roots, tuple) else (roots,)
    return tuple(folder.expanduser() for folder in listed)


def check_backend(options: DatasetOptions, roots: tuple[Path, ...]) -> None:
    """Raise InputError unless the names of the folders agree with ``io_backend``."""
    backend = options.io_backend.type
    kinds = {".lmdb": "lmdb", ".pack": "pack"}
    for folder in roots:
        kind = kinds.get(folder.suffix, "disk")
        if backend in ("lmdb", "pack") and kind != backend:
            raise InputError(f"{options.name}: io_backend {backend} expects folders NAME.{backend}, got {folder}")
        if backend == "disk" and kind != "disk":
            what = "an LMDB data set" if kind == "lmdb" else "a pack"
            raise InputError(f"{options.name}: {folder} is {what}; set io_backend: {{type: {kind}}}")
