"""The CUDA kernels of the sparse products: compiled by nvcc, on emulated threads, and on a GPU where there is one."""

from __future__ import annotations

import ctypes
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import ops
from ops import build
from ops.kernel_cache import SOURCES, Unusable
from ops.sparse.arguments import Qmk, SmmCall
from ops.sparse.reference import reference_qmk
from ops.sparse.smm import SMM_QMK
from tests.ops.emulation import ENTRIES, HERE, SHARED, VALUES, Guarded, aligned_rows, built, emulated, unset
from tests.ops.kernels import compiler
from tests.ops.sparse.test_smm import OPERATORS, TOLERANCE, Sizes, assert_close, loops, make, operators, run
from utils.errors import InputError


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    """The launchers of ops/csrc/smm_cuda.cu, on emulated threads; rows are far."""
    library = emulated("smm")
    library.workspace.restype = ctypes.c_int64
    return library


@pytest.fixture
def near_kernels(kernels: ctypes.CDLL) -> Iterator[ctypes.CDLL]:
    """The same with rows in shared memory."""
    kernels.set_shared_limit(SHARED)
    yield kernels
    kernels.set_shared_limit(0)


class Emulated:
    """The products as ops/csrc/smm_bindings.cpp calls them."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def call(self, name: str, a: Tensor, rows: Tensor, index: Tensor, M: int, C: int, shape: tuple[int, ...]) -> Tensor:
        B, N, K = index.shape
        sizes = (ctypes.c_int64 * 6)(B, N, M, K, C, rows.shape[-1])
        out = Guarded(unset(*shape, dtype=rows.dtype))
        buffers = [Guarded(x) for x in (a, rows, index)]
        pointers = [buffer.pointer() for buffer in (*buffers, out)]
        extra = []
        if name == "scatter":
            workspace = Guarded(unset(self.library.workspace(sizes), dtype=torch.int32))
            extra = [workspace.pointer()]
        code = getattr(self.library, name)(VALUES[rows.dtype], ENTRIES[index.dtype], *pointers, sizes, *extra)
        assert code == 0
        if extra:
            workspace.taken()
        return out.taken()

    def dot(self, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
        return self.call("dot", aligned_rows(x), aligned_rows(y), index, y.shape[1], y.shape[2], tuple(index.shape))

    def sum(self, w: Tensor, y: Tensor, index: Tensor) -> Tensor:
        return self.call("sum", w, aligned_rows(y), index, y.shape[1], y.shape[2], (*w.shape[:2], y.shape[2]))

    def scatter(self, w: Tensor, x: Tensor, index: Tensor, M: int) -> Tensor:
        return self.call("scatter", w, aligned_rows(x), index, M, x.shape[2], (len(w), M, x.shape[2]))

    def run(self, name: str, x: Tensor, y: Tensor, index: Tensor, grad: Tensor) -> list[Tensor]:
        """Result and gradients of smm_qmk or smm_amv."""
        x, y = x.detach(), y.detach()
        if name == "qmk":
            k = y.mT.contiguous()
            d_k = self.scatter(grad, x, index, k.shape[1])
            return [self.dot(x, k, index), self.sum(grad, k, index), d_k.mT]
        return [self.sum(x, y, index), self.dot(grad, y, index), self.scatter(x, grad, index, y.shape[1])]


SIZES = {
    "lists of more slots than keys": Sizes(B=2, N=70, M=40, K=64, C=13),
    "classical head": Sizes(B=1, N=20, M=24, K=33, C=40),
    "one slot": Sizes(B=2, N=9, M=9, K=1, C=26),
    "wide": Sizes(B=1, N=5, M=7, K=6, C=150),
    "wider than a query in registers": Sizes(B=1, N=3, M=5, K=4, C=520),
    "many keys": Sizes(B=1, N=6, M=600, K=40, C=8),
    "short lists, two segments": Sizes(B=1, N=1030, M=260, K=4, C=40),
}


@pytest.mark.build
@operators
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_emulated_kernels_are_the_formulas(kernels: ctypes.CDLL, name: str, sizes: Sizes) -> None:
    inputs = make(name, sizes, torch.float32)
    expected = run(name, inputs.to(torch.float64), "reference")
    got = Emulated(kernels).run(name, *inputs)
    assert_close(got, expected, 2e-6)
    again = Emulated(kernels).run(name, *inputs)
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


@pytest.mark.build
@operators
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_emulated_near_rows(near_kernels: ctypes.CDLL, name: str, dtype: torch.dtype) -> None:
    for sizes in (Sizes(B=2, N=70, M=40, K=64, C=13), Sizes(B=1, N=300, M=24, K=33, C=40), Sizes(N=9, M=9, K=1, C=38)):
        inputs = make(name, sizes, dtype)
        inputs = inputs._replace(lists=inputs.lists.to(torch.int16))
        expected = run(name, inputs.to(torch.float64), "reference")
        got = Emulated(near_kernels).run(name, *inputs)
        assert_close(got, expected, TOLERANCE[dtype])
        assert all(torch.equal(a, b) for a, b in zip(got, Emulated(near_kernels).run(name, *inputs), strict=True))


@pytest.mark.build
@operators
def test_emulated_near_entries_outside_count_nothing(near_kernels: ctypes.CDLL, name: str) -> None:
    inputs = make(name, Sizes(B=1, N=9, M=12, K=40, C=16), torch.float32)
    outside = torch.rand(inputs.lists.shape) < 0.2
    grad, x = inputs.grad, inputs.x.detach()
    kept = (
        inputs._replace(grad=grad.masked_fill(outside, 0))
        if name == "qmk"
        else inputs._replace(x=x.masked_fill(outside, 0))
    )
    expected = run(name, kept.to(torch.float64), "reference")
    which = 0 if name == "qmk" else 1
    expected[which] = expected[which].masked_fill(outside, 0)
    wild = inputs.lists.masked_fill(outside, -1).to(torch.int16)
    assert_close(Emulated(near_kernels).run(name, *inputs._replace(lists=wild)), expected, 2e-6)


@pytest.mark.build
@operators
@pytest.mark.parametrize("index_type", ENTRIES, ids=str)
@pytest.mark.parametrize("dtype", VALUES, ids=str)
def test_emulated_types(kernels: ctypes.CDLL, name: str, dtype: torch.dtype, index_type: torch.dtype) -> None:
    for channels in (13, 40):
        inputs = make(name, Sizes(B=2, N=10, K=18, C=channels), dtype)
        expected = run(name, inputs.to(torch.float64), "reference")
        got = Emulated(kernels).run(name, *inputs._replace(lists=inputs.lists.to(index_type)))
        assert_close(got, expected, TOLERANCE[dtype])


@pytest.mark.build
@operators
def test_emulated_hot_keys(kernels: ctypes.CDLL, name: str) -> None:
    """All queries list the same keys, in any order and several times."""
    inputs = make(name, Sizes(B=1, N=40, M=64, K=40, C=13), torch.float32)
    inputs = inputs._replace(lists=inputs.lists % 3)
    assert_close(Emulated(kernels).run(name, *inputs), loops(name, inputs.to(torch.float64)), 2e-6)


@pytest.mark.build
@settings(max_examples=25)
@given(
    name=st.sampled_from(list(OPERATORS)),
    sizes=st.builds(
        Sizes,
        B=st.integers(0, 3),
        N=st.integers(0, 12),
        M=st.integers(1, 40),
        K=st.integers(0, 40),
        C=st.integers(1, 70),
    ),
    dtype=st.sampled_from(list(VALUES)),
    seed=st.integers(0, 9),
)
def test_emulated_kernels_at_any_size(
    kernels: ctypes.CDLL, name: str, sizes: Sizes, dtype: torch.dtype, seed: int
) -> None:
    inputs = make(name, sizes, dtype, seed)
    expected = run(name, inputs.to(torch.float64), "reference")
    assert_close(Emulated(kernels).run(name, *inputs), expected, TOLERANCE[dtype])


@pytest.mark.build
@operators
def test_emulated_entries_outside_count_nothing(kernels: ctypes.CDLL, name: str) -> None:
    inputs = make(name, Sizes(B=2, N=9, M=12, K=20), torch.float32)
    outside = torch.rand(inputs.lists.shape) < 0.2
    wild = torch.where(
        outside, torch.tensor([-1, 12, 2**31 - 1, -(2**31)])[torch.randint(4, outside.shape)], inputs.lists
    )
    if name == "qmk":
        kept = inputs._replace(grad=inputs.grad.masked_fill(outside, 0))
        expected = run(name, kept.to(torch.float64), "reference")
        expected[0] = expected[0].masked_fill(outside, 0)
    else:
        kept = inputs._replace(x=inputs.x.detach().masked_fill(outside, 0))
        expected = run(name, kept.to(torch.float64), "reference")
        expected[1] = expected[1].masked_fill(outside, 0)
    got = Emulated(kernels).run(name, *inputs._replace(lists=wild.int()))
    assert_close(got, expected, 2e-6)


@pytest.fixture
def nvcc() -> str:
    found = shutil.which("nvcc")
    if found is None:
        pytest.skip("needs nvcc")
    return found


MOST_SPILLS = {"smm_cuda.cu": 64, "focus_sparse_cuda.cu": 64}
"""Bytes of registers that kernels with rows in shared memory and sums by key may store for want of room: on an H100 the
first are up to 1.2 times as fast as with fewer warps and no spills, the second 1.5 times as fast as a form without."""


@pytest.mark.build
@pytest.mark.long
@pytest.mark.parametrize("source", sorted(path.name for path in SOURCES.glob("*_cuda.cu")))
def test_nvcc_compiles_with_few_spills(nvcc: str, source: str) -> None:
    targets = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in ("80", "90a")]
    strict = ("-Xptxas", "-warn-spills,-Werror", "--threads", "2")
    flags = (*build.NVCC_FLAGS, *targets, *strict)
    try:
        assert built(f"nvcc {source.removesuffix('_cuda.cu')}", [nvcc], SOURCES / source, flags, retry=False).exists()
    except Unusable as reason:
        [told] = re.findall(r"all of it in ([^;)]+)", str(reason))
        errors = [line for line in Path(told).read_text().splitlines() if re.search(r"\berror\b", line)]
        assert all("Registers are spilled" in line for line in errors), errors
        spilled = [int(re.findall(r"(\d+) bytes spill stores", line)[0]) for line in errors]
        assert 0 < max(spilled) <= MOST_SPILLS.get(source, 0), errors


def test_cuda_sources_add_nothing_atomically() -> None:
    """Sums in an order that nobody knows would differ from run to run."""
    sources = [*SOURCES.glob("*.cu"), *SOURCES.glob("*cuda*.h")]
    assert len(sources) > 6
    for source in sources:
        assert not re.search(r"atomic[A-Z_]|\bred\.|__reduce_", source.read_text()), source.name


@pytest.mark.build
@pytest.mark.slow
def test_bindings_compile(nvcc: str) -> None:
    """As far as a torch without CUDA allows: it has the headers, but no libraries."""
    together = HERE / "all_bindings.cpp"
    assert set(re.findall(r'#include "(\w+_bindings\.cpp)"', together.read_text())) == {
        path.name for path in SOURCES.glob("*_bindings.cpp")
    }
    include = Path(nvcc).resolve().parents[1] / "include"
    if not (include / "cuda_runtime_api.h").exists():
        include = Path("/usr/local/cuda/include")
    if not (include / "cuda_runtime_api.h").exists():
        pytest.skip("needs CUDA's headers")
    folders = (f"-I{include}", f"-I{SOURCES}")
    flags = (*build.torch_flags(), "-O0", "-DC10_CUDA_NO_CMAKE_CONFIGURE_FILE", *folders)
    assert built("bindings", [compiler()], together, flags).exists()


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def on_gpu() -> Iterator[None]:
    reason = build.cuda_extension("smm")
    assert reason is None, reason
    yield


@pytest.mark.gpu
@pytest.mark.build
@needs_gpu
@operators
@pytest.mark.parametrize("index_type", [torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("dtype", VALUES, ids=str)
def test_gpu_is_the_reference(on_gpu: None, name: str, dtype: torch.dtype, index_type: torch.dtype) -> None:
    for sizes in (*SIZES.values(), Sizes(B=0), Sizes(B=48, N=1024, M=1024, K=64, C=40)):
        inputs = make(name, sizes, dtype)
        expected = run(name, inputs.to(torch.float64), "reference")
        moved = type(inputs)(*(x.detach().cuda() for x in inputs))
        moved = moved._replace(x=moved.x.requires_grad_(), y=moved.y.requires_grad_(), lists=moved.lists.to(index_type))
        got = run(name, moved, "native")
        assert_close([x.cpu() for x in got], expected, TOLERANCE[dtype])
        assert all(torch.equal(a, b) for a, b in zip(got, run(name, moved, "native"), strict=True))


@pytest.mark.gpu
@pytest.mark.build
@needs_gpu
def test_gpu_uses_the_current_stream_and_takes_any_layout(on_gpu: None) -> None:
    q = torch.randn(2, 70, 40, device="cuda")
    wide = torch.randn(2, 40, 141, device="cuda")
    index = torch.randint(70, (2, 70, 9), device="cuda")
    expected = reference_qmk(Qmk(q, wide[:, :, 1::2], index))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        q2 = q.clone()
        out = ops.smm_qmk(q2, wide[:, :, 1::2], index, backend="native")
    stream.synchronize()
    torch.testing.assert_close(out, expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.smm_qmk(q, wide[:, :, 1::2], index, backend="native")
    graph.replay()
    torch.testing.assert_close(captured, expected)


@pytest.mark.gpu
@pytest.mark.build
@needs_gpu
def test_gpu_index_is_looked_at_on_request(on_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    q, index = torch.randn(1, 8, 4, device="cuda"), torch.full((1, 8, 2), 8, device="cuda")
    assert not ops.smm_qmk(q, q.mT, index, backend="native").any()
    monkeypatch.setenv("FOCALSR_CHECK_INDEX", "1")
    with pytest.raises(InputError, match="index holds 8 to 8, expected 0 to 7"):
        ops.smm_qmk(q, q.mT, index, backend="native")


def test_float64_on_cuda_is_for_the_reference() -> None:
    with pytest.raises(InputError, match="the CUDA kernels sum in float32"):
        SMM_QMK.choose(SmmCall("cuda", double=True), "native")
