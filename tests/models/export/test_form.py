from __future__ import annotations

from typing import Any

import pytest
import torch

from archs.contract import at_scale
from models.export.form import AnyScaleForm, ExportForm, FixedScaleForm, export_form
from models.inference.upscale import upscale
from tests.archs.esc_networks import LTE, SMALL, built, pixels
from utils.errors import InputError
from utils.scale import scaled_length


@pytest.mark.parametrize(("scale", "form"), [(None, ExportForm), (3, ExportForm), (2.5, FixedScaleForm)])
def test_form_of_a_scale(scale: float | None, form: type) -> None:
    network, x = built(LTE), pixels(1, 3, 5, 7)
    found = export_form(network, scale)
    assert type(found) is form
    with torch.no_grad():
        assert torch.equal(found(x), upscale(at_scale(network, scale or network.scale), x))


def test_scales_that_are_an_input_are_decimals() -> None:
    form = export_form(built(LTE), "input")
    assert isinstance(form, AnyScaleForm)
    network: Any = Recorded()
    form.network = network
    for scale, length in [(3.7, 5), (3.7, 15), (1.1, 55), (1.35, 350), (2.51, 50), (8.0, 9), (4 / 3, 1000), (2.5, 3)]:
        for shape in ((), (1,)):
            form(torch.zeros(1, 3, length, length + 1), torch.full(shape, scale))
            assert network.sizes[-1] == (scaled_length(length, scale), scaled_length(length + 1, scale))


class Recorded(torch.nn.Module):
    """Notes the sizes that it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, int]] = []

    def forward(self, image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        self.sizes.append(size)
        return image


def test_networks_for_one_scale_refuse_others() -> None:
    with pytest.raises(InputError, match="ESC is a network for x2, not for x3"):
        export_form(built(SMALL), 3)
    with pytest.raises(InputError, match="ESC is a network for x2 only; a program whose scale is an input"):
        export_form(built(SMALL), "input")
    with pytest.raises(InputError, match=r"ESCLTE: a program for a scale of 2\.5 has another form"):
        ExportForm(built(LTE, upscaling_factor=2.5))
