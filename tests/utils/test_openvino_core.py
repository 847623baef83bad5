"""One core of OpenVINO for a process, which Ctrl-C does not end with a segmentation fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Networks that go in the order in which they came, then a signal.
LOADS = """
import gc, signal, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import openvino
from openvino import opset13
from utils.openvino_core import openvino_core

def compiled():
    x = opset13.parameter([1, 2], np.float32)
    return openvino_core().compile_model(openvino.Model([opset13.relu(x)], [x], "relu"), "CPU")

first, second = compiled(), compiled()
assert openvino_core() is openvino_core()
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGINT, lambda *_: None)
signal.raise_signal(signal.SIGINT)
print("goes on")
"""


def test_a_signal_after_networks_have_gone_ends_nothing() -> None:
    pytest.importorskip("openvino")
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", LOADS, str(ROOT)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr
