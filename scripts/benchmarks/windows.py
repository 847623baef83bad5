"""Networks with window attention: the reference of the operator against the backend that "auto" takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch

from archs import build_network
from ops.registry import ENVIRONMENT
from scripts.benchmarks.measure import Comparison, Side, Work
from scripts.benchmarks.networks import forward, step

HAT_S: Mapping[str, object] = {
    "type": "HAT", "upscale": 4, "window_size": 16, "compress_ratio": 24, "squeeze_factor": 24, "conv_scale": 0.01,
    "depths": [6] * 6, "embed_dim": 144, "num_heads": [6] * 6, "mlp_ratio": 2, "upsampler": "pixelshuffle",
}  # fmt: skip
RGT_S: Mapping[str, object] = {
    "type": "RGT", "upscale": 4, "depth": [6] * 6, "embed_dim": 180, "num_heads": [6] * 6, "mlp_ratio": 2,
    "split_size": [8, 32], "c_ratio": 0.5,
}  # fmt: skip


def comparisons() -> list[Comparison]:
    """HAT-S and RGT-S; the baseline's masks are cached as ours are, which published code does not do."""
    found = []
    for name, configuration in (("hat_s", HAT_S), ("rgt_s", RGT_S)):
        label = name.upper().replace("_", "-")
        for height, width in ((64, 64), (128, 160)):
            found.append(
                Comparison(
                    f"networks/{name}_forward_{height}x{width}",
                    f"{label} x4, 1 x 3 x {height} x {width}, float32",
                    Side("reference attention", _forward(configuration, height, width, "reference")),
                    Side("auto", _forward(configuration, height, width, "auto")),
                    quick=False,
                )
            )
        found.append(
            Comparison(
                f"train/{name}",
                f"{label} x4, step, 2 x 3 x 48 x 48, float32",
                Side("reference attention", _step(configuration, "reference")),
                Side("auto", _step(configuration, "auto")),
                quick=False,
            )
        )
    return found


def _with_backend(work: Work, backend: str) -> Work:
    """The work with what "auto" means set for its duration."""

    def chosen() -> object:
        before = os.environ.get(ENVIRONMENT)
        os.environ[ENVIRONMENT] = backend
        try:
            return work()
        finally:
            del os.environ[ENVIRONMENT]
            if before is not None:
                os.environ[ENVIRONMENT] = before

    return chosen


def _forward(configuration: Mapping[str, object], height: int, width: int, backend: str) -> Callable[[], Work]:
    def prepare() -> Work:
        network = build_network(configuration)
        return _with_backend(forward(network, torch.rand(1, 3, height, width)), backend)

    return prepare


def _step(configuration: Mapping[str, object], backend: str) -> Callable[[], Work]:
    def prepare() -> Work:
        return _with_backend(step(build_network(configuration), torch.rand(2, 3, 48, 48), 4), backend)

    return prepare
