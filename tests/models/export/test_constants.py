"""Constants of ONNX graphs that are alike."""

from __future__ import annotations

import numpy as np
import pytest

from models.export.constants import LEAST, share_constants

onnx = pytest.importorskip("onnx")


def test_equal_constants_are_stored_once() -> None:
    large, small = np.arange(LEAST // 4, dtype=np.float32), np.zeros(1, np.float32)
    values = {
        "a": large,
        "b": large.copy(),
        "other": large + 1,
        "other_type": large.view(np.int32),
        "other_shape": large[None],
        "c": small,
        "d": small,
    }
    nodes = [
        onnx.helper.make_node("Add", ["x", "a"], ["p"]),
        onnx.helper.make_node("Sub", ["b", "p"], ["q"]),
        onnx.helper.make_node("Mul", ["q", "b"], ["y"]),
    ]
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [len(large)]) for name in "xy")
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in values.items()]
    graph = onnx.helper.make_graph(nodes, "graph", [x], [y], tensors)
    share_constants(graph)
    assert [tensor.name for tensor in graph.initializer] == ["a", "other", "other_type", "other_shape", "c", "d"]
    assert [list(node.input) for node in graph.node] == [["x", "a"], ["a", "p"], ["q", "a"]]
