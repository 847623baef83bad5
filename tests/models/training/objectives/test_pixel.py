"""One iteration: pieces of a batch, precision, losses that are not finite, waiting for the device."""

from __future__ import annotations

import copy
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
from models.training.run import called_networks, describe_run, prepare_state, training_set
from models.training.state import TrainState
from tests.states import CPU, Waits, iterate, options, state_of
from utils.errors import InputError


def fresh(chosen: TrainOptions) -> TrainState:
    torch.manual_seed(0)
    return state_of(chosen)


def batch(count: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    lq, gt = torch.rand(count, 3, 8, 8, generator=generator), torch.rand(count, 3, 16, 16, generator=generator)
    return Batch.of_pair(lq, gt, tuple(f"image_{i}" for i in range(count)), epoch=0)


def weights(state: TrainState) -> list[Tensor]:
    player = state.generator
    networks = [player.network, *([player.ema] if player.ema is not None else [])]
    return [p.detach().clone() for network in networks for p in network.parameters()]


@pytest.mark.parametrize("pieces", [2, 3, 9])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_micro_batches_add_up_to_the_gradient_of_the_batch(place: Path, pieces: int, reduction: str) -> None:
    # SGD moves by the gradient itself; Adam's first step would hide its size.
    changes = ("train:optim_g:type=SGD", "train:optim_g:betas=~", f"train:pixel_opt:reduction={reduction}")
    changes = (changes[0], changes[2], "train:optim_g:lr=1e-3")
    (place / "train.yml").write_text((place / "train.yml").read_text().replace(", betas: [0.9, 0.99]", ""))
    results = []
    for accumulate in (1, pieces):
        chosen = options(*changes, f"train:accumulate={accumulate}")
        state = fresh(chosen)
        result = iterate(state, batch(), chosen)
        results.append((result, weights(state)))
    (whole, expected), (parts, found) = results
    torch.testing.assert_close(parts.losses["l_pix"], whole.losses["l_pix"], rtol=1e-6, atol=0)
    torch.testing.assert_close(parts.grad_norm, whole.grad_norm, rtol=1e-5, atol=0)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_and_norms_of_a_float64_network_are_float64(place: Path, accumulate: int) -> None:
    chosen = options(f"train:accumulate={accumulate}")
    state = fresh(chosen)
    for network in (state.generator.network, state.generator.ema):
        assert network is not None
        network.double()
    whole = batch()
    wide = Batch.of_pair(whole.lq.double(), whole.targets["gt"].double(), whole.names, epoch=0)
    with torch.no_grad():
        expected = (state.generator.network(wide.lq) - wide.targets["gt"]).abs().mean()
    result = iterate(state, wide, chosen)
    torch.testing.assert_close(result.losses["l_pix"], expected, rtol=1e-14, atol=0)  # float64, or it is no match
    assert result.grad_norm is not None
    assert result.grad_norm.dtype is torch.float64


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_lowers_the_loss(place: Path, amp: str) -> None:
    chosen = options(f"train:amp={amp}")
    state = fresh(chosen)
    seen: list[torch.dtype] = []
    convolution = next(m for m in state.generator.network.modules() if isinstance(m, nn.Conv2d))
    convolution.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    found = [float(iterate(state, batch(), chosen).losses["l_pix"]) for _ in range(12)]
    assert found[-1] < found[0]
    assert all(p.dtype is torch.float32 for p in state.generator.network.parameters())
    assert (state.generator.scaler is None) == (amp == "bf16")
    assert set(seen) <= {torch.bfloat16 if amp == "bf16" else torch.float16}


class Broken(nn.Module):
    """A network whose gradient, or whose output, is not finite at chosen calls."""

    def __init__(self, network: nn.Module, bad: set[int], what: str) -> None:
        super().__init__()
        self.network, self.bad, self.what, self.calls = network, bad, what, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = self.network(x)
        if self.calls not in self.bad:
            return y
        if self.what == "loss":
            return y * torch.inf
        y.register_hook(lambda gradient: gradient * torch.nan)
        return y


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("deferred", [False, True])
def test_what_is_not_finite_stops_before_the_weights_change(place: Path, what: str, deferred: bool) -> None:
    chosen = options()
    state = fresh(chosen)
    model = Broken(state.generator.network, {2}, what)
    guard = FiniteGuard(deferred=deferred, skip=False)
    iterate(state, batch(), chosen, model=model, guard=guard)
    before = [p.detach().clone() for p in state.generator.network.parameters()]
    whose = {"loss": "l_pix of the generator", "gradient": "that of the generator, norm nan"}[what]
    message = rf"the {what} is not finite in iteration 2 \({whose}\): l_pix = .*; images: image_0, image_1"
    with pytest.raises(NonFiniteLossError, match=message):
        iterate(state, batch(), chosen, model=model, guard=guard)
        guard.check()
    assert all(torch.equal(a, b) for a, b in zip(before, state.generator.network.parameters(), strict=True))


@pytest.mark.parametrize("deferred", [False, True])
def test_what_is_not_finite_is_skipped_and_counted_where_that_is_asked_for(place: Path, deferred: bool) -> None:
    chosen = options("train:nonfinite=skip", "train:ema_decay=0")
    state = fresh(chosen)
    model = Broken(state.generator.network, {2}, "gradient")
    guard = FiniteGuard(deferred=deferred, skip=True)
    flags = [iterate(state, batch(), chosen, model=model, guard=guard).skipped for _ in range(3)]
    assert flags == [False, not deferred, False]
    assert guard.check() == (1 if deferred else 0)
    assert state.step == 3
    assert state.skipped == (0 if deferred else 1)  # the loop adds what a deferred guard finds
    # As if the iteration had not been: its rate only, which is constant here.
    other = fresh(chosen)
    for _ in range(2):
        iterate(other, batch(), chosen)
    torch.testing.assert_close(weights(state), weights(other), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("amp", ["~", "bf16"])
def test_the_host_does_not_wait_between_log_points(place: Path, amp: str) -> None:
    chosen = options(f"train:amp={amp}", "train:grad_clip=1", "train:accumulate=2")
    state = fresh(chosen)
    guard = FiniteGuard(deferred=True, skip=False)
    iterate(state, batch(), chosen, guard=guard)
    with Waits() as waits:
        for _ in range(3):
            iterate(state, batch(), chosen, guard=guard)
        assert waits.count == 0
        guard.check()
    assert waits.count > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_host_does_not_wait_for_a_gpu(place: Path) -> None:
    chosen = options()
    device = torch.device("cuda")
    state = state_of(chosen, device=device)
    guard = FiniteGuard.create(state, skip=False)
    assert guard.deferred
    there = Batch.of_pair(batch().lq.to(device), batch().gt.to(device), ("a",), epoch=0)
    iterate(state, there, chosen, guard=guard)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            iterate(state, there, chosen, guard=guard)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert guard.check() == 0


def test_ranks_exchange_gradients_once_per_batch(place: Path) -> None:
    chosen = options("train:accumulate=4")
    state = fresh(chosen)
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(state.generator.network)
        exchanged: list[bool] = []
        state.generator.network.register_forward_hook(lambda *_: exchanged.append(model.require_backward_grad_sync))
        iterate(state, batch(), chosen, model=model)
        assert exchanged == [False, False, False, True]
    finally:
        dist.destroy_process_group()


def test_fp16_is_refused_on_a_cpu(place: Path) -> None:
    with pytest.raises(InputError, match=r"train\.amp: fp16 is for GPUs; .* choose train:amp=bf16"):
        prepare_state(options("train:amp=fp16"), CPU)
    assert prepare_state(options("train:amp=bf16"), CPU).generator.scaler is None


@pytest.mark.parametrize("native", [frozenset({"bf16"}), frozenset()])
def test_the_log_says_where_bf16_is_slower(
    native: frozenset[str], place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("models.training.run.native_precisions", lambda device: native)
    for amp in ("~", "bf16"):
        chosen = options(f"train:amp={amp}")
        state = fresh(chosen)
        with caplog.at_level("INFO", "focalsr"):
            describe_run(chosen, state, build_objective(chosen, state), training_set(chosen), ())
    said = [message for message in caplog.messages if "bfloat16" in message]
    expected = "train.amp: bf16: this CPU has no bfloat16 arithmetic; iterations take longer than in float32"
    assert said == ([] if native else [expected])


def test_recomputed_activations_save_memory_and_keep_the_gradients(place: Path) -> None:
    with pytest.raises(InputError, match=r"checkpoint_activations: PlainUSR_ultra cannot compute its blocks twice"):
        prepare_state(options("train:checkpoint_activations=true"), CPU)
    text = (place / "train.yml").read_text()
    small = (
        "{type: HAT, upscale: 2, embed_dim: 12, depths: [4], num_heads: [2], window_size: 4, img_size: 8, "
        "compress_ratio: 3, squeeze_factor: 3, drop_path_rate: 0}"
    )
    (place / "train.yml").write_text(
        text.replace("{type: PlainUSR_ultra, n_feat: 8, im_feat: [8, 4], scale: 2}", small)
    )
    states = [prepare_state(options(f"train:checkpoint_activations={flag}"), CPU) for flag in ("false", "true")]
    states[1].generator.network.load_state_dict(states[0].generator.network.state_dict())
    kept: list[int] = []
    for state in states:
        state.generator.network.train()
        sizes: list[int] = []

        def keep(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(x.nbytes)
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            iterate(state, batch(), options())
        kept.append(sum(sizes))
    assert kept[1] < 0.6 * kept[0]
    gradients = [[p.grad for p in state.generator.network.parameters()] for state in states]
    torch.testing.assert_close(gradients[0], gradients[1])


def test_compiled_networks_train_the_same(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = options("train:compile=true", "train:compile_mode=reduce-overhead")
    asked: list[str | None] = []
    compiler = torch.compile

    def traced(network: nn.Module, *, mode: str | None = None) -> Any:
        asked.append(mode)
        return compiler(network, backend="eager")  # generating code would take minutes

    monkeypatch.setattr(torch, "compile", traced)
    state = fresh(chosen)
    other = copy.deepcopy(state)
    model = called_networks(state, chosen, World())["g"]
    assert asked == ["reduce-overhead"]
    assert model is not state.generator.network
    for _ in range(2):
        iterate(state, batch(), chosen, model=model)
        iterate(other, batch(), options())
    torch.testing.assert_close(weights(state), weights(other))
    assert not any("_orig_mod" in key for key in state.generator.network.state_dict())
