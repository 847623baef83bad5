"""PFT's layers in evaluation, by kernels for several steps: what the modules give one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from archs.layers import evaluation
from tests.archs.test_pft_bands import WHOLE, built, pixels
from tests.ops.kernels import require_cpu_kernels

pytestmark = pytest.mark.build


@pytest.fixture(autouse=True)
def kernels() -> None:
    for part in ("linear_rows", "gelu_depthwise", "focus_select", "focus_sparse"):
        require_cpu_kernels(part)


@pytest.mark.parametrize("band", [WHOLE, 64])
@pytest.mark.parametrize("changes", [{}, {"qkv_bias": False, "convffn_kernel_size": 5, "mlp_ratio": 1.5}])
def test_modules_one_by_one_give_the_same(
    changes: dict[str, object], band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archs.pft.bands.BAND_PIXELS", band)
    network = built(**changes).double().eval()
    x = pixels(2, 3, 15, 18)
    with torch.no_grad():
        assert evaluation.serves(pixels(1, 4, 4, 8), network.focused_layers()[0])
        found = network(x)
        seen: list[nn.Module] = []
        for module in network.modules():
            module.register_forward_hook(lambda module, arguments, result: seen.append(module))
        expected = network(x)
    layers = network.focused_layers()
    assert all(part in seen for layer in layers for part in (layer.wqkv, layer.norm1, layer.convffn.fc1))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_other_types_and_gradients_go_the_usual_way() -> None:
    network = built()
    layer = network.focused_layers()[0]
    x = pixels(1, 4, 4, 8, dtype=torch.float32)
    with torch.no_grad():
        assert evaluation.serves(x, layer)
        assert not evaluation.serves(x.bfloat16(), layer)
    assert not evaluation.serves(x, layer)
    layer.norm2.register_forward_hook(lambda *arguments: None)
    with torch.no_grad():
        assert not evaluation.serves(x, layer)
