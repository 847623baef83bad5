"""The learning-rate schedules of an option file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from utils.checked import Checked
from utils.typed import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchedulerOptions(Checked):
    """How the learning rate changes; t counts iterations from 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiStepLR(SchedulerOptions):
    """Multiplied by gamma at each milestone; set to weight * lr at each restart."""

    milestones: tuple[int, ...] = option(
        "iterations after which the rate is multiplied; one given twice counts twice", minimum=0
    )
    gamma: float = option("the factor", 0.1, above=0, maximum=1000)
    restarts: tuple[int, ...] = option(
        "iterations at which the rate is set anew; as many as restart_weights", (0,), minimum=0
    )
    restart_weights: tuple[float, ...] = option("lr is multiplied by this at each restart", (1.0,), above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineAnnealingRestartLR(SchedulerOptions):
    """Cosine cycles, each from weight * lr to eta_min."""

    periods: tuple[int, ...] = option("iterations of each cycle; together at least total_iter", minimum=1)
    restart_weights: tuple[float, ...] = option("lr is multiplied by this in each cycle", (1.0,), above=0)
    eta_min: float = option("learning rate at the end of a cycle", 0.0, minimum=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CosineAnnealingLR(SchedulerOptions):
    """One cosine from lr to eta_min (torch's CosineAnnealingLR)."""

    T_max: int = option("iterations until the minimum is reached; after it the rate rises again", minimum=1)
    eta_min: float = option("learning rate at the minimum", 0.0, minimum=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearLR(SchedulerOptions):
    """A straight line from lr to 0 at total_iter."""


SCHEDULERS: Mapping[str, type[SchedulerOptions]] = {
    "MultiStepLR": MultiStepLR,
    "MultiStepRestartLR": MultiStepLR,
    "CosineAnnealingRestartLR": CosineAnnealingRestartLR,
    "CosineAnnealingLR": CosineAnnealingLR,
    "TrueCosineAnnealingLR": CosineAnnealingLR,
    "LinearLR": LinearLR,
}
