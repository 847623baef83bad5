"""What half precision leaves of an image: the image itself is exact where it passes a network by."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs.layers.image import DIV2K_MEAN
from models.precision.network import in_precision
from tests.models.precision.test_network import small

LAST = {"HAT": "conv_last", "RGT": "conv_last", "PFT": "conv_last", "ESC": "to_img", "ESCFP": "to_img"}
DETAIL = 0.05
"""Spread of what a network adds to the picture: so far, 26 dB, are bicubic images from the pictures of test sets."""


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def picture() -> Tensor:
    """[1, 3, 32, 32] in the 256 levels of files, all of them."""
    return (torch.arange(3072) * 1237 % 256).view(1, 3, 32, 32) / 255


def as_trained(network: nn.Module) -> None:
    """Random weights as large as those of trained networks: what each layer is given leaves it about as large.

    Kernels, matrices: normal, variance 1 / fan-in; factors of norms around 1; position tables 0.5. The kernels that ESC
    makes from the image's means are a tenth of that, or they would grow with each block.
    """
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        table = "bias_table" in name or "relative_position_bias" in name
        parameter.normal_(0, 0.5 if table else fan_in**-0.5 if parameter.ndim > 1 else 0.1, generator=generator)
        if ".dwc_proj." in name or ".plk.proj." in name:
            parameter.mul_(0.1)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.weight.normal_(1, 0.2, generator=generator)


def passed_by(name: str, x: Tensor, scale: int) -> Tensor:
    """What a network adds its result to."""
    if name.startswith("ESC"):
        mode = "nearest" if name == "ESC" else "bicubic"
        return F.interpolate(x, scale_factor=scale, mode=mode)
    return torch.tensor(DIV2K_MEAN).view(1, 3, 1, 1).expand(1, 3, scale * x.shape[2], scale * x.shape[3])


@pytest.mark.parametrize("name", LAST)
def test_what_passes_the_network_by_is_exact(name: str) -> None:
    network = small(name)
    for parameter in network.get_submodule(LAST[name]).parameters():
        parameter.zero_()
    x = picture()
    assert torch.equal(in_precision(network, "bf16")(x), passed_by(name, x, network.scale))


@pytest.mark.parametrize("name", LAST)
def test_one_level_of_256_at_most(name: str) -> None:
    network = small(name)
    as_trained(network)
    x = picture()
    added = passed_by(name, x, network.scale)
    factor = DETAIL / float((network(x) - added).std())
    for parameter in network.get_submodule(LAST[name]).parameters():
        parameter.mul_(factor)
    images = [precise(x).clamp(0, 1) * 255 for precise in (network, in_precision(network, "bf16"))]
    difference = (images[0] - images[1]).abs()
    levels = (images[0].round() - images[1].round()).abs().flatten()
    assert levels.sort().values[int(0.999 * len(levels))] <= 1
    assert difference.square().mean().sqrt() < 0.4
