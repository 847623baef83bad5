"""Local attribution maps (LAM): which pixels of the LR image decide about the details in a window of the SR image.

Gu & Dong, *Interpreting Super-Resolution Networks with Local Attribution Maps*, CVPR 2021: integrated gradients of the
amount of detail in the window, along a path of less and less blurred LR images.

Shapes: C channels, h w low-resolution pixels, H W pixels of the SR image, b images of the path at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.attribution.diffusion import diffusion_index, gini
from analysis.attribution.objective import Flat, Window, detail
from analysis.attribution.path import BlurPath, Step
from analysis.microbatch import in_batches
from analysis.subjects import forward
from utils.devices import exact_device
from utils.errors import InputError

_NOTHING = 1e-16  # a step that changes no value by more cannot be seen in the sum of the others

Watch = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class Attribution:
    """The local attribution map of one window.

    Attributes:
        window: of the SR image.
        channels: A, what each value of the LR image adds to the objective, [C, h, w], float64.
        first: the objective of the most blurred image.
        last: that of the LR image.
        undefined: how often a value of a gradient was not a number, and was taken for 0.
        undefined_steps: at how many steps of the path that happened.
    """

    window: Window
    channels: NDArray[np.float64]
    first: float
    last: float
    undefined: int
    undefined_steps: int

    @property
    def signed(self) -> NDArray[np.float64]:
        """The sum of the channels, [h, w]."""
        total: NDArray[np.float64] = self.channels.sum(0)
        return total

    @property
    def map(self) -> NDArray[np.float64]:
        """The magnitude of the sum of the channels, divided by its maximum, [h, w]; zeros where all of it is 0."""
        magnitude = np.abs(self.signed)
        largest = magnitude.max()
        return magnitude / largest if largest > 0 else magnitude

    @property
    def gini(self) -> float:
        """Gini coefficient of the map."""
        return gini(self.map)

    @property
    def diffusion_index(self) -> float:
        """DI of the map: the larger, the more pixels take part."""
        return diffusion_index(self.map)

    @property
    def total(self) -> float:
        """The sum of A, which is near ``last - first``: how near says how fine the path is."""
        return float(self.channels.sum())


@dataclasses.dataclass(frozen=True)
class Attributed:
    """What :func:`attribute` finds for one LR image.

    Attributes:
        sr: the SR image of the LR image, [C, H, W], not clamped, on the CPU.
        windows: one map for each window, in their order.
        passes: images of the path that went through the network with gradients.
    """

    sr: Tensor
    windows: tuple[Attribution, ...]
    passes: int


class _Gradients(NamedTuple):
    """What a batch adds: A of its steps [windows, C, h, w], and per window and step the values that were undefined."""

    channels: Tensor
    undefined: Tensor


def attribute(
    network: nn.Module,
    lr: Tensor,
    windows: Sequence[Window],
    *,
    path: BlurPath | None = None,
    batch: int | None = None,
    flat: Flat = "drop",
    watch: Watch | None = None,
) -> Attributed:
    """Local attribution maps of windows of one SR image; the windows share the forward passes.

    ``A = sum_i dF/dI at I_{i+1} * (I_{i+1} - I_i)``, with F of :func:`analysis.attribution.objective.detail`; sums are
    float64. The network runs in evaluation mode. Steps that change nothing are left out.

    Args:
        network: meets :class:`archs.contract.SRNetwork`, or has at least a ``scale``; it computes in its own type.
        lr: [C, h, w] or [1, C, h, w], in [0, 1].
        windows: at least one, in pixels of the SR image.
        path: from the blurred image to the image; None: 50 steps, as published.
        batch: images of the path at a time, which changes the memory and not the maps; None: chosen by memory.
        flat: what to do where the SR image is flat in a window, see ``detail``; values of gradients that are not
            numbers count as 0 and are counted.
        watch: called with the number of steps that were just done.

    Raises:
        InputError: a window lies outside of the SR image, the image is too small for the path, or the network's output
            is not finite.
        FullMemoryError: the memory does not suffice for one image.
    """
    path = path or BlurPath()
    image = lr if lr.ndim == 3 else lr[0]
    like = next(network.parameters(), image)
    image = image.to(like.device)
    first, last = _ends(network, image, path, windows, like.dtype)
    steps = [step for step in range(path.steps) if _changes(path, image, step)]
    if watch is not None and len(steps) < path.steps:
        watch(path.steps - len(steps))

    def gradients(chosen: Sequence[int]) -> _Gradients:
        return _gradients(network, [path.step(image, step) for step in chosen], windows, like.dtype, flat)

    exact = exact_device(image.device)
    channels = torch.zeros(len(windows), *image.shape, dtype=torch.float64, device=exact)
    undefined = []
    for done, found in in_batches(gradients, steps, batch, like.device):
        channels += found.channels
        undefined.append(found.undefined)
        if watch is not None:
            watch(done)
    lost = torch.cat(undefined, 1) if undefined else torch.zeros(len(windows), 1)
    maps = [
        Attribution(
            window=window,
            channels=channels[k].cpu().numpy(),
            first=float(first.objectives[k]),
            last=float(last.objectives[k]),
            undefined=int(lost[k].sum()),
            undefined_steps=int((lost[k] > 0).sum()),
        )
        for k, window in enumerate(windows)
    ]
    return Attributed(last.sr, tuple(maps), len(steps))


class _End(NamedTuple):
    """An end of the path: the SR image [C, H, W] on the CPU, and the objective of each window."""

    sr: Tensor
    objectives: list[float]


def _ends(
    network: nn.Module, image: Tensor, path: BlurPath, windows: Sequence[Window], dtype: torch.dtype
) -> tuple[_End, _End]:
    """Both ends, without gradients; the windows and the output are checked on the way."""
    ends = []
    for i in (path.steps, 0):
        with torch.no_grad():
            sr = forward(network, path.image(image, i)[None].to(image.device, dtype))
        if not bool(sr.isfinite().all()):
            raise InputError(
                f"{type(network).__name__}: its output holds values that are not finite, so that nothing can be "
                "attributed to its input; are these the weights of this network?"
            )
        sr = sr.cpu()  # some devices have no float64
        ends.append(_End(sr[0], [float(detail(sr.double(), window)) for window in windows]))
    return ends[1], ends[0]


def _changes(path: BlurPath, image: Tensor, step: int) -> bool:
    return bool(path.step(image, step).change.abs().max() >= _NOTHING)


def _gradients(
    network: nn.Module, steps: Sequence[Step], windows: Sequence[Window], dtype: torch.dtype, flat: Flat
) -> _Gradients:
    """The gradients of the objective at images of the path, times the changes that lead there, summed."""
    device = next(network.parameters(), steps[0].image).device
    with torch.enable_grad():
        x = torch.stack([step.image for step in steps]).to(device, dtype).requires_grad_()  # [b, C, h, w]
        sr = forward(network, x)
        changes = torch.stack([step.change for step in steps])
        channels, undefined = [], []
        for k, window in enumerate(windows):
            objective = detail(sr, window, flat).sum()  # images of a batch do not see each other
            (gradient,) = torch.autograd.grad(objective, x, retain_graph=k + 1 < len(windows))
            known = gradient.isfinite()
            undefined.append((~known).sum((1, 2, 3)))
            channels.append((torch.where(known, gradient, 0).to(changes.device).double() * changes).sum(0))
    return _Gradients(torch.stack(channels), torch.stack(undefined).cpu())
