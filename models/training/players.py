"""From options to players: networks with their first weights, EMA, optimiser, and loss scaler."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from inspect import signature

import torch
from torch import nn

import archs
from config.optimizers import OptimOptions
from config.schema import TrainOptions
from config.values import Pretrained
from models.training.ema import make_ema
from models.training.optim import build_optimizer
from models.training.state import Player
from models.weights.files import load_pretrained, load_pretrained_ema
from models.weights.layout import to_channels_last
from utils.errors import InputError


@dataclass(frozen=True)
class PlayerOptions:
    """What an option file says about one of the networks that are trained.

    Attributes:
        name: of the player.
        network: type and arguments, as ``build`` takes them.
        optim: its optimiser.
        ema_decay: of its EMA weights; 0: none are kept.
        pretrained: the weights that it starts from, if any.
        build: makes the network.
    """

    name: str
    network: Mapping[str, object]
    optim: OptimOptions
    ema_decay: float
    pretrained: Pretrained | None
    build: Callable[[Mapping[str, object]], nn.Module] = archs.build_network


def generator_options(options: TrainOptions) -> PlayerOptions:
    """The player "g", which every training has: network_g, optim_g, EMA, pretrain_network_g.

    Raises:
        InputError: its activations are to be recomputed, which it cannot.
    """
    network = options.network_g.as_mapping()
    if options.train.checkpoint_activations:
        if not can_recompute(options.network_g.type):
            raise InputError(
                f"train.checkpoint_activations: {options.network_g.type} cannot compute its blocks twice; leave the "
                "key out, or use train.accumulate to save memory"
            )
        network["use_checkpoint"] = True
    return PlayerOptions("g", network, options.train.optim_g, options.train.ema_decay, options.path.pretrained_g)


def discriminator_options(options: TrainOptions) -> PlayerOptions:
    """The player "d" of an adversarial training: network_d, optim_d, pretrain_network_d; it has no EMA."""
    network, optim = options.network_d, options.train.optim_d
    assert network is not None  # the reader has looked
    assert optim is not None
    return PlayerOptions("d", network.as_mapping(), optim, 0.0, options.path.pretrained_d, archs.build_discriminator)


def can_recompute(network: str) -> bool:
    """Whether a type of networks can compute its activations again instead of keeping them."""
    return "use_checkpoint" in signature(archs.network_class(network)).parameters


def build_players(
    described: Mapping[str, PlayerOptions],
    options: TrainOptions,
    device: torch.device,
    resumed: Collection[str] = (),
) -> dict[str, Player]:
    """The players of a training before its first iteration, or before a checkpoint is put into them.

    Args:
        described: what they are made of, by name.
        options: precision, memory layout, weight decay.
        device: where they go.
        resumed: names of those whose weights come from a checkpoint: their pretrained files are not read.

    Raises:
        InputError: a pretrained file cannot be read or does not fit.
    """
    players = {}
    for name, own in described.items():
        network = own.build(own.network)
        pretrained = None if name in resumed else own.pretrained
        start = None if pretrained is None else load_pretrained(network, pretrained)
        players[name] = make_player(network, own, options, device)
        players[name].start = start
        ema = players[name].ema
        if pretrained is not None and ema is not None:
            load_pretrained_ema(ema, pretrained)
    return players


def make_player(network: nn.Module, own: PlayerOptions, options: TrainOptions, device: torch.device) -> Player:
    """A network with all that training adds to it; moves the network to the device."""
    network = network.to(device)
    if options.channels_last:
        network = to_channels_last(network)
    ema = make_ema(network) if own.ema_decay > 0 else None
    optimizer = build_optimizer(
        own.optim, network, decay_all=options.train.decay_norms_and_biases, key=f"optim_{own.name}"
    )
    scaler = torch.amp.GradScaler(device.type) if options.train.amp == "fp16" else None
    return Player(network, ema, optimizer, scaler)
