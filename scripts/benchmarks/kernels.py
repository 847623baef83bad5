"""What nvcc makes of the CUDA kernels: registers, shared memory and spills, as ``-Xptxas -v`` tells them.

Needs nvcc and no GPU. Shared memory that a launch asks for at run time is not part of it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ops.build import NVCC_FLAGS
from ops.kernel_cache import SOURCES
from utils.env import available_cores
from utils.errors import InputError

ARCHITECTURES = ("80", "90a")
_NAME = re.compile(r"Compiling entry function '(?P<symbol>\w+)' for 'sm_\w+'")
_SPILLS = re.compile(r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads")
_USED = re.compile(r"Used (?P<registers>\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_KERNEL = re.compile(r"([A-Za-z][A-Za-z_]*_kernel)I?")


class Resources(NamedTuple):
    """What a kernel takes, or the most of its forms for several types.

    Attributes:
        source: file in ops/csrc.
        kernel: name of the function.
        architecture: "80" for sm_80.
        forms: how many were compiled.
        registers: of a thread.
        shared: bytes of static shared memory of a block.
        spills: bytes written to and read from local memory for want of registers.
    """

    source: str
    kernel: str
    architecture: str
    forms: int
    registers: int
    shared: int
    spills: int


def compile_all() -> list[Resources]:
    """Compile every CUDA source for every architecture.

    Raises:
        InputError: there is no nvcc, or it fails; the message holds the first error.
    """
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise InputError("kernels: there is no nvcc on the PATH; install CUDA's compiler")
    jobs = [(path.name, name) for path in sorted(SOURCES.glob("*_cuda.cu")) for name in ARCHITECTURES]
    with ThreadPoolExecutor(available_cores()) as pool:
        printed = pool.map(lambda job: _ptxas_messages(nvcc, *job), jobs)
        return [found for job, text in zip(jobs, printed, strict=True) for found in resources(*job, text)]


def resources(source: str, architecture: str, printed: str) -> list[Resources]:
    """What ptxas printed, one entry for each kernel.

    Args:
        source: name of the file.
        architecture: that it was compiled for.
        printed: the messages of ``nvcc -Xptxas -v``.
    """
    found: dict[str, list[Resources]] = {}
    for symbol, lines in _by_function(printed.splitlines()):
        text = "\n".join(lines)
        used, spills, shared = _USED.search(text), _SPILLS.search(text), _SHARED.search(text)
        if used is None:
            continue
        names = _KERNEL.findall(symbol)
        kernel = names[0] if names else symbol
        entry = Resources(
            source, kernel, architecture, 1, int(used["registers"]), int(shared[1]) if shared else 0,
            int(spills["stores"]) + int(spills["loads"]) if spills else 0,
        )  # fmt: skip
        found.setdefault(kernel, []).append(entry)
    return [
        Resources(
            source, kernel, architecture, len(forms), max(form.registers for form in forms),
            max(form.shared for form in forms), max(form.spills for form in forms),
        )
        for kernel, forms in sorted(found.items())
    ]  # fmt: skip


def section(found: Iterable[Resources]) -> str:
    """The Markdown section of docs/performance.md."""
    lines = [
        "## CUDA kernels, as compiled",
        "",
        "`python scripts/benchmark.py kernels`: nvcc with `-Xptxas -v`, no GPU needed. Of the forms of a kernel (types",
        "of values and of list entries) the largest figure is shown. Shared memory is the static part.",
        "",
        "| source | kernel | architecture | forms | registers | shared memory, bytes | spills, bytes |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {one.source} | {one.kernel} | sm_{one.architecture} | {one.forms} | {one.registers} | {one.shared} "
        f"| {one.spills} |"
        for one in found
    ]
    return "\n".join(lines) + "\n"


def _ptxas_messages(nvcc: str, source: str, architecture: str) -> str:
    """The messages of compiling one source for one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
        command = [nvcc, "-c", *NVCC_FLAGS, target, "-Xptxas", "-v", source, "-o", str(Path(folder) / "kernels.o")]
        done = subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, errors="replace", check=False)
    messages = done.stderr + done.stdout
    if done.returncode:
        first = next((line for line in messages.splitlines() if "error" in line), messages[:200])
        raise InputError(f"kernels: nvcc cannot compile ops/csrc/{source} for sm_{architecture}: {first}")
    return messages


def _by_function(lines: Iterable[str]) -> list[tuple[str, list[str]]]:
    """The lines that follow each function's name."""
    parts: list[tuple[str, list[str]]] = []
    for line in lines:
        start = _NAME.search(line)
        if start:
            parts.append((start["symbol"], []))
        elif parts:
            parts[-1][1].append(line)
    return parts
