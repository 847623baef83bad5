"""What the soak trains: one tiny option file, and the settings that its rounds go through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.prepare.lmdb_writer import write_lmdb
from data.prepare.pack_writer import write_pack
from scripts.faults.workplace import DISCRIMINATOR, TRAIN_FILE, changed, write_pictures
from utils.files import write_text

NAME = "tiny"
SAVE_EVERY, VALIDATE_EVERY, KEPT = 4, 8, 6
_PLAIN, _HAT = (
    "{type: PlainUSR_ultra, n_feat: 8, im_feat: [8, 4], scale: 2}",
    "{type: HAT, upscale: 2, img_size: 12, window_size: 4, embed_dim: 8, depths: [2], num_heads: [2], "
    "compress_ratio: 2, squeeze_factor: 2, drop_rate: 0.1, attn_drop_rate: 0.1, drop_path_rate: 0.2}",
)
_LOGGER = (
    f"{{print_freq: 1, save_checkpoint_freq: {SAVE_EVERY}, keep_last: {KEPT}, keep_best: true, use_tb_logger: true}}"
)
_CHANGES = {  # of TRAIN_FILE, for all settings
    "{print_freq: 1, save_checkpoint_freq: 4, use_tb_logger: false}": _LOGGER,
    "val_freq: 4": f"val_freq: {VALIDATE_EVERY}",
    "milestones: [8]": "milestones: [40, 80]",
}
_WORKERS = {"num_worker_per_gpu: 0": "num_worker_per_gpu: 2", "{type: memory}": "{type: disk}"}
_DEGRADATIONS = {
    "scale: 2\nnum_gpu": "scale: 2\nqueue_size: 8\nresize_range: [0.7, 1.5]\nresize_range2: [0.7, 1.2]\nnum_gpu",
    "type: PairedImageDataset\n    dataroot_gt: photos/HR": (
        "type: RealESRGANDataset\n    dataroot_gt: photos/HR\n    crop_size: 48"
    ),
}
_ADVERSARIAL = {
    **DISCRIMINATOR,
    "model_type: SRGANModel": "model_type: RealESRGANModel\nl1_gt_usm: true\npercep_gt_usm: true\ngan_gt_usm: false",
    "gt_size: 24": "gt_size: 32",  # sharpening needs 26, the discriminator a multiple of 8
    "  gan_opt:": "  ldl_opt: {type: L1Loss}\n  net_d_iters: 2\n  net_d_init_iters: 3\n  gan_opt:",
}
_ANY_SCALE = {
    "scale: 2\nnum_gpu": "scale: [1, 4]\nnum_gpu",
    "type: PairedImageDataset\n    dataroot_gt: photos/HR": (
        "type: AnyScaleDataset\n    dataroot_gt: photos/HR\n    lq_size: 8\n    sample_q: 48"
    ),
    "    gt_size: 24\n": "",
    "type: PairedImageDataset\n    dataroot_gt: held_out/HR": "type: AnyScaleDataset\n    dataroot_gt: held_out/HR",
    _PLAIN: (
        "{type: ESCLTE, dim: 16, pdim: 4, kernel_size: 5, n_blocks: 1, conv_blocks: 1, window_size: 4, num_heads: 2, "
        "hidden_dim: 12, hidden_list: [10]}"
    ),
    "  metrics:": "  scales: [2, 2.5]\n  metrics:",
    "{type: calculate_psnr, crop_border: 2, test_y_channel: true}": (
        "{type: calculate_psnr_any_scale, protocol: benchmark}"
    ),
}


def _data(kind: str) -> dict[str, str]:
    """The changes for a prepared data set."""
    return {"dataroot_gt: photos/HR": f"dataroot_gt: photos.{kind}", "{type: memory}": f"{{type: {kind}}}"}


@dataclass(frozen=True)
class Setting:
    """A way to train.

    Attributes:
        name: what is special about it.
        changes: of :data:`TRAIN_FILE`: text -> what takes its place.
        ranks: processes that train; more than one are started by torchrun.
        workers: whether each rank has processes that load data.
        steps: iterations of the training.
    """

    name: str
    changes: Mapping[str, str] = field(default_factory=dict)
    ranks: int = 1
    workers: bool = False
    steps: int = 160

    @property
    def players(self) -> tuple[str, ...]:
        """The networks that are trained, as the names of their files say it."""
        return ("g", "d") if "network_d" in self.option_file() else ("g",)

    def option_file(self) -> str:
        """The text of the option file."""
        return changed(TRAIN_FILE, {**_CHANGES, **self.changes, "total_iter: 12": f"total_iter: {self.steps}"})


SETTINGS = (
    Setting("one process"),
    Setting("2 workers", _WORKERS, workers=True, steps=100),
    Setting("HAT with dropout, EMA", {_PLAIN: _HAT}, steps=60),
    Setting("2 ranks", ranks=2, steps=100),
    Setting("degradation pool", _DEGRADATIONS, steps=80),
    Setting("AMP bf16", {"ema_decay: 0.9": "ema_decay: 0.9\n  amp: bf16"}),
    Setting("GAN", _ADVERSARIAL, steps=80),
    Setting("GAN, degradation pool", {**_DEGRADATIONS, **_ADVERSARIAL}, steps=60),
    Setting("any scale", _ANY_SCALE, steps=60),
    Setting("LMDB, 2 workers", {**_WORKERS, **_data("lmdb")}, workers=True),
    Setting("2 micro-batches, no EMA", {"ema_decay: 0.9": "accumulate: 2"}),
    Setting("pack", _data("pack")),
    Setting("2 ranks with 2 workers each", _WORKERS, ranks=2, workers=True, steps=100),
    Setting("degradation pool, 2 workers", {**_WORKERS, **_DEGRADATIONS}, workers=True, steps=80),
    Setting("GAN, 2 micro-batches", {**_ADVERSARIAL, "ema_decay: 0.9": "ema_decay: 0.9\n  accumulate: 2"}, steps=80),
    Setting("GAN, AMP bf16", {**_ADVERSARIAL, "ema_decay: 0.9": "ema_decay: 0.9\n  amp: bf16"}, steps=60),
    Setting("GAN, 2 ranks", _ADVERSARIAL, ranks=2, steps=60),
    Setting("any scale, 2 workers", {**_WORKERS, **_ANY_SCALE}, workers=True, steps=60),
)  # fmt: skip
"""In the order of the rounds."""


def make_place(folder: Path, setting: Setting) -> None:
    """Fill a folder with the data and the option file of a setting."""
    write_pictures(folder)
    text = setting.option_file()
    if "photos.lmdb" in text:
        write_lmdb(folder / "photos/HR", folder / "photos.lmdb")
    if "photos.pack" in text:
        write_pack(folder / "photos/HR", folder / "photos.pack")
    write_text(folder / "train.yml", text)


def chosen(names: Sequence[str]) -> tuple[Setting, ...]:
    """The settings whose names are given; all of them where none is."""
    return tuple(setting for setting in SETTINGS if not names or setting.name in names)
