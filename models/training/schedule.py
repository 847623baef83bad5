"""The learning rate as a pure function of the iteration, with BasicSR's curves.

Iterations count from 1; t = iteration - 1 is the number of schedule steps taken before it. Being a function, the
schedule has no state to save: a resumed run continues it exactly, and changed milestones take effect.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from functools import singledispatch
from typing import Any

from config.schedulers import CosineAnnealingLR, CosineAnnealingRestartLR, LinearLR, MultiStepLR
from config.schema import TrainingOptions


def learning_rate(options: TrainingOptions, base: float, iteration: int) -> float:
    """The rate in effect during an iteration.

    During warm-up (iteration < warmup_iter) it is ``base * iteration / warmup_iter``. After it, MultiStepLR continues
    from the rate in effect, base * (W - 1) / W, and has lost the milestones of the warm-up, as the published runs did;
    ``exact_warmup`` continues with the schedule's own value instead. The cosines and the line are not affected.

    Args:
        options: schedule, warm-up and total iterations.
        base: the optimiser's rate, or that of one parameter group.
        iteration: counted from 1.
    """
    if iteration < options.warmup_iter:
        return base * iteration / options.warmup_iter
    t = iteration - 1
    if isinstance(options.scheduler, MultiStepLR) and options.warmup_iter > 1 and not options.exact_warmup:
        first = options.warmup_iter - 1
        return _multi_step(options.scheduler, base, base * first / options.warmup_iter, first, t)
    return _rate(options.scheduler, base, t, options.total_iter)


@singledispatch
def _rate(schedule: object, base: float, t: int, total: int) -> float:
    raise TypeError(f"no learning rate is defined for {type(schedule).__name__}")


@_rate.register
def _(schedule: MultiStepLR, base: float, t: int, total: int) -> float:
    return _multi_step(schedule, base, base, 0, t)


@_rate.register
def _(schedule: CosineAnnealingRestartLR, base: float, t: int, total: int) -> float:
    start, cycle = 0, 0
    # A cycle's end belongs to it: the next one begins one step into its cosine (BasicSR).
    while cycle + 1 < len(schedule.periods) and t > start + schedule.periods[cycle]:
        start += schedule.periods[cycle]
        cycle += 1
    period = schedule.periods[cycle]
    elapsed = min(t - start, period)  # past the last end the minimum holds
    share = 0.5 * (1 + math.cos(math.pi * elapsed / period))
    return schedule.eta_min + schedule.restart_weights[cycle] * (base - schedule.eta_min) * share


@_rate.register
def _(schedule: CosineAnnealingLR, base: float, t: int, total: int) -> float:
    return schedule.eta_min + (base - schedule.eta_min) * 0.5 * (1 + math.cos(math.pi * t / schedule.T_max))


@_rate.register
def _(schedule: LinearLR, base: float, t: int, total: int) -> float:
    return base * max(0.0, 1 - t / total)


def _multi_step(schedule: MultiStepLR, base: float, rate: float, first: int, t: int) -> float:
    """The rate at step ``t`` when ``rate`` is in effect before step ``first``: restarts set it, milestones scale it."""
    milestones = Counter(schedule.milestones)
    restarts = dict(zip(schedule.restarts, schedule.restart_weights, strict=True))
    for event in sorted({*milestones, *restarts}):
        if not first <= event <= t:
            continue
        rate = base * restarts[event] if event in restarts else rate * schedule.gamma ** milestones[event]
    return rate


def scheduler_state(options: TrainingOptions, bases: list[float], step: int) -> dict[str, Any]:
    """The entry ``schedulers`` of BasicSR's training states, for its tools; ours needs none of it."""
    fields = {field.name: getattr(options.scheduler, field.name) for field in dataclasses.fields(options.scheduler)}
    if "milestones" in fields:
        fields["milestones"] = Counter(fields["milestones"])
    rates = [learning_rate(options, base, max(step, 1)) for base in bases]
    return {**fields, "base_lrs": bases, "last_epoch": max(step - 1, 0), "_step_count": step, "_last_lr": rates}
