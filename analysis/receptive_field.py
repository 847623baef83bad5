"""The effective receptive field (ERF): how far a network looks from the centre of an image.

Ding et al., *Scaling Up Your Kernels to 31x31*, CVPR 2022; for super-resolution networks without resizing and
normalisation.

Shapes: B images, c channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.features import each_map
from analysis.microbatch import in_batches
from analysis.subjects import forward
from utils.errors import InputError

OUTPUT = "output"
"""The target that is the SR image itself."""

SHARES = (0.2, 0.3, 0.5, 0.99)
"""The shares of all contributions whose areas are reported."""

Watch = Callable[[int], None]


class Area(NamedTuple):
    """The square around the centre that holds a share of all contributions.

    Attributes:
        side: of the square, before it is cut at the borders.
        r: its part inside the image, divided by the image.
    """

    side: int
    r: float


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of a target.

    Attributes:
        target: name of the module, or :data:`OUTPUT`.
        matrix: E [h, w], float64: the mean over the images of the positive gradients, summed over the channels.
        images: that it is the mean of.
        left_out: images whose gradients were not finite.
    """

    target: str
    matrix: NDArray[np.float64]
    images: int
    left_out: int

    @property
    def logarithm(self) -> NDArray[np.float64]:
        """``log10(E + 1)`` divided by its maximum, [h, w]: what pictures and the published areas use."""
        values = np.log10(self.matrix + 1)
        scaled: NDArray[np.float64] = values / values.max()
        return scaled

    def areas(self, *, logarithm: bool) -> dict[float, Area]:
        """The area of each share, of ``log10(E + 1)`` as published, or of E itself.

        The logarithm depends on the scale of the output, which the areas of E do not.
        """
        values = self.logarithm if logarithm else self.matrix
        return {share: area(values, share) for share in SHARES}


def area(values: NDArray[np.float64], share: float) -> Area:
    """The smallest square around ``(h // 2, w // 2)`` that holds more than a share of the sum of [h, w].

    Its side is 3 at least. It is cut at the borders, and grows until it holds the whole image; the published search
    stops at the first border.

    Raises:
        ValueError: the sum is not above 0, or ``share`` not in [0, 1).
    """
    h, w = values.shape
    total = float(values.sum())
    if not total > 0 or not 0 <= share < 1:
        raise ValueError(f"no square holds more than the share {share} of a sum of {total}")
    y, x = h // 2, w // 2
    for reach in range(1, max(h, w) + 1):
        part = values[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        if part.sum() > share * total or part.size == values.size:
            return Area(2 * reach + 1, part.size / values.size)
    raise AssertionError("the last square is the whole image")


def receptive_fields(
    network: nn.Module,
    images: Iterable[Tensor],
    targets: Sequence[str] = (OUTPUT,),
    *,
    batch: int | None = None,
    watch: Watch | None = None,
) -> list[ReceptiveField]:
    """Effective receptive fields of several targets, which share the forward passes.

    Of each image: the gradient of ``sum over channels of max(T, 0)`` at the centre of the target's map T; its positive
    values, summed over the channels of the image. Negative outputs and negative gradients do not count.

    Args:
        network: meets :class:`archs.contract.SRNetwork`; it runs in evaluation mode and computes in its own type.
        images: [1, c, h, w] each, in [0, 1], all of one size; at most some batches are held at a time.
        targets: :data:`OUTPUT` and names of modules, see :func:`analysis.features.names_of`. The output holds the skip
            connection of the image, which puts a peak into the centre; modules in the body do not.
        batch: images at a time, which changes the memory and not the result; None: chosen by memory.
        watch: called with the number of images that were just done.

    Raises:
        InputError: images differ in size, a target is no map of the image, or nothing contributes to it.
        FullMemoryError: the memory does not suffice for one image.
    """
    sums: dict[str, Tensor] = {}
    counts = dict.fromkeys(targets, 0)
    seen = 0
    for done, gradients in _batched(network, images, targets, batch):
        seen += done
        for target, gradient in gradients.items():  # [B, c, h, w]
            usable = gradient.isfinite().all(-1).all(-1).all(-1)
            counts[target] += int(usable.sum())
            total = gradient[usable].double().clamp(min=0).sum((0, 1))
            sums[target] = sums[target] + total if target in sums else total
        if watch is not None:
            watch(done)
    if not seen:
        raise InputError("an effective receptive field needs at least one image")
    return [_field(network, target, sums[target], counts[target], seen) for target in targets]


def _field(network: nn.Module, target: str, total: Tensor, count: int, seen: int) -> ReceptiveField:
    if not count:
        raise InputError(f"{type(network).__name__}: no gradient of {target} is finite; are these its weights?")
    if not bool((total > 0).any()):
        raise InputError(
            f"{type(network).__name__}: no pixel contributes to {target}, which is not above 0 in the centre of any "
            "image; choose another module"
        )
    return ReceptiveField(target, (total / count).numpy(), count, seen - count)


_AT_A_TIME = 64  # images that are held before they are cut into batches


def _batched(
    network: nn.Module, images: Iterable[Tensor], targets: Sequence[str], batch: int | None
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """How many images were done, and the gradients of each target, [B, c, h, w] on the CPU."""
    first: Tensor | None = None
    like = next(network.parameters(), None)
    for chosen in _in_parts(images, _AT_A_TIME):
        first = chosen[0] if first is None else first
        for image in chosen:
            if image.shape != first.shape:
                raise InputError(
                    "an effective receptive field is a mean over images of one size; these have "
                    f"{first.shape[-1]} x {first.shape[-2]} and {image.shape[-1]} x {image.shape[-2]} pixels"
                )
        device = chosen[0].device if like is None else like.device
        yield from in_batches(lambda part: _gradients(network, torch.cat(list(part)), targets), chosen, batch, device)


def _in_parts(images: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    part: list[Tensor] = []
    for image in images:
        part.append(image)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _gradients(network: nn.Module, images: Tensor, targets: Sequence[str]) -> dict[str, Tensor]:
    like = next(network.parameters(), images)
    features = [target for target in targets if target != OUTPUT]
    found: dict[str, Tensor] = {}
    with torch.enable_grad():
        x = images.to(like.device, like.dtype).requires_grad_()
        centres: dict[str, Tensor] = {}

        def take(name: str, output: Tensor) -> None:
            centres[name] = _centre(output)

        if features:
            each_map(network, x, features, take)
        if OUTPUT in targets:
            take(OUTPUT, forward(network, x))
        for name, centre in centres.items():  # images of a batch do not see each other
            found[name] = torch.zeros_like(x).cpu()
            if centre.requires_grad:  # else nothing in it depends on the image
                found[name] = torch.autograd.grad(
                    centre, x, retain_graph=True, allow_unused=True, materialize_grads=True
                )[0].cpu()
    return found


def _centre(output: Tensor) -> Tensor:
    """What counts of a map [B, C, h, w]: positive values of the centre pixels, summed."""
    return output[:, :, output.shape[-2] // 2, output.shape[-1] // 2].relu().sum()
