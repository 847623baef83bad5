"""What SwinIR keeps to beyond the contract of all networks; its recorded runs are in test_golden.py too."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archs import build_network, identify
from archs.layers.constants import constant_keys, published_state
from archs.layers.mask import shift_mask
from archs.swinir import SwinBlock, SwinIR
from models.inference.upscale import upscale
from tests.golden import Case, assert_close, cases
from utils.errors import InputError

SMALL: dict[str, Any] = {
    "type": "SwinIR", "depths": [2, 1], "num_heads": [2, 3], "embed_dim": 12, "window_size": 4, "img_size": 16,
    "mlp_ratio": 1.5, "drop_path_rate": 0,
}  # fmt: skip
MASK = "layers.0.residual_group.blocks.1.attn_mask"


def built(**changes: Any) -> SwinIR:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network({**SMALL, **changes})
    assert isinstance(network, SwinIR)
    return network


def pixels(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", cases("swinir", "eval", test_model=True))
def test_recorded_odd_sizes(case: Case) -> None:
    with torch.no_grad():
        found = upscale(case.network().eval(), case.x)
    assert_close(found, case.arrays["output"], case.info["rtol"])


@pytest.mark.parametrize("size", [(1, 3), (5, 61), (70, 2)])
def test_small_and_elongated_images(size: tuple[int, int]) -> None:
    y = upscale(built(), pixels(1, 3, *size))
    assert y.shape == (1, 3, 2 * size[0], 2 * size[1])
    assert y.isfinite().all()


def test_images_are_not_padded_inside() -> None:
    with pytest.raises(InputError, match=r"SwinIR: an image of 8 x 10 pixels cannot be cut into windows of 4 x 4"):
        built()(pixels(1, 3, 8, 10))


def test_published_files_load_and_new_ones_hold_no_constants() -> None:
    network, other = built(), built()
    published = published_state(network)
    index = "layers.{}.residual_group.blocks.{}.attn.relative_position_index"
    constants = {MASK, index.format(0, 0), index.format(0, 1), index.format(1, 0)}
    assert constant_keys(network) == constants == published.keys() - network.state_dict().keys()
    keys = list(published)
    assert keys[keys.index(MASK) + 1] == MASK.replace("attn_mask", "norm1.weight")
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(published, strict=True)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_masks_of_other_patches_load_and_other_masks_do_not() -> None:
    """Which patches a network was trained with changes nothing of its function."""
    published = published_state(built(img_size=24))
    network = built(img_size=16)
    assert published[MASK].shape != published_state(network)[MASK].shape
    network.load_state_dict(published, strict=True)
    for other in (shift_mask((24, 24), (4, 4), (1, 1), torch.device("cpu")), torch.zeros(36, 16, 16)):
        with pytest.raises(RuntimeError, match="attn_mask"):
            network.load_state_dict({**published, MASK: other})


@pytest.mark.parametrize("upsampler", ["pixelshuffle", "pixelshuffledirect", "nearest+conv"])
def test_x4_starts_from_x2(upsampler: str) -> None:
    network = built(upscale=4, upsampler=upsampler)
    state = network.adapt_state(published_state(built(upscale=2, upsampler=upsampler)))
    fitting = {key: value for key, value in state.items() if network.state_dict().get(key, value).shape == value.shape}
    report = network.load_state_dict(fitting, strict=False)
    new = {"pixelshuffle": "upsample.2", "pixelshuffledirect": "upsample.0", "nearest+conv": "conv_up2"}[upsampler]
    assert report.missing_keys == [f"{new}.weight", f"{new}.bias"]
    assert report.unexpected_keys == []


@pytest.mark.parametrize(
    "changes",
    [
        {"upscale": 1, "upsampler": ""},
        {"upscale": 8, "in_chans": 1, "ape": True, "img_size": 8, "patch_norm": False, "resi_connection": "3conv"},
        {"upscale": 3, "upsampler": "pixelshuffledirect", "qkv_bias": False},
        {"upscale": 2, "upsampler": "nearest+conv", "img_size": 24},
        {"upscale": 4, "upsampler": "nearest+conv", "img_size": 4},
        {"upscale": 1, "upsampler": "", "window_size": 7, "img_size": 14, "img_range": 255.0},
    ],
)
def test_identify(changes: dict[str, Any]) -> None:
    network = built(**changes)
    found = identify(published_state(network))
    assert found is not None
    assert build_network(found).load_state_dict(network.state_dict())
    for key, value in {**SMALL, **changes}.items():
        if key != "drop_path_rate":
            assert found.get(key, value) == pytest.approx(value), key
    assert found["img_size"] == network.layers[0].residual_group.blocks[0].grid[0]  # type: ignore[index, union-attr]


def test_equal_img_size_and_window_mean_no_shift(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("focalsr"), "propagate", True)
    with caplog.at_level(logging.WARNING, logger="focalsr"):
        network = built(img_size=4)
    assert "SwinIR: img_size is window_size, 4, so that no window is shifted" in caplog.text
    assert {block.shift for block in network.modules() if isinstance(block, SwinBlock)} == {0}
    assert [block.shift for block in built().modules() if isinstance(block, SwinBlock)] == [0, 2, 0]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"upsampler": ""}, ["upscale is 2", "must be 1"]),
        ({"upsampler": "nearest+conv", "upscale": 3}, ["scales of 2 and 4, got 3"]),
        ({"upscale": 5}, ["3 or a power of 2, got 5"]),
        ({"resi_connection": "identity"}, ["resi_connection", "1conv, 3conv"]),
        ({"img_size": 3}, ["img_size 3 is smaller than window_size 4"]),
        ({"num_heads": [2]}, ["depths and num_heads"]),
        ({"embed_dim": 13}, ["2 heads cannot share embed_dim 13", "3 heads cannot share"]),
        ({"patch_size": 2}, ["patch_size must be 1, got 2"]),
    ],
)
def test_arguments_that_cannot_work_are_refused(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        built(**changes)
    for part in parts:
        assert part in str(caught.value)


def test_a_network_that_restores_adds_its_result_to_the_image() -> None:
    network = built(upscale=1, upsampler="", img_range=255.0).eval()
    nn.init.zeros_(network.conv_last.weight)
    assert network.conv_last.bias is not None
    nn.init.zeros_(network.conv_last.bias)
    x = pixels(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(network(x), x)
