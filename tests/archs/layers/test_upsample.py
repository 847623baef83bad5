from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from archs.layers.upsample import HeadedNetwork, PixelShuffleStages, Upsampler, head_layers, pixelshuffle_scale
from utils.errors import InputError


class Head(HeadedNetwork):
    def __init__(self, upsampler: Upsampler, scale: int) -> None:
        super().__init__()
        self.upsampler = upsampler
        for name, layer in head_layers(upsampler, 5, scale, 3, network="Head").items():
            self.add_module(name, layer)


def features() -> Tensor:
    return torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("scale", "shapes"),
    [
        (1, {}),
        (2, {"0.weight": [16, 4, 3, 3], "0.bias": [16]}),
        (3, {"0.weight": [36, 4, 3, 3], "0.bias": [36]}),
        (4, {"0.weight": [16, 4, 3, 3], "0.bias": [16], "2.weight": [16, 4, 3, 3], "2.bias": [16]}),
    ],
)
def test_stages(scale: int, shapes: dict[str, list[int]]) -> None:
    stages = PixelShuffleStages(scale, 4)
    assert {key: list(tensor.shape) for key, tensor in stages.state_dict().items()} == shapes
    assert stages(torch.zeros(1, 4, 2, 3)).shape == (1, 4, 2 * scale, 3 * scale)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
def test_the_scale_is_read_off_the_weights_of_the_stages(scale: int) -> None:
    state = PixelShuffleStages(scale, 4).state_dict()
    assert pixelshuffle_scale({f"upsample.{key}": tensor for key, tensor in state.items()}) == scale


@pytest.mark.parametrize("scale", [0, -2, 5, 6, 9])
def test_other_scales_are_refused(scale: int) -> None:
    with pytest.raises(InputError, match=f"3 or a power of 2, got {scale}"):
        PixelShuffleStages(scale, 4)


@pytest.mark.parametrize(
    ("upsampler", "scale", "keys"),
    [
        ("pixelshuffle", 1, ["conv_before_upsample.0", "conv_last"]),
        ("pixelshuffle", 2, ["conv_before_upsample.0", "upsample.0", "conv_last"]),
        ("pixelshuffle", 8, ["conv_before_upsample.0", "upsample.0", "upsample.2", "upsample.4", "conv_last"]),
        ("pixelshuffledirect", 5, ["upsample.0"]),
        ("", 1, ["conv_last"]),
        ("nearest+conv", 2, ["conv_before_upsample.0", "conv_up1", "conv_hr", "conv_last"]),
        ("nearest+conv", 4, ["conv_before_upsample.0", "conv_up1", "conv_up2", "conv_hr", "conv_last"]),
    ],
)
def test_heads(upsampler: Upsampler, scale: int, keys: list[str]) -> None:
    head = Head(upsampler, scale)
    state = head.state_dict()
    assert [key.removesuffix(".weight") for key in state if key.endswith(".weight")] == keys
    x = features()
    y = head.head(x)
    assert y.shape == (2, 3, 4 * scale, 6 * scale)

    def conv(name: str, z: Tensor) -> Tensor:
        return F.conv2d(z, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    z = x
    for key in keys:
        doubled = key in ("conv_up1", "conv_up2")
        z = conv(key, z.repeat_interleave(2, 2).repeat_interleave(2, 3) if doubled else z)
        if key.startswith("upsample"):
            z = F.pixel_shuffle(z, 5 if upsampler == "pixelshuffledirect" else 2)
        elif key != "conv_last":
            z = torch.where(z > 0, z, z * (0.01 if key.startswith("conv_before") else 0.2))
    assert torch.allclose(y, z, atol=1e-6)
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_wrong_heads_are_refused() -> None:
    with pytest.raises(InputError, match=r'Head: upsampler is "bicubic"; it must be one of pixelshuffle'):
        Head("bicubic", 2)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="without an upsampler the scale must be 1, got 2"):
        Head("", 2)
    with pytest.raises(InputError, match="for scales of 2 and 4, got 3"):
        Head("nearest+conv", 3)
