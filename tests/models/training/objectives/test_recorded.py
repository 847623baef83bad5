"""The recorded trainings of the published code, met in float64."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.training.objectives import build_objective
from tests.recorded_training import Recording

RTOL = 1e-9
"""A relative perturbation of 1e-12 of all weights changes the recorded values by up to 4e-10."""

TRAININGS = ["train_esr_mesa"]


@pytest.mark.shared
@pytest.mark.parametrize("name", TRAININGS)
def test_recorded_training(name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recording = Recording.open(shared / "golden/gan", name)
    options = recording.options()
    state = recording.state(options)
    objective = build_objective(options, state)
    for batch in recording.batches():
        recording.assert_logged(objective.step(state, batch), RTOL)
        if state.step == 1:
            recording.assert_gradients(state, RTOL)
    recording.assert_final(state, RTOL)
