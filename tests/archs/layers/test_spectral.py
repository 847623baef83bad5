"""Spectral normalisation: torch's hooks are the oracle."""

from __future__ import annotations

import copy
import warnings
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archs.layers import spectral
from archs.layers.spectral import SpectralConv2d, held
from ops.power_iteration import power_iteration


@pytest.fixture
def conv() -> SpectralConv2d:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SpectralConv2d(3, 5, 3, stride=2, padding=1).double()


def hooked(conv: SpectralConv2d) -> nn.Module:
    """The same values under torch's hooks."""
    plain = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = torch.nn.utils.spectral_norm(plain)
    theirs.load_state_dict(conv.state_dict())
    return theirs


def image(seed: int = 1) -> Tensor:
    return torch.rand(2, 3, 8, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_passes_gradients_and_buffers_are_those_of_torch_s_hooks(conv: SpectralConv2d) -> None:
    theirs = hooked(conv)
    for step, training in enumerate((True, True, False, True, False)):
        found, expected = conv.train(training)(image(step)), theirs.train(training)(image(step))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
        conv.zero_grad()
        theirs.zero_grad()
        found.square().sum().backward()
        expected.square().sum().backward()
        torch.testing.assert_close(conv.weight_orig.grad, theirs.get_parameter("weight_orig").grad, rtol=1e-11, atol=0)
        for name, value in conv.named_buffers():
            torch.testing.assert_close(value, theirs.get_buffer(name), rtol=1e-12, atol=0)


def test_state_dicts_go_both_ways(conv: SpectralConv2d) -> None:
    state = hooked(conv).state_dict()
    assert {name: value.shape for name, value in state.items()} == {n: v.shape for n, v in conv.state_dict().items()}
    other = SpectralConv2d(3, 5, 3, stride=2, padding=1).double()
    other.load_state_dict(dict(state))  # with and without torch's record of versions
    other.load_state_dict(state)
    assert torch.equal(other(image()), conv(image()))


def test_weights_without_v_are_refused_strict_or_not(conv: SpectralConv2d) -> None:
    state = conv.state_dict()
    del state["weight_v"]
    for strict in (True, False):
        with pytest.raises(RuntimeError, match=r"weight_v is missing .* before PyTorch 1\.0"):
            copy.deepcopy(conv).load_state_dict(state, strict=strict)


def test_fresh_vectors_have_length_one_and_no_iteration_behind_them(conv: SpectralConv2d) -> None:
    assert conv.weight_u.norm().item() == pytest.approx(1)
    assert conv.weight_v.norm().item() == pytest.approx(1)
    matrix = conv.weight_orig.detach().flatten(1)
    assert not torch.allclose(conv.weight_u, nn.functional.normalize(matrix @ conv.weight_v, dim=0), atol=1e-2)
    assert conv.weight_orig.abs().max() <= (3 * 9) ** -0.5  # torch's initial values of convolutions


def test_the_largest_singular_value_tends_to_one(conv: SpectralConv2d) -> None:
    for _ in range(60):
        conv(image())
    assert torch.linalg.matrix_norm(conv.eval().kernel().flatten(1), 2).item() == pytest.approx(1, rel=1e-6)


def test_the_gradient_of_the_norm(conv: SpectralConv2d) -> None:
    """dL/dW = (G - <G, used> u v^T) / sigma."""
    used = conv.kernel()
    G = torch.rand(used.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    (used * G).sum().backward()
    sigma = conv.weight_u @ conv.weight_orig.detach().flatten(1) @ conv.weight_v
    outer = torch.outer(conv.weight_u, conv.weight_v).view_as(G)
    torch.testing.assert_close(conv.weight_orig.grad, (G - (G * used.detach()).sum() * outer) / sigma)


def test_held_accumulation_advances_once_for_a_batch_in_pieces(conv: SpectralConv2d) -> None:
    whole, x = copy.deepcopy(conv), torch.cat([image(1), image(2)])
    whole(x).square().sum().backward()
    first, second = x.chunk(2)
    conv(first).square().sum().backward()
    with held(nn.Sequential(conv)):
        conv(second).square().sum().backward()
    torch.testing.assert_close(conv.weight_orig.grad, whole.weight_orig.grad)
    assert torch.equal(conv.weight_u, whole.weight_u)
    assert torch.equal(conv.weight_v, whole.weight_v)


def test_batch_norms_are_held_too() -> None:
    norm = nn.BatchNorm2d(3).double()
    with held(norm):
        normalised = norm(image())
    assert normalised.mean().abs() < 1e-12  # by the statistics of the batch
    assert torch.equal(norm.get_buffer("running_mean"), torch.zeros(3, dtype=torch.float64))
    assert norm.num_batches_tracked == 0
    with held(norm.eval()):
        assert torch.allclose(norm(image()), image(), atol=1e-4)  # by the stored ones


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # by torch's own decompositions
@pytest.mark.parametrize("hold", [False, True])
def test_two_compiled_passes_before_one_backward_pass(hold: bool) -> None:
    """Where the compiler sees the iteration, it keeps a buffer of a kernel as small as this one, and makes u of it."""
    torch.compiler.reset()
    conv = SpectralConv2d(4, 4, 3).double()
    other = copy.deepcopy(conv)
    real, fake = torch.rand(2, 1, 4, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    compiled: Any = torch.compile(other, fullgraph=True, backend="aot_eager_decomp_partition")  # all but code
    for module in (conv, compiled):
        with held(module) if hold else nullcontext():
            first = module(real).square().mean()
        (first - module(fake).square().mean()).backward()
    torch.testing.assert_close(other.weight_orig.grad, conv.weight_orig.grad)
    torch.testing.assert_close(other.weight_u, conv.weight_u)
    torch.testing.assert_close(other.weight_v, conv.weight_v)


def test_the_norm_is_computed_without_autocast(conv: SpectralConv2d, monkeypatch: pytest.MonkeyPatch) -> None:
    # On CPUs autocast leaves products with vectors alone; on GPUs it would round the matrix and u and v.
    seen: list[tuple[bool, torch.dtype]] = []

    def noted(matrix: Tensor, u: Tensor, v: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        seen.append((torch.is_autocast_enabled("cpu"), matrix.dtype))
        return power_iteration(matrix, u, v, steps)

    monkeypatch.setattr(spectral, "power_iteration", noted)
    conv.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(image().float()).dtype == torch.bfloat16
    assert seen == [(False, torch.float32)]
