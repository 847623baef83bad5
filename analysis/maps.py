"""What networks compute inside, as pictures: importance maps and gates, alphas, kernels, feature maps.

PlainUSR's local importance attention (Wang et al., ACCV 2024), RGT's hybrid adaptive integration, HAI (Chen et al.,
ICLR 2024), the kernels of ESC's convolutional attention (Lee et al., ICCV 2025).

Shapes: C channels, h w low-resolution pixels; p filtered channels and k side of the large kernel of ESC.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.subjects import forward
from archs.contract import contract_of
from archs.esc.blocks import DecomposedKernel, LargeKernel
from archs.esc.network import Encoder
from archs.plainusr.blocks import FullResolutionAttention, LocalImportanceAttention
from archs.rgt.attention import RectangleWindowAttention
from archs.rgt.network import Block
from utils.errors import InputError

Kind = Literal["importance", "hai", "kernels", "features"]
Array = NDArray[np.float64]

SHOWS: dict[Kind, str] = {
    "importance": "importance map and gate of each local importance attention (PlainUSR)",
    "hai": "alphas of hybrid adaptive integration by block and channel (RGT)",
    "kernels": "shared and generated kernels of the convolutional attentions (ESC)",
    "features": "feature maps of each group: energy, principal components, channels",
}


def kinds_of(network: nn.Module) -> tuple[Kind, ...]:
    """The kinds of maps that a network has."""
    holds: dict[Kind, tuple[type[nn.Module], ...]] = {
        "importance": (LocalImportanceAttention, FullResolutionAttention),
        "hai": (Block,),
        "kernels": (LargeKernel, DecomposedKernel),
    }
    there = [
        kind for kind, classes in holds.items() if any(isinstance(module, classes) for module in network.modules())
    ]
    return (*there, "features")


def check_kind(network: nn.Module, kind: str, name: str) -> None:
    """Raise InputError, naming the maps that there are, unless a network of a name has maps of a kind."""
    known = kinds_of(network)
    if kind not in known:
        raise InputError(f"{name} ({type(network).__name__}) has no {kind} maps; it has {' and '.join(known)}")


@dataclass(frozen=True)
class ImportanceMap:
    """What one attention of PlainUSR does with an image.

    Attributes:
        name: of the module.
        importance: mean over channels of the map, at the features' size, in (0, 1), [h, w].
        least: of the map over channels and pixels.
        most: likewise.
        gate: sigmoid of feature channel 0, [h, w].
    """

    name: str
    importance: Array
    least: float
    most: float
    gate: Array

    @property
    def weight(self) -> Array:
        """Gate times mean importance: by what a pixel's features are multiplied on average, [h, w]."""
        return self.gate * self.importance


def importance_maps(network: nn.Module, x: Tensor) -> list[ImportanceMap]:
    """Importance and gate of every attention of a PlainUSR, in depth order.

    Args:
        network: with local importance attentions, or the one at full resolution.
        x: one image, [1, c, h, w].
    """
    found: list[ImportanceMap] = []

    def see(name: str, module: nn.Module, features: Tensor) -> None:
        assert isinstance(module, LocalImportanceAttention | FullResolutionAttention)
        importance, gate = module.importance(features)[0], torch.sigmoid(features[0, 0])
        found.append(
            ImportanceMap(
                name, _array(importance.mean(0)), float(importance.min()), float(importance.max()), _array(gate)
            )
        )

    _before_each(network, x, (LocalImportanceAttention, FullResolutionAttention), see)
    return found


@dataclass(frozen=True)
class Alphas:
    """The alphas of one block of an RGT: what its input counts when it is added to its result.

    Attributes:
        name: of the parameter.
        attention: of the block: L-SA in rectangular windows, RG-SA with representatives.
        values: one for each channel, [C].
    """

    name: str
    attention: Literal["L-SA", "RG-SA"]
    values: Array

    @property
    def statistics(self) -> dict[str, float]:
        """Mean, population standard deviation, least, median, largest."""
        values = self.values
        return {
            "mean": float(values.mean()), "std": float(values.std()), "min": float(values.min()),
            "median": float(np.median(values)), "max": float(values.max()),
        }  # fmt: skip


def alphas(network: nn.Module) -> list[Alphas]:
    """The alphas of an RGT's blocks in depth order; of the weights alone, no image is needed."""
    return [
        Alphas(
            f"{name}.gamma", "L-SA" if isinstance(module.attn, RectangleWindowAttention) else "RG-SA",
            _array(module.gamma),
        )
        for name, module in network.named_modules()
        if isinstance(module, Block)
    ]  # fmt: skip


def shared_kernel(network: nn.Module) -> Array:
    """The large kernel that all layers of an ESC share, root mean square over pairs of channels: [k, k].

    Of ESC the symmetric kernel; of ESC-FP the product of its matrix and its depthwise kernels.
    """
    encoder = next(module for module in network.modules() if isinstance(module, Encoder))
    kernels = [kernel.detach().cpu().double() for kernel in encoder.shared_kernels()]
    if len(kernels) == 1:
        return _array(kernels[0].square().mean((0, 1)).sqrt())
    matrix, spatial = kernels  # [p, p, 1, 1], [p, 1, k, k]
    by_output = matrix.square().mean((1, 2, 3))  # [p]
    return _array((by_output[:, None, None] * spatial[:, 0].square()).mean(0).sqrt())


@dataclass(frozen=True)
class DynamicKernels:
    """The kernels that one convolutional attention generates from an image.

    Attributes:
        name: of the attention.
        kernels: one for each filtered channel, [p, 3, 3].
    """

    name: str
    kernels: Array


def dynamic_kernels(network: nn.Module, x: Tensor) -> list[DynamicKernels]:
    """The generated kernels of every convolutional attention of an ESC, in depth order, for one image [1, c, h, w]."""
    found: list[DynamicKernels] = []

    def see(name: str, module: nn.Module, features: Tensor) -> None:
        assert isinstance(module, LargeKernel | DecomposedKernel)
        found.append(DynamicKernels(name.rpartition(".")[0], _array(module.generated(features)[0])))

    _before_each(network, x, (LargeKernel, DecomposedKernel), see)
    return found


def energy(features: Tensor) -> Array:
    """Root mean square over channels, from the 1st to the 99th percentile of the pixels as 0 to 1, clipped.

    Args:
        features: [C, h, w].

    Returns:
        [h, w]; zeros where all pixels are equal.
    """
    values = np.sqrt(np.mean(_array(features) ** 2, 0))
    low, high = np.percentile(values, (1, 99))
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)


@dataclass(frozen=True)
class Components:
    """Features seen along the directions in which pixels differ most.

    Attributes:
        picture: the first three components as red, green and blue in [0, 1], [h, w, 3].
        explained: share of the variance that each of them has, largest first.
    """

    picture: Array
    explained: tuple[float, ...]


def components(features: Tensor) -> Components:
    """The first three principal components of features [C, h, w]; pixels are the samples.

    Eigenvectors of the covariance of the channels, such that the entry of largest magnitude is positive; a projection p
    becomes ``0.5 + p / (6 s)``, clipped, with s the standard deviation of all three. Of less than three channels, the
    missing ones are 0.5.
    """
    values = _array(features)
    count, height, width = values.shape
    pixels = values.reshape(count, -1).T
    pixels = pixels - pixels.mean(0)
    variances, vectors = np.linalg.eigh(pixels.T @ pixels / len(pixels))
    first = vectors[:, ::-1][:, :3]
    first = first * np.where(first[np.abs(first).argmax(0), np.arange(first.shape[1])] < 0, -1.0, 1.0)
    projected = np.zeros((len(pixels), 3))
    projected[:, : first.shape[1]] = pixels @ first
    spread = projected.std()
    picture = np.clip(0.5 + (projected / (6 * spread) if spread > 0 else projected), 0, 1)
    total = float(variances.sum())
    shares = tuple(float(value) / total if total > 0 else 0.0 for value in variances[::-1][:3])
    return Components(picture.reshape(height, width, 3), shares)


def channel_grid(features: Tensor, columns: int | None = None, most: int = 64) -> tuple[Array, float]:
    """The first channels side by side on one symmetric scale.

    Args:
        features: [C, h, w].
        columns: of the grid; None for about as many as rows.
        most: channels that are shown.

    Returns:
        The grid [rows*(h+1)-1, columns*(w+1)-1] in [-1, 1] with NaN between channels and where there are none, and the
        magnitude that is 1.
    """
    values = _array(features)[:most]
    count, height, width = values.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    largest = float(np.abs(values).max())
    grid = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan)
    for number, channel in enumerate(values):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        grid[top : top + height, left : left + width] = channel / largest if largest > 0 else channel
    return grid, largest


def _before_each(
    network: nn.Module,
    x: Tensor,
    classes: tuple[type[nn.Module], ...],
    see: Callable[[str, nn.Module, Tensor], None],
) -> None:
    """Run a network and call ``see`` with the name, the module and its first input, before each module of a class."""
    if x.ndim != 4 or len(x) != 1:
        raise InputError(f"maps are made of one image [1, {contract_of(network).channels}, h, w], got {list(x.shape)}")
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, classes):

            def hook(module: nn.Module, inputs: Any, name: str = name) -> None:
                see(name, module, inputs[0].detach())

            handles.append(module.register_forward_pre_hook(hook))
    try:
        with torch.no_grad():
            forward(network, x)
    finally:
        for handle in handles:
            handle.remove()


def _array(x: Tensor) -> Array:
    return np.asarray(x.detach().cpu().double().numpy(), np.float64)
