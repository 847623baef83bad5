"""The density of an attribution map: a weighted Gaussian kernel density on the grid of its pixels.

Shapes: h w low-resolution pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SINGULAR = 1e-12  # of the determinant of the covariance, in pixels to the fourth


def density(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian kernel density [h, w] at every pixel, with a map [h, w] as weights and Scott's bandwidth.

    One convolution with an untruncated Gaussian, by FFT with zero padding; exact but for rounding. A map whose pixels
    lie on one line or in one point has no covariance to be smoothed with: it is returned divided by its sum. That of a
    map of zeros is zero.
    """
    h, w = weights.shape
    total = weights.sum()
    if total <= 0:
        return np.zeros((h, w))
    p: NDArray[np.float64] = weights / total
    places = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1).reshape(-1, 2).astype(np.float64)  # column, row
    flat = p.reshape(-1)
    squares = float((flat**2).sum())  # 1 / effective number of pixels
    if squares >= 1:
        return p
    away = places - flat @ places
    covariance = (flat[:, None] * away).T @ away / (1 - squares) * squares ** (1 / 3)
    determinant = np.linalg.det(covariance)
    if determinant < _SINGULAR:
        return p
    inverse = np.linalg.inv(covariance)
    # Offsets 0 .. h-1, then -(h-1) .. -1: circular with 2h-1 rows, no two offsets between pixels fall together.
    rows, columns = (np.fft.fftfreq(2 * length - 1, 1 / (2 * length - 1)) for length in (h, w))
    v, u = rows[:, None], columns[None, :]
    kernel = np.exp(-0.5 * (inverse[0, 0] * u**2 + 2 * inverse[0, 1] * u * v + inverse[1, 1] * v**2))
    kernel /= 2 * np.pi * np.sqrt(determinant)
    size = (2 * h - 1, 2 * w - 1)
    smooth = np.fft.irfft2(np.fft.rfft2(p, size) * np.fft.rfft2(kernel), size)
    return np.maximum(smooth[:h, :w], 0)  # rounding leaves values below zero where there is nothing
