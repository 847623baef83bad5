"""Options that are built in Python, and choices by name: what a file may not say, Python may not either."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from archs.layers.size import SizeRule
from config.optimizers import Adam
from config.schedulers import CosineAnnealingLR, MultiStepLR
from config.schema import TileOptions, ValOptions
from data.datasets.single import SingleImageOptions
from data.degradations.jpeg import jpeg
from data.degradations.kernels import blur_kernel
from data.degradations.options import DegradationOptions
from data.resizing.matlab import downscale
from losses import CharbonnierLoss
from metrics import PSNR, SSIM, LevelMetric
from ops.pixels.imresize import taps_of
from utils.checked import Checked, check_choice
from utils.errors import InputError
from utils.typed import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wheel(Checked):
    size: float = option("inches", 20.0, minimum=1)
    kind: Literal["front", "rear"] | None = option("which one", None)
    spokes: tuple[int, ...] = option("of each row", (16, 16), minimum=3)
    path: Path | None = option("its picture", None)


def test_values_become_what_their_fields_say() -> None:
    wheel = Wheel(size=np.float32(28), spokes=[12, 14], path="wheel.png")  # type: ignore[arg-type]
    assert wheel == Wheel(size=28.0, spokes=(12, 14), path=Path("wheel.png"))
    assert [type(value) for value in dataclasses.astuple(wheel)[:1]] == [float]
    assert dataclasses.replace(wheel, kind="rear").kind == "rear"


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Wheel(size=0.5, kind="frnot", spokes=(12, 2))  # type: ignore[arg-type]
    lines = str(caught.value).splitlines()
    assert lines[0] == "Wheel:"
    assert "size: expected at least 1, got 0.5" in lines[1]
    assert 'kind: expected one of front, rear or null, got "frnot"' in lines[2]
    assert "spokes: expected at least 3, got 2" in lines[3]


WRONG: dict[str, Callable[..., Any]] = {
    "eps: expected at least 1e-30": lambda: CharbonnierLoss(eps=-1.0),
    "loss_weight: expected a number, got nan": lambda: CharbonnierLoss(loss_weight=float("nan")),
    "crop_border: expected at least 0": lambda: PSNR(crop_border=-1, test_y_channel=True),
    'test_y_channel: expected true or false, got "yes"': lambda: SSIM(
        crop_border=4,
        test_y_channel="yes",  # type: ignore[arg-type]
    ),
    'better: expected one of higher, lower, got "up"': lambda: PSNR(
        crop_border=4,
        test_y_channel=True,
        better="up",  # type: ignore[arg-type]
    ),
    "lr: expected a number above 0": lambda: Adam(lr=-1e-4),
    "T_max: expected at least 1": lambda: CosineAnnealingLR(T_max=0),
    "milestones: expected a list": lambda: MultiStepLR(milestones=5),  # type: ignore[arg-type]
    "batch_size: expected at least 1": lambda: ValOptions(batch_size=0),
    "tile_size: expected at least 1": lambda: TileOptions(tile_size=0),
    "num_worker_per_gpu: expected at least 0": lambda: SingleImageOptions(
        name="x", dataroot_lq=Path(), num_worker_per_gpu=-1
    ),
    "jpeg_tables: expected one of": lambda: DegradationOptions(jpeg_tables="mine"),  # type: ignore[arg-type]
    "SizeRule: mode: expected one of reflect, replicate": lambda: SizeRule(mode="mirror"),  # type: ignore[arg-type]
    "downscale: rule: expected one of double, published": lambda: downscale(
        np.zeros((8, 8, 3), np.uint8),
        2,
        rule="matlab",  # type: ignore[arg-type]
    ),
    "jpeg: tables: expected one of published, standard": lambda: jpeg(
        torch.rand(1, 3, 16, 16),
        torch.tensor([50.0]),
        tables="mine",  # type: ignore[arg-type]
    ),
    "blur_kernel: kind: expected one of iso": lambda: blur_kernel("round", 7, 1.0),  # type: ignore[arg-type]
    "taps_of: border: expected one of mirror, repeat": lambda: taps_of(
        8,
        0.5,
        True,
        torch.float32,
        "cpu",
        "wrap",
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_an_option_file_may_not_say_is_refused_in_python(message: str) -> None:
    with pytest.raises(InputError, match=message):
        WRONG[message]()


def test_options_may_hold_pieces_that_are_built_already() -> None:
    class Mine(LevelMetric):
        def __call__(self, image: Any, reference: Any = None) -> float:
            return 1.0

    metrics = {"psnr": PSNR(crop_border=4, test_y_channel=True), "mine": Mine()}
    assert ValOptions(metrics=metrics).metrics == metrics


def test_a_choice_is_one_of_its_values() -> None:
    check_choice("x", "a", Literal["a", "b"])
    with pytest.raises(InputError, match="x: expected one of a, b, got 'c'"):
        check_choice("x", "c", Literal["a", "b"])
