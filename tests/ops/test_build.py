"""Compiling on first use: once, by one process, and with an answer where it cannot be done."""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import ops
from ops import build
from ops.registry import ENVIRONMENT
from tests.runs import ROOT
from utils.errors import InputError
from utils.log import get_logger

GOOD = 'extern "C" int answer() { return 42; }\n'
BAD = 'extern "C" int answer() { return fortytwo; }\n'


def has_compiler() -> bool:
    try:
        build.find_compiler()
    except build.Unusable:
        return False
    return True


needs_compiler = pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of this test's own, and a process that has asked for nothing yet."""
    monkeypatch.setenv(build.CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    build.ask_again()
    yield tmp_path / "cache" / "ops"
    build.ask_again()


@pytest.fixture
def log() -> Iterator[list[tuple[int, str]]]:
    lines: list[tuple[int, str]] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append((record.levelno, record.getMessage()))  # type: ignore[method-assign]
    logger, level = get_logger(), get_logger().level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def target(tmp_path: Path) -> Callable[[str], build.BuildTarget]:
    """Makes a target for one small file; its compiler notes every call in the file "calls" and takes a moment."""
    compiler = tmp_path / "compiler"
    text = f"#!/bin/sh\necho call >> '{tmp_path}/calls'\nsleep 0.3\nexec '{build.find_compiler()}' \"$@\"\n"
    compiler.write_text(text)
    compiler.chmod(0o755)

    def make(text: str) -> build.BuildTarget:
        source = tmp_path / "answer.cpp"
        source.write_text(text)
        step = (str(compiler), "-c", str(source), "-fPIC")
        return build.BuildTarget("CPU answer", 1, (step,), (str(compiler), "-shared"), (text,))

    return make


def calls(tmp_path: Path) -> int:
    noted = tmp_path / "calls"
    return len(noted.read_text().splitlines()) if noted.exists() else 0


@needs_compiler
@pytest.mark.build
def test_builds_once(target: Callable[[str], build.BuildTarget], tmp_path: Path, log: list[tuple[int, str]]) -> None:
    found = build.library(target(GOOD))
    assert ctypes.CDLL(str(found)).answer() == 42
    assert build.library(target(GOOD)) == found
    assert calls(tmp_path) == 2  # one file, one link
    assert sorted(path.name for path in found.parent.iterdir()) == ["kernels.so"]
    assert [level for level, _ in log] == [logging.INFO] * 2
    assert log[0][1].startswith("compiling the CPU answer kernels, once, about 1 s, into ")
    assert build.library(target(GOOD.replace("42", "43"))) != found


@needs_compiler
@pytest.mark.build
def test_a_failure_is_remembered(
    target: Callable[[str], build.BuildTarget], tmp_path: Path, private_cache: Path
) -> None:
    with pytest.raises(build.Unusable, match=r"compiling them failed: .*fortytwo.*\(all of it in .*failed.txt\)"):
        build.library(target(BAD))
    assert calls(tmp_path) == 1
    with pytest.raises(build.Unusable, match=r"failed before: .*fortytwo.*FOCALSR_OPS=native retries"):
        build.library(target(BAD))
    assert calls(tmp_path) == 1
    with pytest.raises(build.Unusable, match="failed: "):
        build.library(target(BAD), retry=True)
    assert calls(tmp_path) == 2
    assert "-fPIC" in next(private_cache.glob("cpu-answer-*/failed.txt")).read_text()  # the command is there
    assert ctypes.CDLL(str(build.library(target(GOOD)))).answer() == 42  # another key
    repaired = replace(target(GOOD), facts=(BAD,))  # the key of the failure: something outside was mended
    assert ctypes.CDLL(str(build.library(repaired, retry=True))).answer() == 42
    assert not list(private_cache.glob("building-*"))


@needs_compiler
@pytest.mark.build
def test_a_killed_compiler_is_not_remembered(tmp_path: Path, target: Callable[[str], build.BuildTarget]) -> None:
    good = target(GOOD)
    script = tmp_path / "compiler"
    text = script.read_text()
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(build.Unusable, match="compiler was stopped: signal 9"):
        build.library(good)
    script.write_text(text)
    assert build.library(good).exists()


BUILDER = """
import sys
from pathlib import Path
from ops import build
tool, source, first = sys.argv[1:]
assert first == "no" or not build.cache_folder().exists()  # importing has built nothing
step = (tool, "-c", source, "-fPIC")
print(build.library(build.BuildTarget("CPU answer", 1, (step,), (tool, "-shared"), ("same",))))
"""


@needs_compiler
@pytest.mark.build
def test_two_processes_build_once(tmp_path: Path, target: Callable[[str], build.BuildTarget]) -> None:
    target(GOOD)
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "compiler"), str(tmp_path / "answer.cpp"), "no"]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0] == said[1]
    assert calls(tmp_path) == 2


@needs_compiler
@pytest.mark.build
def test_importing_builds_nothing_and_a_killed_process_blocks_nobody(
    tmp_path: Path, target: Callable[[str], build.BuildTarget], private_cache: Path
) -> None:
    target(GOOD)
    slow, started = tmp_path / "slow", tmp_path / "started"
    slow.write_text(f"#!/bin/sh\ntouch '{started}'\nsleep 60\n")
    slow.chmod(0o755)
    command = [sys.executable, "-c", BUILDER, str(slow), str(tmp_path / "answer.cpp"), "yes"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    while not started.exists():
        assert process.poll() is None
        time.sleep(0.05)
    [work] = private_cache.glob("building-*")
    process.kill()  # its compiler lives on
    process.wait()
    step = (str(slow), "-c", str(tmp_path / "answer.cpp"), "-fPIC")
    same = build.BuildTarget("CPU answer", 1, (step,), (str(slow), "-shared"), ("same",))
    slow.write_text((tmp_path / "compiler").read_text())
    try:
        assert build.library(same).exists()
    finally:
        os.killpg(process.pid, 9)
    assert work.exists()  # it may have been at work
    os.utime(work, (0, 0))
    build.library(target(GOOD))
    assert not work.exists()


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
def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(build.CACHE, str(tmp_path / "file"))
    assert "a part of this path is a file" in str(build.cpu_extension("smm"))


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(build.CACHE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert build.cache_folder() == tmp_path / "xdg" / "focalsr" / "ops"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert build.cache_folder() == tmp_path / ".cache" / "focalsr" / "ops"


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
    assert not any(str(build.SOURCES) in word for step in here.steps for word in step)  # a clone elsewhere: same key


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
    with pytest.raises(build.Unusable, match=install):
        build.find_toolkit()
    toolkit(future / "system", "98.0")
    with pytest.raises(build.Unusable, match=f"system is CUDA 98.0, and torch is built for 99.1.*{install}"):
        build.find_toolkit()
    pip = toolkit(future / "site/nvidia/cu99", "99.0", "include/cuda_runtime_api.h")
    with pytest.raises(build.Unusable, match=r"cu99 has nvcc, but no libcudart.so"):
        build.find_toolkit()
    toolkit(pip, "99.0", "lib/libcudart.so.99")
    assert build.find_toolkit() == (pip / "bin/nvcc", pip / "include", pip / "lib/libcudart.so.99")
    system = toolkit(future / "system", "99.1", "targets/a/include/cuda_runtime_api.h", "targets/a/lib/libcudart.so")
    assert build.find_toolkit().headers == system / "targets/a/include"
    monkeypatch.setenv("CUDA_HOME", str(future))
    with pytest.raises(build.Unusable, match=r"CUDA_HOME=.* has no bin/nvcc"):
        build.find_toolkit()


@needs_compiler
def test_cuda_kernels_are_compiled_and_linked_with_the_toolkit(future: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = toolkit(future / "mine", "99.1", "include/cuda_runtime_api.h", "lib64/libcudart.so")
    monkeypatch.setenv("CUDA_HOME", str(home))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: ((8, 0), (9, 0))[device])
    targets = build.cuda_targets()
    assert {target.name for target in targets} == {"CUDA smm", "CUDA focus_sparse", "CUDA focus_select"}
    for target in targets:
        device, host = target.steps
        assert device[0] == str(home / "bin/nvcc")
        assert {"-gencode=arch=compute_80,code=sm_80", "-gencode=arch=compute_90,code=sm_90"} < set(device)
        assert f"-I{home}/include" in host
        assert str(home / "lib64/libcudart.so") in target.link


def test_a_missing_toolkit_is_explained(future: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
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
