"""Which kernels in ops/csrc can be used here: compiles them on first use and loads them; nothing happens on import.

:mod:`ops.kernel_cache` keeps what is compiled. Here is how each library is made: compilers, flags, CUDA's toolkit.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ops.kernel_cache import SOURCES, BuildTarget, Stopped, Unusable, forget_hanging, is_built, libraries
from ops.registry import ENVIRONMENT, NATIVE, environment_choice
from utils.errors import InputError, StopRequested, StorageError
from utils.log import get_logger
from utils.programs import run_program
from utils.signals import requested

_PROBE_LIMIT = 60.0  # seconds, for a compiler to say its version


def cpu_extension(part: str | None = None) -> str | None:
    """Load CPU kernels, compiled on the first call ever; None, or one sentence why they cannot be used.

    Args:
        part: NAME of ops/csrc/NAME_cpu.cpp; all by default.
    """
    return _outcome("CPU", cpu_targets, part)


def cuda_extension(part: str | None = None) -> str | None:
    """Load CUDA kernels, compiled on the first call ever; None, or one sentence why they cannot be used.

    Args:
        part: NAME of ops/csrc/NAME_cuda.cu; all by default.
    """
    return _outcome("CUDA", cuda_targets, part)


# The answer is part of a traced graph; how it is found is not. This is what torch.compiler.assume_constant_result does,
# which imports all of the compiler, a second, for programs that may never compile.
for _function in (cpu_extension, cuda_extension):
    _function._dynamo_marked_constant = True  # type: ignore[attr-defined]

_outcomes: dict[str, str | None] = {}
_expected: dict[str, None] = {}  # in their order
_retried: set[str] = set()
_warned: set[str] = set()
_guard = threading.Lock()


def expect(parts: Iterable[str]) -> None:
    """Say which kernels are going to be used: where the first has to be compiled, the others are at the same time.

    Nothing is compiled or loaded by this.
    """
    _expected.update(dict.fromkeys(parts))


def ask_again() -> None:
    """Forget what loading gave in this process: the next call looks, and warns, as the first one did."""
    with _guard:
        for answers in (_outcomes, _retried, _warned):
            answers.clear()
        forget_hanging()


def _outcome(kind: str, targets: Callable[[str | None], Sequence[BuildTarget]], part: str | None) -> str | None:
    """What loading gave in this process; a reason is warned of once, and tried once more if the user insists."""
    name = f"{kind} {part}" if part else kind
    insists = environment_choice() == NATIVE
    with _guard:
        if name in _outcomes and (_outcomes[name] is None or not insists or name in _retried):
            return _outcomes[name]
        try:
            wanted = targets(part)
            beside = [] if all(map(is_built, wanted)) else _missing_beside(targets, part)
            for path in libraries(wanted, retry=insists, beside=beside):
                torch.ops.load_library(str(path))
            _outcomes[name] = None
        except Stopped as stop:  # no answer for later: whoever catches the signal leaves at the next safe point
            if insists:
                raise StopRequested(str(stop), 128 + (requested() or 0)) from None
            return str(stop)
        except (Unusable, InputError, StorageError, OSError) as error:
            _outcomes[name] = str(error)
            if not insists and str(error) not in _warned:
                _warned.add(str(error))
                get_logger().warning(
                    "%s kernels are not used: %s. PyTorch's own operators serve, several times slower and with more "
                    "memory; %s=reference silences this",
                    name,
                    error,
                    ENVIRONMENT,
                )
        if insists:
            _retried.add(name)
        return _outcomes[name]


def _missing_beside(targets: Callable[[str | None], Sequence[BuildTarget]], part: str | None) -> list[BuildTarget]:
    """The kernels beside a part that are expected, and not in the cache."""
    found: list[BuildTarget] = []
    for other in _expected.keys() - {part} if part is not None else ():
        with contextlib.suppress(Unusable):  # there are none for this kind of device
            found += targets(other)
    return [target for target in found if not is_built(target)]


CPU_SECONDS = 10
"""What compiling a file of CPU kernels takes, roughly: 5 to 12 s of one core of an AMD EPYC, with g++ 12."""


def cpu_targets(part: str | None = None) -> list[BuildTarget]:
    """How the CPU kernels are compiled here: one library for each NAME_cpu.cpp, or that of one part.

    Raises:
        Unusable: there is no compiler, or none that is supported.
    """
    compiler = find_compiler()
    flags = (*torch_flags(), "-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
    if torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512"):
        flags = (*flags, "-DCPU_CAPABILITY=AVX2", "-DCPU_CAPABILITY_AVX2")  # what ATen's vectors ask for
    torch_lib = Path(torch.__file__).resolve().parent / "lib"
    # torch's own OpenMP runtime: a second one would have threads of its own.
    runtime = [str(path) for path in sorted(torch_lib.glob("libgomp*.so*"))[:1]] or ["-fopenmp"]
    link = (compiler, "-shared", f"-L{torch_lib}", "-ltorch_cpu", "-lc10", *runtime, *standard_library())
    facts = (*_facts(compiler), processor(), *_headers_of_cpu_kernels())
    return [
        BuildTarget(f"CPU {name}", CPU_SECONDS, ((compiler, "-c", source, *flags),), link, (*facts, *contents(source)))
        for name, source in _parts("_cpu.cpp", part)
    ]


def cuda_targets(part: str | None = None) -> list[BuildTarget]:
    """How the CUDA kernels are compiled for the GPUs of this machine: one library for each NAME_cuda.cu, or of a part.

    Raises:
        Unusable: there is no GPU, no nvcc of torch's CUDA version, or no compiler.
    """
    if torch.version.cuda is None or not torch.cuda.is_available():
        raise Unusable("there is no CUDA device, or torch is built without CUDA")
    compiler = find_compiler()
    nvcc, headers, runtime = find_toolkit()
    architectures = sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
    chosen = [f"-gencode=arch=compute_{a}{b},code=sm_{a}{b}" for a, b in architectures]
    device = (str(nvcc), "-c", "-ccbin", compiler, *NVCC_FLAGS, *chosen)
    host = (compiler, "-c", *torch_flags(), "-O2", f"-I{headers}")
    torch_lib = Path(torch.__file__).resolve().parent / "lib"
    linked = ("-ltorch_cuda", "-ltorch_cpu", "-lc10_cuda", "-lc10", str(runtime), *standard_library())
    facts = (*_facts(compiler), torch.version.cuda, file_facts(nvcc), *contents("*.h"))
    return [
        BuildTarget(
            f"CUDA {name}",
            60,
            ((*device, source), (*host, f"{name}_bindings.cpp")),
            (compiler, "-shared", f"-L{torch_lib}", *linked),
            (*facts, *contents(source, f"{name}_bindings.cpp")),
        )
        for name, source in _parts("_cuda.cu", part)
    ]


@functools.cache
def standard_library() -> tuple[str, ...]:
    """The C++ library that torch has loaded, for the linker; empty where it is not found.

    Some compilers link their own copy into what they make. Parts of two copies do not work together: a message with a
    number in it ends the process.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return ()
    lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
    loaded = {words[5] for line in lines if len(words := line.split(maxsplit=5)) == 6}
    found = [path for path in sorted(loaded) if Path(path).name.startswith("libstdc++.so") and Path(path).exists()]
    return tuple(found[:1])


NVCC_FLAGS = ("-O3", "-std=c++17", "-Xcompiler", "-fPIC")


def torch_flags() -> tuple[str, ...]:
    """What code that includes torch's headers needs; from torch itself, whose helper module needs setuptools."""
    include = Path(torch.__file__).resolve().parent / "include"
    return (
        "-std=c++20",
        "-fPIC",
        "-fvisibility=hidden",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        f"-I{include}",
        f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}",
    )


def find_compiler() -> str:
    """The C++ compiler: what CXX says, else the first of the usual ones on the path.

    Raises:
        Unusable: there is none, or none is supported here.
    """
    if sys.platform != "linux":
        raise Unusable(f"they are compiled on Linux only, and this is {sys.platform}")
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["g++", "clang++", "c++"]:
        found = shutil.which(name)
        if found is not None:
            return found
    if wanted:
        raise Unusable(f"CXX={wanted} names no program")
    raise Unusable("there is no C++ compiler; install g++ or set CXX")


class Toolkit(NamedTuple):
    """What of CUDA's toolkit compiling needs."""

    nvcc: Path
    headers: Path
    runtime: Path


def find_toolkit() -> Toolkit:
    """A CUDA toolkit whose major version is that of torch: the user's choice, else the system's, or pip's.

    Raises:
        Unusable: there is none; the sentence says what to install.
    """
    wanted = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    on_path = shutil.which("nvcc")
    guesses = [Path(on_path).resolve().parents[1]] if on_path else []
    guesses += [Path("/usr/local/cuda"), *_pip_toolkits()]
    version = str(torch.version.cuda)
    reasons = [f"CUDA_HOME={wanted} has no bin/nvcc"] if wanted else ["there is no CUDA compiler"]
    for home in [Path(wanted)] if wanted else guesses:
        nvcc = home / "bin" / "nvcc"
        if not nvcc.exists():
            continue
        headers, runtime = _below(home, "cuda_runtime_api.h"), _below(home, "libcudart.so*")
        found = _nvcc_version(nvcc)
        if found.partition(".")[0] != version.partition(".")[0]:
            reasons.append(f"{home} is CUDA {found or 'of unknown version'}, and torch is built for {version}")
        elif headers is None or runtime is None:
            reasons.append(f"{home} has nvcc, but no {'cuda_runtime_api.h' if headers is None else 'libcudart.so'}")
        else:
            return Toolkit(nvcc, headers.parent, runtime)
    raise Unusable(f"{'; '.join(reasons[1:] or reasons)}; {_cuda_advice(version)}")


def _cuda_advice(version: str) -> str:
    """What to install. NVIDIA's packages for pip hold nvcc since CUDA 13."""
    if int(version.partition(".")[0]) >= 13:
        return f'install one with: pip install "cuda-toolkit[nvcc,cccl]=={version}.*" (or set CUDA_HOME)'
    return f"install NVIDIA's CUDA toolkit {version}, whose nvcc is none of its packages for pip, and set CUDA_HOME"


def _pip_toolkits() -> list[Path]:
    """Where pip puts the parts of a toolkit of torch's major version."""
    package = importlib.util.find_spec("nvidia")
    places = [] if package is None else list(package.submodule_search_locations or ())
    return [Path(place) / f"cu{str(torch.version.cuda).partition('.')[0]}" for place in places]


def _nvcc_version(nvcc: Path) -> str:
    try:
        version = run_program([str(nvcc), "--version"], limit=_PROBE_LIMIT).out
    except subprocess.TimeoutExpired:
        return ""
    return version.partition("release ")[2].partition(",")[0]


def _below(home: Path, name: str) -> Path | None:
    """A header or library of a toolkit; the system, pip and conda lay them out differently."""
    folders = ("include", "lib64", "lib", "lib/*-linux-gnu", "targets/*/include", "targets/*/lib")
    return next((path for folder in folders for path in sorted(home.glob(f"{folder}/{name}"))), None)


def _facts(compiler: str) -> tuple[str, ...]:
    return (str(torch.__version__), str(torch.version.git_version), file_facts(Path(compiler)), platform.machine())


def file_facts(path: Path) -> str:
    """Tells one version of a program from another without running it."""
    real = path.resolve()
    status = real.stat()
    return f"{real} {status.st_size} {status.st_mtime_ns}"


@functools.cache
def processor() -> str:
    """What -march=native looks at."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    wanted = ("model name", "flags", "Features", "CPU part")
    first = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in reversed(lines)}
    return " ".join(first.get(name, "") for name in wanted) or platform.processor()


def contents(*patterns: str) -> tuple[str, ...]:
    """Names and hashes of source files."""
    names = sorted({path.name for pattern in patterns for path in SOURCES.glob(pattern)})
    return tuple(f"{name} {hashlib.sha256((SOURCES / name).read_bytes()).hexdigest()}" for name in names)


def _headers_of_cpu_kernels() -> tuple[str, ...]:
    """Those of CUDA's kernels and their bindings change nothing there."""
    return tuple(line for line in contents("*.h") if "cuda" not in (name := line.split()[0]) and "bindings" not in name)


def _parts(ending: str, part: str | None) -> list[tuple[str, str]]:
    """Names of libraries and of their main source files.

    Compilers run in the folder of the sources, so that the place of the repository is not part of a key.
    """
    found = [(path.name.removesuffix(ending), path.name) for path in sorted(SOURCES.glob(f"*{ending}"))]
    if part is None:
        return found
    if not any(name == part for name, _ in found):
        raise Unusable(f"there are none: no file {part}{ending}")
    return [(name, source) for name, source in found if name == part]
