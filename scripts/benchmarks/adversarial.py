"""An iteration of adversarial training against the sum of its parts: two networks, features, two optimisers, EMA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch.nn import functional

from archs import build_discriminator, build_network
from losses import PerceptualLossOptions
from losses.vgg import shapes_of
from models.training.ema import make_ema, tensors_of, update_ema
from scripts.benchmarks.measure import Comparison, Side, Work
from scripts.benchmarks.networks import U
from scripts.benchmarks.training import kept_folder, loop_of

BATCH, PATCH, WIDTH = 4, 24, 64
_LAYERS = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
_DISCRIMINATOR: dict[str, object] = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": WIDTH}


def _escaped(mapping: Mapping[str, object]) -> str:
    """A mapping in YAML, for a template that is formatted later."""
    return "{{" + ", ".join(f"{key}: {value}" for key, value in mapping.items()) + "}}"


_OPTIONS = f"""\
name: adversarial
model_type: SRGANModel
scale: 4
num_gpu: {{gpus}}
manual_seed: 0
datasets:
  train:
    name: photographs
    type: PairedImageDataset
    dataroot_gt: {{images}}
    io_backend: {{{{type: memory}}}}
    gt_size: {4 * PATCH}
    batch_size_per_gpu: {BATCH}
    num_worker_per_gpu: 0
    dataset_enlarge_ratio: 100
    prefetch_mode: cpu
network_g: {{network}}
network_d: {_escaped(_DISCRIMINATOR)}
path: {{{{experiments_root: {{folder}}}}}}
train:
  ema_decay: 0.999
  optim_g: {{{{type: Adam, lr: 1e-4, betas: [0.9, 0.99]}}}}
  optim_d: {{{{type: Adam, lr: 1e-4, betas: [0.9, 0.99]}}}}
  scheduler: {{{{type: MultiStepLR, milestones: [400000]}}}}
  total_iter: 1000000
  pixel_opt: {{{{type: L1Loss}}}}
  perceptual_opt:
    type: PerceptualLoss
    layer_weights: {_escaped(_LAYERS)}
    vgg_weights: {{folder}}/vgg19.pth
  gan_opt: {{{{type: GANLoss, gan_type: vanilla, loss_weight: 0.1}}}}
logger: {{{{print_freq: 1, save_checkpoint_freq: 1000000, use_tb_logger: false}}}}
"""


def comparisons() -> list[Comparison]:
    """One row."""
    size = 4 * PATCH
    return [
        Comparison(
            "train/gan_step",
            f"PlainUSR-U x4 beside UNetDiscriminatorSN ({WIDTH}), VGG-19, {BATCH} x 3 x {size} x {size}, float32",
            Side("the passes, Adam twice, average", parts),
            Side("train.py's loop, images in memory", trainer_step),
            quick=False,
        )
    ]


def parts() -> Work:
    """Every pass that an iteration needs, in the published order, on one batch."""
    network, judge = build_network(U).train(), build_discriminator(_DISCRIMINATOR).train()
    averages, values = tensors_of(make_ema(network)), tensors_of(network)
    lq, gt = torch.rand(BATCH, 3, PATCH, PATCH), torch.rand(BATCH, 3, 4 * PATCH, 4 * PATCH)
    weights = _write_vgg(kept_folder() / "vgg19.pth")
    features = PerceptualLossOptions(layer_weights=_LAYERS, vgg_weights=weights).build(lq.device)
    generating, judging = (
        torch.optim.Adam(one.parameters(), lr=1e-4, betas=(0.9, 0.99), fused=True) for one in (network, judge)
    )

    def work() -> None:
        judge.requires_grad_(False)
        generating.zero_grad()
        output = network(lq)
        loss = functional.l1_loss(output, gt) + sum(features.terms(output, gt).values())
        (loss + 0.1 * functional.softplus(-judge(output)).mean()).backward()
        generating.step()
        judge.requires_grad_(True)
        judging.zero_grad()
        functional.softplus(-judge(gt)).mean().backward()
        functional.softplus(judge(output.detach())).mean().backward()
        judging.step()
        update_ema(averages, values, 0.999)

    return work


def trainer_step() -> Work:
    """All that ``train.py`` does in an iteration that logs, and neither validates nor saves."""
    return loop_of(_OPTIONS, 1, lambda folder: _write_vgg(folder / "vgg19.pth"))


def _write_vgg(path: Path) -> Path:
    """A weights file of VGG-19 with random values: their speed is that of the true ones."""
    with torch.device("cpu"):
        torch.save({name: torch.randn(shape) / 100 for name, shape in shapes_of("vgg19").items()}, path)
    return path
