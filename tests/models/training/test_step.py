"""What the iterations of all objectives consist of."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from archs import build_network
from data.loader import Batch
from models.training.finite import FiniteGuard
from tests.states import iterate, options, state_of

ESC = {
    "type": "ESC", "dim": 8, "pdim": 4, "kernel_size": 7, "n_blocks": 1, "conv_blocks": 1, "window_size": 8,
    "num_heads": 2, "exp_ratio": 1.25, "upscaling_factor": 2, "attn_type": "Naive",
}  # fmt: skip


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("kind", ["Adam", "AdamW", "SGD"])
def test_what_a_network_has_kept_is_computed_again_after_an_iteration(place: Path, kind: str, deferred: bool) -> None:
    """ESC keeps kernels for passes without gradients; torch's fused optimisers do not say that they have written."""
    text = (place / "train.yml").read_text()
    (place / "train.yml").write_text(text.replace("type: Adam, lr: 2e-3, betas: [0.9, 0.99]", f"type: {kind}, lr: 0.1"))
    chosen = options("train:ema_decay=0")
    torch.manual_seed(0)
    state = state_of(chosen, build_network(ESC))
    network = state.generator.network
    lq, gt = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = network(lq)
    iterate(state, Batch.of_pair(lq, gt, ("a",), epoch=0), chosen, guard=FiniteGuard(deferred=deferred, skip=False))
    with torch.no_grad():
        assert torch.equal(network(lq), copy.deepcopy(network)(lq))  # a copy has kept nothing
        assert not torch.equal(network(lq), before)
