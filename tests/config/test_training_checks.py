"""What a training cannot be meant by is a mistake; what hardly is, a note."""

from __future__ import annotations

from pathlib import Path

import pytest

import config
from tests.config.files import TRAIN, mistakes, write

ADAM = "optim_g: {type: Adam, lr: 2e-4, betas: [0.9, 0.99]}"
STEPS = "type: MultiStepLR\n    milestones: [25, 40]\n    gamma: 0.5"


def notes(tmp_path: Path, *overrides: str, debug: bool = False) -> list[str]:
    """The notes about a training file, each without its place."""
    found = config.read(write(tmp_path, TRAIN), overrides, mode="train", debug=debug).notes
    return [note.split("options.yml", 1)[-1].split(": ", 1)[1] for note in found]


MISTAKEN = [
    ("lr: 2e-4", "lr: 0", "train.optim_g.lr: expected a number above 0, got 0"),
    ("lr: 2e-4", "lr: .inf", "train.optim_g.lr: expected a finite number, got inf"),
    ("lr: 2e-4", "lr: 1e400", "train.optim_g.lr: expected a finite number, got inf"),
    (ADAM, "optim_g: {type: SGD, lr: 1, momentum: 1}", "train.optim_g.momentum: expected a number below 1, got 1"),
    (ADAM, "optim_g: {type: SGD, lr: 1, weight_decay: -1}", "train.optim_g.weight_decay: expected at least 0, got -1"),
    (ADAM, "optim_g: {type: SGD, lr: 1, nesterov: yes}", "train.optim_g: nesterov: true needs a momentum above 0"),
    (ADAM, "optim_g: {type: RMSprop, lr: 1, alpha: 1}", "train.optim_g.alpha: expected a number below 1, got 1"),
    (ADAM, "optim_g: {type: ASGD, lr: 1, alpha: -1}", "train.optim_g.alpha: expected at least 0, got -1"),
    (ADAM, "optim_g: {type: ASGD, lr: 1, t0: -1}", "train.optim_g.t0: expected at least 0, got -1"),
    (ADAM, "optim_g: {type: Rprop, lr: 1, etas: [1, 1]}", "train.optim_g: etas: expected one between 0 and 1"),
    (ADAM, "optim_g: {type: Rprop, lr: 1, step_sizes: [1, 0.5]}", "train.optim_g: step_sizes: expected the smaller"),
    (ADAM, "optim_g: {type: Adamax, lr: 1, betas: [0.9, 1]}", "train.optim_g.betas: expected a number below 1, got 1"),
    ("gamma: 0.5", "gamma: -1", "train.scheduler.gamma: expected a number above 0, got -1"),
    ("gamma: 0.5", "gamma: 0", "train.scheduler.gamma: expected a number above 0, got 0"),
    ("[25, 40]", "[-1]", "train.scheduler.milestones: expected at least 0, got -1"),
    (
        "gamma: 0.5",
        "restarts: [0, 0]\n    restart_weights: [1, 1]",
        "train.scheduler.restarts: expected each iteration",
    ),
    ("gamma: 0.5", "restart_weights: [0]", "train.scheduler.restart_weights: expected a number above 0, got 0"),
    (
        STEPS,
        "{type: CosineAnnealingLR, T_max: 5000, eta_min: 1}",
        "train.scheduler.eta_min: expected at most the learning",
    ),
    (
        STEPS,
        "{type: CosineAnnealingRestartLR, periods: [], restart_weights: []}",
        "train.scheduler.periods: expected at",
    ),
    ("total_iter: 5e3", "total_iter: 1e12", "train.total_iter: expected at most 1000000000, got 1000000000000"),
    ("total_iter: 5e3", "total_iter: 5e3\n  ema_decay: 1", "train.ema_decay: expected a number below 1, got 1"),
    ("total_iter: 5e3", "total_iter: 5e3\n  grad_clip: 0", "train.grad_clip: expected a number above 0, got 0"),
    (
        "type: L1Loss",
        "type: L1Loss\n    loss_weight: 0",
        "train.pixel_opt.loss_weight: expected a number above 0, got 0",
    ),
    ("type: L1Loss", "type: L1Loss\n    loss_weight: -1", "train.pixel_opt.loss_weight: expected a number above 0"),
    ("manual_seed: 3", f"manual_seed: {'9' * 24}", "manual_seed: expected at most 4294967295, got 9999"),
    ("gt_size: 64", "gt_size: 1000000000", "datasets.train.gt_size: expected at most 65536, got 1000000000"),
    (
        "gt_size: 64",
        "gt_size: 64\n    dataset_enlarge_ratio: 1e12",
        "datasets.train.dataset_enlarge_ratio: expected at most",
    ),
    ("dataroot_gt: ~/gt", "dataroot_gt: []", "datasets.train: dataroot_gt: expected a folder, or a list of them"),
    ("dataroot_gt: ~/gt", 'dataroot_gt: "a\\0b"', "datasets.train.dataroot_gt: expected a path or a list, each a path"),
    (
        "dataroot_lq: d/lq",
        "dataroot_lq: d/lq\n    filename_tmpl: ../{}",
        "datasets.train: filename_tmpl: expected a name",
    ),
    (
        "dataroot_lq: d/lq",
        "dataroot_lq: d/lq\n    filename_tmpl: x{0}{}",
        "datasets.train: filename_tmpl: expected no other",
    ),
    ("dataroot_lq: d/lq", "dataroot_lq: d/lq\n    filename_tmpl: x", "datasets.train: filename_tmpl: expected"),
    (
        "dataroot_lq: d/lq",
        "dataroot_lq: d/lq\n    filename_tmpl: /{}",
        "datasets.train: filename_tmpl: expected a name",
    ),
    ("name: exp", f"name: {'x' * 300}", "name: expected at most 200 bytes, for the names of files, got 300"),
    (
        "crop_border: 2",
        f"crop_border: {10**18}",
        "val.metrics.psnr.crop_border: expected at most 1000000000000000, got 1",
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKEN, ids=[case[1][:60] for case in MISTAKEN])
def test_what_cannot_be_meant_is_a_mistake(tmp_path: Path, old: str, new: str, message: str) -> None:
    found = mistakes(write(tmp_path, TRAIN.replace(old, new, 1)))
    assert [line.split(": ", 1)[1][: len(message)] for line in found] == [message]


NOTED = [
    (
        "train:accumulate=5",
        "train.accumulate: no more than 4 micro-batches are made: datasets.train.batch_size_per_gpu is",
    ),
    ("train:scheduler:milestones=[40, 25]", "train.scheduler.milestones: not in ascending order; read as 25, 40"),
    ("train:scheduler:milestones=[25, 6000]", "train.scheduler.milestones: never reached: 6000; total_iter is 5,000"),
    ("train:warmup_iter=6000", "train.warmup_iter: the training ends within the warm-up: total_iter is 5,000"),
    ("val:val_freq=6000", "val.val_freq: there is no validation but the one at the end: it is beyond total_iter 5,000"),
    ("logger:print_freq=6000", "logger.print_freq: no iteration is logged: it is beyond total_iter 5,000"),
    (
        "logger:save_checkpoint_freq=6000",
        "logger.save_checkpoint_freq: there is no checkpoint but the one at the end: it ",
    ),
    ("logger:keep_every=10000", "logger.keep_every: has no effect here: without keep_last, every checkpoint is kept"),
    ("logger:keep_every=7 logger:keep_last=1", "logger.keep_every: no multiple of save_checkpoint_freq 5,000"),
    ("val:metrics=~", "val: nothing is measured and nothing is saved: there are no metrics, and save_img is false"),
    (
        "train:scheduler={type: CosineAnnealingRestartLR, periods: [6000]}",
        "train.scheduler.periods: the last cycle is not finished: together 6,000 iterations, total_iter is 5,000",
    ),
    (
        "train:scheduler={type: CosineAnnealingLR, T_max: 6000}",
        "train.scheduler.T_max: the learning rate ends above eta",
    ),
    (
        "train:scheduler={type: CosineAnnealingLR, T_max: 50}",
        "train.scheduler.T_max: the learning rate rises again aft",
    ),
]


@pytest.mark.parametrize(("overrides", "message"), NOTED, ids=[case[0][:50] for case in NOTED])
def test_what_is_hardly_meant_is_noted(tmp_path: Path, overrides: str, message: str) -> None:
    given = [overrides] if "{" in overrides or "[" in overrides else overrides.split()
    found = config.read(write(tmp_path, TRAIN), given, mode="train").notes
    key = message.split(":")[0]
    assert len(found) == 1
    assert message.removeprefix(f"{key}: ") in found[0]
    assert key in found[0] or key.replace(".", ":") in found[0]


def test_what_is_right_is_not_noted(tmp_path: Path) -> None:
    """A milestone at the end, as published files without a decay have it; frequencies of a trial run."""
    assert notes(tmp_path) == []
    assert notes(tmp_path, "train:scheduler:milestones=[5000]") == []
    assert notes(tmp_path, "val:val_freq=6000", "logger:print_freq=6000", debug=True) == []
    assert notes(tmp_path, "name=debug_x", "val:val_freq=6000") == []
    assert notes(tmp_path, "val:metrics=~", "val:save_img=true") == []
    assert notes(tmp_path, "train:grad_clip=.inf") == []
