"""Networks in bfloat16 beside themselves in float32, on CPUs that multiply it: ``--precision bf16``, ``amp: bf16``."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from archs import build_network
from config.values import Precision
from config.variants import configuration
from models import upscale
from models.precision.network import in_precision
from scripts.benchmarks.measure import Comparison, Side, Work
from scripts.benchmarks.published import training

SCALE = 4
IMAGES = {
    "hat_s": ((64, 64), (128, 160)),
    "rgt_s": ((64, 64), (120, 160)),
    "esc": ((64, 64), (180, 320)),
    "pft_light": ((64, 64), (128, 128)),
    "plainusr": ((180, 320),),
}
"""Network -> height and width of its inputs."""
BATCHES = {"hat_s": (2, 48), "rgt_s": (2, 48), "esc": (4, 64), "pft_light": (1, 64), "plainusr": (4, 48)}
"""Network -> images of a training step, and the side of their patches; sizes of the float32 rows."""


def comparisons() -> Iterator[Comparison]:
    """Each network and size, and a training step of each."""
    for name, sizes in IMAGES.items():
        for height, width in sizes:
            prepare = functools.partial(evaluation, name, (height, width))
            yield Comparison(
                f"networks/{name}_half_{height}x{width}",
                f"{name} x{SCALE}, 1 x 3 x {height} x {width}, bf16",
                Side("float32", functools.partial(prepare, "fp32")),
                Side("bf16", functools.partial(prepare, "bf16"), needs=("native bfloat16",)),
                quick=False,
            )
    for name, (batch, side) in BATCHES.items():
        prepare = functools.partial(training, name, SCALE, (batch, side))
        yield Comparison(
            f"train/{name}_bf16",
            f"{name} x{SCALE}, step, {batch} x 3 x {side} x {side}, amp: bf16",
            Side("float32", functools.partial(prepare, "float32"), keeps_memory="training"),
            Side("bf16", functools.partial(prepare, "bf16"), needs=("native bfloat16",), keeps_memory="training"),
            quick=False,
        )


def evaluation(name: str, size: tuple[int, int], precision: Precision) -> Work:
    """The evaluation of one image in a precision."""
    network = in_precision(build_network(configuration(name, SCALE)).eval(), precision)
    x = torch.rand(1, 3, *size)

    def work() -> Tensor:
        with torch.inference_mode():
            return upscale(network, x)

    return work
