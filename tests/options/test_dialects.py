"""Files in the manner of the published networks are accepted as they are, whether or not the network exists here."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import options
from archs import NETWORKS
from options.checks import Mode
from tests.options.files import line_of, mistakes, write

FOLDER = Path(__file__).parent / "dialects"

# File -> the keys that it holds without effect.
NOTED = {
    "hat_train.yml": ["datasets.train.use_shuffle", "logger.wandb"],
    "hat_test.yml": [],
    "rgt_train.yml": ["datasets.train.task", "datasets.train.use_shuffle", "datasets.val_1.task", "logger.wandb"],
    "rgt_test.yml": ["datasets.test_1.task"],
    "pft_train.yml": ["find_unused_parameters", "logger.wandb"],
    "pft_test.yml": ["find_unused_parameters"],
    "esc_train.yml": ["datasets.train.use_shuffle", "train.optim_d", "logger.wandb"],
    "esc_test.yml": [],
}


def read(path: Path, mode: Mode) -> options.Options:
    return options.read(path, mode="train") if mode == "train" else options.read(path, mode="test")


@pytest.fixture(params=NOTED)
def dialect(request: pytest.FixtureRequest) -> tuple[Path, Mode]:
    path = FOLDER / request.param
    return path, "train" if "train" in path.stem else "test"


def test_only_a_missing_network_is_a_mistake(dialect: tuple[Path, Mode], tmp_path: Path) -> None:
    path, mode = dialect
    text = path.read_text()
    network = yaml.safe_load(text)["network_g"]["type"]
    if network in NETWORKS:
        assert read(path, mode).network_g.type == network
    else:
        (mistake,) = mistakes(write(tmp_path, text), mode=mode)
        line = line_of(text, f"  type: {network}\n".rstrip())
        assert mistake.startswith(f'options.yml:{line}: network_g.type: unknown network type "{network}"')


def test_what_has_no_effect_is_said(dialect: tuple[Path, Mode], tmp_path: Path) -> None:
    path, mode = dialect
    text = path.read_text()
    found = read(write(tmp_path, _with_known_network(text)), mode)
    keys = [note.split(": ")[1] for note in found.notes]
    assert keys == NOTED[path.name]
    for note in found.notes:
        line = int(note.split(": ")[0].rsplit(":", 1)[1])
        assert note.split(": ")[1].rsplit(".", 1)[-1] in text.splitlines()[line - 1]


def test_values_arrive(tmp_path: Path) -> None:
    """The keys in which the dialects differ."""
    files = {name: write(tmp_path, _with_known_network((FOLDER / name).read_text()), name) for name in NOTED}
    hat, rgt, pft, esc = (
        options.read(files[f"{name}_train.yml"], mode="train") for name in ("hat", "rgt", "pft", "esc")
    )
    assert (hat.train.ema_decay, rgt.train.ema_decay) == (0.999, 0)
    assert (pft.train.warmup_iter, hat.train.warmup_iter) == (20000, -1)
    assert (type(rgt.train.optim_g).__name__, type(esc.train.optim_g).__name__) == ("Adam", "AdamW")
    assert (esc.train_dataset.io_backend.type, hat.train_dataset.io_backend.type) == ("lmdb", "disk")
    assert (pft.train_dataset.prefetch_mode, hat.train_dataset.prefetch_mode) == ("cuda", None)
    assert (rgt.path.strict_load_g, pft.path.param_key_g, hat.path.param_key_g) == (False, "params_ema", "params")
    assert hat.val is not None
    assert hat.val.val_freq == hat.logger.save_checkpoint_freq == 5000
    assert list(hat.datasets) == ["train", "val_1", "val_2"]
    tiled = options.read(files["hat_test.yml"], mode="test")
    assert tiled.tile == options.schema.TileOptions(tile_size=256, tile_pad=32)
    assert tiled.path.param_key_g == "params_ema"


def _with_known_network(text: str) -> str:
    """The file with a network that exists, at the lines of its own; everything else stays where it was."""
    lines = text.splitlines()
    start = lines.index("network_g:")
    end = next(number for number in range(start + 1, len(lines)) if not lines[number].startswith(" "))
    scale = yaml.safe_load(text)["scale"]
    lines[start:end] = [f"network_g: {{type: PlainUSR_ultra, scale: {scale}}}", *[""] * (end - start - 1)]
    return "\n".join(lines)
