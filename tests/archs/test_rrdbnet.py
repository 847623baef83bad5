"""What is RRDBNet's own: values recorded from BasicSR 1.4.2, its keys, and weights as Real-ESRGAN publishes them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from archs import build_network
from archs.rrdbnet import RRDBNet
from models.weights.files import load_weights
from models.weights.recognise import configuration
from tests.archs.waves import Run, run

RECORDED = {
    1: Run(169.37621641703873, 7.599394997227927, 0.2555164569454689, 0.04948825109399231),
    2: Run(721.7201906934449, 15.331517432143443, 0.014518479778775005, 0.0007888084320866888),
    4: Run(2872.6491152058825, 34.61776108220832, 0.024965286424258687, 0.0013491630810805975),
}


@pytest.mark.parametrize("scale", RECORDED)
def test_outputs_and_gradients_are_the_recorded_ones(scale: int) -> None:
    found = run(RRDBNet(3, 3, scale, num_feat=6, num_block=2, num_grow_ch=4))
    assert found == pytest.approx(RECORDED[scale], rel=1e-10)


def test_keys_in_their_order_and_the_number_of_parameters() -> None:
    keys = ["conv_first"]
    keys += [f"body.0.rdb{block}.conv{conv}" for block in (1, 2, 3) for conv in (1, 2, 3, 4, 5)]
    keys += ["conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]
    state = RRDBNet(num_feat=4, num_block=1, num_grow_ch=3).state_dict()
    assert list(state) == [f"{key}.{kind}" for key in keys for kind in ("weight", "bias")]
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in RRDBNet().parameters()) == 16_697_987


def test_initial_values_are_small_inside_the_dense_blocks_alone() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = RRDBNet(num_feat=16, num_block=1, num_grow_ch=8)
    small, usual = network.body[0].rdb1.conv2, network.conv_body  # type: ignore[union-attr]
    assert small.weight.std().item() == pytest.approx(0.1 * (2 / (9 * 24)) ** 0.5, rel=0.1)  # type: ignore[union-attr,operator]
    assert not small.bias.any()  # type: ignore[union-attr,operator]
    assert usual.weight.std().item() == pytest.approx((3 * 9 * 16) ** -0.5, rel=0.1)


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_weights_as_real_esrgan_publishes_them_need_no_option_file(tmp_path: Path, scale: int) -> None:
    path = tmp_path / "RealESRGAN.pth"
    network = RRDBNet(scale=scale, num_feat=8, num_block=2, num_grow_ch=4)
    torch.save({"params_ema": network.state_dict()}, path)
    found = configuration(path)
    assert found == {
        "type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 3, "scale": scale, "num_feat": 8, "num_block": 2,
        "num_grow_ch": 4,
    }  # fmt: skip
    assert not load_weights(build_network(found), path)


def test_images_of_x2_and_x1_are_extended_to_squares() -> None:
    for scale, multiple in ((4, 1), (2, 2), (1, 4)):
        assert RRDBNet(scale=scale, num_feat=4, num_block=1, num_grow_ch=2).size_rule.multiple == multiple
