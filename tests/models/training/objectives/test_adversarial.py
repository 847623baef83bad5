"""An iteration of two players: micro-batches, precision, what is not finite, what is left as it was."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from config.schema import TrainOptions
from data.loader import Batch
from models.distributed import World
from models.training.finite import FiniteGuard, NonFiniteLossError
from models.training.objectives import build_objective
from models.training.objectives.adversarial import AdversarialObjective
from models.training.run import called_networks
from models.training.state import TrainState
from tests.runs import adversarial
from tests.states import Waits, iterate, options, state_of

VGG_STYLE = "network_d={type: VGGStyleDiscriminator, num_in_ch: 3, num_feat: 2}"
SGD = ("train:optim_g={type: SGD, lr: 1e-2}", "train:optim_d={type: SGD, lr: 1e-2}")
"""Moves by the gradient itself; Adam's first step would hide its size."""


@pytest.fixture(autouse=True)
def gan(place: Path) -> Path:
    """A folder whose training file has a discriminator."""
    (place / "train.yml").write_text(adversarial((place / "train.yml").read_text()))
    return place


def fresh(chosen: TrainOptions, kind: torch.dtype = torch.float32) -> TrainState:
    torch.manual_seed(0)
    state = state_of(chosen)
    for player in state.players.values():
        for network in filter(None, (player.network, player.ema)):
            network.to(kind)
    return state


def batch(count: int = 4, side: int = 16, kind: torch.dtype = torch.float32) -> Batch:
    generator = torch.Generator().manual_seed(1)
    lq = torch.rand(count, 3, side // 2, side // 2, generator=generator, dtype=torch.float64).to(kind)
    gt = torch.rand(count, 3, side, side, generator=generator, dtype=torch.float64).to(kind)
    return Batch.of_pair(lq, gt, tuple(f"image_{i}" for i in range(count)), epoch=0)


def tensors(state: TrainState) -> dict[str, Tensor]:
    """Copies of all weights, EMA weights and buffers."""
    found = {}
    for name, player in state.players.items():
        for kind, network in (("", player.network), ("ema ", player.ema)):
            if network is not None:
                found.update({f"{name} {kind}{key}": value.clone() for key, value in network.state_dict().items()})
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [key for key, value in found.items() if not torch.equal(value, expected[key])] == []


@pytest.mark.parametrize("pieces", [2, 3])
def test_micro_batches_are_the_training_of_the_whole_batch(pieces: int) -> None:
    edits = (*SGD, "train:ldl_opt={type: L1Loss}", "train:mesa_opt={type: L1Loss, start_ratio: 0}")
    found = []
    for accumulate in (1, pieces):
        chosen = options(*edits, f"train:accumulate={accumulate}")
        state = fresh(chosen, torch.float64)
        for _ in range(2):  # in the second the EMA weights are others
            result = iterate(state, batch(kind=torch.float64), chosen)
        found.append((result, tensors(state)))
    (whole, expected), (parts, got) = found
    assert set(whole.losses) == {
        "l_g_pix", "l_g_ldl", "l_g_mesa", "l_g_gan", "l_d_real", "out_d_real", "l_d_fake", "out_d_fake",
    }  # fmt: skip
    torch.testing.assert_close(dict(parts.losses), dict(whole.losses), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(dict(parts.grad_norms), dict(whole.grad_norms), rtol=1e-12, atol=0)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)  # u and v have moved as often


@pytest.mark.parametrize("model", ["SRGANModel", "ESRGANModel"])
def test_the_weight_of_the_judgement_follows_its_schedule(model: str) -> None:
    edits = (f"model_type={model}", *SGD, "train:pixel_opt=~", "train:fft_opt={type: FFTLoss, loss_weight: 1e-6}")
    always, rising = options(*edits), options(*edits, "train:gan_opt:weight_schedule=[[1, 0], [3, 1]]")
    states = [fresh(chosen, torch.float64) for chosen in (always, rising)]
    whole, none = (iterate(s, batch(kind=torch.float64), o) for s, o in zip(states, (always, rising), strict=True))
    assert float(none.losses["l_g_gan"]) == 0 < float(whole.losses["l_g_gan"])
    assert none.grad_norms["g"] < 1e-2 * whole.grad_norms["g"]
    # The discriminator has been asked all the same, and is trained as ever.
    d = [{key: value for key, value in tensors(state).items() if key.startswith("d ")} for state in states]
    assert_same(d[1], d[0])


class Strange(nn.Module):
    """A network that does something strange in chosen calls."""

    def __init__(self, network: nn.Module, calls: set[int], strange: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.calls, self.strange, self.count = network, calls, strange, 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        y: Tensor = self.network(x)
        return self.strange(y) if self.count in self.calls else y


def infinite(y: Tensor) -> Tensor:
    return y * torch.inf


def without_gradient(y: Tensor) -> Tensor:
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient * torch.nan)
    return y


def full(*_: object) -> Tensor:
    raise MemoryError("out of memory")


def objective(
    state: TrainState, chosen: TrainOptions, strange: dict[str, tuple[set[int], Callable[[Tensor], Tensor]]],
    guard: FiniteGuard | None = None,
) -> AdversarialObjective:  # fmt: skip
    """The objective with strange networks in the players' place; "judge" is the discriminator that serves g."""
    models = {name: player.network for name, player in state.players.items()}
    for name in set(strange) & set(models):
        models[name] = Strange(models[name], *strange[name])
    made = build_objective(chosen, state, models=models, guard=guard)
    assert isinstance(made, AdversarialObjective)
    if "judge" in strange:
        made.judge = Strange(made.judge, *strange["judge"])
    return made


NOT_FINITE = [
    ("g", 2, infinite, r"the loss is not finite in iteration 2 \(l_g_pix of the generator; l_g_gan of the generator; "),
    ("d", 3, infinite, r"the loss .*\(l_d_real of the discriminator; out_d_real of the discriminator\): l_g_pix = 0"),
    ("d", 4, infinite, r"the loss .*\(l_d_fake of the discriminator; out_d_fake of the discriminator\)"),
    ("judge", 2, infinite, r"the loss .*\(l_g_gan of the generator\)"),
    ("g", 2, without_gradient, r"the gradient .*\(that of the generator, norm nan\).*set train\.grad_clip,"),
    ("d", 4, without_gradient, r"the gradient .*\(that of the discriminator, norm nan\).*set train\.grad_clip_d,"),
]


@pytest.mark.parametrize(("where", "call", "strange", "message"), NOT_FINITE)
@pytest.mark.parametrize("deferred", [False, True])
def test_what_is_not_finite_names_its_player_and_moves_none(
    where: str, call: int, strange: Callable[[Tensor], Tensor], message: str, deferred: bool
) -> None:
    chosen = options()
    state = fresh(chosen)
    guard = FiniteGuard(deferred=deferred, skip=False)
    made = objective(state, chosen, {where: ({call}, strange)}, guard)
    made.step(state, batch())
    before = tensors(state)
    with pytest.raises(NonFiniteLossError, match=message):
        made.step(state, batch())
        guard.check()
    # A deferred guard finds out later, and the EMA weights have followed weights that did not move.
    after = tensors(state)
    for key in [key for key in before if deferred and " ema " in key]:
        del before[key], after[key]
    assert_same(after, before)
    assert all(p.requires_grad for player in state.players.values() for p in player.network.parameters())


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("edits", [(), (VGG_STYLE, "datasets:train:gt_size=128")], ids=["spectral norm", "batch norm"])
def test_a_skipped_iteration_is_as_if_it_had_not_been(edits: tuple[str, ...], deferred: bool) -> None:
    chosen = options("train:nonfinite=skip", "train:ema_decay=0", *edits)
    side = 128 if edits else 16
    state, other = fresh(chosen), fresh(chosen)
    guard = FiniteGuard(deferred=deferred, skip=True)
    made = objective(state, chosen, {"d": ({4}, infinite)}, guard)
    flags = [made.step(state, batch(2, side)).skipped for _ in range(3)]
    assert flags == [False, not deferred, False]
    assert guard.check() == deferred
    whole = build_objective(chosen, other)
    for _ in range(2):
        whole.step(other, batch(2, side))
    torch.testing.assert_close(tensors(state), tensors(other), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("where", "call"), [("g", 2), ("judge", 2), ("d", 3), ("d", 4)])
def test_an_iteration_that_is_cut_short_leaves_all_as_it_was(where: str, call: int) -> None:
    chosen = options("train:mesa_opt={type: L1Loss, start_ratio: 0}")
    state = fresh(chosen)
    made = objective(state, chosen, {where: ({call}, full)})
    made.step(state, batch())
    before, other = tensors(state), copy.deepcopy(state)
    with pytest.raises(MemoryError):
        made.step(state, batch())
    assert_same(tensors(state), before)
    parameters = [p for player in state.players.values() for p in player.network.parameters()]
    assert all(p.requires_grad and p.grad is None for p in parameters)
    assert (state.step, state.moving) == (1, False)
    for player in (state, other):
        build_objective(chosen, player).step(player, batch())
    assert_same(tensors(state), tensors(other))


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains_both_players(amp: str) -> None:
    chosen = options(f"train:amp={amp}")
    state = fresh(chosen)
    seen: dict[str, set[torch.dtype]] = {"g": set(), "d": set()}
    for name, player in state.players.items():
        for module in player.network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda m, i, y, name=name: seen[name].add(y.dtype))
    before = tensors(state)
    results = [iterate(state, batch(), chosen) for _ in range(3)]
    whole, full_precision = fresh(options()), options()
    expected = [iterate(whole, batch(), full_precision) for _ in range(3)]
    for found, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(dict(found.losses), dict(wanted.losses), rtol=2e-2, atol=2e-3)  # float32 too
    low = torch.bfloat16 if amp == "bf16" else torch.float16
    assert seen == {"g": {low}, "d": {low}}
    after = tensors(state)
    assert all(value.dtype is torch.float32 for value in after.values())
    assert all(not torch.equal(after[key], before[key]) for key in after if key.endswith(("weight_u", "weight_v")))
    assert all((player.scaler is None) == (amp == "bf16") for player in state.players.values())


def test_an_overflow_of_one_player_leaves_out_its_step_alone() -> None:
    chosen = options("train:amp=fp16", "train:ema_decay=0")
    state = fresh(chosen)
    made = objective(state, chosen, {"g": ({2}, without_gradient)})
    made.step(state, batch())
    before = tensors(state)
    assert not made.step(state, batch()).skipped
    after = tensors(state)
    assert all(torch.equal(after[key], before[key]) for key in after if key.startswith("g "))
    assert all(not torch.equal(after[key], before[key]) for key in after if key.startswith("d "))
    scales = {name: player.scaler.get_scale() for name, player in state.players.items() if player.scaler is not None}
    assert scales["g"] == scales["d"] / 2


@pytest.mark.parametrize(("where", "call"), [("judge", 2), ("d", 4)])
def test_a_deferred_guard_holds_both_players_under_fp16_too(where: str, call: int) -> None:
    chosen = options("train:amp=fp16", "train:ema_decay=0")
    state = fresh(chosen)
    guard = FiniteGuard(deferred=True, skip=True)
    made = objective(state, chosen, {where: ({call}, infinite)}, guard)
    made.step(state, batch())
    before = tensors(state)
    scales = {name: player.scaler.get_scale() for name, player in state.players.items() if player.scaler is not None}
    made.step(state, batch())
    assert_same(tensors(state), before)
    assert guard.check() == 1
    after = {name: player.scaler.get_scale() for name, player in state.players.items() if player.scaler is not None}
    faulty = "g" if where == "judge" else "d"
    assert after == {name: scale / (2 if name == faulty else 1) for name, scale in scales.items()}
    made.step(state, batch())
    assert all(not torch.equal(value, before[key]) for key, value in tensors(state).items() if key.endswith("_orig"))


def test_memory_that_is_full_between_unscaling_and_the_move_can_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = options("train:amp=fp16")
    state = fresh(chosen)
    with monkeypatch.context() as patch:
        patch.setattr("models.training.step._clip", full)
        with pytest.raises(MemoryError):
            iterate(state, batch(), chosen)
    assert not iterate(state, batch(), chosen).skipped


class Reusing(nn.Module):
    """A network that writes to its last output when it is called again, as CUDA graphs of compiled ones do."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.last is not None:
            self.last.zero_()
        y: Tensor = self.network(x)
        self.last = y.detach()
        return y


def test_outputs_are_kept_although_the_network_uses_their_memory_again() -> None:
    chosen = options("train:accumulate=2")
    state, other = fresh(chosen), fresh(chosen)
    iterate(state, batch(), chosen, model=Reusing(state.generator.network))
    iterate(other, batch(), chosen)
    assert_same(tensors(state), tensors(other))


def test_each_player_has_a_gradient_clipping_of_its_own() -> None:
    chosen = options(*SGD, "train:grad_clip=1e-3", "train:grad_clip_d=1e-4", "train:ema_decay=0")
    state = fresh(chosen, torch.float64)
    before = tensors(state)
    result = iterate(state, batch(kind=torch.float64), chosen)
    moved = {
        name: torch.cat([
            (p - before[f"{name} {key}"]).flatten() for key, p in player.network.named_parameters()
        ]).norm().item()
        for name, player in state.players.items()
    }  # fmt: skip
    assert moved == pytest.approx({"g": 1e-5, "d": 1e-6}, rel=1e-2)  # lr times the limit
    assert all(result.grad_norms[name] > 1e-2 for name in "gd")


@pytest.mark.parametrize(("step", "limit"), [(50_000, 0.5), (50_001, 0.25)])
def test_the_clipping_of_esr_models_is_halved_after_50_000_iterations(step: int, limit: float) -> None:
    from models.training.step import clip_limit

    train = dataclasses.replace(options().train, gradient_clip=0.5)
    assert clip_limit(train, "g", step) == limit
    assert clip_limit(train, "d", step) is None
    assert clip_limit(dataclasses.replace(train, grad_clip=0.3), "g", step) == min(limit, 0.3)


@pytest.mark.parametrize("edits", [("channels_last=true",), ("train:compile=true",)])
def test_layout_and_compiler_train_the_same(edits: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    compiler, compiled = torch.compile, []

    def traced(network: nn.Module, *, mode: str | None = None) -> Any:
        compiled.append(network)
        return compiler(network, backend="eager")  # generating code would take minutes

    monkeypatch.setattr(torch, "compile", traced)
    turns = "train:net_d_iters=2"  # the generator is called with and without gradients
    chosen, plain = options(*SGD, turns, *edits), options(*SGD, turns)
    state, other = fresh(chosen), fresh(plain)
    images, layout = batch(), torch.channels_last if chosen.channels_last else torch.contiguous_format
    made = build_objective(chosen, state, models=called_networks(state, chosen, World()))
    for _ in range(3):
        made.step(state, images.mapped(lambda image: image.contiguous(memory_format=layout)))
        iterate(other, images, plain)
    torch.testing.assert_close(tensors(state), tensors(other), rtol=1e-5, atol=1e-6)
    assert compiled == ([state.generator.network] if chosen.train.compile else [])


def test_only_the_optimiser_of_the_generator_forgets_its_moments() -> None:
    chosen = options("train:reset_momentum_iter=2")
    state = fresh(chosen)
    for forgotten in (set(), {"g"}, set()):
        iterate(state, batch(), chosen)
        empty = {
            name for name, player in state.players.items()
            if not any(values["exp_avg"].any() for values in player.optimizer.state.values())
        }  # fmt: skip
        assert empty == forgotten


def test_where_the_generator_is_not_trained_its_pass_keeps_nothing() -> None:
    chosen = options("train:net_d_iters=2")
    state = fresh(chosen)
    graphs: list[bool] = []
    state.generator.network.register_forward_hook(lambda m, i, y: graphs.append(y.requires_grad))
    before = tensors(state)
    first = iterate(state, batch(), chosen)
    assert (set(first.losses), set(first.grad_norms), set(first.rates)) == (
        {"l_d_real", "out_d_real", "l_d_fake", "out_d_fake"}, {"d"}, {"g", "d"},
    )  # fmt: skip
    assert all(torch.equal(value, before[key]) for key, value in tensors(state).items() if key.startswith("g "))
    second = iterate(state, batch(), chosen)
    assert {"l_g_pix", "l_g_gan"} < set(second.losses)
    assert graphs == [False, True]


@pytest.mark.parametrize("edits", [(), ("train:amp=bf16", "train:accumulate=2"), ("model_type=ESRGANModel",)])
def test_the_host_does_not_wait_between_log_points(edits: tuple[str, ...]) -> None:
    more = ("train:grad_clip=1", "train:mesa_opt={type: L1Loss}", "train:losses=[{type: L1Loss, target: gt_usm}]")
    chosen = options(*more, "train:reset_momentum_iter=1", *edits)
    state = fresh(chosen)
    guard = FiniteGuard(deferred=True, skip=False)
    made = objective(state, chosen, {}, guard)
    made.step(state, batch(side=32))
    with Waits() as waits:
        for _ in range(2):
            made.step(state, batch(side=32))
        assert waits.count == 0
        guard.check()
    assert waits.count > 0


def test_ranks_exchange_gradients_of_each_player_once(gan: Path) -> None:
    chosen = options("train:accumulate=2")
    state = fresh(chosen)
    dist.init_process_group("gloo", init_method=f"file://{gan}/meeting", rank=0, world_size=1)
    try:
        models = {name: nn.parallel.DistributedDataParallel(own.network) for name, own in state.players.items()}
        exchanged: dict[str, list[bool]] = {"g": [], "d": []}
        for name, model in models.items():
            model.module.register_forward_hook(
                lambda *_, name=name, model=model: exchanged[name].append(model.require_backward_grad_sync)
            )
        build_objective(chosen, state, models=models).step(state, batch())
        # The discriminator: two micro-batches for the generator, outside of the wrapper, two real ones, two fake ones.
        assert exchanged == {"g": [False, True], "d": [True, True, False, False, False, True]}
    finally:
        dist.destroy_process_group()
