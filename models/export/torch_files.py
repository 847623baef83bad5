"""Traced programs as files that torch runs: torch.export's own, and packages that AOTInductor has compiled.

Both are run here as their users run them, in a process that cannot import this project.

Shapes: B images, c channels, h w low-resolution pixels, s scale.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram

from models.export.program import quiet
from models.export.verify import Inputs, Run
from utils.errors import RunError
from utils.wording import first_line

FACTS = "focalsr.json"
"""Name of the text in a file that says what it takes: ``torch.export.load(path, extra_files=...)`` reads it."""

Kind = Literal["program", "package"]

_CHILD = """
import sys
import torch

folder, kind = sys.argv[1:]
if kind == "program":
    program = torch.export.load(folder + "/net.pt2").module()
else:
    program = torch._inductor.aoti_load_package(folder + "/net.pt2")
for line in sys.stdin:
    inputs = torch.load(folder + "/inputs.pt", weights_only=True)
    with torch.no_grad():
        torch.save(program(*inputs).clone(), folder + "/output.pt")
    print("done", flush=True)
"""


def saved_program(program: ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """The file of a program, with texts beside it."""
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files={FACTS: json.dumps(metadata)})
    return buffer.getvalue()


def compiled_package(program: ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    """The package that AOTInductor makes of a program, for this kind of processor.

    Args:
        program: traced on the device that is to run it.
        metadata: for those who load it from C++.

    Raises:
        RunError: it cannot be compiled.
    """
    buffer = io.BytesIO()
    try:
        with quiet(), _linkable():
            torch._inductor.aoti_compile_and_package(
                program, package_path=buffer, inductor_configs={"aot_inductor.metadata": dict(metadata)}
            )
    except Exception as error:  # of many kinds: of the compiler of graphs, and of the one of C++
        raise RunError(f"AOTInductor cannot compile this network ({first_line(error)})") from error
    return buffer.getvalue()


@contextmanager
def _linkable() -> Iterator[None]:
    """Have torch's libraries under a path without spaces: torch (up to 2.13) does not quote it for the linker."""
    from torch.utils import cpp_extension  # takes half a second

    place = cpp_extension.TORCH_LIB_PATH
    if not any(character.isspace() for character in place):
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "torch"
        link.symlink_to(place, target_is_directory=True)
        cpp_extension.TORCH_LIB_PATH = str(link)
        try:
            yield
        finally:
            cpp_extension.TORCH_LIB_PATH = place


def with_text(package: bytes, metadata: Mapping[str, str]) -> bytes:
    """A package with texts beside it, where :data:`FACTS` is in the files of programs."""
    buffer = io.BytesIO(package)
    with zipfile.ZipFile(buffer, "a") as archive:
        top = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{top}/extra/{FACTS}", json.dumps(metadata))
    return buffer.getvalue()


@contextmanager
def torch_runner(path: Path, kind: Kind) -> Iterator[tuple[Run, str]]:
    """A file run by torch in another process: a function from inputs to the output, and torch's name and version."""
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w+b") as log:
        shutil.copyfile(path, Path(folder, "net.pt2"))
        # -I: nothing is imported from the folder in which we are, or from PYTHONPATH.
        line = [sys.executable, "-I", "-c", _CHILD, folder, kind]
        with subprocess.Popen(
            line, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            ask, answers = process.stdin, process.stdout

            def run(inputs: Inputs) -> Tensor:
                torch.save(list(inputs), Path(folder, "inputs.pt"))
                try:
                    ask.write("run\n")
                    ask.flush()
                except BrokenPipeError:  # it could not even load the file
                    answer = ""
                else:
                    answer = answers.readline()
                if answer.strip() != "done":
                    process.wait()
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip().splitlines()
                    raise RunError(said[-1] if said else f"the process ended with {process.returncode}")
                output: Tensor = torch.load(Path(folder, "output.pt"), weights_only=True)
                return output

            try:
                yield run, f"torch {torch.__version__}"
            finally:
                process.kill()
