"""How a program is to be exported."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from models.export.facts import Precision
from models.export.onnx_files import OPSETS
from models.export.program import check_torch
from ops.build import find_compiler
from ops.kernel_cache import Unusable
from utils.errors import InputError
from utils.optional import require_packages

REQUIREMENTS = "requirements-export.txt"

SUFFIXES = (".onnx", ".pt2")
"""Of files that hold a network as a program."""

Form = Literal["onnx", "pt2", "aot"]

TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
"""How far outputs may be from those of the network in the same precision, in the range 0 to 1."""


@dataclasses.dataclass(frozen=True)
class ProgramOptions:
    """How a program is to be.

    Attributes:
        form: ONNX, a program of torch.export, or a package that AOTInductor has compiled.
        opset: version of the ONNX operators; None for the first that can express it.
        static: (height, width) of the only images that it takes; None for any size in any number.
        batch: how many images of this size at a time; None for one.
        precision: in which it computes.
        scale: of a network for any scale; None where it shall be an input.
        tolerance: allowed difference from the network, in the range 0 to 1; None for the usual one.
    """

    form: Form = "onnx"
    opset: int | None = None
    static: tuple[int, int] | None = None
    batch: int | None = None
    precision: Precision = "fp32"
    scale: float | None = None
    tolerance: float | None = None

    @property
    def operators(self) -> int:
        """The version of the ONNX operators."""
        if self.opset is None:  # convolutions take bfloat16 from version 22 on
            return OPSETS[1] if self.precision == "bf16" else OPSETS[0]
        return self.opset

    @property
    def allowed(self) -> float:
        """The allowed difference from the network."""
        return TOLERANCES[self.precision] if self.tolerance is None else self.tolerance

    def check(self, path: Path) -> None:
        """Whether a file of this name can be written in this way, with what is installed.

        Raises:
            InputError: it cannot.
        """
        if self.opset is not None and self.form != "onnx":
            raise InputError(f"--opset is about ONNX; {path.name} holds a program of torch")
        if self.operators < OPSETS[1] and self.precision == "bf16":
            raise InputError(f"--opset {self.opset} has no convolutions in bf16; choose --opset {OPSETS[1]}, or fp16")
        if self.batch is not None and self.static is None:
            raise InputError("--batch fixes how many images of --static HxW there are; without it any number is taken")
        if self.batch is not None and self.batch < 1:
            raise InputError(f"--batch {self.batch}: expected at least 1")
        if self.tolerance is not None and not self.tolerance > 0:
            raise InputError(f"--tolerance {self.tolerance:g}: expected a number above 0, such as 1e-4")
        check_torch()
        if self.form == "onnx":
            needed = ["onnx", "onnxscript", *self.runtimes]
            require_packages(path.name, REQUIREMENTS, *needed)
        if self.form == "aot":
            try:
                find_compiler()
            except Unusable as error:
                raise InputError(f"--aot: AOTInductor compiles C++, and {error}") from error

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The packages that run ONNX files of this precision: ONNX Runtime has no bf16 on CPUs."""
        return ("openvino",) if self.precision == "bf16" else ("onnxruntime",)


def form_of(path: Path, *, aot: bool) -> Form:
    """The form of a program by the name of its file.

    Raises:
        InputError: a package is to be compiled under another name than packages have.
    """
    if not aot:
        return "onnx" if path.suffix == ".onnx" else "pt2"
    if path.suffix != ".pt2":
        raise InputError(f"--aot writes a package for torch; {path.name} does not end in .pt2")
    return "aot"


def read_size(flag: str, text: str) -> tuple[int, int]:
    """Height and width of ``180x320``.

    Raises:
        InputError: it is not of this form.
    """
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if found is None:
        raise InputError(f"{flag} {text}: expected height x width in pixels, such as {flag} 180x320")
    return int(found[1]), int(found[2])
