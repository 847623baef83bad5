"""The best values of a run."""

from __future__ import annotations

import math

import torch

from models.training.state import Best, TrainState


def test_nan_is_never_the_best_value() -> None:
    state = TrainState({}, torch.device("cpu"), step=4)
    assert state.record("Set5", "psnr", math.nan, "higher") is None
    assert state.record("Set5", "psnr", 30.0, "higher") == Best(30.0, 4)
    state.step = 8
    assert state.record("Set5", "psnr", math.nan, "higher") == Best(30.0, 4)
    assert state.record("Set5", "psnr", 29.0, "higher") == Best(30.0, 4)
    assert state.record("Set5", "psnr", math.inf, "higher") == Best(math.inf, 8)


def test_a_nan_that_an_older_state_has_recorded_gives_way() -> None:
    for better in ("higher", "lower"):
        state = TrainState({}, torch.device("cpu"), step=8, best={"Set5": {"niqe": Best(math.nan, 4)}})
        assert state.record("Set5", "niqe", math.nan, better) is None
        assert state.record("Set5", "niqe", 5.0, better) == Best(5.0, 8)
