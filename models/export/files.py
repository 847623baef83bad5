"""Networks written as files for other programs, each checked before it takes its name.

Shapes: B images, c channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archs.contract import contract_of
from models.export.facts import ExportFacts, Precision
from models.export.form import ExportForm
from models.export.onnx_files import describe, onnx_model, onnx_runner
from models.export.options import ProgramOptions
from models.export.program import trace
from models.export.verify import Difference, compare, unseen_sizes
from models.inference.upscale import upscale
from utils.errors import InputError
from utils.files import atomic_write
from utils.log import get_logger

PROGRAMS = (".onnx",)
"""Suffixes of files that hold a network as a program."""

TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-4}
"""How far outputs may be from the network's, in the range 0 to 1."""


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        facts: what the file says of itself.
        difference: of its outputs from the network's.
        size: of the file in bytes.
    """

    facts: ExportFacts
    difference: Difference
    size: int

    def __str__(self) -> str:
        facts = self.facts
        if facts.static is not None:
            taken = "images of {}x{}".format(*facts.static)
        else:
            taken = f"images from {facts.least}x{facts.least}"
            taken += "" if facts.most is None else f" to {facts.most}x{facts.most}"
        return (
            f"{self.size / 2**20:.1f} MiB, {facts.precision}, for {taken}; checked by {facts.checked_by}: "
            f"{self.difference} (allowed: {facts.tolerance:.1e})"
        )


def write_program(
    path: Path, network: nn.Module, network_g: Mapping[str, Any], weights: str, options: ProgramOptions
) -> Written:
    """Write a network as a program, unless its outputs differ from the network's.

    Args:
        path: of the file; its suffix says which form.
        network: on the CPU; in the form for inference.
        network_g: its options, for the file's metadata.
        weights: their fingerprint, for the metadata.
        options: how it is to be.

    Raises:
        InputError: the network takes no images of the size that was asked for.
        RunError: it cannot be exported, or the program does not do what the network does. Nothing is written then.
        StorageError: the disk is full or broken.
    """
    network.eval().requires_grad_(False)
    facts = _facts(network, network_g, weights, options)
    form = ExportForm(network).eval()
    window = max(facts.window_size or 1, facts.multiple)
    size = options.static or (max(window, 32) + 9, 2 * max(window, 32) + 17)
    batch = 2 if options.static is None else options.batch or 1
    get_logger().info("export: tracing %s", network_g["type"])
    program = trace(form, torch.rand(batch, facts.channels, *size), free=options.static is None)
    get_logger().info("export: writing the ONNX graph")
    model = onnx_model(program, options.opset, [facts.input], facts.output)
    if options.static is None:
        sizes = unseen_sizes(facts.least, facts.most, window)
    else:
        sizes = [(options.batch or 1, *options.static)] * 3
    assert facts.tolerance is not None
    with atomic_write(path) as file:
        file.write(model.SerializeToString())
        file.flush()
        run, runtime = onnx_runner(Path(file.name), [facts.input])

        def reference(images: Tensor) -> Tensor:
            return upscale(network, images)

        difference = compare(lambda images: run([images]), reference, sizes, facts.channels, facts.tolerance)
        facts = dataclasses.replace(facts, difference=difference.largest, checked_by=runtime)
        describe(model, facts.to_strings())
        file.seek(0)
        file.truncate()
        file.write(model.SerializeToString())
    return Written(facts, difference, path.stat().st_size)


def _facts(network: nn.Module, network_g: Mapping[str, Any], weights: str, options: ProgramOptions) -> ExportFacts:
    offered = contract_of(network)
    rule = offered.size_rule
    if options.static is not None and min(options.static) < rule.minimum:
        height, width = options.static
        raise InputError(
            f"--static {height}x{width}: {network_g['type']} takes images of {rule.minimum}x{rule.minimum} and more"
        )
    return ExportFacts(
        network_g=dict(network_g),
        weights_sha256=weights,
        scale=offered.scale,
        channels=offered.channels,
        least=rule.minimum,
        static=options.static,
        multiple=rule.tile_multiple,
        mode=rule.mode,
        receptive_radius=offered.receptive_radius,
        window_size=offered.window_size,
        tolerance=TOLERANCES["fp32"] if options.tolerance is None else options.tolerance,
    )
