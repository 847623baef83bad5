"""Names of what runs ONNX files."""

from __future__ import annotations

from typing import Any

import pytest

from models.runtimes import providers
from models.runtimes.providers import Provider, choose
from utils.errors import InputError

CPU = Provider("onnxruntime", "CPUExecutionProvider")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The packages that seem to be installed."""
    found = {"onnxruntime", "openvino"}
    monkeypatch.setattr(providers, "_installed", lambda runtime: runtime in found)
    return found


def test_names_of_onnx_runtime() -> None:
    onnxruntime: Any = pytest.importorskip("onnxruntime")
    for name in (None, "cpu", "CPU", "onnxruntime", "CPUExecutionProvider"):
        assert choose(name) == CPU
    with pytest.raises(
        InputError, match=r"^--provider: tensorrt: the installed ONNX Runtime [\d.]+ cannot do that; it has .*cpu"
    ):
        choose("tensorrt", "--provider")
    with pytest.raises(InputError, match=r'^provider: unknown provider "cpuu" \(did you mean "cpu"\?\)'):
        choose("cpuu")
    assert "CPUExecutionProvider" in onnxruntime.get_available_providers()


def test_names_of_openvino() -> None:
    pytest.importorskip("openvino")
    assert choose("openvino") == Provider("openvino", "CPU")
    assert choose("OpenVINO:bf16") == Provider("openvino", "CPU", "bf16") == choose("openvino:cpu:bf16")
    assert str(choose("openvino:bf16")) == "openvino:CPU:bf16"
    with pytest.raises(InputError, match=r"openvino:NPU7: OpenVINO sees CPU.* here; precisions are fp32, fp16, bf16"):
        choose("openvino:NPU7")
    with pytest.raises(InputError, match="expected openvino, openvino:DEVICE, and a precision"):
        choose("openvino:CPU:GPU")


def test_what_is_installed_is_taken(installed: set[str]) -> None:
    assert choose(None) == CPU
    installed.remove("onnxruntime")
    assert choose(None) == Provider("openvino", "CPU")
    with pytest.raises(
        InputError, match=r"provider: cpu: ONNX Runtime is not installed: pip install .*OpenVINO is: leave"
    ):
        choose("cpu")
    installed.remove("openvino")
    with pytest.raises(InputError, match=r"neither is installed: pip install -r requirements-export\.txt"):
        choose(None)
    with pytest.raises(
        InputError, match=r"openvino: OpenVINO is not installed: pip install -r requirements-export\.txt$"
    ):
        choose("openvino")
