"""Named random streams, and the record of versions and hardware."""

from __future__ import annotations

import numpy as np
import torch

from utils.env import available_cores, hardware, versions
from utils.seed import random_state, random_stream, seed_everything, set_random_state


def test_random_streams_of_equal_keys_are_equal() -> None:
    first = random_stream(1, 2, 3).integers(1 << 30, size=4)
    assert np.array_equal(first, random_stream(1, 2, 3).integers(1 << 30, size=4))
    assert not np.array_equal(first, random_stream(1, 3, 2).integers(1 << 30, size=4))


def test_random_numbers_continue_from_a_saved_state() -> None:
    seed_everything(3)
    torch.rand(3)
    state = random_state()
    expected = torch.rand(5)
    seed_everything(4)
    set_random_state(state)
    assert torch.equal(torch.rand(5), expected)


def test_versions_and_hardware_are_recorded() -> None:
    assert versions()["torch"] == torch.__version__
    assert int(hardware()["cores"]) == available_cores() >= 1
    assert hardware()["cpu"]
