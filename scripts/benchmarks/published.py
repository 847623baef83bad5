"""The published networks at published sizes, as their option files say them: forward passes and training steps.

The plain path of each row is the same network in float32, eager, on the references of the operators. Rows of this
module are large: ``--all``, or ``--only`` with a pattern. What a row will take is estimated from a small run of the
same network, whose time and memory grow with the number of pixels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from archs import build_network
from archs.contract import BaseNetwork, contract_of
from config import read
from config.variants import GENERATORS, HEADS, PLAINUSR, VARIANTS, configuration, network_in, option_file
from models import upscale
from scripts.benchmarks.measure import Comparison, Pilot, Side, Work
from scripts.benchmarks.needs import Need
from scripts.benchmarks.networks import step
from scripts.benchmarks.windows import with_backend

# Several files train the same network; of HAT-L the fine-tuning on DF2K. ESC-XL and ATD are fine-tuned on larger
# patches. The smaller and the large PlainUSR have no file: they are trained as the one that has.
TRAINED = {
    **dict.fromkeys(PLAINUSR, "train_plainusr_x{}"),
    **{name: f"train_{name}_x{{}}" for name in VARIANTS if name not in PLAINUSR},
    "hat_l": "train_hat_l_x{}_finetune",
    "atd_finetune": "train_atd_x{}_finetune",
    "esc_xl_finetune": "train_esc_xl_x{}_finetune",
    "esc_real": "train_esc_real_x{}_mse",
    "real_esrgan": "train_real_esrgan_x{}_mse",
    "esrgan": "train_esrgan_x{}",
    "srgan": "train_srgan_x{}",
}
SCALES = (2, 4)
IMAGES = ((180, 320), (360, 640))  # height, width
MODES = {
    "float32": (torch.float32, False),
    "bf16": (torch.bfloat16, False),
    "float32_compiled": (torch.float32, True),
    "bf16_compiled": (torch.bfloat16, True),
}
_FEW = ("float32", "bf16")  # of scales and heads that are not asked for as often
_PILOT = 64  # side of the small image
_SMALL = 32  # side of the image of --quick
_PLAIN = "eager, float32, references"


class Forward(NamedTuple):
    """What of a network is measured.

    Attributes:
        name: of the variant.
        scale: upsampling factor.
        images: height and width of the inputs.
        modes: of MODES.
    """

    name: str
    scale: float
    images: Sequence[tuple[int, int]] = IMAGES
    modes: Sequence[str] = tuple(MODES)


def forwards() -> Iterator[Forward]:
    """Every network at every scale that it has a test file for: x2 and x4 in all sizes and modes, the rest in a few."""
    for scale in SCALES:
        for name in (*VARIANTS, "esc_lte"):
            if name == "esc_lte" or option_file(f"test_{name}_x{scale}").is_file():
                yield Forward(name, scale)
    yield Forward("esc_real", 4)
    others = [(name, 3.0) for name in VARIANTS if name == "plainusr" or option_file(f"test_{name}_x3").is_file()]
    others += [("esc_lte", 3.0), ("esc_lte", 3.7), ("esc_realm_nearest_conv", 2.0), *((name, 4.0) for name in HEADS)]
    others += [("real_esrgan", 4.0), *((name, 4.0) for name in GENERATORS)]
    others += [("real_swinir", 2.0), ("real_swinir", 4.0), ("real_swinir_l", 4.0)]
    for name, factor in others:
        yield Forward(name, factor, IMAGES[:1], _FEW)


def steps() -> Iterator[tuple[str, int]]:
    """Every variant and scale whose training step is measured: those that have a training file."""
    for scale in SCALES:
        for name, stem in TRAINED.items():
            if option_file(stem.format(scale)).is_file():
                yield name, scale


def comparisons() -> list[Comparison]:
    """Every variant and scale, by image size and mode; every published training step."""
    found = [
        Comparison(
            f"networks/{name}_x{scale:g}_{width}x{height}_{mode}",
            f"{name} x{scale:g}, 1 x 3 x {height} x {width}, {mode.replace('_', ', ')}",
            _forward(_PLAIN, name, scale, (height, width), "float32", "reference"),
            _forward(mode.replace("_", ", "), name, scale, (height, width), mode, "auto"),
            quick=False, large=True,
        )
        for name, scale, images, modes in forwards()
        for height, width in images
        for mode in modes
    ]  # fmt: skip
    found += [_published_step(name, scale, mode) for name, scale in steps() for mode in MODES]
    return found + [
        _small(name) for name in ("hat_s", "rgt_s", "esc", "pft_light", "swinir_light", "atd_light", "hit_srf")
    ]


def _small(name: str) -> Comparison:
    """A row for ``--quick``."""
    sizes = (name, 4, (_SMALL, _SMALL))
    return Comparison(
        f"networks/{name}_x4_{_SMALL}x{_SMALL}_float32",
        f"{name} x4, 1 x 3 x {_SMALL} x {_SMALL}, float32",
        _forward(_PLAIN, *sizes, "float32", "reference")._replace(pilot=None),
        _forward("float32", *sizes, "float32", "auto")._replace(pilot=None),
    )


def _forward(label: str, name: str, scale: float, image: tuple[int, int], mode: str, backend: str) -> Side:
    plain = "bf16" if MODES[mode][0] == torch.bfloat16 else "float32"
    small = functools.partial(evaluation, name, scale, (_PILOT, _PILOT), plain, backend)
    pixels = image[0] * image[1] / _PILOT**2
    return Side(
        label, functools.partial(evaluation, name, scale, image, mode, backend), Pilot(small, pixels), needs_of(mode),
        keeps_memory="evaluation" if backend == "auto" else "",
    )  # fmt: skip


def evaluation(name: str, scale: float, image: tuple[int, int], mode: str, backend: str = "auto") -> Work:
    """The evaluation of one image.

    Args:
        name: of a variant.
        scale: upsampling factor.
        image: height and width of the input.
        mode: of MODES.
        backend: what "auto" means for the operators.
    """
    dtype, compiles = MODES[mode]
    network = build_network(configuration(name, scale)).to(dtype).eval()
    x = torch.rand(1, 3, *image, dtype=dtype)
    if compiles:
        network = Compiled(network)

    def work() -> Tensor:
        with torch.inference_mode():
            return upscale(network, x)

    return with_backend(work, backend)


def needs_of(mode: str) -> tuple[Need, ...]:
    """What a device must be able to do for a mode."""
    dtype, compiled = MODES[mode]
    half: tuple[Need, ...] = ("bfloat16",) if dtype == torch.bfloat16 else ()
    return (*half, "torch.compile") if compiled else half


class Compiled(BaseNetwork):
    """A network that is called compiled, and still says what :func:`models.upscale` asks it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.run = torch.compile(network)
        offered = contract_of(network)
        self.scale, self.channels, self.size_rule = offered.scale, offered.channels, offered.size_rule
        self.receptive_radius, self.window_size = offered.receptive_radius, offered.window_size

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
    batch, side = training_sizes(name, scale)
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
    batch, side = sizes
    plain = "bf16" if MODES[mode][0] == torch.bfloat16 else "float32"
    pilot = Pilot(functools.partial(training, name, scale, (1, side), plain, backend), batch)
    prepare = functools.partial(training, name, scale, sizes, mode, backend)
    return Side(label, prepare, pilot, needs_of(mode), keeps_memory="training" if backend == "auto" else "")


def training(name: str, scale: int, sizes: tuple[int, int], mode: str, backend: str = "auto") -> Work:
    """A training step.

    Args:
        name: of a variant.
        scale: upsampling factor.
        sizes: images in the batch, and the side of their low-resolution patches.
        mode: of MODES; "bf16" as ``train.amp`` computes.
        backend: what "auto" means for the operators.
    """
    dtype, compiles = MODES[mode]
    batch, side = sizes
    network = build_network(trained_configuration(name, scale))
    called = _Called(torch.compile(network) if compiles else network, network, amp=dtype != torch.float32)
    return with_backend(step(called, torch.rand(batch, 3, side, side), scale), backend)


@functools.cache
def trained_configuration(name: str, scale: int) -> Mapping[str, object]:
    """``network_g`` of a variant for training, as its training file has it."""
    if name in PLAINUSR:  # one file for all of them, and the train form of each
        folded = configuration(name, scale)
        return {**folded, "type": str(folded["type"]).removesuffix("_inference")}
    return network_in(TRAINED[name].format(scale), "train")


@functools.cache
def training_sizes(name: str, scale: int) -> tuple[int, int]:
    """Images in a step of one GPU, and the side of their low-resolution patches."""
    data = read(option_file(TRAINED[name].format(scale)), mode="train").train_dataset
    side = getattr(data, "gt_size", None)
    assert side is not None
    return data.batch_size_per_gpu, side // scale


def families() -> Iterator[tuple[str, Mapping[str, object]]]:
    """One network of each family at x4, in the form that is trained, for profiles."""
    for name in ("plainusr", "hat_s", "rgt_s", "esc", "pft_light"):
        yield name, trained_configuration(name, 4)
