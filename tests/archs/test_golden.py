"""Every architecture with recorded runs: outputs, gradients, state-dict contracts. A new one joins ARCHITECTURES."""

from __future__ import annotations

import pytest
import torch

import archs
from tests.golden import Case, assert_output, assert_state, assert_training, cases

ARCHITECTURES = (
    "plainusr",
    "hat",
    "rgt",
    "esc",
    "pft",
    "swinir",
    "atd",
    "hit",
)


@pytest.mark.parametrize("case", [case for name in ARCHITECTURES for case in cases(name, "eval")])
def test_output(case: Case) -> None:
    assert_output(case, case.network().eval())


@pytest.mark.parametrize("case", [case for name in ARCHITECTURES for case in cases(name, "train")])
def test_training(case: Case) -> None:
    assert_training(case, case.network().train())


@pytest.mark.parametrize("case", [case for name in ARCHITECTURES for case in cases(name, None)])
def test_state_dict_contract(case: Case) -> None:
    with torch.device("meta"):  # values, which take most of the time of networks of published sizes, do not matter
        network = archs.build_network({"type": case.info["arch"], **case.info["config"]})
    assert_state(case, network)
