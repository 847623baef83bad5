"""Files in the manner of the published networks, written from the facts about them, are accepted as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

import config
from archs import build_network, network_class
from config.checks import Mode
from utils.errors import InputError

FOLDER = Path(__file__).parent / "dialects"

# File -> the keys that it holds without effect.
NOTED = {
    "hat_train.yml": ["datasets.train.use_shuffle"],
    "hat_test.yml": [],
    "rgt_train.yml": ["datasets.train.task", "datasets.train.use_shuffle", "datasets.val_1.task"],
    "rgt_test.yml": ["datasets.test_1.task"],
    "pft_train.yml": ["find_unused_parameters"],
    "pft_test.yml": ["find_unused_parameters"],
    "esc_train.yml": ["datasets.train.use_shuffle", "train.optim_d"],
    "esc_test.yml": [],
    "esc_xl_test.yml": [],
    "esc_dflip_train.yml": ["datasets.train.use_shuffle", "train.optim_d"],
    "hat_imagenet_train.yml": ["datasets.train.use_shuffle"],
    "hat_real_train.yml": [
        "gt_size",
        "datasets.train.blur_kernel_size",
        "datasets.train.blur_kernel_size2",
        "datasets.train.use_shuffle",
    ],
    "basicsr_train.yml": ["datasets.train.use_shuffle"],
    "basicsr_test.yml": [],
}


def read(path: Path, mode: Mode) -> config.Options:
    return config.read(path, mode="train") if mode == "train" else config.read(path, mode="test")


@pytest.fixture(params=NOTED)
def dialect(request: pytest.FixtureRequest) -> tuple[Path, Mode]:
    path = FOLDER / request.param
    return path, "train" if "train" in path.stem else "test"


def test_published_file_is_read_and_its_network_built(dialect: tuple[Path, Mode]) -> None:
    path, mode = dialect
    found = read(path, mode)
    with torch.device("meta"):
        network = build_network(found.network_g.as_mapping())
    assert isinstance(network, network_class(yaml.safe_load(path.read_text())["network_g"]["type"]))


def test_keys_of_published_files_without_effect_are_noted_once(dialect: tuple[Path, Mode]) -> None:
    path, mode = dialect
    text = path.read_text()
    found = read(path, mode)
    keys = [note.split(": ")[1] for note in found.notes]
    assert keys == NOTED[path.name]
    for note in found.notes:
        line = int(note.split(": ")[0].rsplit(":", 1)[1])
        assert note.split(": ")[1].rsplit(".", 1)[-1] in text.splitlines()[line - 1]


def test_large_images_are_cut_as_the_authors_of_each_network_cut_them() -> None:
    """HAT's ``tile``, RGT's ``use_chop``; PFT's files ask by the kind of model, in tests and in validation."""
    found = {name: read(FOLDER / name, "test" if "test" in name else "train") for name in NOTED}
    vals = {name: options.val for name, options in found.items() if options.val is not None}
    assert {name for name, val in vals.items() if val.pft_chop} == {"pft_train.yml", "pft_test.yml"}
    assert {name for name, val in vals.items() if val.use_chop} == {"rgt_test.yml"}
    assert {name for name, options in found.items() if options.tile is not None} == {"hat_test.yml"}


def test_one_way_of_cutting_is_chosen_at_most() -> None:
    file = FOLDER / "pft_test.yml"

    def chosen(*edits: str) -> tuple[bool | None, bool, bool]:
        options = config.read(file, edits, mode="test")
        assert options.val is not None
        return options.val.pft_chop, options.val.use_chop, options.tile is not None

    assert chosen() == (True, False, False)
    assert chosen("val:pft_chop=false") == (False, False, False)
    assert chosen("val:use_chop=true") == (False, True, False)
    assert chosen("tile={tile_size: 64}") == (False, False, True)
    assert chosen("model_type=SRModel") == (False, False, False)
    assert chosen("model_type=SRModel", "val:pft_chop=true") == (True, False, False)
    for edits, names in (
        (("val:use_chop=true", "val:pft_chop=true"), "val.use_chop and val.pft_chop"),
        (("tile={tile_size: 64}", "val:use_chop=true"), "tile and val.use_chop"),
    ):
        with pytest.raises(InputError, match=f"{names} each say how images are cut into tiles; choose one"):
            chosen(*edits)


def test_values_of_published_files_arrive() -> None:
    """The keys in which the dialects differ."""
    hat, rgt, pft, esc, real = (
        config.read(FOLDER / f"{name}_train.yml", mode="train") for name in ("hat", "rgt", "pft", "esc", "hat_real")
    )
    assert real.degradations is not None
    assert (real.degradations.gt_usm, real.degradations.poisson_scale_range) == (True, (0.05, 3))
    assert (hat.train.ema_decay, rgt.train.ema_decay) == (0.999, 0)
    assert (pft.train.warmup_iter, hat.train.warmup_iter) == (20000, -1)
    assert (type(rgt.train.optim_g).__name__, type(esc.train.optim_g).__name__) == ("Adam", "AdamW")
    assert (esc.train_dataset.io_backend.type, hat.train_dataset.io_backend.type) == ("lmdb", "disk")
    assert (pft.train_dataset.prefetch_mode, hat.train_dataset.prefetch_mode) == ("cuda", None)
    assert (rgt.path.strict_load_g, pft.path.param_key_g, hat.path.param_key_g) == (False, "params_ema", "params")
    assert hat.val is not None
    assert hat.val.val_freq == hat.logger.save_checkpoint_freq == 5000
    assert list(hat.datasets) == ["train", "val_1", "val_2"]
    tiled = config.read(FOLDER / "hat_test.yml", mode="test")
    assert tiled.tile == config.schema.TileOptions(tile_size=256, tile_pad=32)
    assert tiled.path.param_key_g == "params_ema"
