"""Training at any scale: the recorded trainings of ESC+LTE; micro-batches, precision, a compiled network, two ranks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from config import read
from config.schema import TrainOptions
from data.loader import Batch, train_batches
from data.samples import Points, Queries
from models.training.batch_limit import repeated
from models.training.run import training_set
from models.training.state import TrainState
from tests.golden import seeded
from tests.states import iterate, state_of

FILE = """\
name: any_scale
model_type: SRModel
scale: [1, 4]
num_gpu: 0
manual_seed: 7
channels_last: true
datasets:
  train:
    name: Photos
    type: AnyScaleDataset
    dataroot_gt: photos/HR
    io_backend: {type: memory}
    lq_size: 8
    sample_q: 48
    batch_size_per_gpu: 4
network_g:
  {type: ESCLTE, dim: 16, pdim: 4, kernel_size: 5, n_blocks: 1, conv_blocks: 1, window_size: 4, num_heads: 2,
   hidden_dim: 12, hidden_list: [10]}
train:
  optim_g: {type: Adam, lr: 2e-3}
  scheduler: {type: MultiStepLR, milestones: [8], gamma: 0.5}
  total_iter: 12
  pixel_opt: {type: L1Loss, loss_weight: 2.0}
"""


def options(folder: Path, *edits: str) -> TrainOptions:
    path = folder / "any_scale.yml"
    path.write_text(FILE)
    return read(path, edits, mode="train")


def recorded() -> list[Any]:
    shared = os.environ.get("FOCALSR_SHARED")
    paths = sorted((Path(shared) / "golden/lte_training").glob("train_*.json")) if shared else [None]
    skip = pytest.mark.skip(reason="FOCALSR_SHARED does not name the folder of the reference data")
    return [pytest.param(path, marks=[pytest.mark.shared, *([] if path else [skip])]) for path in paths]


def recorded_batch(info: dict[str, Any], step: dict[str, Any]) -> Batch:
    """The batch of an iteration, float64 but for the queries, which are counted."""
    place, side, count = info["prefix"], info["lr_patch"], info["batch"]
    lq = torch.from_numpy(seeded().seeded_input(f"{place}/inp/{step['iteration']}", (count, 3, side, side)))
    pixels, colours = [], []
    for b, n in enumerate(step["hr_sizes"]):
        assert n == round(side * step["scales"][b])
        hr = torch.from_numpy(seeded().seeded_input(f"{place}/hr/{step['iteration']}/{b}", (1, 3, n, n))[0])
        order = np.argsort(seeded().seeded_array(f"{place}/order/{step['iteration']}/{b}", (n * n,)))
        pixels.append(torch.from_numpy(order[: info["sample_q"]]).int())
        colours.append(hr.flatten(1)[:, pixels[-1].long(), None])
    points = Points(torch.stack(pixels), torch.tensor(step["hr_sizes"], dtype=torch.int32))
    gt = torch.stack(colours)
    return Batch(lq, {"gt": gt}, (info["sample_q"], 1), ("", "") * count, 0, points.queries())


@pytest.mark.parametrize("path", recorded())
def test_the_published_trainings(path: Path, tmp_path: Path) -> None:
    info = json.loads(path.read_text(encoding="utf-8"))
    rtol, rate = info["rtol"], info["optimizer"]["args"]["lr"]
    epoch, (milestone,) = info["iterations_per_epoch"], info["multi_step_lr"]["milestones"]
    network = json.dumps({"type": info["arch"], **info["config"]})
    chosen = options(
        tmp_path, f"network_g={network}", f"train:optim_g:lr={rate}",
        f"train:scheduler:milestones=[{milestone * epoch}]", "train:total_iter=1000",
    )  # fmt: skip
    state = state_of(chosen)
    generator = seeded().fill(state.generator.network.double())
    prediction = np.load(path.with_suffix(".npz"))["pred"]
    for step in info["steps"]:
        batch = recorded_batch(info, step)
        with torch.no_grad():
            output = 2 * generator(batch.lq, queries=batch.queries) - 1
        result = iterate(state, batch, chosen)
        assert result.lr == (step["lr"],)
        # L1 with the weight 2 is that of colours in [-1, 1].
        assert float(result.losses["l_pix"]) == pytest.approx(step["loss"], rel=rtol)
        mse = float((output - (2 * batch.gt - 1)).square().mean())
        assert -10 * np.log10(mse) == pytest.approx(step["psnr_as_logged"], rel=rtol)
        if step["iteration"] == 1:
            np.testing.assert_allclose(output[..., 0].permute(0, 2, 1).numpy(), prediction, rtol=0, atol=1e-6)
            gradients = {name: p.grad.norm().item() for name, p in generator.named_parameters() if p.grad is not None}
            assert gradients == pytest.approx(info["first_grad_norm"], rel=rtol, abs=1e-12)
    for name, parameter in generator.named_parameters():
        assert parameter.norm().item() == pytest.approx(info["final"]["norm"][name], rel=rtol)
        probe = torch.from_numpy(seeded().seeded_array(f"probe/{name}", tuple(parameter.shape)))
        assert float((parameter.detach() * probe).sum()) == pytest.approx(
            info["final"]["probe"][name], rel=rtol, abs=1e-9
        )


def drawn(chosen: TrainOptions, stop: int = 3) -> list[Batch]:
    """The batches that training would see."""
    return list(train_batches(training_set(chosen), chosen.train_dataset, stop=stop))


def fresh(chosen: TrainOptions) -> TrainState:
    torch.manual_seed(0)
    return state_of(chosen)


def weights(state: TrainState) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in state.generator.network.parameters()]


def test_micro_batches_and_repeated_samples_add_up(place: Path) -> None:
    whole, parts = options(place), options(place, "train:accumulate=3")
    (batch,) = drawn(whole, 1)
    one, two, three = (fresh(whole) for _ in range(3))
    results = [
        iterate(one, batch, whole), iterate(two, batch, parts), iterate(three, repeated(batch, 8), whole),
    ]  # fmt: skip
    for result in results[1:]:
        torch.testing.assert_close(result.losses, results[0].losses, rtol=1e-6, atol=0)
        torch.testing.assert_close(result.grad_norm, results[0].grad_norm, rtol=1e-5, atol=0)


def test_losses_of_points_fall_in_mixed_precision_too(place: Path) -> None:
    for amp in ("~", "bf16"):
        further = ("train:ema_decay=0.9", "train:mesa_opt={type: L1Loss}", "train:wave_opt={type: CharbonnierLoss}")
        chosen = options(place, f"train:amp={amp}", *further)
        state, (batch,) = fresh(chosen), drawn(chosen, 1)
        results = [iterate(state, batch, chosen) for _ in range(12)]
        assert set(results[-1].losses) == {"l_pix", "l_wave", "l_mesa"}
        assert float(results[-1].losses["l_pix"]) < 0.8 * float(results[0].losses["l_pix"])
        assert float(results[-1].losses["l_mesa"]) > 0


def test_half_precision_coordinates_are_refused(place: Path) -> None:
    chosen = options(place)
    (batch,) = drawn(chosen, 1)
    assert batch.queries is not None
    with pytest.raises(ValueError, match=r"coordinates \[4, Q, 2\].*float16"):
        fresh(chosen).generator.network(batch.lq, queries=Queries(*(tensor.half() for tensor in batch.queries)))
