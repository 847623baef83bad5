"""Suggestions for misspelt names: what is near is found, and what is not is left out."""

from __future__ import annotations

import dataclasses

import pytest

from archs import NETWORKS
from config.optimizers import OPTIMIZERS
from config.schedulers import SCHEDULERS
from config.schema import MODEL_TYPES, TrainingOptions
from data import DATASETS, DatasetOptions
from losses import LOSSES
from metrics import METRICS
from utils.suggest import near_miss, nearest

TABLES = {
    "model": list(MODEL_TYPES),
    "loss": list(LOSSES),
    "network": list(NETWORKS),
    "dataset": list(DATASETS),
    "metric": list(METRICS),
    "optimizer": list(OPTIMIZERS),
    "scheduler": list(SCHEDULERS),
    "training": [field.name for field in dataclasses.fields(TrainingOptions)],
    "data": [field.name for field in dataclasses.fields(DatasetOptions)],
}


@pytest.mark.parametrize(
    ("table", "name", "meant"),
    [
        ("model", "SwinIrModel", "SwinIRModel"),
        ("model", "SRModle", "SRModel"),
        ("loss", "L1", "L1Loss"),
        ("loss", "CharbonierLoss", "CharbonnierLoss"),
        ("network", "PlainUSR_gen", "PlainUSR_general"),
        ("network", "HTA", "HAT"),
        ("network", "ESC-LTE", "ESCLTE"),
        ("dataset", "PairedImagesDataset", "PairedImageDataset"),
        ("dataset", "PairedDataset", "PairedImageDataset"),
        ("metric", "psnr", "calculate_psnr"),
        ("metric", "calculate_snr", "calculate_psnr"),
        ("optimizer", "adam", "Adam"),
        ("scheduler", "MultiStep", "MultiStepLR"),
        ("training", "ema_decy", "ema_decay"),
        ("training", "lr_scheduler", "scheduler"),
        ("data", "batch_size", "batch_size_per_gpu"),
        ("data", "num_workers_per_gpu", "num_worker_per_gpu"),
    ],
)
def test_a_slip_is_recognised(table: str, name: str, meant: str) -> None:
    assert nearest(name, TABLES[table]) == meant


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("model", "VideoBaseModel"),
        ("model", "DRCTModel"),
        ("model", "DATModel"),
        ("loss", "SSIMLoss"),
        ("loss", "GANLoss"),
        ("loss", "LPIPSLoss"),
        ("network", "DRCT"),
        ("network", "DAT"),
        ("network", "ART"),
        ("network", "PlainUSR"),  # any of six
        ("network", "SRFormer"),
        ("network", "MambaIR"),
        ("dataset", "REDSDataset"),
        ("metric", "calculate_fid"),
        ("optimizer", "Lion"),
        ("scheduler", "StepLR"),
        ("training", "edge_opt"),
    ],
)
def test_another_thing_is_no_slip(table: str, name: str) -> None:
    assert nearest(name, TABLES[table]) is None
    assert near_miss(name, TABLES[table]) == ""


def test_suggestions_are_worded_for_messages() -> None:
    assert near_miss("Upscale", ["upscale", "scale"]) == ' (did you mean "upscale"?)'
    assert near_miss("up_scale", ["upscale"]) == ' (did you mean "upscale"?)'
    assert near_miss("zzz", ["upscale"]) == ""
    assert near_miss("x", []) == ""


def test_a_text_without_end_is_compared_with_nothing() -> None:
    """The distance of two texts takes time with the product of their lengths."""
    assert near_miss("x" * 1_000_000, ["upscale", "x" * 1_000]) == ""
