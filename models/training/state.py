"""All that changes while a network is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from config.schema import TrainOptions
from models.training.ema import Tensors, make_ema, tensors_of
from models.training.optim import build_optimizer
from models.weights.layout import to_channels_last


@dataclass
class Best:
    """The best value that a metric has reached on a validation set."""

    value: float
    step: int


@dataclass
class TrainState:
    """The only object that training mutates, by ``train_step`` and by resuming.

    Attributes:
        network: what is trained.
        ema: its moving average, or None.
        optimizer: over the network's parameters.
        device: where all of them are.
        scaler: of the loss, for float16; else None.
        step: iterations done.
        epoch: of the first sample of the last batch.
        validated: the last iteration whose validation is complete (-1: none).
        skipped: iterations left out because of a loss that is not finite.
        best: data set -> metric -> best value so far.
    """

    network: nn.Module
    ema: nn.Module | None
    optimizer: torch.optim.Optimizer
    device: torch.device
    scaler: torch.amp.GradScaler | None = None
    step: int = 0
    epoch: int = 0
    validated: int = -1
    skipped: int = 0
    best: dict[str, dict[str, Best]] = field(default_factory=dict)

    @classmethod
    def create(cls, network: nn.Module, options: TrainOptions, device: torch.device) -> TrainState:
        """The state before the first iteration; moves the network to the device."""
        network = network.to(device)
        if options.channels_last:
            network = to_channels_last(network)
        ema = make_ema(network) if options.train.ema_decay > 0 else None
        optimizer = build_optimizer(options.train.optim_g, network, decay_all=options.train.decay_norms_and_biases)
        scaler = torch.amp.GradScaler(device.type) if options.train.amp == "fp16" else None
        return cls(network, ema, optimizer, device, scaler)

    @cached_property
    def tensors(self) -> Tensors:
        """Of the network."""
        return tensors_of(self.network)

    @cached_property
    def averages(self) -> Tensors | None:
        """Of the moving average, or None."""
        return None if self.ema is None else tensors_of(self.ema)

    @property
    def evaluated(self) -> nn.Module:
        """The network to validate and to ship: the average where there is one."""
        return self.network if self.ema is None else self.ema

    def record(self, dataset: str, metric: str, value: float, better: str) -> Best:
        """The best value of a metric so far, ``value`` included; of equal ones the later wins."""
        known = self.best.setdefault(dataset, {})
        best = known.get(metric)
        if best is None or (value >= best.value if better == "higher" else value <= best.value):
            known[metric] = Best(value, self.step)
        return known[metric]
