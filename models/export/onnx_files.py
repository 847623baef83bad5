"""Traced programs as ONNX files, with nothing in them but the graph, the weights and what the caller wants said.

Shapes: B images, c channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from models.export.constants import share_constants
from models.export.program import quiet
from models.export.verify import Inputs, Run
from utils.errors import RunError
from utils.openvino_core import openvino_core
from utils.wording import first_line

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

OPSETS = (18, 23)
"""18: what most runtimes read, attention in its parts; 23: attention as one operator."""

Array: TypeAlias = "np.ndarray[Any, Any]"

LARGEST = 2**31 - 2**20
"""Bytes of an ONNX file: its format counts them with 31 bits. A part is left for the graph."""

FREE = ("batch", "height", "width")
"""Names of the free sizes of the input."""


def onnx_model(program: ExportedProgram, opset: int, inputs: list[str], output: str) -> ModelProto:
    """The ONNX form of a program.

    Args:
        program: traced by :func:`models.export.program.trace`.
        opset: version of the operators, one of OPSETS.
        inputs: names for its inputs, in order.
        output: name for its output.

    Raises:
        RunError: an operator has no ONNX form, or the weights are larger than a file can be.
    """
    size = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    if size > LARGEST:
        raise RunError(
            f"the weights take {size / 2**30:.1f} GiB and an ONNX file holds less than 2; --precision fp16 halves them"
        )
    try:
        with quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                verbose=False,
                input_names=inputs,
                output_names=[output],
            )
            assert exported is not None
            model: ModelProto = exported.model_proto
    except Exception as error:  # of many kinds, and all of them say: not this graph
        raise RunError(f"torch.onnx cannot write this network ({first_line(error)})") from error
    share_constants(model.graph)
    _strip(model)
    _name_sizes(model)
    return model


def described(model: ModelProto, metadata: Mapping[str, str]) -> bytes:
    """The file of a model with these texts beside the graph."""
    del model.metadata_props[:]
    for name, text in metadata.items():
        model.metadata_props.add(key=name, value=text)
    content: bytes = model.SerializeToString()
    return content


def _strip(model: ModelProto) -> None:
    """Remove what the exporter notes down for its developers: source files and their lines among it."""
    model.doc_string = ""
    del model.metadata_props[:]
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        for node in function.node:
            _strip_all([node])
    for graph in _graphs(model.graph):
        graph.doc_string = ""
        del graph.metadata_props[:]
        del graph.value_info[:]  # sizes between the operators: every runtime finds them by itself
        _strip_all([*graph.node, *graph.input, *graph.output, *graph.initializer])


def _strip_all(parts: list[Any]) -> None:
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and those inside its operators."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _graphs(inner)


def _name_sizes(model: ModelProto) -> None:
    """Call the free sizes batch, height and width, where torch has numbered them."""
    image = model.graph.input[0].type.tensor_type.shape.dim
    names = {
        image[axis].dim_param: name for axis, name in zip((0, 2, 3), FREE, strict=True) if image[axis].dim_param != ""
    }
    for value in [*model.graph.input, *model.graph.output]:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param != "":
                size.dim_param = re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), size.dim_param)


@contextmanager
def onnx_runner(path: Path, inputs: Sequence[str], *, openvino: bool = False) -> Iterator[tuple[Run, str]]:
    """A file run on the CPU by ONNX Runtime, or OpenVINO: a function from inputs to the output; name and version.

    Raises:
        RunError: the runtime cannot read the file.
    """
    name = "OpenVINO" if openvino else "ONNX Runtime"
    try:
        run, version = _openvino(path) if openvino else _onnx_runtime(path)
    except Exception as error:  # their exceptions have no common class of their own
        raise RunError(f"{name} cannot read what was exported ({first_line(error)})") from error

    def run_tensors(values: Inputs) -> Tensor:
        return torch.from_numpy(run({name: value.numpy() for name, value in zip(inputs, values, strict=True)}))

    yield run_tensors, f"{name} {version}"


def _onnx_runtime(path: Path) -> tuple[Callable[[Mapping[str, Array]], Array], str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0], onnxruntime.__version__


def _openvino(path: Path) -> tuple[Callable[[Mapping[str, Array]], Array], str]:
    import openvino

    core = openvino_core()
    compiled = core.compile_model(core.read_model(path), "CPU")
    return lambda inputs: compiled(inputs)[0], openvino.__version__.split("-")[0]
