"""The published networks at published sizes, as their option files say them: forward passes and training steps.

The plain path of each row is the same network in float32, eager, on the references of the operators. Rows of this
module are large: ``--all``, or ``--only`` with a pattern. What a row will take is estimated from a small run of the
same network, whose time and memory grow with the number of pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from archs import build_network
from models import upscale
from options import read
from scripts.benchmarks.measure import Comparison, Pilot, Side, Work
from scripts.benchmarks.networks import step
from scripts.benchmarks.windows import with_backend

OPTIONS = Path(__file__).resolve().parents[2] / "options"
VARIANTS = (
    "plainusr_u", "plainusr_t", "plainusr_s", "plainusr_m", "plainusr_l", "plainusr",
    "hat_s", "hat", "hat_l", "rgt_s", "rgt", "esc_light", "esc", "esc_fp", "esc_xl", "pft_light", "pft",
)  # fmt: skip
# Several files train the same network; of HAT-L the fine-tuning on DF2K. Smaller forms of PlainUSR have no recipe.
TRAINED = {
    **{name: f"train_{name}_x{{}}" for name in VARIANTS if name.startswith(("hat", "rgt", "esc", "pft"))},
    "hat_l": "train_hat_l_x{}_finetune",
    "plainusr": "train_plainusr_x{}",
}
SCALES = (2, 4)
IMAGES = ((180, 320), (360, 640))  # height, width
MODES = {
    "float32": (torch.float32, False),
    "bf16": (torch.bfloat16, False),
    "float32_compiled": (torch.float32, True),
    "bf16_compiled": (torch.bfloat16, True),
}
_PILOT = 64  # side of the small image
_SMALL = 32  # side of the image of --quick
_PLAIN = "eager, float32, references"


def comparisons() -> list[Comparison]:
    """Every variant at x2 and x4, each image size and mode; every published training step."""
    found = []
    for scale in SCALES:
        for name in VARIANTS:
            for height, width in IMAGES:
                found += [
                    Comparison(
                        f"networks/{name}_x{scale}_{width}x{height}_{mode}",
                        f"{name} x{scale}, 1 x 3 x {height} x {width}, {mode.replace('_', ', ')}",
                        _forward(_PLAIN, name, scale, (height, width), "float32", "reference"),
                        _forward(mode.replace("_", ", "), name, scale, (height, width), mode, "auto"),
                        quick=False, large=True,
                    )
                    for mode in MODES
                ]  # fmt: skip
        for name in TRAINED:
            found += [_published_step(name, scale, mode) for mode in MODES]
    found += [_small(name) for name in ("hat_s", "rgt_s", "esc", "pft_light")]
    real = ("networks/esc_real_x4_320x180_bf16", "esc_real x4, 1 x 3 x 180 x 320, bf16")
    sizes = ("esc_real", 4, (180, 320))
    sides = (_forward(_PLAIN, *sizes, "float32", "reference"), _forward("bf16", *sizes, "bf16", "auto"))
    return [*found, Comparison(*real, *sides, quick=False, large=True)]


def _small(name: str) -> Comparison:
    """A row for ``--quick``."""
    sizes = (name, 4, (_SMALL, _SMALL))
    return Comparison(
        f"networks/{name}_x4_{_SMALL}x{_SMALL}_float32",
        f"{name} x4, 1 x 3 x {_SMALL} x {_SMALL}, float32",
        _forward(_PLAIN, *sizes, "float32", "reference")._replace(pilot=None),
        _forward("float32", *sizes, "float32", "auto")._replace(pilot=None),
    )


def _forward(label: str, name: str, scale: int, image: tuple[int, int], mode: str, backend: str) -> Side:
    dtype, compiled = MODES[mode]

    def prepare(height: int, width: int, compiles: bool) -> Work:
        network = build_network(configuration(name, scale)).to(dtype).eval()
        x = torch.rand(1, 3, height, width, dtype=dtype)
        if compiles:
            network = _Compiled(network)

        def work() -> Tensor:
            with torch.inference_mode():
                return upscale(network, x)

        return with_backend(work, backend)

    small = functools.partial(prepare, _PILOT, _PILOT, False)
    pixels = image[0] * image[1] / _PILOT**2
    return Side(label, functools.partial(prepare, *image, compiled), Pilot(small, pixels))


class _Compiled(nn.Module):
    """A network that is called compiled, and still says what :func:`models.upscale` asks it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.run = torch.compile(network)
        for fact in ("scale", "size_rule", "channels"):
            if hasattr(network, fact):
                setattr(self, fact, getattr(network, fact))

    def forward(self, x: Tensor) -> Tensor:
        """As the network."""
        result: Tensor = self.run(x)
        return result


class _Called(nn.Module):
    """A network that is called in another way than by itself, in training.

    Args:
        call: the network, perhaps compiled.
        network: holds the parameters.
        amp: compute in bfloat16 where autocast allows it, as ``train.amp: bf16`` does.
    """

    def __init__(self, call: Callable[[Tensor], Tensor], network: nn.Module, *, amp: bool) -> None:
        super().__init__()
        self.call, self.network, self.amp = call, network, amp

    def forward(self, x: Tensor) -> Tensor:
        """As the network, in float32."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp):
            return self.call(x).float()


def _published_step(name: str, scale: int, mode: str) -> Comparison:
    batch, side = _training_sizes(name, scale)
    shown = mode.replace("_", ", ")
    return Comparison(
        f"train/{name}_x{scale}_published_{mode}",
        f"{name} x{scale}, step, {batch} x 3 x {side} x {side}, {shown}",
        _step(_PLAIN, name, scale, (batch, side), "float32", "reference"),
        _step(shown, name, scale, (batch, side), mode, "auto"),
        quick=False,
        large=True,
    )


def _step(label: str, name: str, scale: int, sizes: tuple[int, int], mode: str, backend: str) -> Side:
    dtype, compiled = MODES[mode]
    batch, side = sizes

    def prepare(images: int, compiles: bool) -> Work:
        network = build_network(trained_configuration(name, scale))
        called = _Called(torch.compile(network) if compiles else network, network, amp=dtype != torch.float32)
        return with_backend(step(called, torch.rand(images, 3, side, side), scale), backend)

    return Side(label, functools.partial(prepare, batch, compiled), Pilot(functools.partial(prepare, 1, False), batch))


@functools.cache
def configuration(name: str, scale: int) -> Mapping[str, object]:
    """``network_g`` of the test file of a variant."""
    stem = f"test_{name}_x{scale}_mse" if name == "esc_real" else f"test_{name}_x{scale}"
    options = read(OPTIONS / f"{stem}.yml", mode="test")
    return {"type": options.network_g.type, **options.network_g.arguments}


@functools.cache
def trained_configuration(name: str, scale: int) -> Mapping[str, object]:
    """``network_g`` of the training file of a variant."""
    options = read(_training_file(name, scale), mode="train")
    return {"type": options.network_g.type, **options.network_g.arguments}


@functools.cache
def _training_sizes(name: str, scale: int) -> tuple[int, int]:
    """Images in a step of one GPU, and the side of their low-resolution patches."""
    data = read(_training_file(name, scale), mode="train").train_dataset
    side = getattr(data, "gt_size", None)
    assert side is not None
    return data.batch_size_per_gpu, side // scale


def _training_file(name: str, scale: int) -> Path:
    return OPTIONS / f"{TRAINED[name].format(scale)}.yml"


def families() -> Iterator[tuple[str, Mapping[str, object]]]:
    """One network of each family at x4, in the form that is trained, for profiles."""
    for name in ("plainusr", "hat_s", "rgt_s", "esc", "pft_light"):
        yield name, trained_configuration(name, 4)
