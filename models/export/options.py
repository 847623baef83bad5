"""How a program is to be exported."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from models.export.onnx_files import OPSETS
from models.export.program import check_torch
from utils.errors import InputError
from utils.optional import require_packages

REQUIREMENTS = "requirements-export.txt"


@dataclasses.dataclass(frozen=True)
class ProgramOptions:
    """How a program is to be.

    Attributes:
        opset: version of the ONNX operators.
        static: (height, width) of the only images that it takes; None for any size in any number.
        batch: how many images of this size at a time; None for one.
        tolerance: allowed difference from the network, in the range 0 to 1; None for the usual one.
    """

    opset: int = OPSETS[0]
    static: tuple[int, int] | None = None
    batch: int | None = None
    tolerance: float | None = None

    def check(self, path: Path) -> None:
        """Raise InputError where they contradict each other, or a file of this name needs what is not installed."""
        if self.batch is not None and self.static is None:
            raise InputError("--batch fixes how many images of --static HxW there are; without it any number is taken")
        if self.batch is not None and self.batch < 1:
            raise InputError(f"--batch {self.batch}: expected at least 1")
        if self.tolerance is not None and not self.tolerance > 0:
            raise InputError(f"--tolerance {self.tolerance:g}: expected a number above 0, such as 1e-4")
        check_torch()
        require_packages(path.name, REQUIREMENTS, "onnx", "onnxscript", "onnxruntime")


def read_size(flag: str, text: str) -> tuple[int, int]:
    """Height and width of ``180x320``.

    Raises:
        InputError: it is not of this form.
    """
    found = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if found is None:
        raise InputError(f"{flag} {text}: expected height x width in pixels, such as {flag} 180x320")
    return int(found[1]), int(found[2])
