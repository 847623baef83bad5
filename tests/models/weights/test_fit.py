"""Weights of another scale, window or form: what is taken, what is converted, what is left out, and that it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archs import build_network
from archs.layers.constants import published_state
from config.values import Pretrained
from models.weights.files import load_pretrained, load_pretrained_ema, load_weights
from utils.errors import InputError

HAT = {"type": "HAT", "window_size": 4, "embed_dim": 12, "depths": [2], "num_heads": [2], "squeeze_factor": 3}
PFT = {
    "type": "PFT", "window_size": 4, "embed_dim": 12, "depths": [2], "num_heads": 2, "num_topk": [8, 8],
    "img_size": 16, "upsampler": "pixelshuffle",
}  # fmt: skip
RGT = {"type": "RGT", "embed_dim": 48, "depth": [2], "num_heads": [2], "split_size": [4, 8]}
ESC = {
    "type": "ESC", "dim": 16, "pdim": 4, "kernel_size": 13, "n_blocks": 1, "conv_blocks": 1, "window_size": 8,
    "num_heads": 2, "exp_ratio": 1.25,
}  # fmt: skip
SCALE = {"ESC": "upscaling_factor"}


def network_of(configuration: dict[str, object], scale: int) -> torch.nn.Module:
    return build_network({**configuration, SCALE.get(str(configuration["type"]), "upscale"): scale})


@pytest.mark.parametrize(
    ("configuration", "scale", "left_out"),
    [
        (HAT, 4, {"upsample.2.weight", "upsample.2.bias"}),
        (HAT, 3, {"upsample.0.weight", "upsample.0.bias"}),
        (PFT, 4, {"upsample.2.weight", "upsample.2.bias"}),
        (RGT, 4, {"upsample.2.weight", "upsample.2.bias"}),
        (RGT, 3, {"upsample.0.weight", "upsample.0.bias"}),
    ],
)
def test_from_x2_as_published(
    tmp_path: Path, log: list[str], configuration: dict[str, object], scale: int, left_out: set[str]
) -> None:
    """Everything but the new stage of the upsampling comes from the x2 network; the rest keeps its own values."""
    source, target = network_of(configuration, 2), network_of(configuration, scale)
    fresh = {key: value.clone() for key, value in target.state_dict().items()}
    torch.save({"params": published_state(source)}, tmp_path / "x2.pth")
    with pytest.raises(InputError, match=r"x2\.pth: does not fit"):
        load_weights(target, tmp_path / "x2.pth")
    report = load_weights(target, tmp_path / "x2.pth", strict=False)
    assert {*report.missing, *report.reshaped} == left_out
    assert set(report.loaded) == fresh.keys() - left_out
    for key, value in target.state_dict().items():
        assert torch.equal(value, fresh[key] if key in left_out else source.state_dict()[key]), key
    assert any(f"was loaded in part: {len(report.loaded)} tensors loaded" in line for line in log)


def test_esc_s_last_convolution_is_converted(tmp_path: Path) -> None:
    source, target = network_of(ESC, 2), network_of(ESC, 3)
    torch.save({"params": source.state_dict()}, tmp_path / "x2.pth")
    report = load_weights(target, tmp_path / "x2.pth")
    assert not report
    assert report.converted == {
        "to_img.weight": ((12, 16, 3, 3), (27, 16, 3, 3)),
        "to_img.bias": ((12,), (27,)),
    }
    assert "2 of them converted: to_img.weight [12, 16, 3, 3] in the file" in report.summary()


@pytest.mark.parametrize(("configuration", "tables"), [(HAT, 3), (PFT, 2), (ESC, 1)], ids=["HAT", "PFT", "ESC"])
def test_tables_of_another_window(tmp_path: Path, configuration: dict[str, object], tables: int) -> None:
    source = network_of(configuration, 2)
    target = network_of({**configuration, "window_size": 2 * int(str(configuration["window_size"]))}, 2)
    torch.save({"params": published_state(source)}, tmp_path / "small.pth")
    left = load_weights(target, tmp_path / "small.pth", strict=False)
    assert len(left.reshaped) == tables
    report = load_weights(target, tmp_path / "small.pth", resize_tables=True)
    assert not report
    assert len(report.converted) == tables
    assert set(report.loaded) == target.state_dict().keys()
    for key in report.converted:
        old, new = source.state_dict()[key], target.state_dict()[key]
        assert old.mean() == pytest.approx(new.mean().item(), abs=0.05)


def test_the_option_reaches_network_and_average(tmp_path: Path) -> None:
    source, target, average = (network_of({**HAT, "window_size": window}, 2) for window in (4, 8, 8))
    torch.save({"params": source.state_dict(), "params_ema": source.state_dict()}, tmp_path / "small.pth")
    start = Pretrained(tmp_path / "small.pth", "params", strict=True, resize_tables=True)
    report = load_pretrained(target, start)
    load_pretrained_ema(average, start)
    assert len(report.converted) == 3
    assert all(torch.equal(value, average.state_dict()[key]) for key, value in target.state_dict().items())
