"""Networks written as files for other programs, each checked before it takes its name.

Shapes: B images, c channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from archs.contract import at_scale, contract_of, for_any_scale
from models.export.facts import ExportFacts
from models.export.form import export_form
from models.export.onnx_files import described, onnx_model, onnx_runner
from models.export.options import ProgramOptions
from models.export.program import trace
from models.export.torch_files import compiled_package, saved_program, torch_runner, with_text
from models.export.verify import Case, Findings, Run, compare, unseen_cases
from models.inference.upscale import upscale
from models.precision.network import in_precision
from ops.dialect import ONNX_18, ONNX_23, TORCH
from utils.errors import InputError
from utils.files import atomic_write
from utils.log import get_logger

DIALECTS = {18: ONNX_18, 23: ONNX_23}

SCALES = (2.0, 3.3, 1.6)
"""At which a program with the scale as an input is checked, as far as its network was trained for them."""


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        facts: what the file says of itself.
        findings: of the checks.
        size: of the file in bytes.
    """

    facts: ExportFacts
    findings: Findings
    size: int

    def __str__(self) -> str:
        facts = self.facts
        if facts.static is not None:
            taken = "images of {}x{}".format(*facts.static)
        else:
            taken = f"images from {facts.least}x{facts.least}"
            taken += "" if facts.most is None else f" to {facts.most}x{facts.most}"
        text = (
            f"{self.size / 2**20:.1f} MiB, {facts.precision}, for {taken}; checked by {facts.checked_by}: "
            f"largest difference {self.findings.program} (allowed: {facts.tolerance:.1e})"
        )
        return text if facts.precision == "fp32" else f"{text}; from the network in fp32: {self.findings.precision}"


@dataclasses.dataclass(frozen=True)
class _Form:
    """One form of file.

    Attributes:
        content: what the file holds, with these facts.
        runner: runs the file as its users do; gives the name and version of what runs it too.
    """

    content: Callable[[ExportFacts], bytes]
    runner: Callable[[Path], AbstractContextManager[tuple[Run, str]]]


def write_program(
    path: Path,
    network: nn.Module,
    network_g: Mapping[str, Any],
    weights: str,
    options: ProgramOptions,
    keep: Collection[str] = (),
) -> Written:
    """Write a network as a program, unless its outputs differ from the network's.

    Args:
        path: of the file.
        network: on the CPU, in float32, in the form for inference; of the scale that was asked for, if one was.
        network_g: its options, for the file's metadata.
        weights: their fingerprint, for the metadata.
        options: how it is to be.
        keep: modules that stay in float32 in half precision.

    Raises:
        InputError: the network takes no images of the size that was asked for.
        RunError: it cannot be exported, or the program does not do what the network does. Nothing is written then.
        StorageError: the disk is full or broken.
    """
    network.eval().requires_grad_(False)
    any_scale = for_any_scale(type(network)) and options.scale is None
    facts = _facts(network, network_g, weights, options, any_scale=any_scale)
    facts = dataclasses.replace(facts, float32=tuple(keep))
    computing = in_precision(network, options.precision, keep)
    get_logger().info("export: tracing %s", network_g["type"])
    program = _traced(computing, facts, options)
    form = _form(program, facts, options)

    def reference(network: nn.Module) -> Callable[[Tensor, Case], Tensor]:
        return lambda images, case: upscale(network if case.scale is None else at_scale(network, case.scale), images)

    exact = reference(network)
    checked = exact if computing is network else reference(computing)
    assert facts.tolerance is not None
    with atomic_write(path) as file:
        file.write(form.content(facts))
        file.flush()
        with form.runner(Path(file.name)) as (run, runtime):
            findings = compare(run, checked, exact, _cases(facts, options), facts.channels, facts.tolerance)
        facts = dataclasses.replace(
            facts, difference=findings.program.largest, loss=findings.precision.largest, checked_by=runtime
        )
        file.seek(0)
        file.truncate()
        file.write(form.content(facts))
    return Written(facts, findings, path.stat().st_size)


def _facts(
    network: nn.Module, network_g: Mapping[str, Any], weights: str, options: ProgramOptions, *, any_scale: bool
) -> ExportFacts:
    offered = contract_of(network)
    least, most = offered.graph_sizes
    if options.static is not None:
        height, width = options.static
        least, most = offered.size_rule.minimum, None
        if min(options.static) < least:
            raise InputError(f"--static {height}x{width}: {network_g['type']} takes images from {least}x{least}")
        if any_scale:
            raise InputError(
                f"--static {height}x{width}: {network_g['type']} is for any scale; choose one with --scale"
            )
    return ExportFacts(
        network_g=dict(network_g),
        weights_sha256=weights,
        scale=None if any_scale else offered.scale,
        scale_input="scale" if any_scale else None,
        channels=offered.channels,
        precision=options.precision,
        least=least,
        most=most,
        static=options.static,
        multiple=offered.size_rule.tile_multiple,
        mode=offered.size_rule.mode,
        receptive_radius=offered.receptive_radius,
        window_size=offered.window_size,
        tolerance=options.allowed,
    )


def _traced(network: nn.Module, facts: ExportFacts, options: ProgramOptions) -> ExportedProgram:
    """The program, traced with images that none of the checks has."""
    window = max(facts.window_size or 1, facts.multiple, 32)
    size = facts.static or (max(window + 9, facts.least), max(2 * window + 17, facts.least))
    batch = 2 if facts.static is None else options.batch or 1
    inputs = [torch.rand(batch, facts.channels, *size)]
    if facts.scale_input is not None:
        inputs.append(torch.tensor(2.5))
    form = export_form(network, "input" if facts.scale is None else None).eval()
    sizes = (facts.least, facts.most) if facts.static is None else None
    return trace(form, inputs, sizes, DIALECTS[options.operators] if options.form == "onnx" else TORCH)


def _form(program: ExportedProgram, facts: ExportFacts, options: ProgramOptions) -> _Form:
    """What is written of a program."""
    if options.form == "onnx":
        inputs = [facts.input] if facts.scale_input is None else [facts.input, facts.scale_input]
        get_logger().info("export: writing the graph in ONNX's operators of opset %d", options.operators)
        model = onnx_model(program, options.operators, inputs, facts.output)
        openvino = "openvino" in options.runtimes
        return _Form(
            lambda facts: described(model, facts.to_strings()),
            lambda path: onnx_runner(path, inputs, openvino=openvino),
        )
    if options.form == "pt2":
        return _Form(
            lambda facts: saved_program(program, facts.to_strings()), lambda path: torch_runner(path, "program")
        )
    get_logger().info("export: AOTInductor compiles the graph, which takes a minute or more")
    package = compiled_package(program, facts.to_strings())
    return _Form(lambda facts: with_text(package, facts.to_strings()), lambda path: torch_runner(path, "package"))


def _cases(facts: ExportFacts, options: ProgramOptions) -> list[Case]:
    if facts.static is not None:
        return [Case(options.batch or 1, *facts.static)] * 3
    window = max(facts.window_size or 1, facts.multiple)
    return unseen_cases(facts.least, facts.most, window, SCALES if facts.scale is None else ())
