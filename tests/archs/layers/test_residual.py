from __future__ import annotations

import pytest
import torch

from archs.layers.residual import Residual, residual_convolution


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("identity", {}),
        ("1conv", {"weight": [8, 8, 3, 3], "bias": [8]}),
        (
            "3conv",
            {
                "0.weight": [2, 8, 3, 3], "0.bias": [2], "2.weight": [2, 2, 1, 1], "2.bias": [2],
                "4.weight": [8, 2, 3, 3], "4.bias": [8],
            },
        ),
    ],
)  # fmt: skip
def test_its_weights_have_the_published_names_and_its_output_the_size_of_the_input(
    kind: Residual, shapes: dict[str, list[int]]
) -> None:
    layer = residual_convolution(8, kind)
    assert {key: list(tensor.shape) for key, tensor in layer.state_dict().items()} == shapes
    x = torch.randn(2, 8, 3, 5)
    assert layer(x).shape == x.shape
    assert torch.equal(layer(x), x) == (kind == "identity")
