"""Losses and gradients that are not finite: no optimiser moves, and the run stops or counts them.

On the CPU the answer is known at once. On devices that compute while the host goes on, asking would make it wait in
every iteration, so the optimiser gets the answer as a tensor, as torch's fused optimisers take it from a gradient
scaler, and the host asks at the next log point. Where a device has no fused optimisers that do so, the host waits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.training.optim import FUSED
from models.training.state import TrainState
from utils.devices import abilities


class NonFiniteLossError(ArithmeticError):
    """The loss or the gradient of an iteration is infinite or not a number; the optimiser has left it out."""


@dataclass(frozen=True)
class Suspect:
    """An iteration whose flag nobody has looked at yet.

    Attributes:
        step: its number.
        bad: the flag, on the device.
        losses: player -> its loss terms by log name.
        grad_norms: player -> norm of its gradient.
        names: the images.
    """

    step: int
    bad: Tensor
    losses: Mapping[str, Mapping[str, Tensor]]
    grad_norms: Mapping[str, Tensor]
    names: Sequence[str]


@dataclass
class FiniteGuard:
    """Watches the iterations of a run.

    Attributes:
        deferred: look at log points only; False: at every iteration.
        skip: count iterations that are not finite instead of stopping at the first.
    """

    deferred: bool
    skip: bool
    pending: list[Suspect] = field(default_factory=list)

    @classmethod
    def create(cls, state: TrainState, *, skip: bool) -> FiniteGuard:
        """Deferred where the host would wait for the device and the optimisers can leave out a step by themselves."""
        optimizers = [player.optimizer for player in state.players.values()]
        fused = all(
            isinstance(optimizer, FUSED) and all(group.get("fused") for group in optimizer.param_groups)
            for optimizer in optimizers
        )
        return cls(deferred=fused and abilities(state.device).asynchronous, skip=skip)

    def watch(self, suspect: Suspect) -> None:
        """Remember an iteration until :meth:`check`."""
        self.pending.append(suspect)

    def check(self) -> int:
        """Look at all iterations since the last call; waits for the device once.

        Returns:
            How many of them were left out.

        Raises:
            NonFiniteLossError: there are any, and they are not to be skipped.
        """
        pending, self.pending = self.pending, []
        if not pending:
            return 0
        if not bool(torch.stack([suspect.bad for suspect in pending]).any()):  # the one time that the host waits
            return 0
        bad = [suspect for suspect in pending if bool(suspect.bad)]
        if bad and not self.skip:
            raise NonFiniteLossError(_message(bad[0]))
        return len(bad)


_ROLES = {"g": "generator", "d": "discriminator"}


def _message(suspect: Suspect) -> str:
    terms = {(player, name): float(value) for player, own in suspect.losses.items() for name, value in own.items()}
    bad = [key for key, value in terms.items() if not math.isfinite(value)]
    what, whose = "the loss", [f"{name} of the {_ROLES[player]}" for player, name in bad]
    if not bad:
        norms = {player: float(norm) for player, norm in suspect.grad_norms.items()}
        bad = [(player, "") for player, norm in norms.items() if not math.isfinite(norm)]
        what, whose = "the gradient", [f"that of the {_ROLES[player]}, norm {norms[player]}" for player, _ in bad]
    found = "; ".join(f"{name} = {value}" for (_, name), value in terms.items())
    clip = "train.grad_clip_d" if {player for player, _ in bad} == {"d"} else "train.grad_clip"
    return (
        f"{what} is not finite in iteration {suspect.step} ({'; '.join(whose)}): {found}; images: "
        f"{', '.join(suspect.names)}. No optimiser has moved. "
        f"Lower the learning rate, set {clip}, look at these images, or set train.nonfinite: skip to leave such "
        "batches out"
    )
