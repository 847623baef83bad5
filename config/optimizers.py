"""The optimisers of an option file, with the arguments that torch's have."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from utils.checked import Checked
from utils.errors import InputError
from utils.typed import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimOptions(Checked):
    """An optimiser of torch.optim; defaults are torch's."""

    lr: float = option("learning rate; the schedule starts from it", above=0, maximum=1000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adam(OptimOptions):
    """Adam."""

    weight_decay: float = option("factor of the L2 term in the gradient", 0.0, minimum=0, maximum=1000)
    betas: tuple[float, float] = option(
        "decay of the running means of gradient and squared gradient", (0.9, 0.999), minimum=0, below=1
    )
    eps: float = option("added to the denominator", 1e-8, minimum=0, maximum=1)
    amsgrad: bool = option("divide by the largest squared gradient so far", False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay."""

    weight_decay: float = option("the weights shrink by lr * weight_decay per iteration", 0.01, minimum=0, maximum=1000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adamax(OptimOptions):
    """Adam with the infinity norm; its rate is usually 2e-3."""

    weight_decay: float = option("factor of the L2 term in the gradient", 0.0, minimum=0, maximum=1000)
    betas: tuple[float, float] = option(
        "decay of the running mean of the gradient and of its norm", (0.9, 0.999), minimum=0, below=1
    )
    eps: float = option("added to the denominator", 1e-8, minimum=0, maximum=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SGD(OptimOptions):
    """Stochastic gradient descent."""

    weight_decay: float = option("factor of the L2 term in the gradient", 0.0, minimum=0, maximum=1000)
    momentum: float = option("momentum", 0.0, minimum=0, below=1)
    dampening: float = option("dampening of the momentum", 0.0, minimum=0, below=1)
    nesterov: bool = option("Nesterov's momentum", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (self.momentum == 0 or self.dampening != 0):
            raise InputError(
                f"nesterov: true needs a momentum above 0, and dampening 0; got momentum {self.momentum:g} and "
                f"dampening {self.dampening:g}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ASGD(OptimOptions):
    """Averaged stochastic gradient descent (ASGD)."""

    weight_decay: float = option("factor of the L2 term in the gradient", 0.0, minimum=0, maximum=1000)
    lambd: float = option("decay term", 1e-4, minimum=0, maximum=1)
    alpha: float = option("power of the rate's decay", 0.75, minimum=0, maximum=1000)
    t0: float = option("iteration at which averaging starts", 1e6, minimum=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RMSprop(OptimOptions):
    """RMSprop."""

    weight_decay: float = option("factor of the L2 term in the gradient", 0.0, minimum=0, maximum=1000)
    alpha: float = option("decay of the running mean of the squared gradient", 0.99, minimum=0, below=1)
    eps: float = option("added to the denominator", 1e-8, minimum=0, maximum=1)
    momentum: float = option("momentum", 0.0, minimum=0, below=1)
    centered: bool = option("divide by the variance instead of the mean square", False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rprop(OptimOptions):
    """Resilient propagation, for batches that hold everything."""

    etas: tuple[float, float] = option("factors of the step for a changed and for an unchanged sign", (0.5, 1.2))
    step_sizes: tuple[float, float] = option("smallest and largest step", (1e-6, 50.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.etas[0] < 1 < self.etas[1]:
            raise InputError(f"etas: expected one between 0 and 1 and one above 1, got {list(self.etas)}")
        if not 0 < self.step_sizes[0] <= self.step_sizes[1]:
            raise InputError(f"step_sizes: expected the smaller one first, above 0, got {list(self.step_sizes)}")


OPTIMIZERS: Mapping[str, type[OptimOptions]] = {
    optimizer.__name__: optimizer for optimizer in (Adam, AdamW, Adamax, SGD, ASGD, RMSprop, Rprop)
}
