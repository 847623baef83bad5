"""Which program runs an ONNX file, and on what: the names that options and commands take.

``cpu``, ``cuda``, ``tensorrt``, ``dml``, ``coreml`` and the full names of ONNX Runtime's execution providers mean ONNX
Runtime; ``openvino``, ``openvino:bf16``, ``openvino:GPU`` and ``openvino:GPU:fp16`` mean OpenVINO.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from models.export.facts import PRECISIONS, Precision
from utils.errors import InputError
from utils.openvino_core import openvino_core
from utils.suggest import near_miss

Runtime = Literal["onnxruntime", "openvino"]
NAMES: Mapping[Runtime, str] = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
INSTALL = "pip install -r requirements-export.txt"

_ENDING = "ExecutionProvider"
_CPU = f"CPU{_ENDING}"
_SHORT = {"directml": "dml", "nvidia": "cuda", "gpu": "cuda", "onnxruntime": "cpu", "trt": "tensorrt"}


@dataclass(frozen=True)
class Provider:
    """What runs a file.

    Attributes:
        runtime: the package.
        device: execution provider of ONNX Runtime, or device of OpenVINO.
        precision: in which OpenVINO computes; what the file says counts for ONNX Runtime.
    """

    runtime: Runtime
    device: str
    precision: Precision = "fp32"

    def __str__(self) -> str:
        """As it is written in options."""
        if self.runtime == "onnxruntime":
            return self.device
        return f"openvino:{self.device}:{self.precision}"

    @property
    def on_cpu(self) -> bool:
        """Whether it computes in the memory of the host."""
        return self.device in ("CPU", _CPU)


def choose(asked: str | None, key: str = "provider") -> Provider:
    """What is to run a file; None: ONNX Runtime on the CPU, or OpenVINO where that alone is installed.

    Args:
        asked: a name; see the top of this file.
        key: of the option, for messages.

    Raises:
        InputError: there is no such provider here, or its package is not installed.
    """
    if asked is None:
        for runtime in get_args(Runtime):
            if _installed(runtime):
                return Provider(runtime, _CPU if runtime == "onnxruntime" else "CPU")
        raise InputError(f"ONNX files are run by ONNX Runtime or OpenVINO, and neither is installed: {INSTALL}")
    first, *rest = asked.split(":")
    if first.lower() == "openvino":
        return _openvino(asked, rest, key)
    return _onnxruntime(asked, key)


def _installed(runtime: Runtime) -> bool:
    return importlib.util.find_spec(runtime) is not None


def _need(runtime: Runtime, asked: str, key: str) -> None:
    if not _installed(runtime):
        others = [f"{name} is" for other, name in NAMES.items() if other != runtime and _installed(other)]
        there = f" ({others[0]}: leave {key} out)" if others else ""
        raise InputError(f"{key}: {asked}: {NAMES[runtime]} is not installed: {INSTALL}{there}")


def _onnxruntime(asked: str, key: str) -> Provider:
    _need("onnxruntime", asked, key)
    import onnxruntime

    there: list[str] = onnxruntime.get_available_providers()
    wanted = _SHORT.get(asked.lower(), asked.lower())
    for name in there:
        if wanted in (name.lower(), name.removesuffix(_ENDING).lower()):
            return Provider("onnxruntime", name)
    short = [name.removesuffix(_ENDING).lower() for name in there]
    known = [*short, "openvino"]
    every = {name.removesuffix(_ENDING).lower() for name in onnxruntime.get_all_providers()}
    if wanted.removesuffix(_ENDING.lower()) in every:
        raise InputError(
            f"{key}: {asked}: the installed ONNX Runtime {onnxruntime.__version__} cannot do that; it has "
            f"{', '.join(short)}"
        )
    hint = near_miss(asked, known) or f"; known: {', '.join(known)}"
    raise InputError(f'{key}: unknown provider "{asked}"{hint}')


def _openvino(asked: str, parts: list[str], key: str) -> Provider:
    _need("openvino", asked, key)
    precision: Precision = "fp32"
    devices = []
    for part in parts:
        match = next((name for name in PRECISIONS if part.lower() == name), None)
        if match is None:
            devices.append(part.upper())
        else:
            precision = match
    if len(devices) > 1:
        raise InputError(
            f"{key}: {asked}: expected openvino, openvino:DEVICE, and a precision, as in openvino:CPU:bf16"
        )
    device = devices[0] if devices else "CPU"
    there = list(openvino_core().available_devices)
    if device not in there and device.partition(".")[0] not in {name.partition(".")[0] for name in there}:
        precisions = ", ".join(PRECISIONS)
        raise InputError(f"{key}: {asked}: OpenVINO sees {', '.join(there)} here; precisions are {precisions}")
    return Provider("openvino", device, precision)
