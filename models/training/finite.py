"""Losses and gradients that are not finite: no optimiser moves, and the run stops or counts them.

On the CPU the answer is known at once. On other devices asking would make the host wait in every iteration, so the
optimiser gets the answer as a tensor, as torch's fused optimisers take it from a gradient scaler, and the host asks
at the next log point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.training.optim import FUSED
from models.training.state import TrainState


class NonFiniteLossError(ArithmeticError):
    """The loss or the gradient of an iteration is infinite or not a number; the optimiser has left it out."""


@dataclass(frozen=True)
class Suspect:
    """An iteration whose flag nobody has looked at yet."""

    step: int
    bad: Tensor
    losses: Mapping[str, Tensor]
    grad_norm: Tensor
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
        return cls(deferred=fused and state.device.type != "cpu", skip=skip)

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


def _message(suspect: Suspect) -> str:
    terms = {name: float(value) for name, value in suspect.losses.items()}
    finite = all(value - value == 0 for value in terms.values())
    found = "; ".join(f"{name} = {value}" for name, value in terms.items())
    what = f"the gradient is not finite (norm {float(suspect.grad_norm)})" if finite else "the loss is not finite"
    return (
        f"{what} in iteration {suspect.step}: {found}; images: {', '.join(suspect.names)}. The optimiser has left the "
        "iteration out. Lower the learning rate, set train.grad_clip, look at these images, or set train.nonfinite: "
        "skip to leave such batches out"
    )
