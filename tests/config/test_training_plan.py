"""The plan of a training names optimisers, every loss with its weight, schedule and target, and whose turn it is."""

from __future__ import annotations

from pathlib import Path

import torch

import config
from config.training_plan import planned_losses, training_plan
from models.training.objectives.terms import GeneratorTerms
from tests.config.files import GAN, TRAIN, write

PERCEPTUAL = "{type: PerceptualLoss, layer_weights: {conv1_2: 0.1, relu2_1: 1}, style_weight: 2, criterion: l2}"
LISTED = (
    "[{type: FFTLoss, weight_schedule: [[0, 0], [50, 1]], target: gt_usm}, {type: L1Loss, name: again, loss_weight: 2}]"
)


def test_the_plan_of_two_players(tmp_path: Path) -> None:
    edits = [
        f"train:perceptual_opt={PERCEPTUAL}",
        "train:ldl_opt={type: L1Loss}",
        f"train:losses={LISTED}",
        "train:net_d_iters=2",
        "train:net_d_init_iters=10",
        "gan_gt_usm=true",
        "l1_gt_usm=false",
    ]
    vgg = "vgg19 (conv1_2 0.1, relu2_1 1), l2"
    assert training_plan(config.read(write(tmp_path, GAN), edits, mode="train")) == [
        "optimiser: Adam of network_g at 0.0001, Adam of network_d at 0.0002; MultiStepLR",
        "loss l_g_pix: L1Loss, weight 1, against the ground truth",
        "loss l_g_ldl: L1Loss, weight 1, where there are artefacts, against the ground truth",
        f"loss l_g_percep: features of {vgg}, weight 1, against the sharpened ground truth",
        f"loss l_g_style: style of {vgg}, weight 2, against the sharpened ground truth",
        "loss l_g_gan: GAN (vanilla), weight 0.1",
        "loss l_g_fft: FFTLoss, weight 1 times 0 at 0, 1 at 50, against the sharpened ground truth",
        "loss l_g_again: L1Loss, weight 2, against the ground truth",
        "network_d tells outputs from the sharpened ground truth",
        "network_d is trained in every iteration, network_g in one of 2, from 11 on",
    ]


def test_the_plan_of_one_player_names_the_losses_that_are_computed(tmp_path: Path) -> None:
    edits = [
        "train:wave_opt={type: MSELoss, loss_weight: 0.5}",
        "train:fft_opt={type: FFTLoss}",
        "train:mesa_opt={type: L1Loss, start_ratio: 0.1}",
        "train:ema_decay=0.9",
        "train:losses=[{type: WaveletLoss}]",
    ]
    options = config.read(write(tmp_path, TRAIN), edits, mode="train")
    lines = training_plan(options)
    assert lines[0] == "optimiser: Adam of network_g at 0.0002; MultiStepLR"
    assert "loss l_mesa: L1Loss, weight 1, against the output of the EMA weights, from iteration 500 on" in lines
    built = [f"l_{name}" for term in GeneratorTerms(options, torch.device("cpu")).terms for name in term.names]
    assert [loss.name for loss in planned_losses(options)] == built
    assert len(lines) == 1 + len(built)
