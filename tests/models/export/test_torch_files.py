"""Files for torch run in a process that has nothing of this project."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch._inductor import config as inductor_config

from models.export.facts import ExportFacts
from models.export.files import write_program
from models.export.fingerprint import fingerprint
from models.export.options import ProgramOptions
from models.inference.upscale import upscale
from tests.models.export.networks import PLAINUSR, TINY, needs_torch, network_of

pytestmark = needs_torch

RUN = """
import importlib.util, sys, torch
path, kind = sys.argv[1:]
assert importlib.util.find_spec("archs") is None
if kind == "aot":
    program, found = torch._inductor.aoti_load_package(path), {}
    print(program.loader.get_metadata()["focalsr.scale"])
else:
    found = {"focalsr.json": ""}
    program = torch.export.load(path, extra_files=found).module()
    print(found["focalsr.json"])
torch.save(program(torch.load("images.pt")), "output.pt")
"""


def run_elsewhere(path: Path, kind: str, images: torch.Tensor, folder: Path) -> tuple[torch.Tensor, str]:
    torch.save(images, folder / "images.pt")
    line = [sys.executable, "-I", "-c", RUN, str(path), kind]
    done = subprocess.run(line, cwd=folder, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    output: torch.Tensor = torch.load(folder / "output.pt", weights_only=True)
    return output, done.stdout


def test_a_program_of_torch_export(tmp_path: Path) -> None:
    network, path = network_of(PLAINUSR), tmp_path / "net.pt2"
    written = write_program(path, network, PLAINUSR, fingerprint(network.state_dict()), ProgramOptions("pt2"))
    images = torch.rand(3, 3, 5, 14)
    output, shown = run_elsewhere(path, "pt2", images, tmp_path)
    torch.testing.assert_close(output, upscale(network, images), rtol=0, atol=1e-5)
    assert ExportFacts.from_strings(json.loads(shown), path.name) == written.facts
    assert str(Path(__file__).parents[3]).encode() not in path.read_bytes()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_package_of_aotinductor(tmp_path: Path) -> None:
    network, path = network_of(TINY), tmp_path / "net.pt2"
    # Compiled in less time, to run in more.
    with inductor_config.patch(
        {
            "aot_inductor.compile_wrapper_opt_level": "O0",
            "aot_inductor.precompile_headers": False,
            "cpp.vec_isa_ok": False,  # compiles nothing to find out what the processor has
        }
    ):
        written = write_program(path, network, TINY, fingerprint(network.state_dict()), ProgramOptions("aot"))
    images = torch.rand(3, 3, 5, 14)
    output, shown = run_elsewhere(path, "aot", images, tmp_path)
    torch.testing.assert_close(output, upscale(network, images), rtol=0, atol=1e-5)
    assert shown == "2\n"
    with zipfile.ZipFile(path) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/extra/focalsr.json")]
        assert ExportFacts.from_strings(json.loads(archive.read(name)), path.name) == written.facts
