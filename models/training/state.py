"""All that changes while networks are trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from models.training.buffers import KeptBuffers
from models.training.ema import Tensors, tensors_of
from models.weights.fit import LoadReport


@dataclass
class Best:
    """The best value that a metric has reached on a validation set."""

    value: float
    step: int


@dataclass
class Player:
    """A network that is trained, with what trains it.

    Attributes:
        network: the trained weights.
        ema: their exponential moving average, or None.
        optimizer: over the network's parameters.
        scaler: of the loss, for float16; else None.
        start: what became of the weights of the file that it started from, for the log; else None.
    """

    network: nn.Module
    ema: nn.Module | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    start: LoadReport | None = None

    @cached_property
    def tensors(self) -> Tensors:
        """Of the network."""
        return tensors_of(self.network)

    @cached_property
    def ema_tensors(self) -> Tensors | None:
        """Of the EMA network, or None."""
        return None if self.ema is None else tensors_of(self.ema)

    @cached_property
    def buffers(self) -> KeptBuffers:
        """Those of the network, with room for what they were before an iteration."""
        return KeptBuffers.of(self.network)

    @property
    def evaluated(self) -> nn.Module:
        """The network to validate and to ship: the EMA weights where there are some."""
        return self.network if self.ema is None else self.ema


@dataclass
class TrainState:
    """The only object that training mutates: by the objective's step and by resuming.

    Attributes:
        players: the networks that are trained, by name, in the order in which checkpoints list them; "g" makes images.
        device: where all of them are.
        step: iterations done.
        epoch: of the first sample of the last batch.
        validated: the last iteration whose validation is complete (-1: none).
        skipped: iterations left out because of a loss that is not finite.
        moving: an iteration has begun to change the weights and is not done: they are those of no iteration.
        best: data set -> metric -> best value so far.
        unlogged: the figures of iteration ``step``, as ``metrics.jsonl`` has them, where not all places have got them
            (the disk was full); a run that goes on from here writes them. None: there are none, or all have them.
    """

    players: dict[str, Player]
    device: torch.device
    step: int = 0
    epoch: int = 0
    validated: int = -1
    skipped: int = 0
    moving: bool = False
    best: dict[str, dict[str, Best]] = field(default_factory=dict)
    unlogged: Mapping[str, Any] | None = None

    @property
    def generator(self) -> Player:
        """The player that makes images: what is validated and shipped."""
        return self.players["g"]

    def record(self, dataset: str, metric: str, value: float, better: str) -> Best | None:
        """The best value of a metric so far, ``value`` included; of equal ones the later wins.

        NaN is never the best: neither a value now nor one that an older state brought. None: there has been no other.
        """
        known = self.best.setdefault(dataset, {})
        if metric in known and math.isnan(known[metric].value):
            del known[metric]
        best = known.get(metric)
        if math.isnan(value):
            return best
        if best is None or (value >= best.value if better == "higher" else value <= best.value):
            known[metric] = Best(value, self.step)
        return known[metric]
