"""Window attention in compiled and exported graphs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ops import Memo, RelativeBias, window_attention
from tests.ops.kernels import require_tracing


class Attention(nn.Module):
    """A small window attention as networks build it: x [B, n, N, C] -> [B, n, N, C]."""

    index: Tensor

    def __init__(self, backend: str, masked: bool) -> None:
        super().__init__()
        self.backend = backend
        self.masked = masked
        self.qkv = nn.Linear(8, 24)
        self.table = nn.Parameter(torch.randn(7, 2))
        self.register_buffer("index", torch.randint(7, (9, 9)))
        self.dense = Memo()

    def forward(self, x: Tensor) -> Tensor:
        images, windows, tokens, channels = x.shape
        qkv = self.qkv(x).view(images * windows, tokens, 3, 2, channels // 2)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None
        if self.masked:
            last = (torch.arange(windows) == windows - 1)[:, None, None]
            split = (torch.arange(tokens)[:, None] < 4) != (torch.arange(tokens) < 4)
            mask = torch.where(last & split, -100.0, 0.0)
        bias = self.dense(lambda: RelativeBias(self.table, self.index).dense(), self.table)
        out = window_attention(q, k, v, bias, mask, backend=self.backend)
        return out.transpose(1, 2).reshape(x.shape)


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("backend", ["reference", "sdpa", "chunked", "native"])
def test_compiles_without_graph_breaks(backend: str, masked: bool) -> None:
    require_tracing(backend)
    torch.manual_seed(0)
    network = Attention(backend, masked)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 9, 8, requires_grad=True)
    leaves = [x, *network.parameters()]
    out, expected = compiled(x), network(x)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    got, wanted = (torch.autograd.grad((y * weight).sum(), leaves) for y in (out, expected))
    torch.testing.assert_close(got, wanted)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(x))


@pytest.mark.parametrize("masked", [False, True], ids=["plain", "masked"])
@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_exports_with_dynamic_sizes(backend: str, masked: bool) -> None:
    torch.manual_seed(0)
    network = Attention(backend, masked).eval()
    sizes = {"x": {0: torch.export.Dim("images", max=64), 1: torch.export.Dim("windows", max=64)}}
    with torch.no_grad():
        program = torch.export.export(network, (torch.randn(2, 3, 9, 8),), dynamic_shapes=sizes)
        for images, windows in ((2, 3), (5, 4), (1, 7)):
            x = torch.randn(images, windows, 9, 8)
            torch.testing.assert_close(program.module()(x), network(x))
    # The program runs where this project is not installed.
    assert not [node for node in program.graph.nodes if "focalsr" in str(node.target)]


def test_exports_with_a_dynamic_number_of_keys() -> None:
    class Whole(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return window_attention(q, k, v)

    q, k, v = torch.randn(2, 2, 20, 3), torch.randn(2, 2, 6, 3), torch.randn(2, 2, 6, 5)
    tokens, keys = torch.export.Dim("tokens", max=4096), torch.export.Dim("keys", max=4096)
    sizes = {"q": {2: tokens}, "k": {2: keys}, "v": {2: keys}}
    program = torch.export.export(Whole(), (q, k, v), dynamic_shapes=sizes)
    q, k, v = torch.randn(2, 2, 11, 3), torch.randn(2, 2, 40, 3), torch.randn(2, 2, 40, 5)
    torch.testing.assert_close(program.module()(q, k, v), window_attention(q, k, v))


def test_compiles_under_autocast() -> None:
    torch.manual_seed(0)
    network = Attention("auto", masked=True)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 9, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out, expected = compiled(x), network(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected)
