"""How kernels are compiled, and the answer where they cannot be."""

from __future__ import annotations

import ctypes
import importlib
import logging
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ops
from ops import build, kernel_cache
from ops.registry import ENVIRONMENT
from tests.ops.kernels import needs_compiler
from utils import devices
from utils.errors import InputError
from utils.programs import run_program

pytestmark = pytest.mark.usefixtures("private_cache")


def test_no_compiler_leaves_pytorch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: list[tuple[int, str]]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    q, index = torch.randn(1, 4, 3), torch.zeros(1, 4, 2, dtype=torch.int32)
    expected = ops.smm_qmk(q, q.mT, index, backend="reference")
    for _ in range(2):
        assert torch.equal(ops.smm_qmk(q, q.mT, index), expected)
    assert [level for level, _ in log] == [logging.WARNING]
    assert "CPU smm kernels are not used: there is no C++ compiler; install g++ or set CXX" in log[0][1]
    assert "several times slower" in log[0][1]
    with pytest.raises(InputError, match="smm_qmk: backend native cannot be used: there is no C"):
        ops.smm_qmk(q, q.mT, index, backend="native")
    monkeypatch.setenv(ENVIRONMENT, "native")
    with pytest.raises(InputError, match="FOCALSR_OPS=native, but smm_qmk: there is no C"):
        ops.smm_qmk(q, q.mT, index)
    assert len(log) == 1


def test_reference_asks_for_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "reference")
    monkeypatch.setattr(build, "cpu_extension", lambda part: pytest.fail("the reference needs no kernels"))
    q, index = torch.randn(1, 4, 3), torch.zeros(1, 4, 2, dtype=torch.int32)
    assert ops.smm_qmk(q, q.mT, index).shape == (1, 4, 2)


@needs_compiler
def test_a_compiler_that_links_a_library_of_its_own_makes_kernels_that_can_write_numbers(tmp_path: Path) -> None:
    source, kernels = tmp_path / "kernels.cpp", tmp_path / "kernels.so"
    source.write_text(
        "#include <sstream>\n"
        'extern "C" int length(long n) { std::ostringstream s; s << "is " << n; return int(s.str().size()); }\n'
    )
    run_program(
        [build.find_compiler(), "-shared", "-fPIC", "-static-libstdc++", str(source), "-o", str(kernels),
         *build.standard_library()], limit=60,
    )  # fmt: skip
    assert ctypes.CDLL(str(kernels)).length(1234) == 7
    assert all(set(build.standard_library()) <= set(target.link) for target in build.cpu_targets())


@needs_compiler
def test_the_key_covers_what_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    here = build.cpu_targets()[0]
    assert here.key() == build.cpu_targets()[0].key()
    keys = {here.key()}
    for target, name, value in (
        (build, "processor", lambda: "another"),
        (build, "contents", lambda *patterns: ("a.cpp other",)),
        (torch, "__version__", "99"),
        (build, "file_facts", lambda path: "another compiler"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            keys.add(build.cpu_targets()[0].key())
    keys.add(replace(here, link=(*here.link, "-s")).key())
    assert len(keys) == 6
    sources = str(kernel_cache.SOURCES)
    assert not any(sources in word for step in here.steps for word in step)  # a clone elsewhere: same key


@needs_compiler
def test_parts_are_libraries_of_their_own() -> None:
    assert {"CPU smm"} == {target.name for target in build.cpu_targets("smm")}
    assert {"CPU smm"} < {target.name for target in build.cpu_targets()}
    assert "no file smn_cpu.cpp" in str(build.cpu_extension("smn"))


def test_no_cuda_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert build.cuda_extension() == "there is no CUDA device, or torch is built without CUDA"


def toolkit(home: Path, version: str, *files: str) -> Path:
    """A folder with an nvcc that tells its version, and nothing else that works."""
    for name in ("bin/nvcc", *files):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(f"#!/bin/sh\necho Cuda compilation tools, release {version}, V{version}.1\n")
    (home / "bin" / "nvcc").chmod(0o755)
    importlib.invalidate_caches()
    return home


@pytest.fixture
def future(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A torch for a CUDA that no toolkit of this machine has."""
    monkeypatch.setattr(torch.version, "cuda", "99.1")
    monkeypatch.setenv("PATH", f"{tmp_path}/system/bin:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    package = tmp_path / "site/nvidia/__init__.py"  # else an installed one would be found behind it
    package.parent.mkdir(parents=True)
    package.touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path


def test_a_toolkit_that_pip_installed_serves(future: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install = r'pip install "cuda-toolkit\[nvcc,cccl\]==99.1.\*" \(or set CUDA_HOME\)'
    with pytest.raises(kernel_cache.Unusable, match=install):
        build.find_toolkit()
    toolkit(future / "system", "98.0")
    with pytest.raises(kernel_cache.Unusable, match=f"system is CUDA 98.0, and torch is built for 99.1.*{install}"):
        build.find_toolkit()
    pip = toolkit(future / "site/nvidia/cu99", "99.0", "include/cuda_runtime_api.h")
    with pytest.raises(kernel_cache.Unusable, match=r"cu99 has nvcc, but no libcudart.so"):
        build.find_toolkit()
    toolkit(pip, "99.0", "lib/libcudart.so.99")
    assert build.find_toolkit() == (pip / "bin/nvcc", pip / "include", pip / "lib/libcudart.so.99")
    system = toolkit(future / "system", "99.1", "targets/a/include/cuda_runtime_api.h", "targets/a/lib/libcudart.so")
    assert build.find_toolkit().headers == system / "targets/a/include"
    monkeypatch.setenv("CUDA_HOME", str(future))
    with pytest.raises(kernel_cache.Unusable, match=r"CUDA_HOME=.* has no bin/nvcc"):
        build.find_toolkit()


@needs_compiler
def test_cuda_kernels_are_compiled_and_linked_with_the_toolkit(future: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = toolkit(future / "mine", "99.1", "include/cuda_runtime_api.h", "lib64/libcudart.so")
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: ((8, 0), (9, 0))[device])
    targets = build.cuda_targets()
    assert {target.name for target in targets} == {
        "CUDA smm",
        "CUDA focus_sparse",
        "CUDA focus_select",
        "CUDA depthwise",
        "CUDA maps",
    }
    for target in targets:
        device, host = target.steps
        assert device[0] == str(home / "bin/nvcc")
        assert {"-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90,code=sm_90"} < set(device)
        assert f"-I{home}/include" in host
        assert str(home / "lib64/libcudart.so") in target.link


@pytest.mark.build
def test_cpu_kernels_include_no_header_that_their_key_leaves_out() -> None:
    """What is left out does not compile them again where it changes."""
    part_of_key = {line.split()[0] for line in build.cpu_targets("smm")[0].facts if ".h " in line}
    assert part_of_key
    for source in (*kernel_cache.SOURCES.glob("*_cpu.cpp"), *(kernel_cache.SOURCES / name for name in part_of_key)):
        assert set(re.findall(r'#include "(\w+\.h)"', source.read_text())) <= part_of_key, source.name


def test_a_missing_toolkit_is_explained(future: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(devices, "present", lambda: devices.Present("cuda", 1))
    monkeypatch.setattr(build, "cpu_extension", lambda part=None: "not asked for")
    lines = {(line.operator, line.example): line for line in ops.explain()}
    for operator, example in (("smm_qmk", "cuda"), ("focused_attention", "cuda, all keys, selects")):
        line = lines[operator, example]
        assert line.backend != "native"
        assert "pip install" in line.others["native"]
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    build.ask_again()
    assert "whose nvcc is none of its packages for pip" in str(build.cuda_extension("smm"))


def test_answers_are_constants_of_traced_graphs() -> None:
    def function() -> None:
        pass

    torch.compiler.assume_constant_result(function)
    for answer in (build.cpu_extension, build.cuda_extension):
        assert function.__dict__.items() <= answer.__dict__.items()
