"""A network that is an ONNX file: it meets the contract of networks, and a runtime computes it.

Shapes: B images, c channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from archs.contract import BaseNetwork
from archs.layers.size import SizeRule, extended
from models.export.facts import ExportFacts, Precision
from models.runtimes.providers import NAMES, Provider
from models.runtimes.sessions import Array, Session
from utils.errors import InputError
from utils.scale import as_scale, scaled_length

_TRIAL = 64  # side of an image; the windows of most networks divide it


@dataclass(frozen=True)
class RuntimeReport:
    """What computes a network, for logs and ``scores.json``.

    Attributes:
        path: the file.
        sha256: of its content.
        provider: what runs it.
        version: of that runtime.
        facts: what the file says.
    """

    path: Path
    sha256: str
    provider: Provider
    version: str
    facts: ExportFacts

    def __str__(self) -> str:
        network = self.facts.network_g.get("type", "a network")
        return f"{self.path}: {network}, {self.precision}, run by {self.runtime} ({self.provider})"

    @property
    def runtime(self) -> str:
        """Name and version."""
        return f"{NAMES[self.provider.runtime]} {self.version}"

    @property
    def precision(self) -> Precision:
        """In which the file, or what runs it, computes."""
        return self.facts.precision if self.provider.precision == "fp32" else self.provider.precision

    def as_json(self) -> dict[str, object]:
        """For ``scores.json``."""
        return {
            "runtime": NAMES[self.provider.runtime],
            "version": self.version,
            "provider": str(self.provider),
            "file": str(self.path),
            "sha256": self.sha256,
            "weights_sha256": self.facts.weights_sha256 or None,
            "precision": self.precision,
            "network_g": dict(self.facts.network_g),
        }


class OnnxNetwork(BaseNetwork):
    """An ONNX file behind the contract of networks. It has no parameters and no gradient.

    Smaller images than the file takes are extended, and the result is cropped; larger ones than it takes are cut into
    tiles by whoever calls it (:attr:`archs.layers.size.SizeRule.largest`).

    Args:
        session: the file, loaded.
        facts: what it says.
        report: what it is.
        scale: the factor.
    """

    def __init__(self, session: Session, facts: ExportFacts, report: RuntimeReport, scale: float) -> None:
        super().__init__()
        self.session, self.facts, self.report = session, facts, report
        self.scale = as_scale(scale)
        self.channels = facts.channels
        self.receptive_radius, self.window_size = facts.receptive_radius, facts.window_size
        most = None if facts.most is None else (facts.most, facts.most)
        self.size_rule = SizeRule(tile_multiple=facts.multiple, mode=facts.mode, largest=facts.static or most)
        ports = {port.name: port for port in session.inputs}
        self._image = ports[facts.input]
        self._scale = None if facts.scale_input is None else ports[facts.scale_input]

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, h, w] -> [B, c, s*h, s*w] on the device and of the type of ``x``.

        Raises:
            InputError: a gradient is asked for, or images are larger than the file takes.
        """
        if x.requires_grad and torch.is_grad_enabled():
            raise InputError(f"{self.report.path}: an ONNX file has no gradient; take the weights that it is made from")
        h, w = x.shape[-2:]
        height, width = self._size(h, w)
        x32 = x.detach().to("cpu", torch.float32)
        for dim, length in ((-2, height), (-1, width)):
            x32 = extended(x32, dim, length, self.size_rule.mode)
        images = x32.contiguous().numpy()
        step = self._image.shape[0] or len(images)
        results = [self._run(images[i : i + step], step) for i in range(0, len(images), step)]
        output = torch.from_numpy(results[0] if len(results) == 1 else np.concatenate(results))
        return output[..., : scaled_length(h, self.scale), : scaled_length(w, self.scale)].to(x.device, x.dtype)

    @property
    def tile_matters(self) -> bool:
        """Whether smaller tiles take less memory, as far as can be known; a file of one size takes what it takes."""
        return self.facts.static is None and self.report.provider.on_cpu

    def _size(self, h: int, w: int) -> tuple[int, int]:
        """The size to which an image is extended."""
        largest = self.size_rule.largest
        if largest is not None and (h > largest[0] or w > largest[1]):
            raise InputError(
                f"{self.report.path}: takes images of at most {largest[1]} x {largest[0]} pixels (width x height), and "
                f"got {w} x {h}; leave it to the program how they are cut: no tile, use_chop or pft_chop"
            )
        return self.facts.static or (max(h, self.facts.least), max(w, self.facts.least))

    def _run(self, images: Array, count: int) -> Array:
        """Up to ``count`` images, the number that the file takes: [b, c, h, w] -> [b, c, s*h, s*w] float32."""
        missing = count - len(images)
        if missing:
            images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
        feeds = {self._image.name: images.astype(self._image.type or "float32", copy=False)}
        if self._scale is not None:
            shape = tuple(size or 1 for size in self._scale.shape)
            feeds[self._scale.name] = np.full(shape, self.scale, self._scale.type or "float32")
        output = self.session.run(feeds, self.facts.output)
        self._check_shape(images.shape, output.shape)
        return output.astype(np.float32, copy=False)[: len(output) - missing]

    def _check_shape(self, taken: tuple[int, ...], made: tuple[int, ...]) -> None:
        """Raise InputError where the file does not multiply the sides of images by the scale."""
        expected = (*taken[:2], *(scaled_length(length, self.scale) for length in taken[2:]))
        if made != expected:
            raise InputError(
                f"{self.report.path}: makes {list(made)} of an image {list(taken)}, and a network for x{self.scale:g} "
                f"would make {list(expected)}"
            )


class AnyScaleOnnxNetwork(OnnxNetwork):
    """An ONNX file whose scale is an input."""

    def at_scale(self, scale: float) -> AnyScaleOnnxNetwork:
        """The same file for another scale."""
        other = copy.copy(self)
        other.scale = as_scale(scale)
        return other


def completed_facts(session: Session, path: Path, scale: float) -> ExportFacts:
    """What can be known of a file that says nothing of itself: one image in, one out, R G B in [0, 1].

    Args:
        session: the file, loaded.
        path: of it.
        scale: the factor, as its user says.

    Raises:
        InputError: it takes or gives something else.
    """
    named = ", ".join(f"{port.name} {list(port.shape)}" for port in session.inputs)
    if len(session.inputs) != 1 or len(session.inputs[0].shape) != 4 or session.inputs[0].type is None:
        raise InputError(f"{path}: takes {named}; expected one image of floats, [batch, channels, height, width]")
    image = session.inputs[0]
    _, channels, height, width = image.shape
    facts = ExportFacts(
        network_g={}, weights_sha256="", scale=as_scale(scale), channels=channels or 3, input=image.name,
        output=session.outputs[0].name,
    )  # fmt: skip
    return facts if height is None or width is None else dataclasses.replace(facts, static=(height, width))


def check_scale(network: OnnxNetwork) -> None:
    """Run a small image through a file that says nothing of itself, to see that it makes of it what its user says.

    Raises:
        InputError: it makes something else.
    """
    height, width = network.facts.static or (_TRIAL, _TRIAL)
    with torch.no_grad():
        network(torch.zeros(1, network.channels, height, width))
