"""``analyse.py complexity``: what networks cost, beside what their papers print."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from analysis.complexity.chart import Bubble, bubble_chart
from analysis.complexity.counting import Counts, count
from analysis.complexity.latency import Measured, Protocol, Timing, measure, protocol_of
from analysis.complexity.papers import PSNR_SET, lr_size, printed_of, printed_psnr, psnr_of, table_with_latency
from analysis.complexity.table import Beside, Row, main_table, paper_table, sentence
from analysis.drawing import check_charts
from analysis.results import Results, check_output, write
from archs import BASICSR, build_network
from archs.contract import contract_of
from config.command import device_help, number
from config.variants import LABELS, OPTIONS, VARIANTS, configuration, has_configuration
from models.runtimes.onnx_file import is_onnx
from models.weights import recognise
from models.weights.layout import for_inference, to_channels_last
from scripts.analyses.common import numbers
from utils import devices
from utils.env import RETURNING_MEMORY, hardware, versions
from utils.errors import InputError, RunError
from utils.log import get_logger
from utils.memory import memory_is_full
from utils.progress import Progress
from utils.suggest import near_miss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HELP = "parameters, multiply-adds, FLOPs, latency, memory, beside the papers' figures"
CHARTS = ("multiply_adds", "psnr", "paper")
KIND = "complexity"
_OUTPUT = (720, 1280)  # height, width
_SCALES = (2, 3, 4)
_SERVE = "--serve"
_BESIDE = "as papers print it, and ours at their sizes by their rules"
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Candidate:
    """A network that is asked for.

    Attributes:
        name: in tables.
        described: its ``network_g``.
    """

    name: str
    described: Mapping[str, object]

    @property
    def network(self) -> nn.Module:
        """The network without values, in the form in which it runs."""
        if str(self.described["type"]).startswith(BASICSR):  # it may need values to be built
            return for_inference(build_network(self.described).to("meta"))
        with torch.device("meta"):
            return for_inference(build_network(self.described))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    group = parser.add_argument_group("networks")
    group.add_argument(
        "networks", nargs="*", metavar="NETWORK",
        help=f"published ones, as hat_s or hat_s_x4, or all; of {', '.join(VARIANTS)}",
    )  # fmt: skip
    group.add_argument(
        "--scales", nargs="+", type=number, metavar="S", help="of networks named without one (default: 2 3 4)"
    )
    group.add_argument(
        "-w", "--weights", nargs="+", default=[], metavar="[NAME=]FILE", help=".pth or .safetensors files"
    )
    group.add_argument(
        "-opt", nargs="+", type=Path, default=[], metavar="FILE", help="option files (no weights are read)"
    )
    group.add_argument("--key", help="entry of the weight files (default: the EMA weights where there are some)")
    group.add_argument("--scale", type=number, metavar="S", help="factor such as 3.7, for networks of arbitrary scale")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--size", "--input", type=_pixels, metavar="HxW", help="input, such as 64x64 (default: that of 720x1280 output)"
    )
    size.add_argument("--output_size", type=_pixels, metavar="HxW", help="output, such as 512x512")
    parser.add_argument("--activations", action="store_true", help="columns of activations and #Conv")
    timing = parser.add_argument_group("latency and memory, a process for each network")
    timing.add_argument("--no_time", action="store_true", help="count only")
    timing.add_argument("--device", metavar="NAME", help=device_help("auto"))
    timing.add_argument(
        "--threads", type=_positive, metavar="N", help="threads of torch on the CPU; default: all cores"
    )
    timing.add_argument("--warm_ups", type=_positive, metavar="N", help="passes before (default: 100; 3 on the CPU)")
    timing.add_argument(
        "--passes", type=_positive, metavar="N", help="timed passes (default: 100; 10 on the CPU, fewer after 10 s)"
    )
    timing.add_argument(_SERVE, action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--chart", choices=CHARTS,
        help="bubbles by memory: latency against multiply-adds, or against printed PSNR; or the figures of ESC's paper",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="where tables and chart go (none: they are printed)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results of this kind in that folder")


def run(typed: argparse.Namespace) -> None:
    """Count, measure, print, write."""
    if typed.serve:
        _serve()
        return
    if typed.output is not None:
        check_output(typed.output, KIND, overwrite=typed.overwrite)
    if typed.chart is not None:
        check_charts("--chart")
        if typed.output is None:
            raise InputError("--chart: name a folder for it with -o")
        if typed.no_time and typed.chart != "paper":
            raise InputError(f"--chart {typed.chart} shows latency, which --no_time leaves out; leave out one of them")
    candidates = candidates_of(typed)
    rows, items = counted(candidates, typed.size, typed.output_size or _OUTPUT)
    if not typed.no_time:
        rows = measured(candidates, rows, typed)
    text = report(rows, items, activations=typed.activations)
    print(text)
    if typed.output is None:
        return
    pictures = {} if typed.chart is None else {"": chart(rows, typed.chart)}
    figures = {"rows": [_figures(row) for row in rows], "papers": [_paper_figures(item) for item in items]}
    results = Results(KIND, text, figures, pictures=pictures, files=files(rows, items, activations=typed.activations))
    for path in write(typed.output, results):
        print(f"wrote {path}")


def candidates_of(typed: argparse.Namespace) -> list[Candidate]:
    """The networks that a command line names.

    Raises:
        InputError: there is none, or none of a name.
    """
    found = list(_published(typed.networks, typed.scales or _SCALES))
    for path in typed.opt:
        found.append(_of_options(path, typed.scale))
    for text in typed.weights:
        name, mark, rest = text.partition("=")
        named = bool(mark) and not Path(text).exists()
        path = Path(rest if named else text)
        if is_onnx(path):
            raise InputError(f"{path}: an ONNX file shows no layers to count; give the weights it was made from")
        described = recognise.configuration(path, None, typed.key)
        found.append(Candidate(name if named else path.stem, _rescaled(described, typed.scale)))
    if not found:
        raise InputError("name a network: hat_s_x4, or all, or -opt FILE, or -w FILE with its weights")
    return found


def _published(names: Sequence[str], scales: Sequence[float]) -> Iterator[Candidate]:
    for text in VARIANTS if "all" in names else names:
        match = re.fullmatch(r"(\w+?)_x(\d(?:\.\d+)?)", text)
        name, wanted = (match[1], (float(match[2]),)) if match else (text, tuple(scales))
        there = [scale for scale in wanted if has_configuration(name, scale)]
        if not there:
            known = [*VARIANTS, "all"]
            hint = near_miss(name, known) if name not in known else f"; there is no {name} x{wanted[0]:g}"
            raise InputError(f'no published network is called "{text}"{hint or "; known: " + ", ".join(known)}')
        for scale in there:
            yield Candidate(LABELS.get(name, name), configuration(name, scale))


def _of_options(path: Path, scale: float | None) -> Candidate:
    """The network of an option file; one of ours has its printed name."""
    described = _rescaled(recognise.network_of_options(path), scale)
    match = re.fullmatch(r"test_(\w+)_x\d", path.stem)
    ours = match is not None and path.resolve().parent == OPTIONS and match[1] in LABELS
    return Candidate(LABELS[match[1]] if match and ours else path.stem, described)


def _rescaled(described: Mapping[str, Any], scale: float | None) -> Mapping[str, Any]:
    return described if scale is None else recognise.rescaled(described, scale)


def counted(
    candidates: Sequence[Candidate], size: tuple[int, int] | None, output: tuple[int, int]
) -> tuple[list[Row], list[Beside]]:
    """The rows, and what papers print of these networks beside ours at their sizes.

    Args:
        candidates: the networks.
        size: (h, w) of the input; None: that of ``output``.
        output: (height, width) of the output.
    """
    rows, items = [], []
    progress = Progress(len(candidates), "counting", unit="networks", plain=get_logger().info)
    with progress:
        for candidate in candidates:
            network = candidate.network
            scale = contract_of(network).scale
            by_size: dict[tuple[int, int], Counts] = {}

            def at(place: tuple[int, int], network: nn.Module = network, known: Any = by_size) -> Counts:
                if place not in known:
                    known[place] = count(network, *place)
                found: Counts = known[place]
                return found

            rows.append(Row(candidate.name, scale, at(size or lr_size(output, scale))))
            for paper, printed in printed_of(candidate.name, scale):
                items.append(Beside(paper, printed, at(paper.lr_size(printed.scale))))
            progress.advance()
    return rows, items


def measured(candidates: Sequence[Candidate], rows: Sequence[Row], typed: argparse.Namespace) -> list[Row]:
    """The rows with latency and memory, each of a process of its own."""
    device = devices.choose(typed.device or "auto")
    usual = protocol_of(device)
    protocol = dataclasses.replace(
        usual, warm_ups=typed.warm_ups or usual.warm_ups, passes=typed.passes or usual.passes
    )
    found = []
    with Progress(len(rows), f"measuring on {device}", unit="networks", plain=get_logger().info) as progress:
        for candidate, row in zip(candidates, rows, strict=True):
            question = {
                "described": dict(candidate.described), "size": row.counts.size, "device": str(device),
                "threads": typed.threads, "protocol": dataclasses.asdict(protocol),
            }  # fmt: skip
            answer = _ask(question)
            if "failed" in answer:
                found.append(dataclasses.replace(row, failed=answer["failed"]))
            else:
                found.append(dataclasses.replace(row, measured=_measured_of(answer)))
            progress.advance()
    return found


def _ask(question: Mapping[str, object]) -> dict[str, Any]:
    """What a process of its own answers.

    Raises:
        RunError: it failed; it has said why.
    """
    environment = {**os.environ, **RETURNING_MEMORY}
    done = subprocess.run(
        [sys.executable, str(_ROOT / "scripts/analyse.py"), KIND, _SERVE],
        input=json.dumps(question), stdout=subprocess.PIPE, text=True, env=environment, check=False,
    )  # fmt: skip
    if done.returncode < 0:
        return {"failed": "ended by the system, as it does where memory does not suffice"}
    if done.returncode != 0 or not done.stdout.strip():
        raise RunError("the process that measures a network failed; its messages are above")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _serve() -> None:
    """Answer one question of :func:`_ask`."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    question = json.loads(sys.stdin.read())
    device = torch.device(question["device"])
    devices.use(device)
    if question["threads"] is not None:
        torch.set_num_threads(question["threads"])
    torch.manual_seed(0)

    def build() -> nn.Module:
        return to_channels_last(for_inference(build_network(question["described"]).eval()))

    answer: dict[str, object]
    try:
        found = measure(build, tuple(question["size"]), device, Protocol(**question["protocol"]))
        answer = dataclasses.asdict(found)
    except (RuntimeError, MemoryError) as error:
        if not memory_is_full(error):
            raise
        answer = {"failed": "the memory does not suffice"}
    os.write(answers, json.dumps(answer).encode())


def _measured_of(answer: Mapping[str, Any]) -> Measured:
    def timing(held: Mapping[str, Any] | None) -> Timing | None:
        return None if held is None else Timing(tuple(held["passes"]), held["first"])

    first = timing(answer["timing"])
    assert first is not None
    facts = (answer["memory"], answer["device"], answer["threads"], tuple(answer["operators"]))
    return Measured(first, timing(answer["tf32"]), *facts)


def report(rows: Sequence[Row], items: Sequence[Beside], *, activations: bool = False) -> str:
    """The tables and sentences that are printed."""
    parts = [main_table(rows, "text", activations=activations)]
    if items:
        parts.append(f"{_BESIDE}:\n{paper_table(items, 'text')}")
    parts.append("\n".join(sentence(row) for row in rows))
    return "\n".join(parts)


def files(rows: Sequence[Row], items: Sequence[Beside], *, activations: bool = False) -> dict[str, str]:
    """The tables as files."""
    about = {**hardware(), **versions()}
    made = "\n".join(f"- {name}: {value}" for name, value in about.items())
    markdown = [main_table(rows, "markdown", activations=activations)]
    latex = [main_table(rows, "latex", activations=activations)]
    if items:
        markdown.append(f"{_BESIDE[:1].upper()}{_BESIDE[1:]}:\n\n{paper_table(items, 'markdown')}")
        latex.append(paper_table(items, "latex"))
    return {
        f"{KIND}.csv": main_table(rows, "csv", activations=activations),
        f"{KIND}.md": "\n".join([*markdown, made + "\n"]),
        f"{KIND}.tex": "\n".join(latex),
    }


def chart(rows: Sequence[Row], kind: str) -> Figure:
    """The chart that is asked for.

    Raises:
        InputError: there is nothing to draw.
    """
    if kind == "paper":
        paper = table_with_latency()
        bubbles = [
            Bubble(row.network, row.latency, psnr, row.memory, "ESC" if row.network.startswith("ESC") else "others")
            for row in paper.rows
            if row.scale == 4 and row.latency is not None and (psnr := psnr_of(row)) is not None
        ]
        note = f"{paper.source}, x4, {paper.at}; {paper.note}"
        return bubble_chart(bubbles, "latency, ms", f"PSNR on {PSNR_SET}, dB", note, "MB")
    timed = [(row, row.measured) for row in rows if row.measured is not None]
    device = timed[0][1].device if timed else ""
    size = " and ".join(dict.fromkeys(f"{r.counts.size[1]}x{r.counts.size[0]}" for r, _ in timed))
    note = f"{device}, float32, input {size}"
    if kind == "multiply_adds":
        bubbles = [
            Bubble(_label(row), row.counts.multiply_adds / 1e9, found.timing.median, _mib(found), row.name)
            for row, found in timed
        ]
        return bubble_chart(bubbles, "multiply-adds, G", "latency (median), ms", note)
    return _psnr_chart(timed, note)


def _psnr_chart(timed: Sequence[tuple[Row, Measured]], note: str) -> Figure:
    """Latency measured here against PSNR that one table prints: the one that has most of these networks."""
    tables: dict[str, list[Bubble]] = {}
    for row, found in timed:
        score = printed_psnr(row.name, row.scale)
        if score is not None:
            bubble = Bubble(_label(row), found.timing.median, score.psnr, _mib(found), row.name)
            tables.setdefault(f"{score.source}, x{row.scale:g}", []).append(bubble)
    if not tables:
        raise InputError(f"--chart psnr: no PSNR on {PSNR_SET} is printed for any of these networks")
    source, bubbles = max(tables.items(), key=lambda item: len(item[1]))
    return bubble_chart(bubbles, "latency (median), ms", f"PSNR on {PSNR_SET}, dB", f"{note}; PSNR: {source}")


def _label(row: Row) -> str:
    return f"{row.name} x{row.scale:g}"


def _mib(found: Measured) -> float | None:
    return None if found.memory is None else found.memory / 2**20


def _figures(row: Row) -> dict[str, object]:
    """A row for the JSON file."""
    found = row.measured
    return {
        "name": row.name, "scale": row.scale, **dataclasses.asdict(row.counts), "flops": row.counts.flops,
        "measured": None if found is None else {
            **dataclasses.asdict(found), "median": found.timing.median, "mean": found.timing.mean,
            "p10": found.timing.percentile(10), "p90": found.timing.percentile(90),
            "dtype": "float32", "compiled": False,
        },
        "failed": row.failed,
    }  # fmt: skip


def _paper_figures(item: Beside) -> dict[str, object]:
    return {
        "source": item.paper.source, "at": item.paper.at, "rule": item.paper.rule, "note": item.paper.note,
        **dataclasses.asdict(item.printed), "ours": dataclasses.asdict(item.ours), "ours_by_rule": item.multiply_adds,
    }  # fmt: skip


def _positive(text: str) -> int:
    """A whole number of at least 1."""
    (found,) = numbers(text, "N")
    if found < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return found


def _pixels(text: str) -> tuple[int, int]:
    """``HxW``."""
    height, width = numbers(text.lower().replace("x", ","), "H,W")
    if height < 1 or width < 1:
        raise argparse.ArgumentTypeError(f"expected HxW, height and width of at least 1, got {text}")
    return height, width
