"""Networks name the kernels that they run by, so that these are compiled side by side."""

from __future__ import annotations

import pytest
import torch

from archs import build_network, network_class
from ops import build
from scripts.benchmarks.growth import VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_no_kernel_is_asked_for_that_a_network_does_not_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()

    def noted(part: str) -> str:
        asked.add(part)
        return "this test compiles nothing"

    monkeypatch.setattr(build, "cpu_extension", noted)
    options = VARIANTS[name][1]
    network = build_network(options)
    image = torch.rand(1, 3, 32, 32)
    network(image).mean().backward()
    with torch.inference_mode():
        network.eval()(image)
    named = getattr(network_class(str(options["type"])), "kernels", ())
    assert asked <= set(named)
    assert set(named) <= build._expected.keys()
