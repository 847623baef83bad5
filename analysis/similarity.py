"""How alike the features of layers are: linear centred kernel alignment (CKA), and cosine per pixel.

CKA: Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019. With the unbiased estimator of
HSIC, averaged over batches: Nguyen et al., Do Wide and Deep Networks Learn the Same Things?, ICLR 2021.

Shapes: L layers, n samples, d values of a sample; B images, C channels, h w low-resolution pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.features import each_map
from utils.devices import exact_device
from utils.errors import InputError

LEAST = 4
"""Samples that the estimator needs; 8 or more are wise."""
_CHUNK = 1 << 22  # values that are in float64 at a time


@dataclass(frozen=True)
class Layers:
    """What belongs to the rows and columns of a matrix.

    Attributes:
        names: of modules.
        values: d, numbers that a sample has in each.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]


@dataclass(frozen=True)
class Similarity:
    """What :func:`similarity` finds; rows belong to one network, columns to the same one or another.

    Attributes:
        rows: layers of the one.
        columns: layers of the other.
        cka: [rows, columns], NaN where it is not defined: where a layer's own HSIC is not positive.
        samples: n of a batch, largest.
        batches: over which HSIC is averaged.
    """

    rows: Layers
    columns: Layers
    cka: NDArray[np.float64]
    samples: int
    batches: int


class HSICMean:
    """Averages the HSIC of all pairs of layers over batches, and divides once.

    Unbiased (Song et al., 2012, equation 5): with the Gram matrices K, L of n samples, their diagonals 0,
    ``[sum K*L + sum(K) sum(L) / ((n-1)(n-2)) - 2/(n-2) rowsums(K).rowsums(L)] / (n(n-3))``.
    """

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.batches = 0

    def add_grams(self, grams: Tensor) -> None:
        """A batch by its Gram matrices.

        Args:
            grams: [L, n, n], float64, with any diagonal.

        Raises:
            InputError: n is below LEAST.
        """
        n = grams.shape[-1]
        check_samples(n)
        hollow = grams - torch.diag_embed(grams.diagonal(dim1=1, dim2=2))
        rows = hollow.flatten(1)
        self._add(rows @ rows.t(), hollow.sum(2), n)

    def add_features(self, features: Sequence[Tensor]) -> None:
        """A batch of more samples than values, by the features themselves: no Gram matrix [n, n] is made.

        Args:
            features: [n, d] of each layer, the same n.

        Raises:
            InputError: n is below LEAST.
        """
        n = features[0].shape[0]
        check_samples(n)
        exact = [layer.to(exact_device(layer.device), torch.float64) for layer in features]
        exact = [layer - layer.mean(0) for layer in exact]  # as in gram
        squares = torch.stack([layer.square().sum(1) for layer in exact])  # the diagonals, [L, n]
        row_sums = torch.stack([layer @ layer.sum(0) for layer in exact]) - squares
        products = -squares @ squares.t()
        for i, first in enumerate(exact):
            for j in range(i + 1):
                products[i, j] += (first.t() @ exact[j]).square().sum()
                products[j, i] = products[i, j]
        self._add(products, row_sums, n)

    def _add(self, products: Tensor, row_sums: Tensor, n: int) -> None:
        """The sums of K*L over all pairs of samples [L, L], the row sums [L, n]."""
        sums = row_sums.sum(1)
        hsic = products + sums[:, None] * sums / ((n - 1) * (n - 2)) - 2 / (n - 2) * row_sums @ row_sums.t()
        hsic = hsic / (n * (n - 3))
        self.total = hsic if self.total is None else self.total + hsic
        self.batches += 1

    @property
    def hsic(self) -> NDArray[np.float64]:
        """The means, [L, L].

        Raises:
            InputError: nothing was added.
        """
        if self.total is None:
            raise InputError("no batch of samples: CKA needs at least one")
        return np.asarray((self.total / self.batches).cpu().numpy(), np.float64)

    def cka(self) -> NDArray[np.float64]:
        """[L, L]; NaN in the rows and columns of layers whose own HSIC is not positive."""
        hsic = self.hsic
        own = hsic.diagonal()
        norm = np.sqrt(np.where(own > 0, own, np.nan))
        return np.asarray(hsic / (norm[:, None] * norm), np.float64)


def check_samples(n: int) -> None:
    """Raise InputError unless CKA is defined for batches of n samples."""
    if n < LEAST:
        raise InputError(f"CKA needs at least {LEAST} samples in a batch, better 8 or more; got {n}")


def gram(features: Tensor) -> Tensor:
    """The products of all pairs of samples less their mean: [n, ...] -> [n, n] in float64, in pieces of d.

    HSIC does not depend on a constant that all samples share, and loses fewer digits without.
    """
    flat = features.flatten(1)
    n, d = flat.shape
    device = exact_device(flat.device)
    total = torch.zeros(n, n, dtype=torch.float64, device=device)
    for part in flat.split(max(1, min(d, _CHUNK // n)), 1):
        exact = part.to(device, torch.float64)
        exact = exact - exact.mean(0)
        total.addmm_(exact, exact.t())
    return total


def similarity(
    networks: Sequence[nn.Module], names: Sequence[Sequence[str]], batches: Sequence[Iterable[Tensor]]
) -> Similarity:
    """CKA between layers of one network, or of two; images are the samples.

    In memory are the Gram matrices of all layers for one batch, and the features of one layer.

    Args:
        networks: one, or two.
        names: of modules, for each network.
        batches: for each network the same images [n, c, h, w], of one size, at least 4 in a batch.

    Raises:
        InputError: a batch is too small, or a module makes no map.
    """
    mean = HSICMean()
    values: list[dict[str, int]] = [{} for _ in networks]
    samples = 0
    for images in zip(*batches, strict=True):
        check_samples(len(images[0]))
        samples = max(samples, len(images[0]))
        grams: list[Tensor] = []
        for network, chosen, x, numbers in zip(networks, names, images, values, strict=True):
            grams += _grams(network, chosen, x, numbers)
        mean.add_grams(torch.stack([one.to(grams[0].device) for one in grams]))
    return _between(mean.cka(), names, values, samples, mean.batches)


def _grams(network: nn.Module, names: Sequence[str], x: Tensor, values: dict[str, int]) -> list[Tensor]:
    found: dict[str, Tensor] = {}

    def take(name: str, features: Tensor) -> None:
        found[name] = gram(features)
        values[name] = features[0].numel()

    each_map(network, x, names, take)
    return [found[name] for name in names]


def _between(
    cka: NDArray[np.float64],
    names: Sequence[Sequence[str]],
    values: Sequence[dict[str, int]],
    samples: int,
    batches: int,
) -> Similarity:
    """The part of the matrix of all layers that is wanted: of one network, or across two."""
    layers = [
        Layers(tuple(chosen), tuple(numbers[name] for name in chosen))
        for chosen, numbers in zip(names, values, strict=True)
    ]
    rows = len(layers[0].names)
    part = cka if len(layers) == 1 else cka[:rows, rows:]
    return Similarity(layers[0], layers[-1], part, samples, batches)


@dataclass(frozen=True)
class PixelSimilarity:
    """What :func:`pixel_similarity` finds.

    Attributes:
        similarity: CKA with pixels as samples; each image is a batch.
        cosine: [rows, columns], mean over pixels; NaN between layers of different widths.
    """

    similarity: Similarity
    cosine: NDArray[np.float64]


def pixel_similarity(
    networks: Sequence[nn.Module], names: Sequence[Sequence[str]], images: Sequence[Iterable[Tensor]]
) -> PixelSimilarity:
    """CKA with the pixels of an image as samples, and the mean cosine of the pixels' channel vectors.

    In memory are the features of all layers for one image.

    Args:
        networks: one, or two.
        names: of modules whose maps have one size.
        images: for each network the same images [1, c, h, w].

    Raises:
        InputError: maps have different sizes or less than 4 pixels, or a module makes no map.
    """
    mean = HSICMean()
    cosines: list[NDArray[np.float64]] = []
    values: list[dict[str, int]] = [{} for _ in networks]
    samples = 0
    for one in zip(*images, strict=True):
        features: list[Tensor] = []
        for network, chosen, x, numbers in zip(networks, names, one, values, strict=True):
            features += _pixels(network, chosen, x, numbers)
        sizes = sorted({len(layer) for layer in features})
        if len(sizes) > 1:
            raise InputError(f"pixels are compared of maps of one size; these have {sizes[0]} to {sizes[-1]} pixels")
        features = [layer.to(features[0].device) for layer in features]
        samples = max(samples, sizes[0])
        mean.add_features(features)
        cosines.append(_cosines(features))
    rows = len(names[0])
    cosine = np.mean(cosines, 0) if len(networks) == 1 else np.mean(cosines, 0)[:rows, rows:]
    return PixelSimilarity(_between(mean.cka(), names, values, samples, mean.batches), np.asarray(cosine))


def _pixels(network: nn.Module, names: Sequence[str], x: Tensor, values: dict[str, int]) -> list[Tensor]:
    """The features of one image, [h*w, C] of each module."""
    found: dict[str, Tensor] = {}

    def take(name: str, features: Tensor) -> None:
        found[name] = features[0].flatten(1).t().clone()
        values[name] = features.shape[1]

    each_map(network, x, names, take)
    return [found[name] for name in names]


def _cosines(features: Sequence[Tensor]) -> NDArray[np.float64]:
    """Mean cosine of the rows of each pair [n, C]."""
    count = len(features)
    found = np.full((count, count), np.nan)
    normal = [F.normalize(layer.to(exact_device(layer.device), torch.float64), dim=1) for layer in features]
    for i, first in enumerate(normal):
        for j, second in enumerate(normal[: i + 1]):
            if first.shape == second.shape:
                found[i, j] = found[j, i] = float((first * second).sum(1).mean())
    return found
