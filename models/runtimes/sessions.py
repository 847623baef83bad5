"""An ONNX file in ONNX Runtime or in OpenVINO: arrays in, an array out, on as many threads as PyTorch has.

Memory is given back after each run: ONNX Runtime's own store of it would keep what the largest image took.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from models.runtimes.providers import NAMES, Provider
from utils.errors import InputError
from utils.memory import memory_is_full, reason_of
from utils.openvino_core import openvino_core

Array = NDArray[Any]
_FULL = re.compile(r"[Ff]ailed to allocate|bad allocation|bad_alloc|[Oo]ut of memory|[Nn]ot enough memory")
_SHAPES_KEPT = 100  # for which OpenVINO keeps what it has prepared
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes:
        name: of it.
        shape: its sizes; None where one is free.
        type: of its numbers, as NumPy calls them; None for others than floats.
    """

    name: str
    shape: tuple[int | None, ...]
    type: str | None


class Session(Protocol):
    """A file that can be run."""

    @property
    def version(self) -> str:
        """Of the runtime."""

    @property
    def inputs(self) -> Sequence[Port]:
        """What it takes."""

    @property
    def outputs(self) -> Sequence[Port]:
        """What it gives."""

    def run(self, feeds: Mapping[str, Array], output: str) -> Array:
        """One of its outputs.

        Args:
            feeds: input -> value.
            output: the name of the one that is wanted.

        Raises:
            MemoryError: the memory is full.
            InputError: the runtime refuses these values.
        """


def open_session(path: Path, provider: Provider) -> Session:
    """A file, loaded into what is to run it.

    Raises:
        InputError: the runtime cannot load it, or not there.
    """
    kind = _OnnxRuntime if provider.runtime == "onnxruntime" else _OpenVino
    return kind(path, provider)


class _OnnxRuntime:
    def __init__(self, path: Path, provider: Provider) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.enable_cpu_mem_arena = False  # as fast without it, and see above
        options.log_severity_level = 4  # what is wrong comes as an exception
        options.add_session_config_entry("session.load_model_format", "ONNX")
        names = [provider.device] if provider.on_cpu else [provider.device, "CPUExecutionProvider"]
        self.path, self.version = path, str(onnxruntime.__version__)
        with _said(path, provider, "load it"):
            self._session = onnxruntime.InferenceSession(str(path), options, providers=names)
        if provider.device not in self._session.get_providers():
            raise InputError(
                f"{path}: {provider.device} of ONNX Runtime {self.version} cannot be started here; what it needs "
                "(a driver, a device, libraries) is missing. Leave the provider out to compute on the CPU"
            )
        self.provider = provider
        self.inputs, self.outputs = (
            [Port(item.name, _sizes(item.shape), _TYPES.get(item.type)) for item in items]
            for items in (self._session.get_inputs(), self._session.get_outputs())
        )

    def run(self, feeds: Mapping[str, Array], output: str) -> Array:
        with _said(self.path, self.provider, _task(feeds)):
            result: Array = self._session.run([output], dict(feeds))[0]
        return result


class _OpenVino:
    def __init__(self, path: Path, provider: Provider) -> None:
        import openvino

        self.path, self.provider = path, provider
        self.version = str(openvino.__version__).partition("-")[0]
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[provider.precision], "PERFORMANCE_HINT": "LATENCY"}
        if provider.on_cpu:
            config |= {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "CPU_RUNTIME_CACHE_CAPACITY": _SHAPES_KEPT}
        with _said(path, provider, "load it"):
            core = openvino_core()
            model = core.read_model(str(path))
            self._compiled = core.compile_model(model, provider.device, config)
            self._request = self._compiled.create_infer_request()
        self.inputs, self.outputs = (
            [Port(item.any_name, _static(item.partial_shape), _float_type(item)) for item in items]
            for items in (self._compiled.inputs, self._compiled.outputs)
        )

    def run(self, feeds: Mapping[str, Array], output: str) -> Array:
        with _said(self.path, self.provider, _task(feeds)):
            result: Array = self._request.infer(dict(feeds), share_inputs=True)[output]
        if result.size == 0:  # what OpenVINO makes of images for which there is no memory
            raise MemoryError(f"{_task(feeds)}: no result")
        return result


class _said:  # noqa: N801  read as a word: with _said(...)
    """Around calls of a runtime: what it raises, in one sentence."""

    def __init__(self, path: Path, provider: Provider, task: str) -> None:
        self.path, self.provider, self.task = path, provider, task

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, MemoryError):
            return
        if memory_is_full(error) or _FULL.search(str(error)):
            raise MemoryError(reason_of(error)) from error
        runtime = NAMES[self.provider.runtime]
        raise InputError(f"{self.path}: {runtime} cannot {self.task}: {_reason(error)}") from error


def _task(feeds: Mapping[str, Array]) -> str:
    shapes = ", ".join(str(list(value.shape)) for value in feeds.values() if value.ndim > 1)
    return f"run it on an image {shapes}"


def _reason(error: Exception) -> str:
    """The line of an exception that says most: the last of OpenVINO's, which begin with places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not re.match(r"(Exception from|Check .* failed at)", line)]
    first = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", (said or lines or [""])[0])
    return reason_of(RuntimeError(re.sub(r"^Load model from .* failed:", "", first)))  # the path is said already


def _sizes(shape: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) and size > 0 else None for size in shape)


def _static(shape: Any) -> tuple[int | None, ...]:
    return tuple(size.get_length() if size.is_static else None for size in shape)


def _float_type(item: Any) -> str | None:
    kind = np.dtype(item.get_element_type().to_dtype())
    return kind.name if kind.kind == "f" else None
