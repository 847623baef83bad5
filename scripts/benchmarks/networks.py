"""Networks: forward passes and training steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from archs import build_network
from archs.plainusr import PlainUSR, fold
from models.weights.layout import to_channels_last
from scripts.benchmarks.measure import Comparison, Side, Work

U: Mapping[str, object] = {"type": "PlainUSR_ultra", "n_feat": 16, "im_feat": [16, 8], "scale": 4}
BASE: Mapping[str, object] = {
    "type": "PlainUSR_general", "n_feat": 64, "im_feat": [64, 48, 32], "attn_feat": 16, "scale": 4,
}  # fmt: skip


def forward(network: nn.Module, x: Tensor) -> Work:
    """One evaluation of ``x``."""
    network.eval()

    def work() -> Tensor:
        with torch.inference_mode():
            result: Tensor = network(x)
        return result

    return work


def step(network: nn.Module, x: Tensor, scale: int, *, fused: bool = True) -> Work:
    """One training step: L1, backward, Adam: ``fused`` as trainings of this project take it, or torch's default."""
    network.train()
    target = torch.rand(*x.shape[:2], x.shape[2] * scale, x.shape[3] * scale)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, fused=fused or None)

    def work() -> None:
        optimizer.zero_grad()
        functional.l1_loss(network(x), target).backward()
        optimizer.step()

    return work


def plainusr(configuration: Mapping[str, object], *, fold_on_the_fly: bool) -> PlainUSR:
    """A train-form PlainUSR."""
    network = build_network({**configuration, "fold_on_the_fly": fold_on_the_fly})
    assert isinstance(network, PlainUSR)
    return network


def comparisons() -> list[Comparison]:
    """PlainUSR: branches against folding, contiguous against channels-last."""
    found = []
    for name, configuration in (("U", U), ("base", BASE)):
        found += [
            Comparison(
                f"networks/plainusr_{name}_forward",
                f"PlainUSR-{name} x4, 1 x 3 x 180 x 320, float32",
                Side("branches", _forward(configuration, folded=False)),
                Side("folded", _forward(configuration, folded=True), keeps_memory="evaluation"),
                quick=name == "U",
            ),
            Comparison(
                f"train/plainusr_{name}",
                f"PlainUSR-{name} x4, step, 4 x 3 x 48 x 48, float32",
                Side("branches", _step(configuration, fold_on_the_fly=False)),
                Side("fold on the fly", _step(configuration, fold_on_the_fly=True), keeps_memory="training"),
                quick=name == "U",
            ),
        ]
    found.append(
        Comparison(
            "train/plainusr_U_channels_last",
            "PlainUSR-U x4, step, 16 x 3 x 24 x 24, float32",
            Side("contiguous", _step(U, shape=(16, 3, 24, 24))),
            Side("channels_last", _step(U, shape=(16, 3, 24, 24), channels_last=True)),
            quick=False,
        )
    )
    return found


def _forward(configuration: Mapping[str, object], *, folded: bool) -> Callable[[], Work]:
    def prepare() -> Work:
        network = plainusr(configuration, fold_on_the_fly=False)
        return forward(fold(network) if folded else network, torch.rand(1, 3, 180, 320))

    return prepare


def _step(
    configuration: Mapping[str, object],
    *,
    fold_on_the_fly: bool = True,
    shape: tuple[int, ...] = (4, 3, 48, 48),
    channels_last: bool = False,
) -> Callable[[], Work]:
    def prepare() -> Work:
        network = plainusr(configuration, fold_on_the_fly=fold_on_the_fly)
        x = torch.rand(shape)
        if channels_last:
            network, x = to_channels_last(network), x.contiguous(memory_format=torch.channels_last)
        return step(network, x, 4)

    return prepare
