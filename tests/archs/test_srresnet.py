"""What is MSRResNet's own: values recorded from BasicSR 1.4.2, and its keys."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from archs import identify
from archs.srresnet import MSRResNet
from tests.archs.waves import Run, run, waves

RECORDED = {
    2: Run(1430.240135665282, 33.17620409158672, 0.06487439107204354, 0.003958869168637324),
    3: Run(3094.438056060887, 54.636415157445654, 0.1381846950264664, 0.019339949586543028),
    4: Run(1492.7467575486803, 36.95752988144557, 0.014045314308176739, 0.004789148064034014),
}


@pytest.mark.parametrize("scale", RECORDED)
def test_outputs_and_gradients_are_the_recorded_ones(scale: int) -> None:
    found = run(MSRResNet(3, 3, num_feat=6, num_block=2, upscale=scale))
    assert found == pytest.approx(RECORDED[scale], rel=1e-10)


def test_keys_in_their_order_and_the_number_of_parameters() -> None:
    state = MSRResNet(num_feat=4, num_block=1).state_dict()
    keys = ["conv_first", "body.0.conv1", "body.0.conv2", "upconv1", "upconv2", "conv_hr", "conv_last"]
    assert list(state) == [f"{key}.{kind}" for key in keys for kind in ("weight", "bias")]
    assert "upconv2.weight" not in MSRResNet(num_feat=4, num_block=1, upscale=3).state_dict()
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in MSRResNet().parameters()) == 1_517_571


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_weights_tell_the_configuration(scale: int) -> None:
    found = identify(MSRResNet(num_feat=5, num_block=3, upscale=scale).state_dict())
    assert found == {
        "type": "MSRResNet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 5, "num_block": 3, "upscale": scale,
    }  # fmt: skip


def test_without_a_residual_it_is_bilinear_upsampling() -> None:
    network = MSRResNet(num_feat=4, num_block=1).double()
    torch.nn.init.zeros_(network.conv_last.weight)
    x = waves((1, 3, 5, 6), 1)
    assert torch.allclose(network(x), F.interpolate(x, scale_factor=4, mode="bilinear"))
