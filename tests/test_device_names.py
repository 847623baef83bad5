"""One place names types of devices, utils/devices.py: whoever is not on a short list asks it what a device can do."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runs import ROOT

PLACES = ("archs", "config", "data", "losses", "metrics", "models", "ops", "scripts", "utils", "train.py", "test.py")
NAMES = re.compile(r"(cuda|xpu|mps|hip|rocm|nccl|xccl)(:\d+)?")
PERMITTED = {
    "utils/devices.py": "the place",
    "utils/device_memory.py": "its memory",
    "utils/env.py": "the version of CUDA, for records",
    "config/schema.py": "backends of torch.distributed: values of options",
    "data/dataset_options.py": "prefetch_mode: a value of BasicSR's option",
    "models/runtimes/": "providers of ONNX Runtime, which have names of their own",
    "ops/": "kernels for a type of devices",
    "archs/esc/kernels.py": "a formula that is faster on the CPU; others use the plain one",
    "archs/pft/bands.py": "the heap of the C library",
    "models/precision/network.py": "kernels of oneDNN",
    "scripts/run_gpu.py": "figures of CUDA's kernels",
    "scripts/benchmark.py": "what is measured where",
    "scripts/benchmarks/": "what is measured where",
}
"""File or folder -> why it may."""


def files() -> list[Path]:
    found = [
        path
        for place in PLACES
        for path in ((ROOT / place).rglob("*.py") if (ROOT / place).is_dir() else [ROOT / place])
    ]
    return sorted(found)


def permit(path: Path) -> str | None:
    name = path.relative_to(ROOT).as_posix()
    return next(
        (place for place in PERMITTED if name == place or (place.endswith("/") and name.startswith(place))), None
    )


def named(source: str) -> Iterator[str]:
    """Where code, not its comments and documentation, names a type of devices or asks whether one is the CPU."""
    for node in ast.walk(ast.parse(source)):
        text = ""
        if not isinstance(node, ast.expr):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = repr(node.value) if NAMES.fullmatch(node.value) else ""
        elif isinstance(node, ast.Attribute) and NAMES.fullmatch(node.attr):
            text = ast.unparse(node)
        elif isinstance(node, ast.Compare):
            sides = (node.left, *node.comparators)
            text = ast.unparse(node) if any(isinstance(x, ast.Constant) and x.value == "cpu" for x in sides) else ""
        if text and not text.startswith("torch.version.") and "prefetch_mode" not in text:  # BasicSR's option
            yield f"line {node.lineno}: {text}"


@functools.cache
def found() -> dict[str, list[str]]:
    """Permit, empty for none -> where devices are named by it."""
    places: dict[str, list[str]] = {place: [] for place in ("", *PERMITTED)}
    for path in files():
        source = path.read_text(encoding="utf-8")
        places[permit(path) or ""] += [f"{path.relative_to(ROOT)}, {where}" for where in named(source)]
    return places


@pytest.mark.parametrize("place", PERMITTED)
def test_a_permit_that_nobody_needs_is_given_back(place: str) -> None:
    assert found()[place], f"{place} names no type of devices; it needs no permit"


def test_types_of_devices_are_named_in_one_place() -> None:
    lines = found()[""]
    assert not lines, "ask utils.devices what the device can do:\n" + "\n".join(lines)


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ('if device.type == "cuda": pass', 1),
        ('if x.device.type != "cpu": pass', 1),
        ("torch.cuda.synchronize()", 1),
        ("x.cuda()", 1),
        ('torch.device("xpu:1")', 1),
        ('"""CUDA, or cuda."""', 0),
        ('place = "cpu"', 0),
        ("torch.version.cuda", 0),
        ('if options.prefetch_mode == "cpu": pass', 0),
    ],
)
def test_what_counts_as_naming_one(line: str, counts: int) -> None:
    assert len(list(named(line))) == counts
