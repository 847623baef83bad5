"""Published networks in the runtimes that they are exported for, beside PyTorch: the table of docs/deploying.md.

Each row is one network, eager and in one other runtime, in turns; a part of a photograph goes through both. Files are
those of scripts/export.py, for images of any size. They are kept in the folder of the run, since the process that
measures memory loads them again.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from archs import build_network
from config.values import Precision
from config.variants import PLAINUSR, configuration
from data.images.files import read_image, to_tensor
from models import load_weights, upscale
from models.export.files import write_program
from models.export.fingerprint import fingerprint
from models.export.form import ExportForm
from models.export.options import ProgramOptions
from models.precision.network import in_precision
from models.runtimes.build import open_network
from scripts.benchmarks import data
from scripts.benchmarks.measure import Comparison, Program, Row, Side
from scripts.benchmarks.needs import Need
from scripts.benchmarks.published import Compiled
from scripts.prepare_demo_data import package_folder

ROOT = Path(__file__).resolve().parents[2]
SCALE = 4
IMAGES = {
    "plainusr": (180, 320), "esc_light": (180, 320), "pft_light": (64, 64), "hat_s": (64, 64), "rgt_s": (64, 64),
}  # fmt: skip
"""Network -> height and width of its input: smaller where a call would take too long."""
COMPILED = ("plainusr", "esc_light")
"""Networks that are compiled: it takes minutes, of the others more."""
LARGE = ("rgt_s",)
"""Networks that are measured with ``--all`` alone: it takes minutes to write their graph."""
HALF = {"hat_s": "onnxruntime", "esc": "onnxruntime", **dict.fromkeys(PLAINUSR, "openvino_bf16")}
"""Networks that are also measured in bfloat16, and the runtime that they are compared with."""
PUBLISHED = {"plainusr": "PlainUSR_Rep_x4.pth"}  # whose weights may be here; others have those they begin with
PHOTOGRAPH = "coffee.png"
EAGER = "torch, eager"
MARKS = "<!-- runtimes: written by scripts/benchmark.py runtimes --page -->", "<!-- runtimes: end -->"

Form = Literal["onnx", "aot"]


class Runtime(NamedTuple):
    """Something that runs networks.

    Attributes:
        key: for the names of rows.
        name: for the table.
        form: of the file that it runs; None: none.
        provider: of an ONNX file.
        needs: what may be missing.
        modules: that it consists of.
    """

    key: str
    name: str
    form: Form | None = None
    provider: str | None = None
    needs: tuple[Need, ...] = ()
    modules: tuple[str, ...] = ()


RUNTIMES = (
    Runtime("compile", "torch.compile", needs=("torch.compile",), modules=("torch._dynamo", "torch._inductor")),
    Runtime("aotinductor", "AOTInductor", "aot", needs=("torch.compile",), modules=("torch._inductor",)),
    Runtime("onnxruntime", "ONNX Runtime, CPU", "onnx", "cpu", ("onnxruntime",), ("onnxruntime",)),
    Runtime("openvino", "OpenVINO, fp32", "onnx", "openvino", ("openvino",), ("openvino",)),
    Runtime("openvino_bf16", "OpenVINO, bf16", "onnx", "openvino:bf16", ("openvino",), ("openvino",)),
)


def comparisons() -> list[Comparison]:
    """Every network in every runtime; a small one in one of them for ``--quick``."""
    found = [
        _comparison(name, size, runtime)
        for name, size in IMAGES.items()
        for runtime in RUNTIMES
        if name in COMPILED or runtime.form == "onnx"
    ]
    small = next(runtime for runtime in RUNTIMES if runtime.key == "onnxruntime")
    return [*found, *_halves(), _comparison("plainusr_u", (24, 32), small, quick=True)]


def _comparison(name: str, size: tuple[int, int], runtime: Runtime, *, quick: bool = False) -> Comparison:
    height, width = size
    return Comparison(
        f"runtimes/{name}_{runtime.key}",
        f"{name} x{SCALE}, 1 x 3 x {height} x {width}",
        Side(EAGER, functools.partial(prepared, name, size, None), loaded=()),
        Side(runtime.name, functools.partial(prepared, name, size, runtime), None, runtime.needs, runtime.modules),
        quick=quick,
        large=quick or name in LARGE,
    )


def _halves() -> Iterator[Comparison]:
    runtimes = {runtime.key: runtime for runtime in RUNTIMES}
    for name, key in HALF.items():
        yield _half(name, runtimes[key])


def _half(name: str, runtime: Runtime) -> Comparison:
    """The network in bfloat16 beside a runtime; no line of the page."""
    height, width = size = IMAGES["plainusr"] if name in PLAINUSR else IMAGES.get(name, (64, 64))
    exported = functools.partial(prepared, name, size, runtime)
    return Comparison(
        f"runtimes/{name}_bf16",
        f"{name} x{SCALE}, 1 x 3 x {height} x {width}, bf16",
        Side(runtime.name, exported, None, runtime.needs, runtime.modules),
        Side(f"{EAGER}, bf16", functools.partial(prepared, name, size, None, "bf16"), None, ("native bfloat16",), ()),
        quick=False,
    )


def prepared(name: str, size: tuple[int, int], runtime: Runtime | None, precision: Precision = "fp32") -> Program:
    """A network in a runtime, or in PyTorch as it is, ready to upscale an image; in float32 but in PyTorch."""
    image = part_of_photograph(size)
    if runtime is None or runtime.form is None:
        network = in_precision(network_of(name), precision)
        return Program(_upscaling(network if runtime is None else Compiled(network), image))
    file = program_file(name, runtime.form)
    if runtime.form == "aot":
        package = torch._inductor.aoti_load_package(str(file))

        def run() -> Tensor:
            result: Tensor = package(image)
            return result

        return Program(run, file)
    return Program(_upscaling(open_network(file, runtime.provider), image), file)


def _upscaling(network: nn.Module, image: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.inference_mode():
            return upscale(network, image)

    return run


def network_of(name: str) -> nn.Module:
    """A published network, with published weights where they are here."""
    network = build_network(configuration(name, SCALE)).eval()
    places = [ROOT / "experiments/pretrained_models", Path(os.environ.get("FOCALSR_SHARED", ".")) / "weights"]
    files = [place / PUBLISHED[name] for place in places if name in PUBLISHED]
    file = next((file for file in files if file.is_file()), None)
    if file is not None:
        load_weights(network, file)
    return network


def part_of_photograph(size: tuple[int, int]) -> Tensor:
    """The middle of a photograph, [1, 3, h, w]."""
    image = to_tensor(read_image(package_folder() / PHOTOGRAPH))
    top, left = ((whole - part) // 2 for whole, part in zip(image.shape[-2:], size, strict=True))
    return image[None, :, top : top + size[0], left : left + size[1]].contiguous()


def program_file(name: str, form: Form) -> Path:
    """The exported network, in the folder of the run; made by whoever needs it first."""
    path = data.shared_folder() / (f"{name}.onnx" if form == "onnx" else f"{name}.pt2")
    if path.exists():
        return path
    torch.manual_seed(0)
    network = network_of(name)
    if form == "onnx":
        weights = fingerprint(network.state_dict())
        write_program(path, network, configuration(name, SCALE), weights, ProgramOptions())
        return path
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    with torch.no_grad():
        program = torch.export.export(ExportForm(network), (torch.rand(2, 3, 41, 81),), dynamic_shapes=(sizes,))
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    return path


def section(rows: Sequence[Row], command: str, machine: Mapping[str, Mapping[str, str]]) -> str:
    """The rows of this group as docs/deploying.md has them: networks by runtimes.

    Args:
        rows: of the run.
        command: its arguments.
        machine: its hardware and versions.
    """
    facts = {**machine["hardware"], **machine["versions"], **_versions()}
    said = "; ".join(f"{name} {value}" for name, value in facts.items())
    lines = [
        *textwrap.wrap(f"`python scripts/benchmark.py {command}`: {said}.", 120, break_long_words=False),
        "",
        "| network | runtime | ms | eager, ms | speed-up | memory, MiB | file, MiB | levels |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    own = [row for row in rows if row.key.startswith("runtimes/") and row.baseline == EAGER]
    for work, group in itertools.groupby(own, key=lambda row: row.work):
        lines += _lines(work, list(group))
    return "\n".join(lines) + "\n"


def _versions() -> dict[str, str]:
    found = {}
    for name in ("onnx", "onnxruntime", "openvino"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _lines(work: str, rows: Sequence[Row]) -> Iterator[str]:
    """The lines of one network, and the first with what it takes eager."""
    first = next((row for row in rows if row.baseline_mib is not None), None)
    if first is not None:
        yield f"| {work} | {EAGER} | | | | {first.baseline_mib:.0f} | | |"
    for row in rows:
        if row.ours_ms is None:
            yield f"| {work} | {row.ours} | {row.ours_note.replace('|', '/')} | | | | | |"
            continue
        cells = [
            _number(row.ours_ms, ",.0f"), _number(row.baseline_ms, ",.0f"), _number(row.speed, ".2f"),
            _number(row.ours_mib, ".0f"), _number(row.file_mib, ".1f"), _number(row.levels, "d"),
        ]  # fmt: skip
        yield f"| {work} | {row.ours} | {' | '.join(cells)} |"


def _number(value: float | int | None, form: str) -> str:
    return "" if value is None else format(value, form)
