"""Everything that has to be run on a GPU, in stages with a time limit each: ``python scripts/run_gpu.py --output DIR``.

1 compile  every library of kernels, side by side, and load it
2 tests    pytest -m gpu, in several processes
3 figures  of docs/performance_gpu.md, in order of worth
4 memory   compute-sanitizer's memcheck and racecheck over one small case per kernel
5 profile  the kernels that take the time of PFT, HAT and ESC
6 train    200 iterations of every demo, killed and resumed, in half precision

A stage that runs out of time is stopped, and the next one runs; what it has written stays in DIR: logs, tests.jsonl,
figures.json, profile.md, trainings_cuda.json, and performance_gpu.md, the page. Stages 2 to 6 need the kernels: they
are compiled first wherever they are not in the cache. It uses the Python that runs it, needs no network, and installs
nothing but wheels from the folder that --wheels names.

Exit codes: 0 all done, 1 something failed or ran out of time, 2 bad input, or no GPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence

from scripts.benchmarks.gpu.stages import ROOT, Report, Stage, Step, limits, missing, run_stage
from utils.command import run_command
from utils.errors import InputError
from utils.files import make_folder, write_json
from utils.trust import private_cache

MODULES = {  # module -> what installs it
    "torch": "torch", "numpy": "numpy", "yaml": "pyyaml", "cv2": "opencv-python-headless", "lmdb": "lmdb",
    "safetensors": "safetensors", "skimage": "scikit-image", "tensorboard": "tensorboard", "pytest": "pytest",
    "xdist": "pytest-xdist", "hypothesis": "hypothesis",
}  # fmt: skip
TESTS, MEMORY_TESTS = "tests.jsonl", "memory_tests.jsonl"
SUMMARY, PAGE = "summary.json", "performance_gpu.md"
# Takes all of the GPU's memory, so that no other test can run beside it: it runs while the kernels are compiled.
FILLS_MEMORY = ("tests/models/training/test_batch_limit.py",)
_PACKAGE = "scripts.benchmarks.gpu"
_MOST_PROCESSES = 8  # of tests: each has a CUDA context, and takes its share of the GPU's memory
_SHOWN = 40  # failures of tests
_FACTS = """
import importlib.util, json, sys
found = [name for name in sys.argv[1:] if importlib.util.find_spec(name) is not None]
facts = {"python": sys.version.split()[0], "modules": found, "gpus": []}
if "torch" in found:
    import torch
    facts["torch"], facts["cuda"] = str(torch.__version__), torch.version.cuda
    if torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps(facts))
"""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="run_gpu.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "gpu", metavar="DIR", help="results/gpu")
    parser.add_argument("--stage", nargs="+", action="extend", type=int, choices=range(1, 7), metavar="N",
                        help="1 to 6, several allowed; default: all")  # fmt: skip
    parser.add_argument("--seconds", type=float, metavar="S",
                        help="of all stages together, in place of their own limits")  # fmt: skip
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="install packages that are missing from there")
    parser.add_argument("--only", metavar="PATTERN", help='figures whose names fit, such as "esc/*"')
    parser.add_argument("--resume", action="store_true", help="stage 3 measures the figures that are missing")
    parser.add_argument("--dry", action="store_true",
                        help="on a CPU: look for all that would be run, and run small stand-ins")  # fmt: skip
    parser.add_argument("--page", type=Path, metavar="FILE",
                        help="run nothing: write docs/performance_gpu.md from the results in --output")  # fmt: skip
    parser.add_argument("--here", action="store_true", help="of run_gpu.sh: use the Python that is there")
    return parser.parse_args(argv)


def facts_of(environment: Mapping[str, str]) -> dict[str, object]:
    """Versions, GPUs and modules of the Python that runs the stages."""
    done = subprocess.run(
        [sys.executable, "-c", _FACTS, *MODULES], capture_output=True, text=True, check=False,
        env={**os.environ, **environment}, cwd=ROOT,
    )  # fmt: skip
    if done.returncode:
        raise InputError(f"{sys.executable} cannot import torch: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, object] = json.loads(done.stdout)
    return found


def lacking(facts: Mapping[str, object]) -> list[str]:
    """What has to be installed, by the names that pip knows."""
    found = facts["modules"]
    assert isinstance(found, list)
    return [package for module, package in MODULES.items() if module not in found]


def with_wheels(wheels: Path | None) -> tuple[dict[str, str], dict[str, object]]:
    """Variables that let Python find all that is needed, and its facts.

    Args:
        wheels: folder with wheels of packages that may be missing, or None.

    Raises:
        InputError: a package is missing, and no wheel of it is there.
    """
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    facts = facts_of(environment)
    packages = lacking(facts)
    if not packages:
        return environment, facts
    names = ", ".join(packages)
    if wheels is None:
        raise InputError(f"{sys.executable} lacks {names}; install that, or name a folder of wheels with --wheels")
    if not wheels.is_dir():
        raise InputError(f"--wheels {wheels}: there is no such folder, and {names} has to be installed")
    files = [file for package in packages for file in sorted(wheels.glob(f"{package.replace('-', '_')}-*.whl"))[-1:]]
    site = private_cache(f"site_{sys.version_info[0]}{sys.version_info[1]}")  # where nobody else can put modules
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile",
        "--disable-pip-version-check", "--upgrade", "--target", str(site), *(str(file.resolve()) for file in files),
    ]  # fmt: skip
    if len(files) < len(packages):
        raise InputError(f"{sys.executable} lacks {names}, and --wheels {wheels} holds no wheel of some of them")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise InputError(f"{sys.executable} lacks {names}, and --wheels {wheels} does not help: {reason}")
    environment["PYTHONPATH"] += os.pathsep + str(site)
    sys.path.append(str(site))  # for this process: the page names networks, which import all of it
    facts = facts_of(environment)
    if lacking(facts):
        raise InputError(f"{sys.executable} still lacks {', '.join(lacking(facts))} after installing from {wheels}")
    return environment, facts


def test_files() -> list[str]:
    """The files of tests that have one marked gpu: the others may need what is not there."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(file.relative_to(ROOT)) for file in files if "mark.gpu" in file.read_text(encoding="utf-8")]


def stages(typed: argparse.Namespace, environment: Mapping[str, str], *, dry: bool) -> dict[int, Stage]:
    """All of them, by number.

    Args:
        typed: the command line.
        environment: variables of every command.
        dry: small stand-ins for a CPU.
    """
    folder = str(typed.output.resolve())
    device = ("--device", "cpu" if dry else "cuda")

    def step(name: str, argv: Sequence[str], modules: Sequence[str] = (), **more: str) -> Step:
        files = tuple(word for word in argv if word.startswith("tests/"))
        return Step(name, tuple(argv), {**environment, "PYTHONUNBUFFERED": "1", **more}, tuple(modules), files)

    def program(name: str, module: str, *arguments: str) -> Step:
        """A program of this project."""
        return step(name, (sys.executable, "-m", f"{_PACKAGE}.{module}", *arguments), [f"{_PACKAGE}.{module}"])

    processes = str(max(1, min(_MOST_PROCESSES, (os.cpu_count() or 2) // 2)))
    files = test_files()
    together = [name for name in files if dry or name not in FILLS_MEMORY]
    left_out = dry or 2 not in (typed.stage or [2])
    alone = [] if left_out else [step("1_memory_tests", tested(folder, MEMORY_TESTS, (), FILLS_MEMORY), ("pytest",))]
    how = ("--collect-only",) if dry else ("-n", processes, "--dist", "worksteal")
    tests = step("2_tests", tested(folder, TESTS, how, together), ("pytest", "xdist", f"{_PACKAGE}.outcomes"))
    only = ("--only", "plainusr/plainusr_u_*_float32") if dry else ("--only", typed.only) if typed.only else ()
    figures = (
        "--output", folder, *device, *only, *(("--tiny",) if dry else ()),
        *(("--resume",) if typed.resume and not dry else ()),
    )  # fmt: skip
    cases = program("4_cases", "cases", *device, "--coverage")
    # The caching allocator would hide reads and writes beyond a tensor inside its own blocks.
    # PyTorch's own fused attention is full of what racecheck takes for races.
    ours = ("--kernel-name", "kernel_substring=focalsr")
    sanitized = [
        step(
            f"4_{tool}", (sanitizer(), "--tool", tool, "--error-exitcode", "3", *ours, *cases.argv[:-1]),
            cases.modules, PYTORCH_NO_CUDA_MEMORY_CACHING="1",
        )
        for tool in ("memcheck", "racecheck")
    ]  # fmt: skip
    small = ("--tiny",) if dry else ()
    trainings = program("6_trainings", "trainings", "--output", folder, *device, *small)
    found = (
        Stage(1, "compile and load the kernels", 90, (program("1_compile", "compile", *device), *alone)),
        Stage(2, "tests marked gpu", 150, (tests,)),
        Stage(3, "figures", 150, (program("3_figures", "measure", *figures),)),
        Stage(4, "one case per kernel, memcheck, racecheck", 90, (cases, *([] if dry else sanitized))),
        Stage(5, "profiles", 60, (program("5_profile", "profiles", "--output", folder, *device),)),
        Stage(6, "trainings", 150, (trainings,)),
    )
    return {stage.number: stage for stage in found}


def tested(folder: str, outcomes: str, how: Sequence[str], files: Sequence[str]) -> tuple[str, ...]:
    """The command that runs tests.

    Args:
        folder: of the results.
        outcomes: the file there, for what becomes of each test.
        how: further arguments of pytest.
        files: of tests.
    """
    # A warning of another version of torch says nothing about the kernels.
    return (
        sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "-p", f"{_PACKAGE}.outcomes",
        "--outcomes", f"{folder}/{outcomes}", "-W", "default", "--continue-on-collection-errors", *how, *files,
    )  # fmt: skip


def sanitizer() -> str:
    """The program compute-sanitizer: of the PATH, else of the CUDA toolkit, whose folder is not always on it."""
    name = "compute-sanitizer"
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    guesses = [shutil.which(f"{home}/{place}/{name}") for home in homes if home for place in ("bin", name)]
    return shutil.which(name) or next((guess for guess in guesses if guess), name)


def chosen(typed: argparse.Namespace, known: Mapping[int, Stage]) -> list[Stage]:
    """The stages that are run: those asked for, and the kernels first, which all of them need."""
    numbers = sorted({1, *(typed.stage or known)})
    return [known[number] for number in numbers]


def notes_on_tests(folder: Path) -> list[str]:
    """How many tests passed, and the last lines of those that did not."""
    from scripts.benchmarks.gpu.outcomes import read_outcomes  # needs pytest, which --wheels may have brought

    outcomes = [*read_outcomes(folder / MEMORY_TESTS), *read_outcomes(folder / TESTS)]
    counts = {name: sum(one.outcome == name for one in outcomes) for name in ("passed", "failed", "skipped")}
    failed = [one for one in outcomes if one.outcome == "failed"]
    lines = [", ".join(f"{count} {name}" for name, count in counts.items())]
    for one in failed[:_SHOWN]:
        lines.append(f"FAILED {one.name}\n" + "\n".join(f"    {line}" for line in one.lines.splitlines()))
    if len(failed) > _SHOWN:
        lines.append(f"and {len(failed) - _SHOWN} more, in {folder / TESTS}")
    return lines


def write_pages(folder: Path, file: Path) -> None:
    """The page, from what the stages have written.

    Raises:
        InputError: there are no figures of a GPU.
    """
    from scripts.benchmarks.gpu.page import write_page  # seconds: it imports the networks
    from scripts.benchmarks.gpu.profiles import FILE as PROFILE
    from scripts.benchmarks.gpu.results import FILE as FIGURES
    from scripts.benchmarks.gpu.results import read_results
    from scripts.benchmarks.gpu.trainings import read_section

    profile = folder / PROFILE
    sections = read_section(folder) + ([profile.read_text(encoding="utf-8")] if profile.exists() else [])
    write_page(read_results(folder / FIGURES), sections, file)
    print(f"wrote {file}")


def run(todo: Sequence[Stage], seconds: Sequence[float], folder: Path, facts: Mapping[str, object]) -> list[Report]:
    """Run stages one after another; the summary is written after each.

    Args:
        todo: what is run.
        seconds: of each.
        folder: for logs and results.
        facts: of the machine, for the summary.
    """
    reports: list[Report] = []
    for stage, limit in zip(todo, seconds, strict=True):
        print(f"==> stage {stage.number}: {stage.title} (at most {limit:.0f} s)", flush=True)
        report = run_stage(stage, limit, folder)
        if stage.number == 2:
            report = dataclasses.replace(report, notes=(*report.notes, *notes_on_tests(folder)))
        reports.append(report)
        print("\n".join((f"    {report.outcome} after {report.seconds:.0f} s", *report.notes)), flush=True)
        written = {"facts": dict(facts), "stages": [dataclasses.asdict(one) for one in reports]}
        write_json(folder / f"{'_'.join(str(one.number) for one in todo)}_{SUMMARY}", written)
    return reports


def main(argv: Sequence[str]) -> int:
    """Run the stages, print how they went."""
    started = time.monotonic()
    typed = parse(argv)
    if typed.page is not None:
        write_pages(typed.output, typed.page)
        return 0
    environment, facts = with_wheels(typed.wheels)
    if not facts["gpus"] and not typed.dry:
        raise InputError(
            f"there is no CUDA device that torch can use: this needs a GPU, its driver, and torch built for CUDA "
            f"({sys.executable} has torch {facts['torch']})"
        )
    if os.environ.get("FOCALSR_SHARED"):
        environment["FOCALSR_SHARED"] = str(Path(os.environ["FOCALSR_SHARED"]).resolve())  # steps run in ROOT
    make_folder(typed.output)
    todo = chosen(typed, stages(typed, environment, dry=typed.dry))
    seconds = limits(todo, typed.seconds)
    print(f"python {facts['python']}, torch {facts['torch']}, cuda {facts['cuda']}, {facts['gpus'] or 'no GPU'}")
    if typed.dry:
        real = chosen(typed, stages(typed, environment, dry=False))
        found = [reason for stage in real for one in stage.steps if (reason := missing(one)) is not None]
        print("\n".join(f"not on this machine: {reason}" for reason in found))
    reports = run(todo, seconds, typed.output, facts)
    if not typed.dry and any(report.number == 3 for report in reports):
        try:
            write_pages(typed.output, typed.output / PAGE)
        except InputError as error:
            print(f"no page: {error}")
    for report in reports:
        print(f"stage {report.number}, {report.title}: {report.outcome} ({report.seconds:.0f} s)")
    print(f"{time.monotonic() - started:.0f} s in all; everything is in {typed.output}")
    return 0 if all(report.outcome == "done" for report in reports) else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
