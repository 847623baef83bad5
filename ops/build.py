"""Compiles the kernels in ops/csrc on first use and loads them; nothing happens on import.

A build lives in a folder of the cache (``FOCALSR_CACHE``, or ``focalsr`` in the user's cache folder) named by a hash of
everything that decides about it: sources, commands, versions of torch and CUDA, compiler, processor. It is made in a
folder of its own and renamed when complete, so a build is there or not, whatever is killed in between. A file lock
makes other processes wait instead of compiling the same; the system drops it with the process that holds it. A failed
build leaves its messages in the cache and is not tried again until something in the hash changes, or
``FOCALSR_OPS=native`` asks for it.
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
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from ops.registry import ENVIRONMENT, NATIVE, environment_choice
from utils.env import available_cores
from utils.errors import InputError, StorageError
from utils.files import make_folder, write_text
from utils.log import get_logger

CACHE = "FOCALSR_CACHE"
SOURCES = Path(__file__).resolve().parent / "csrc"
_LIBRARY = "kernels.so"
_FAILURE = "failed.txt"
_TIME_LIMIT = 1800.0  # of a compiler, and of waiting for another process: something hangs
_ABANDONED = 86400.0  # a working folder that old belongs to a process that was killed


@dataclass(frozen=True)
class BuildTarget:
    """How one library is made.

    Attributes:
        name: of the kernels, for people: "CPU smm", "CUDA smm".
        seconds: what compiling takes, roughly.
        steps: one command per source file, run in the folder of the sources; its object file is appended after ``-o``.
        link: the command that joins them; ``-o``, the library and the objects are inserted after its first word.
        facts: what else decides about the result: versions, processor, contents of the sources.
    """

    name: str
    seconds: int
    steps: tuple[tuple[str, ...], ...]
    link: tuple[str, ...]
    facts: tuple[str, ...]

    def key(self) -> str:
        """The hash in the name of the folder."""
        digest = hashlib.sha256()
        for words in (*self.steps, self.link, self.facts):
            digest.update("\0".join(words).encode() + b"\1")
        return digest.hexdigest()[:20]


class Unusable(Exception):  # noqa: N818  an answer to "why not", no failure of the program
    """One sentence why there are no compiled kernels."""


class _Interrupted(Unusable):
    """The build ended for a reason that need not come again: the compiler was killed, the disk is full."""


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
_retried: set[str] = set()
_warned: set[str] = set()
_guard = threading.Lock()


def ask_again() -> None:
    """Forget what loading gave in this process: the next call looks, and warns, as the first one did."""
    with _guard:
        for answers in (_outcomes, _retried, _warned):
            answers.clear()


def _outcome(kind: str, targets: Callable[[str | None], Sequence[BuildTarget]], part: str | None) -> str | None:
    """What loading gave in this process; a reason is warned of once, and tried once more if the user insists."""
    name = f"{kind} {part}" if part else kind
    insists = environment_choice() == NATIVE
    with _guard:
        if name in _outcomes and (_outcomes[name] is None or not insists or name in _retried):
            return _outcomes[name]
        try:
            for path in libraries(targets(part), retry=insists):
                torch.ops.load_library(str(path))
            _outcomes[name] = None
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


def cache_folder() -> Path:
    """Where builds are kept."""
    chosen = os.environ.get(CACHE)
    if chosen:
        return Path(chosen).expanduser() / "ops"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "focalsr" / "ops"


def libraries(targets: Sequence[BuildTarget], *, retry: bool = False) -> list[Path]:
    """:func:`library` of each, compiled side by side."""
    with ThreadPoolExecutor(max(1, min(len(targets), available_cores()))) as pool:
        return list(pool.map(functools.partial(library, retry=retry), targets))


def library(target: BuildTarget, *, retry: bool = False) -> Path:
    """The compiled library of a target, built if it is not in the cache.

    Args:
        target: what to build.
        retry: build again where an earlier build failed.

    Raises:
        Unusable: it cannot be built, now or in an earlier try.
        InputError, StorageError: the cache cannot be written.
    """
    cache = cache_folder()
    folder = cache / f"{target.name.lower().replace(' ', '-')}-{target.key()}"
    if not (folder / _LIBRARY).exists():
        make_folder(cache)
        if not retry:
            _recall_failure(folder)
        with _exclusive(cache / f"{folder.name}.lock"):
            if not (folder / _LIBRARY).exists():  # another process may have made it meanwhile
                if retry:
                    (folder / _FAILURE).unlink(missing_ok=True)
                else:
                    _recall_failure(folder)
                _build(target, folder)
    return folder / _LIBRARY


def _recall_failure(folder: Path) -> None:
    failure = folder / _FAILURE
    if failure.exists():
        reason = failure.read_text(encoding="utf-8").partition("\n")[0]
        raise Unusable(
            f"compiling them failed before: {reason} (all of it in {failure}; {ENVIRONMENT}={NATIVE} retries)"
        )


def _build(target: BuildTarget, folder: Path) -> None:
    """Compile in a folder of its own, then give it its name; a failure leaves its messages there instead."""
    _sweep(folder.parent)
    get_logger().info("compiling the %s kernels, once, about %d s, into %s", target.name, target.seconds, folder)
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    try:
        objects = [work / f"{number}.o" for number in range(len(target.steps))]
        commands = [[*step, "-o", str(path)] for step, path in zip(target.steps, objects, strict=True)]
        with ThreadPoolExecutor(max(1, min(len(commands), available_cores()))) as pool:
            list(pool.map(_command, commands))
        compiler, *options = target.link
        _command([compiler, "-o", str(work / _LIBRARY), *map(str, objects), *options])
        for path in objects:
            path.unlink()
        if not (folder / _LIBRARY).exists():  # else a process that got no lock was faster
            shutil.rmtree(folder, ignore_errors=True)  # what a failure left
            work.rename(folder)
    except _Interrupted:
        raise
    except Unusable as error:
        make_folder(folder)
        write_text(folder / _FAILURE, str(error))
        raise Unusable(
            f"compiling them failed: {str(error).partition(chr(10))[0]} (all of it in {folder / _FAILURE})"
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    get_logger().info("compiled the %s kernels in %.0f s", target.name, time.monotonic() - started)


def _command(command: list[str]) -> None:
    """Run a compiler; its messages become the exception, the first error in front."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            cwd=SOURCES,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIME_LIMIT,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _Interrupted(f"{command[0]} did not end within {_TIME_LIMIT:.0f} s") from None
    except OSError as error:
        raise _Interrupted(f"{command[0]} could not be run: {error.strerror}") from None
    if done.returncode == 0:
        return
    messages = (done.stderr + done.stdout).strip()
    first = next((line for line in messages.splitlines() if "error" in line.lower()), messages.partition("\n")[0])
    if done.returncode < 0 or "No space left on device" in messages or "Killed" in messages:
        raise _Interrupted(f"{command[0]} was stopped: {first or f'signal {-done.returncode}'}")
    raise Unusable(f"{first}\n\n{' '.join(command)}\n\n{messages}\n")


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of a file. It only saves work: where it cannot be had, both processes build and one build stays."""
    import fcntl  # not on Windows, where no target comes this far

    with path.open("wb") as file:  # not inherited by compilers: they may outlive this process
        waits_until = time.monotonic() + _TIME_LIMIT
        logged = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not logged:
                    get_logger().info("another process compiles; waiting for it (%s)", path)
                    logged = True
                if time.monotonic() > waits_until:
                    break
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield


def _sweep(cache: Path) -> None:
    """Remove what processes left that were killed while they compiled."""
    for folder in cache.glob("building-*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _ABANDONED:
                shutil.rmtree(folder)


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
    link = (compiler, "-shared", f"-L{torch_lib}", "-ltorch_cpu", "-lc10", *runtime)
    facts = (*_facts(compiler), processor(), *contents("*.h"))
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
    linked = ("-ltorch_cuda", "-ltorch_cpu", "-lc10_cuda", "-lc10", str(runtime))
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
    version = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=False).stdout
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
