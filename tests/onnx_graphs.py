"""ONNX files for tests, made in no time: a convolution and depth to space, beside the same in PyTorch.

Edges are mirrored, so that images that a caller extends by their mirror images give the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.export.facts import ExportFacts

onnx: Any = pytest.importorskip("onnx")

SCALE = 2
FACTS = ExportFacts(
    network_g={"type": "Tiny", "scale": SCALE}, weights_sha256="1" * 64, scale=SCALE, receptive_radius=1
)


class Tiny(nn.Module):
    """What :func:`tiny_file` computes. Its receptive radius is 1."""

    scale = SCALE
    receptive_radius = 1

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.channels = channels
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(channels * SCALE**2, channels, 3, 3, generator=generator) / 5

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, h, w] -> [B, c, 2h, 2w]."""
        return F.pixel_shuffle(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.weight), SCALE)


def tiny_file(
    path: Path,
    facts: ExportFacts | None = FACTS,
    *,
    sizes: Sequence[int | str] = ("batch", 3, "height", "width"),
    operator: str = "DepthToSpace",
    domain: str = "",
    external: str | None = None,
    half: bool = False,
) -> Path:
    """An ONNX file.

    Args:
        path: to be written.
        facts: what it says of itself; None: nothing, as of other programs.
        sizes: of its input.
        operator: its last one.
        domain: of that one.
        external: the file that its weights are said to be in; they are written beside the model where it is a name.
        half: it takes and gives float16.
    """
    kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
    values = Tiny(int(sizes[1])).weight.numpy().astype("float16" if half else "float32")
    weight = onnx.numpy_helper.from_array(values, "weight")
    if external is not None:
        (path.parent / Path(external).name).write_bytes(weight.raw_data)
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        entry = weight.external_data.add()
        entry.key, entry.value = "location", external
    pads = onnx.numpy_helper.from_array(torch.tensor([0, 0, 1, 1, 0, 0, 1, 1]).numpy(), "pads")
    scaled = [*sizes[:2], *(size * SCALE if isinstance(size, int) else f"{size}s" for size in sizes[2:])]
    nodes = [
        onnx.helper.make_node("Pad", ["input", "pads"], ["padded"], mode="reflect"),
        onnx.helper.make_node("Conv", ["padded", "weight"], ["features"]),
        onnx.helper.make_node(operator, ["features"], ["output"], domain=domain, blocksize=SCALE, mode="CRD"),
    ]
    return _written(path, nodes, facts, [("input", kind, sizes)], ("output", kind, scaled), [weight, pads], domain)


def any_scale_file(path: Path) -> Path:
    """An ONNX file that repeats pixels; its factor is an input."""
    facts = dataclasses.replace(FACTS, network_g={"type": "Nearest", "scale": 4}, scale=None, scale_input="scale")
    return repeating_file(path, facts)


def repeating_file(path: Path, facts: ExportFacts) -> Path:
    """An ONNX file that repeats pixels by the factor that its facts say; where they say none, that is an input."""
    constants = [onnx.numpy_helper.from_array(torch.ones(2).numpy(), "ones")]
    kind = onnx.TensorProto.FLOAT
    inputs: list[Any] = [("input", kind, ("batch", 3, "height", "width"))]
    if facts.scale is None:
        inputs.append(("scale", kind, (1,)))
    else:
        constants.append(onnx.numpy_helper.from_array(torch.tensor([float(facts.scale)]).numpy(), "scale"))
    nodes = [
        onnx.helper.make_node("Concat", ["ones", "scale", "scale"], ["scales"], axis=0),
        onnx.helper.make_node(
            "Resize", ["input", "", "scales"], ["output"], mode="nearest", coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
    ]  # fmt: skip
    return _written(path, nodes, facts, inputs, ("output", kind, ("batch", 3, "rows", "columns")), constants)


def _written(
    path: Path,
    nodes: Sequence[Any],
    facts: ExportFacts | None,
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    output: tuple[str, int, Sequence[int | str]],
    constants: Sequence[Any],
    domain: str = "",
) -> Path:
    ports = [onnx.helper.make_tensor_value_info(*port) for port in inputs]
    graph = onnx.helper.make_graph(nodes, "g", ports, [onnx.helper.make_tensor_value_info(*output)], constants)
    sets = [onnx.helper.make_opsetid("", 18), *([onnx.helper.make_opsetid(domain, 1)] if domain else [])]
    model = onnx.helper.make_model(graph, opset_imports=sets, ir_version=10, producer_name="a test")
    if facts is not None:
        onnx.helper.set_model_props(model, facts.to_strings())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path
