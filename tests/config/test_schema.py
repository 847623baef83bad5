"""The dataclasses themselves: help for every key, torch's defaults, BasicSR's keys."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import config
from archs import DISCRIMINATORS, NETWORKS
from config.checks import UNSUPPORTED_KEYS
from config.docs_generator import sections
from config.optimizers import OPTIMIZERS, OptimOptions
from config.schedulers import SCHEDULERS
from config.schema import (
    MODEL_TYPES,
    DistOptions,
    LoggerOptions,
    Options,
    PathOptions,
    TestOptions,
    TileOptions,
    TrainingOptions,
    TrainOptions,
    ValOptions,
)
from config.values import ONNX
from data import DATASETS
from losses import ADVERSARIAL, LOSSES, PERCEPTUAL
from metrics import METRICS
from tests.config.files import TEST, write
from utils.typed import fields_of

DATACLASSES = sorted({section.target for section in sections() if dataclasses.is_dataclass(section.target)}, key=str)


@pytest.mark.parametrize("kind", DATACLASSES, ids=lambda kind: kind.__qualname__)
def test_dataclasses_are_frozen_and_explained(kind: Any) -> None:
    assert kind.__dataclass_params__.frozen
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}("), "the docstring is the one made by dataclass"
    for field in fields_of(kind).values():
        assert field.help, f"{kind.__name__}.{field.name} has no help text"
        assert "\n" not in field.help


def test_every_type_of_a_section_is_documented() -> None:
    names = {name for section in sections() for name in section.types}
    networks, losses = {*NETWORKS, *DISCRIMINATORS, ONNX}, {*LOSSES, *PERCEPTUAL, *ADVERSARIAL}
    assert names == {*networks, *losses, *DATASETS, *METRICS, *OPTIMIZERS, *SCHEDULERS}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_have_torchs_arguments_and_defaults(name: str) -> None:
    options = OPTIMIZERS[name](lr=0.5)
    parameters = inspect.signature(getattr(torch.optim, name)).parameters
    for key, value in dataclasses.asdict(options).items():
        if key != "lr":
            assert parameters[key].default == value, key
    optimizer = getattr(torch.optim, name)([torch.nn.Parameter(torch.zeros(1))], **dataclasses.asdict(options))
    assert optimizer.param_groups[0]["lr"] == 0.5


# What BasicSR and the published files have, by section.
BASICSR: dict[Callable[..., Any], str] = {
    TrainOptions: "name model_type scale num_gpu manual_seed find_unused_parameters tile datasets network_g path train "
    "val logger dist_params gt_usm l1_gt_usm percep_gt_usm gan_gt_usm resize_prob resize_range gaussian_noise_prob "
    "noise_range poisson_scale_range gray_noise_prob jpeg_range second_blur_prob resize_prob2 resize_range2 "
    "gaussian_noise_prob2 noise_range2 poisson_scale_range2 gray_noise_prob2 jpeg_range2 gt_size queue_size "
    "high_order_degradation",
    TestOptions: "name model_type scale num_gpu manual_seed find_unused_parameters tile datasets network_g path val "
    "logger dist_params",
    DATASETS["PairedImageDataset"]: "name dataroot_gt dataroot_lq meta_info_file filename_tmpl io_backend gt_size "
    "use_hflip use_rot mean std color use_shuffle task num_worker_per_gpu batch_size_per_gpu dataset_enlarge_ratio "
    "prefetch_mode num_prefetch_queue pin_memory persistent_workers",
    DATASETS["SingleImageDataset"]: "name dataroot_lq meta_info_file io_backend mean std color",
    PathOptions: "pretrain_network_g param_key_g strict_load_g pretrain_network_d param_key_d strict_load_d "
    "resume_state ignore_resume_networks experiments_root results_root",
    TrainingOptions: "ema_decay optim_g optim_d scheduler total_iter warmup_iter pixel_opt net_d_iters "
    "net_d_init_iters",
    ValOptions: "val_freq save_img suffix pbar metrics use_chop",
    LoggerOptions: "print_freq save_checkpoint_freq use_tb_logger wandb",
    DistOptions: "backend port",
    **{
        METRICS[f"calculate_{name}"]: f"better crop_border test_y_channel input_order {own}"
        for name, own in (("psnr", ""), ("ssim", ""), ("niqe", "convert_to"), ("lpips", ""), ("dists", ""))
    },
    TileOptions: "tile_size tile_pad",
}


@pytest.mark.parametrize("kind", BASICSR, ids=lambda kind: kind.__qualname__)
def test_keys_of_published_files_are_accepted(kind: Any) -> None:
    known = {*fields_of(kind), *getattr(kind, "IGNORED", {})}
    assert set(BASICSR[kind].split()) <= known


def test_keys_that_are_not_supported_are_no_fields() -> None:
    top, train = fields_of(TrainOptions), fields_of(TrainingOptions)
    for path in UNSUPPORTED_KEYS:
        assert path[-1] not in (train if path[0] == "train" else top)


def test_bases_hold_only_what_is_shared() -> None:
    assert set(fields_of(OptimOptions)) == {"lr"}
    assert set(fields_of(TestOptions)) == {*fields_of(Options), "precision"}


def test_help_of_model_type_lists_what_the_reader_accepts(tmp_path: Path) -> None:
    names = re.findall(r"\w+Model", fields_of(TrainOptions)["model_type"].help)
    assert names == list(MODEL_TYPES)
    for name in names:
        file = write(tmp_path, TEST.replace("model_type: SRModel", f"model_type: {name}"))
        assert config.read(file, mode="test").model_type == name
