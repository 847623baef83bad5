"""Networks with window attention: the published formulas against the backends that "auto" takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import torch
from torch import nn

from archs import build_network
from ops import Memo
from ops.cache import forget_constants
from ops.registry import ENVIRONMENT
from scripts.benchmarks.formulas.build import by_formulas
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
PFT_LIGHT: Mapping[str, object] = {
    "type": "PFT", "upscale": 4, "embed_dim": 52, "depths": [2, 4, 6, 6, 6], "num_heads": 4, "window_size": 32,
    "num_topk": [*[1024] * 2, *[256] * 4, *[128] * 6, *[64] * 6, *[32] * 6], "convffn_kernel_size": 7, "mlp_ratio": 1,
    "upsampler": "pixelshuffledirect",
}  # fmt: skip
ESC: Mapping[str, object] = {
    "type": "ESC", "dim": 64, "pdim": 16, "kernel_size": 13, "n_blocks": 5, "conv_blocks": 5, "window_size": 32,
    "num_heads": 4, "exp_ratio": 1.25, "upscaling_factor": 4,
}  # fmt: skip


def comparisons() -> list[Comparison]:
    """HAT-S, RGT-S, ESC and PFT-light.

    The baseline of HAT and RGT is their published formulas (scripts/benchmarks/formulas), trained by torch's Adam as it
    is by default, with the memory of a script that sets nothing.
    """
    found = _esc() + _pft()
    # 120 x 160 pixels; HAT takes whole windows of 16.
    for name, configuration, sizes in (
        ("hat_s", HAT_S, ((64, 64), (128, 160))),
        ("rgt_s", RGT_S, ((64, 64), (120, 160))),
    ):
        label = name.upper().replace("_", "-")
        for height, width in sizes:
            found.append(
                Comparison(
                    f"networks/{name}_forward_{height}x{width}",
                    f"{label} x4, 1 x 3 x {height} x {width}, float32",
                    Side("published formulas", _forward_by_formulas(configuration, height, width)),
                    Side("auto", _forward(configuration, height, width, "auto"), keeps_memory="evaluation"),
                    quick=False,
                )
            )
        found.append(
            Comparison(
                f"train/{name}",
                f"{label} x4, step, 2 x 3 x 48 x 48, float32",
                Side("published formulas", _step_by_formulas(configuration)),
                Side("auto", _step(configuration, "auto"), keeps_memory="training"),
                quick=False,
            )
        )
    return found


def _esc() -> list[Comparison]:
    """ESC by what its option ``attn_type`` asks for."""
    naive = {**ESC, "attn_type": "Naive"}
    return [
        Comparison(
            "networks/esc_forward_180x320",
            "ESC x4, 1 x 3 x 180 x 320, float32",
            Side("Naive", lambda: forward(build_network(naive), torch.rand(1, 3, 180, 320))),
            Side("auto", lambda: forward(build_network(ESC), torch.rand(1, 3, 180, 320)), keeps_memory="evaluation"),
            quick=False,
        ),
        Comparison(
            "train/esc",
            "ESC x4, step, 4 x 3 x 64 x 64, float32",
            Side("Naive", lambda: step(build_network(naive), torch.rand(4, 3, 64, 64), 4)),
            Side("auto", lambda: step(build_network(ESC), torch.rand(4, 3, 64, 64), 4), keeps_memory="training"),
            quick=False,
        ),
    ]


def _pft() -> list[Comparison]:
    """PFT-light by the published formulas, and by what "auto" takes."""
    return [
        Comparison(
            "networks/pft_light_forward_64x64",
            "PFT-light x4, 1 x 3 x 64 x 64, float32",
            Side("published formulas", _forward(PFT_LIGHT, 64, 64, "reference")),
            Side("auto", _forward(PFT_LIGHT, 64, 64, "auto"), keeps_memory="evaluation"),
            quick=False,
        ),
        Comparison(
            "train/pft_light",
            "PFT-light x4, step, 1 x 3 x 64 x 64, float32",
            Side("published formulas", _step(PFT_LIGHT, "reference", (1, 3, 64, 64))),
            Side("auto", _step(PFT_LIGHT, "auto", (1, 3, 64, 64)), keeps_memory="training"),
            quick=False,
        ),
    ]


def with_backend(work: Work, backend: str) -> Work:
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


def _afresh(work: Work, network: nn.Module) -> Work:
    """The work with nothing kept from an earlier call."""
    memos = [value for module in network.modules() for value in vars(module).values() if isinstance(value, Memo)]

    def forgetful() -> object:
        forget_constants()
        for memo in memos:
            memo.clear()
        return work()

    return forgetful


def _by_backend(network: nn.Module, work: Work, backend: str) -> Work:
    if backend != "reference":
        return with_backend(work, backend)
    return with_backend(_afresh(work, network), backend)


def _forward_by_formulas(configuration: Mapping[str, object], height: int, width: int) -> Callable[[], Work]:
    return lambda: forward(by_formulas(configuration), torch.rand(1, 3, height, width))


def _step_by_formulas(configuration: Mapping[str, object]) -> Callable[[], Work]:
    return lambda: step(by_formulas(configuration), torch.rand(2, 3, 48, 48), 4, fused=False)


def _forward(configuration: Mapping[str, object], height: int, width: int, backend: str) -> Callable[[], Work]:
    def prepare() -> Work:
        network = build_network(configuration)
        return _by_backend(network, forward(network, torch.rand(1, 3, height, width)), backend)

    return prepare


def _step(
    configuration: Mapping[str, object], backend: str, shape: tuple[int, ...] = (2, 3, 48, 48)
) -> Callable[[], Work]:
    def prepare() -> Work:
        network = build_network(configuration)
        return _by_backend(network, step(network, torch.rand(shape), 4), backend)

    return prepare
