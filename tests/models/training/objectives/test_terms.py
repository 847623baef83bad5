"""All losses of an option file: names, targets, weights over time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from config.schema import Target
from data import usm_sharpen
from data.loader import Batch
from models.training.objectives import build_objective
from models.training.objectives.terms import GeneratorTerms, total_of, with_sharpened
from tests.runs import adversarial
from tests.states import CPU, iterate, options, state_of
from utils.errors import InputError


def images(seed: int, side: int = 32) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def terms_of(*edits: str) -> GeneratorTerms:
    return GeneratorTerms(options(*edits), CPU)


NAMED = "train:losses=[{type: FFTLoss, loss_weight: 0.1}, {type: L1Loss, name: sharp, target: gt_usm}]"


def test_each_loss_of_the_file_is_a_term(place: Path) -> None:
    terms = terms_of("train:wave_opt={type: MSELoss}", NAMED)
    assert terms.targets == {"gt", "gt_usm"}
    output, targets = images(1), {"gt": images(2), "gt_usm": images(3)}
    found = terms(output, targets, None, 1)
    assert list(found) == ["pix", "wave", "fft", "sharp"]
    torch.testing.assert_close(found["pix"], (output - targets["gt"]).abs().mean())
    torch.testing.assert_close(found["sharp"], (output - targets["gt_usm"]).abs().mean())


@pytest.mark.parametrize(
    "edits", [("train:fft_opt={type: FFTLoss}", NAMED), ("train:losses=[{type: L1Loss, name: pix}]",)]
)
def test_two_losses_of_one_name_are_refused(place: Path, edits: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r'"(fft|pix)"'):
        terms_of(*edits)


@pytest.mark.parametrize(("step", "factor"), [(1, 0.0), (10, 0.0), (15, 0.5), (20, 1.0), (99, 1.0)])
def test_the_weight_of_a_loss_follows_its_schedule(place: Path, step: int, factor: float) -> None:
    terms = terms_of("train:wave_opt={type: MSELoss, weight_schedule: [[10, 0], [20, 1]]}")
    output, gt = images(1), images(2)
    found = terms(output, {"gt": gt}, None, step)
    torch.testing.assert_close(found["wave"].double(), factor * ((output - gt) ** 2).mean())


def test_a_loss_of_weight_0_leaves_a_gradient_of_0(place: Path) -> None:
    terms = terms_of("train:pixel_opt:weight_schedule=[[5, 0], [6, 1]]")
    output = images(1).requires_grad_()
    total_of(terms(output, {"gt": images(2)}, None, 1), output).backward()
    assert output.grad is not None
    assert not output.grad.any()
    chosen = options("train:pixel_opt:weight_schedule=[[5, 0], [6, 1]]")
    state = state_of(chosen)
    batch = Batch.of_pair(images(1, 8).float(), images(2, 16).float(), ("a", "b"), epoch=0)
    assert float(iterate(state, batch, chosen).losses["l_pix"]) == 0


def test_means_are_weighted_by_their_share_and_sums_are_not(place: Path) -> None:
    terms = terms_of("train:wave_opt={type: MSELoss, reduction: sum}")
    output, gt = images(1), images(2)
    whole, part = (terms(output, {"gt": gt}, None, 1, share=share) for share in (1.0, 0.25))
    assert float(part["pix"]) == pytest.approx(float(whole["pix"]) / 4)
    assert float(part["wave"]) == float(whole["wave"])


def test_mesa_begins_at_its_part_of_the_training(place: Path) -> None:
    terms = terms_of("train:mesa_opt={type: L1Loss, start_ratio: 0.5}")  # of 12 iterations
    assert [terms.needs_ema(step) for step in (5, 6)] == [False, True]
    assert terms.full_step == 6
    output, average = images(1), images(3)
    early, late = (terms(output, {"gt": images(2)}, average, step) for step in (5, 6))
    assert float(early["mesa"]) == 0
    torch.testing.assert_close(late["mesa"], (output - average).abs().mean())


@pytest.mark.parametrize(
    ("points", "step"),
    [("[[0, 0], [10, 1]]", 1), ("[[3, 0], [10, 0], [20, 1], [30, 0]]", 11), ("[[5, 1], [9, 0]]", 1)],
)
def test_what_is_measured_is_an_iteration_of_all_losses(place: Path, points: str, step: int) -> None:
    terms = terms_of(f"train:wave_opt={{type: MSELoss, weight_schedule: {points}}}")
    assert terms.full_step == step
    found = terms(images(1), {"gt": images(2)}, None, terms.full_step)
    assert all(float(value) > 0 for value in found.values())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_sharpened_targets_are_made_where_a_loss_asks(place: Path, layout: torch.memory_format) -> None:
    gt = images(2).contiguous(memory_format=layout)
    batch = with_sharpened(Batch.of_pair(images(1), gt, ("a", "b"), epoch=0))
    assert batch.targets["gt_usm"].is_contiguous(memory_format=layout)
    torch.testing.assert_close(batch.targets["gt_usm"], usm_sharpen(images(2)), rtol=0, atol=0)
    assert batch.targets["gt"] is gt
    whole = list(batch.micro_batches(2))
    assert torch.equal(torch.cat([part.targets["gt_usm"] for part in whole]), batch.targets["gt_usm"])


@pytest.mark.parametrize(("model", "sharpened"), [("RealESRGANModel", "gt_usm"), ("SRGANModel", "gt")])
def test_targets_follow_the_file_in_the_real_models_alone(place: Path, model: str, sharpened: Target) -> None:
    (place / "train.yml").write_text(adversarial((place / "train.yml").read_text()))
    losses = [f"train:{key}={{type: L1Loss}}" for key in ("wave_opt", "fft_opt", "ldl_opt", "mesa_opt")]
    chosen = dataclasses.replace(
        options(*losses), model_type=model, l1_gt_usm=True, percep_gt_usm=False, gan_gt_usm=True
    )
    found = {term.name: term.target for term in GeneratorTerms(chosen, CPU).terms}
    assert found == {**dict.fromkeys(("pix", "wave", "fft"), sharpened), "ldl": "gt", "mesa": "gt"}
    assert chosen.target_of("percep") == "gt"
    assert f"real images: {sharpened})" in "\n".join(build_objective(chosen, state_of(chosen)).summary())


def test_the_plan_of_a_training_names_its_losses(place: Path) -> None:
    (place / "train.yml").write_text(adversarial((place / "train.yml").read_text()))
    scheduled = "train:pixel_opt:weight_schedule=[[0, 0], [5000, 0.5]]"
    terms = terms_of(NAMED, "train:mesa_opt={type: L1Loss, loss_weight: 2}", "train:ldl_opt={type: L1Loss}", scheduled)
    assert terms.described("l_g_") == [
        "l_g_pix (L1Loss, weight 1 times 0 at 0, 0.5 at 5,000, gt)",
        "l_g_ldl (L1Loss, weight 1, gt)",
        "l_g_mesa (L1Loss, weight 2, output of the EMA weights)",
        "l_g_fft (FFTLoss, weight 0.1, gt)",
        "l_g_sharp (L1Loss, weight 1, gt_usm)",
    ]


@pytest.mark.parametrize("kind", ["SGD", "Adamax"])
def test_only_adam_has_moments_to_reset(place: Path, kind: str) -> None:
    text = (place / "train.yml").read_text()
    (place / "train.yml").write_text(text.replace("type: Adam, lr: 2e-3, betas: [0.9, 0.99]", f"type: {kind}, lr: 0.1"))
    with pytest.raises(InputError, match=rf"train[.:]reset_momentum_iter: {kind} keeps other moments"):
        state_of(options("train:reset_momentum_iter=2"))
