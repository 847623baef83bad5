"""The keys of degradations: at the top level of training files, and only there with an effect."""

from __future__ import annotations

from pathlib import Path

import yaml

import config
from config import describe
from data import DegradationOptions
from tests.config.files import TRAIN, write
from tests.runs import ROOT

PUBLISHED = ROOT / "options/train_real_hat_x4_mse.yml"


def test_published_degradation_keys_become_degradation_options() -> None:
    read = config.read(PUBLISHED, ["jpeg_range2=[40,80]"], mode="train")
    assert read.degradations == DegradationOptions(gt_usm=True, jpeg_range2=(40, 80))
    assert not [note for note in read.notes if "no effect" in note]


def test_description_of_a_run_holds_its_degradations(tmp_path: Path) -> None:
    read = config.read(PUBLISHED, mode="train")
    again = config.read(write(tmp_path, describe(read)), mode="train")
    assert again == read
    assert "second_blur_prob" in yaml.safe_load(describe(read))


def test_degradation_keys_have_no_effect_on_other_data_sets(tmp_path: Path) -> None:
    read = config.read(write(tmp_path, TRAIN), mode="train")
    assert read.degradations is None
    assert "jpeg_range" not in yaml.safe_load(describe(read))
    noted = config.read(write(tmp_path, TRAIN + "\njpeg_range: [40, 80]\n"), mode="train")
    assert any(
        "jpeg_range: has no effect here: it is for datasets.train.type RealESRGANDataset" in note
        for note in noted.notes
    )
    assert config.read(write(tmp_path, describe(noted)), mode="train") == noted
