"""LPIPS and DISTS: what the library is asked, and what is reported where it is missing."""

from __future__ import annotations

import importlib.util
import math
import sys
import types
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
import torch
from torch import Tensor

from metrics import DISTS, LPIPS, METRICS, UndefinedScoreError
from metrics.perceptual import LIBRARY, perceptual_distance
from tests.data.pictures import noise
from utils.errors import InputError

Calls = list[tuple[str, torch.device]]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A library whose metrics are the mean absolute difference."""
    calls: Calls = []
    module = types.ModuleType(LIBRARY)
    module.__spec__ = ModuleSpec(LIBRARY, None)

    def create_metric(name: str, device: torch.device) -> object:
        calls.append((name, device))

        def judge(a: Tensor, b: Tensor) -> Tensor:
            assert a.shape == b.shape
            assert a.shape[:2] == (1, 3)
            assert 0 <= a.min() <= a.max() <= 1
            return (a - b).abs().mean()[None, None]

        return judge

    module.create_metric = create_metric  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, LIBRARY, module)
    return calls


def test_lpips_and_dists_ask_the_library_for_cropped_images_in_unit_range(library: Calls) -> None:
    a, b = noise(20, 30), noise(20, 30, seed=1)
    expected = np.abs(a.astype(float) - b).mean() / 255
    assert LPIPS(device="cpu")(a, b) == pytest.approx(expected, rel=1e-5)
    assert LPIPS(device="cpu", net="vgg")(a, b) == LPIPS(device="cpu")(a, b)
    inner = np.abs(a.astype(float) - b)[4:-4, 4:-4].mean() / 255
    assert DISTS(device="cpu", crop_border=4)(a, b) == pytest.approx(inner, rel=1e-5)
    assert DISTS()(a[..., :1], b[..., :1]) > 0  # grey becomes three equal channels
    asked = [name for name, device in library if device.type == "cpu"]
    assert asked[:3] == ["lpips", "lpips-vgg", "dists"]
    assert len(asked) <= 4  # each is loaded once


def test_what_is_no_number_is_no_distance(library: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    a = noise(20, 30)
    broken = a.astype(np.float32)
    broken[3, 4, 0] = np.nan
    for pair in ((broken, a.astype(np.float32)), (a.astype(np.float32), broken)):
        with pytest.raises(ValueError, match="1 of 1800 values are NaN or infinite"):
            perceptual_distance("lpips-nan", *pair, device="cpu")
    undefined = torch.tensor([[math.nan]])
    monkeypatch.setattr(sys.modules[LIBRARY], "create_metric", lambda name, device: lambda a, b: undefined)
    with pytest.raises(UndefinedScoreError, match="lpips-nan gives nan for this image"):
        perceptual_distance("lpips-nan", a, a, device="cpu")


def test_lower_lpips_and_dists_are_better(library: Calls) -> None:
    assert METRICS["calculate_lpips"] is LPIPS
    assert METRICS["calculate_dists"] is DISTS
    assert (LPIPS().better, DISTS().better) == ("lower", "lower")


def test_images_that_lpips_cannot_measure_are_refused(library: Calls) -> None:
    with pytest.raises(ValueError, match="one shape"):
        perceptual_distance("lpips", noise(8, 8), noise(8, 9))
    with pytest.raises(InputError, match="too small for crop_border 4"):
        perceptual_distance("lpips", noise(8, 8), noise(8, 8), crop_border=4)
    with pytest.raises(ValueError, match="none was given"):
        LPIPS()(noise(8, 8))


@pytest.mark.skipif(importlib.util.find_spec(LIBRARY) is not None, reason="the library is installed")
def test_lpips_and_dists_say_what_to_install() -> None:
    for metric in (LPIPS, DISTS):
        with pytest.raises(InputError, match=f"{metric.__name__} is measured by the library pyiqa; pip install pyiqa"):
            metric()
