"""PlainUSR: function, folding, attention, initial values. What all networks keep to is in test_contract.py."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs import build_network
from archs.plainusr import (
    LocalImportanceAttention,
    PlainUSR,
    PlainUSRGeneral,
    PlainUSRGeneralInference,
    PlainUSRLarge,
    PlainUSRUltra,
    RepMBConv,
    fold,
    fold_state,
)
from archs.plainusr.blocks import Branches, Kernel, fold_branches
from tests.archs.plainusr_formulas import attend, bottleneck, forward
from tests.golden import Case, assert_close, assert_output, assert_training, cases
from utils.errors import InputError

Module = TypeVar("Module", bound=nn.Module)

TRAIN_FORMS: list[tuple[type[PlainUSR], dict[str, Any]]] = [
    (PlainUSRUltra, {"n_feat": 9, "im_feat": (8, 5), "scale": 3}),
    (PlainUSRGeneral, {"n_feat": 10, "im_feat": (8, 6, 6), "attn_feat": 3, "scale": 2}),
    (PlainUSRLarge, {"n_feat": 8, "im_feat": (8, 5, 3), "attn_feat": 2, "scale": 2}),
]
SIZES = [(20, 23), (7, 7), (6, 9), (1, 1), (3, 40)]


@pytest.fixture(params=TRAIN_FORMS, ids=["ultra", "general", "large"])
def network(request: pytest.FixtureRequest) -> PlainUSR:
    kind, arguments = request.param
    built: PlainUSR = scattered(kind(**arguments)).double()
    return built


def scattered(module: Module, seed: int = 0) -> Module:
    """Move every parameter away from its initial value, mixers and scales too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module


def picture(height: int = 14, width: int = 17, batch: int = 2) -> Tensor:
    """[B, 3, H, W], float64."""
    generator = torch.Generator().manual_seed(height * width)
    return torch.rand(batch, 3, height, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
def test_both_forms_compute_the_formulas(network: PlainUSR, size: tuple[int, int]) -> None:
    x = picture(*size)
    expected = forward(network.state_dict(), x, network.scale)
    folded = fold(network)
    network.fold_on_the_fly = False
    with torch.no_grad():
        assert_close(network(x), expected, 1e-12)
        assert_close(folded(x), expected, 1e-12)
        assert_close(forward(folded.state_dict(), x, folded.scale), expected, 1e-12)


def test_folding_on_the_fly_has_the_gradients_of_the_branches(network: PlainUSR) -> None:
    x = picture()
    gradients = []
    for network.fold_on_the_fly in (True, False):
        inputs = x.clone().requires_grad_()
        loss = network(inputs).square().mean()
        gradients.append(torch.autograd.grad(loss, [inputs, *network.parameters()]))
    for folded, branches in zip(*gradients, strict=True):
        assert_close(folded, branches, 1e-10)


def test_folding_on_the_fly_ignores_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    network = scattered(PlainUSRUltra(8, (8, 4)))
    seen: list[Tensor] = []
    convolve = F.conv2d

    def spy(x: Tensor, weight: Tensor, *arguments: Any, **named: Any) -> Tensor:
        seen.append(weight)
        return convolve(x, weight, *arguments, **named)

    monkeypatch.setattr(F, "conv2d", spy)
    x = picture().float()
    network(x)
    exact = list(seen)
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        network(x)
    # The kernels are computed and handed over in float32; the convolution itself casts them.
    assert all(torch.equal(one, other) for one, other in zip(exact, seen, strict=True))


def test_fold_on_the_fly_folds_once_per_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []

    def spy(layers: Sequence[Branches], dtype: torch.dtype) -> list[Kernel]:
        widths.append(len(layers))
        return fold_branches(layers, dtype)

    monkeypatch.setattr("archs.plainusr.network.fold_branches", spy)
    network = PlainUSRGeneral(8, (8, 6, 6), 2, 2)
    network(picture().float())
    assert sorted(widths) == [4, 6]  # two blocks of width 8, three of width 6, two convolutions in each


@pytest.mark.parametrize("case", [*cases("plainusr", "eval"), *cases("plainusr", "train")])
def test_branches_reproduce_the_recorded_runs(case: Case) -> None:
    network = case.network()
    assert isinstance(network, PlainUSR)
    network.fold_on_the_fly = False
    if case.info["mode"] == "train":
        assert_training(case, network.train())
    else:
        assert_output(case, network.eval())


@pytest.mark.parametrize("case", cases("plainusr", "fold"))
def test_fold_reproduces_the_recorded_kernels(case: Case) -> None:
    network = case.network()
    assert isinstance(network, PlainUSR)
    folded = fold(network)
    assert type(folded) is type(build_network({"type": case.info["folded_arch"]}))
    assert {*folded.state_dict(), "output"} == set(case.arrays)
    for key, tensor in folded.state_dict().items():
        assert_close(tensor, case.arrays[key], case.info["rtol"])
    assert_output(case, network)
    assert_output(case, folded)


@pytest.mark.parametrize("case", cases("plainusr", "pretrained"))
def test_published_weights_on_recorded_inputs(case: Case, shared: Path) -> None:
    network = build_network({"type": case.info["arch"], **case.info["config"]})
    network.load_state_dict(torch.load(shared / "weights" / case.info["checkpoint"], weights_only=True))
    x = case.arrays["input"].permute(2, 0, 1).unsqueeze(0) / 255  # [1, 3, H, W]
    with torch.no_grad():
        assert_close(network(x.float()).double(), case.arrays["output"], case.info.get("rtol_float32", 1e-5))
        assert_close(network.double()(x.double()), case.arrays["output"], case.info["rtol"])
        half = network.half()(x.half())
    # The input of random black and white pixels gave NaN in float32; half precision must cope with it too.
    assert half.isfinite().all()


@pytest.mark.parametrize("init", ["live", "published"])
def test_scale_generators_start_as_asked(init: Any) -> None:
    layer = RepMBConv(32, init)
    layer(torch.rand(1, 32, 6, 6)).square().sum().backward()
    parameters = [layer.se.tensor, *layer.se.matrices]
    silent = [parameter.grad is None or not parameter.grad.any() for parameter in parameters]
    if init == "published":
        assert (layer.se() == 1).all()
        assert all(silent)
    else:
        assert (layer.se() - 0.5).abs().max() < 0.3
        assert not any(silent)


def test_initial_values(network: PlainUSR) -> None:
    kind, arguments = next(item for item in TRAIN_FORMS if isinstance(network, item[0]))
    fresh = kind(**arguments)
    n, squared = fresh.n_feat, fresh.scale**2
    head = fresh.head.weight.detach()[n:, :, 1, 1]  # [3, 3]
    tail = fresh.state_dict()["tail.0.weight"][:, n:, 1, 1].reshape(3, squared, 3)
    for path, fan_in in ((head, 27), (tail.mean(1), 9 * (n + 3))):
        assert ((path - torch.eye(3)).abs() <= fan_in**-0.5).all()
    mixers = {
        key: tensor for key, tensor in fresh.state_dict().items() if key.endswith((".3.conv.weight", ".5.conv.weight"))
    }
    assert mixers
    for weight in mixers.values():
        assert torch.allclose(weight, torch.full_like(weight, 1 / weight.shape[1]))


def test_a_bottleneck_is_one_convolution() -> None:
    layer = scattered(RepMBConv(5)).double()
    x = torch.rand(2, 5, 6, 4, dtype=torch.float64)
    state = {f"r.{key}": tensor for key, tensor in layer.state_dict().items()}
    assert_close(layer(x).detach(), bottleneck(state, "r", x), 1e-13)


def test_training_moves_a_network_and_not_its_fold() -> None:
    network = PlainUSRGeneral(8, (8, 6, 4), 2, 2)
    folded = fold(network)
    x, target = picture().float(), torch.rand(2, 3, 28, 34)
    before = folded(x).detach()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = F.l1_loss(network(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert torch.equal(folded(x), before)
    assert not torch.allclose(fold(network)(x), before, atol=1e-3)


def test_a_folded_network_can_be_trained_on(network: PlainUSR) -> None:
    folded = fold(network.train())
    assert folded.training
    assert not fold(network.eval()).training
    folded(picture()).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in folded.parameters())


def test_a_network_folds_once_only(network: PlainUSR) -> None:
    with pytest.raises(InputError, match="folded form already"):
        fold(fold(network))


def test_fold_leaves_the_network_alone(network: PlainUSR) -> None:
    before = copy.deepcopy(network.state_dict())
    folded = fold(network)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.add_(1)
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (6, 6), (7, 7), (8, 30), (33, 20)])
def test_attention_stands_alone(size: tuple[int, int]) -> None:
    attention = scattered(LocalImportanceAttention(channels=5, hidden=3)).double()
    h = torch.randn(2, 5, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = h.clone()
    y = attention(h)
    state = {f"a.body.{key.removeprefix('body.')}": tensor for key, tensor in attention.state_dict().items()}
    assert_close(y.detach(), attend(state, "a.body", h), 1e-13)
    assert torch.equal(h, before)
    assert torch.allclose(y, h * attention.importance(h) * torch.sigmoid(h[:, :1]))
    assert set(attention.state_dict()) == {f"body.{i}.{leaf}" for i in (0, 2, 3) for leaf in ("weight", "bias")}


def test_attention_wants_widths() -> None:
    with pytest.raises(InputError, match="at least 1"):
        LocalImportanceAttention(0, 4)


def test_widths_of_one() -> None:
    network = PlainUSRGeneral(1, (1, 1, 1), 1, 2).double()
    x = picture()
    assert_close(fold(network)(x).detach(), network(x).detach(), 1e-12)
    network(x).sum().backward()


def test_training_form_from_folded_state_is_refused_with_a_reason() -> None:
    folded = PlainUSRGeneralInference(8, (8, 6, 4), 2, 2)
    with pytest.raises(InputError, match="folded form already"):
        fold_state(folded.state_dict())
