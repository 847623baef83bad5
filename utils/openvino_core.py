"""OpenVINO, started once in a process."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def openvino_core() -> Any:
    """The one ``openvino.Core`` of this process, which it keeps.

    On CPUs with AMX each core that is started gives the thread another stack for signals, and each that goes puts back
    the one that it found. Cores that do not go in the opposite order leave a stack that is gone, and Ctrl-C ends the
    process with a segmentation fault (OpenVINO 2026.4).
    """
    import openvino

    return openvino.Core()
