"""Options written out: equal when read again, and plain enough for JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import config
from tests.config.files import TEST, TRAIN, write

VARIANTS = [
    (),
    ("train:scheduler={type: CosineAnnealingRestartLR, periods: [5000], eta_min: 1e-7}",),
    ("train:scheduler={type: TrueCosineAnnealingLR, T_max: 5000}", "train:optim_g={type: Rprop, lr: 1}"),
    ("train:scheduler={type: LinearLR}", "train:grad_clip=.inf", "val=~", "tile={tile_size: 64}"),
    ("name=debug_1", "datasets:train:io_backend:type=lmdb", "path:param_key_g=~", "path:experiments_root=/photos/a b"),
    ("datasets:train:dataroot_gt=[a, ~/b]", "datasets:train:dataroot_lq=[a, c]", "datasets:train:mean=[0.5]"),
    ("val:metrics={s: {type: calculate_ssim, crop_border: 1, test_y_channel: no, better: lower}}",),
]


@pytest.mark.parametrize("overrides", VARIANTS)
def test_a_training_description_reads_back_equal(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    found = config.read(write(tmp_path, TRAIN), overrides, mode="train")
    text = config.describe(found)
    assert config.read(write(tmp_path, text), mode="train") == found
    assert config.describe(config.read(write(tmp_path, text), mode="train")) == text


def test_a_test_description_reads_back_equal(tmp_path: Path) -> None:
    found = config.read(write(tmp_path, TEST), mode="test")
    again = config.read(write(tmp_path, config.describe(found)), mode="test")
    assert again == found
    assert again.manual_seed == found.manual_seed


@pytest.mark.parametrize("overrides", VARIANTS)
def test_options_as_mappings_survive_json(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    plain = config.to_dict(config.read(write(tmp_path, TRAIN), overrides, mode="train"))
    assert json.loads(json.dumps(plain)) == plain
    assert plain["network_g"] == {"type": "PlainUSR_ultra", "scale": 2}
    assert plain["train"]["pixel_opt"]["type"] == "L1Loss"
    assert "notes" not in plain


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=12)
    | st.sampled_from(["yes", "2e-4", "null", "none", "1_0", "a: b", "# a", "- a", "'", '"', "\n", " a ", "007", "*a"])
)
def test_any_text_reads_back_from_a_description(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, TEST)
    quoted = yaml.safe_dump(text, default_style='"', width=1000)
    found = config.read(path, [f"path:param_key_g={quoted}"], mode="test")
    assert found.path.param_key_g == text
    assert config.read(write(tmp_path, config.describe(found)), mode="test") == found
