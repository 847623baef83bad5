"""The networks that are looked at: built from files, in evaluation mode, without gradients of weights.

Shapes: B images, c channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from archs.contract import contract_of
from config.values import ONNX
from models import upscale
from models.runtimes.onnx_file import is_onnx
from models.weights.recognise import configuration, network_from_weights, network_of_options, weights_of_options
from utils.errors import InputError

_MODELS = "models"  # the folder of a run that holds its weights


@dataclass(frozen=True)
class Subject:
    """A network that is looked at.

    Attributes:
        name: in captions and tables; no two subjects of a call have the same.
        network: in evaluation mode and in the form that it runs in, on its device; no parameter asks for a gradient.
        described: ``network_g``, what it was built from.
        source: file of its weights.
    """

    name: str
    network: nn.Module
    described: Mapping[str, object]
    source: Path

    @property
    def scale(self) -> float:
        """The super-resolution factor s."""
        return contract_of(self.network).scale

    @property
    def channels(self) -> int:
        """Number of image channels c."""
        return contract_of(self.network).channels

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """In what it computes."""
        return next(self.network.parameters()).dtype

    @property
    def parameters(self) -> int:
        """Number of weights, in the form that it runs in."""
        return sum(parameter.numel() for parameter in self.network.parameters())


def forward(network: nn.Module, x: Tensor) -> Tensor:
    """The network's output for whole images of any size: [B, c, h, w] -> [B, c, s*h, s*w], not clamped.

    Padding and cropping are those of :func:`models.upscale`. Differentiable with respect to ``x`` where that requires
    a gradient: what is added at the border by reflection hands its gradient to the pixels that it was copied from.
    """
    return upscale(network, x)


def open_subjects(
    weights: Sequence[str],
    option_files: Sequence[Path] = (),
    *,
    key: str | None = None,
    scale: float | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[Subject]:
    """The networks that a command line names, in its order.

    Args:
        weights: files, each perhaps with a name before it, ``NAME=FILE``; none: those that the option files name.
        option_files: what describes the networks: none where the weights say it themselves, one for all of them, or as
            many as there are weights.
        key: entry of the weight files; None: the EMA weights where there are some.
        scale: factor, of networks for any scale.
        device: where they compute; None: the CPU.
        dtype: in what they compute.

    Raises:
        InputError: nothing is named, numbers do not match, or a file cannot be used.
    """
    found: list[Subject] = []
    for name, path, option_file, entry in _named(weights, option_files, key):
        if is_onnx(path):
            raise InputError(
                f"{path}: an ONNX file has neither gradients nor layers to look at; give the weights it was made from"
            )
        network = network_from_weights(path, option_file, entry, scale)
        described = configuration(path, option_file, entry)
        network = network.to(device or torch.device("cpu"), dtype).eval().requires_grad_(False)
        found.append(Subject(name, network, described, path))
    return found


def _named(
    weights: Sequence[str], option_files: Sequence[Path], key: str | None
) -> list[tuple[str, Path, Path | None, str | None]]:
    """Name, weight file, option file and entry of each network."""
    if not weights and not option_files:
        raise InputError("name a network: -w FILE with its weights, or -opt FILE, an option file that names some")
    for path in option_files:
        if network_of_options(path)["type"] == ONNX:
            raise InputError(
                f"{path}: its network_g is an ONNX file, which has neither gradients nor layers to look at"
            )
    if not weights:
        chosen = [(path.stem, *weights_of_options(path), path) for path in option_files]
        names = _distinct([name for name, *_ in chosen])
        return [(name, file, path, key or entry) for name, (_, file, entry, path) in zip(names, chosen, strict=True)]
    if len(option_files) not in (0, 1, len(weights)):
        raise InputError(
            f"{len(option_files)} option files (-opt) cannot describe {len(weights)} files of weights (-w); give one "
            "for all, or one for each in the same order"
        )
    described: Sequence[Path | None] = option_files or [None]
    if len(described) == 1:
        described = [described[0]] * len(weights)
    split = [_split(text) for text in weights]
    names = _distinct([name for name, _ in split])
    return [(name, path, option, key) for name, (_, path), option in zip(names, split, described, strict=True)]


def _split(text: str) -> tuple[str, Path]:
    """``NAME=FILE`` or ``FILE``, whose name is that of its run or its own."""
    name, mark, rest = text.partition("=")
    if mark and not Path(text).exists():
        return name, Path(rest)
    path = Path(text)
    return (path.parent.parent.name if path.parent.name == _MODELS else path.stem) or path.stem, path


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, with a number behind those that others have too."""
    return [f"{name} ({names[: i + 1].count(name)})" if names.count(name) > 1 else name for i, name in enumerate(names)]
