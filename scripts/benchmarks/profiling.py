"""Where the time of a network goes: convolutions, matrix products, attention kernels, copies, the rest.

On the CPU the plain path (float32, the references of the operators, PlainUSR with its branches) beside ours, for an
evaluation and a training step of one network of each family. On a GPU the kernels that take most of the time, for the
training steps of PFT and HAT and the evaluation of ESC.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from archs import build_network
from archs.plainusr import PlainUSR, fold
from models import upscale
from scripts.benchmarks.measure import Work, timed
from scripts.benchmarks.networks import step
from scripts.benchmarks.published import families, trained_configuration
from scripts.benchmarks.windows import with_backend
from utils.progress import Progress

# The first that fits counts. Names are those of ATen's and our operators; what calls others has no time of its own. The
# backward passes of our kernels are seen as the function that torch makes for them: GeneratedBackwardFor_focalsr_NAME.
KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "attention kernels",
        re.compile(
            r"focalsr(?:::|_)(?!gelu_depthwise|conv3x3|pointwise_soft|importance)"
            r"|_flash_attention|_efficient_attention|flex_attention"
        ),
    ),
    ("convolutions", re.compile(r"::\w*conv|::gelu_depthwise|::pointwise_soft")),
    (
        "matrix products",
        re.compile(r"aten::(mm|bmm|addmm|baddbmm|addbmm|linear|matmul|_addmm_activation)$|::_linear|mkldnn_linear"),
    ),
    (
        "layout and copies",
        re.compile(
            r"aten::(copy_|_to_copy|clone|contiguous|cat|stack|roll|gather|scatter\w*|index\w*|take\w*|\w*pad\w*|fill_"
            r"|zero_|repeat\w*|flip|pixel_\w+|im2col|col2im|unfold\w*|embedding\w*|upsample\w*|channel_shuffle|split\w*"
            r"|constant_pad_nd)$"
        ),
    ),
    (
        "element-wise and norms",
        re.compile(
            r"::importance_gate|aten::(?!empty|view|reshape|as_strided|permute|transpose|_unsafe_view|expand|resize_|select|slice)"
        ),
    ),
)
OTHER = "Python, dispatch and allocation"
NAMES = (*(name for name, _ in KINDS), OTHER)
WORKS = ("evaluation", "training step")
_TOP = 15
_MOST_CALLS = 5


class Shares(NamedTuple):
    """Parts of the time of one call.

    Attributes:
        network: its name.
        path: "plain" or "ours".
        milliseconds: of one call, without the profiler.
        parts: by the names of NAMES; their sum is 1.
        work: of WORKS.
    """

    network: str
    path: str
    milliseconds: float
    parts: Mapping[str, float]
    work: str = "evaluation"


def kind_of(operator: str) -> str:
    """Which of NAMES the own time of an operator counts as."""
    return next((name for name, pattern in KINDS if pattern.search(operator)), OTHER)


def parts_of(own_times: Iterable[tuple[str, float]], total: float) -> dict[str, float]:
    """Shares by kind of operators' own times.

    Args:
        own_times: name of an operator and its own time, in any unit.
        total: of the whole, in the same unit; what no operator accounts for is Python.
    """
    parts = dict.fromkeys(NAMES, 0.0)
    for name, own in own_times:
        parts[kind_of(name)] += own
    parts[OTHER] += max(0.0, total - sum(parts.values()))
    whole = sum(parts.values())
    return {name: part / whole for name, part in parts.items()}


def cpu_profiles(size: tuple[int, int], seconds: float) -> list[Shares]:
    """Both paths of one network of each family, evaluated and trained on one image.

    Args:
        size: height and width of the image.
        seconds: calls are repeated for so long.
    """
    found = []
    jobs = list(itertools.product(WORKS, families(), (True, False)))
    with Progress(len(jobs), "profiles", unit="calls", plain=print) as bar:
        for kind, (name, configuration), plain in jobs:
            torch.manual_seed(0)
            prepare = evaluation_work if kind == "evaluation" else step_work
            work = prepare(configuration, size, plain=plain)
            found.append(shares(name, "plain" if plain else "ours", work, seconds)._replace(work=kind))
            bar.advance(note=f"{name}, {kind}")
    return found


def shares(network: str, path: str, work: Work, seconds: float) -> Shares:
    """Profile some calls of a work on the CPU.

    Args:
        network: for the table.
        path: for the table.
        work: what is called.
        seconds: calls are repeated for so long, without and again with the profiler.
    """
    work()
    first = timed(work)
    repeats = max(1, min(_MOST_CALLS, int(seconds / first)))
    fastest = min([first, *(timed(work) for _ in range(repeats - 1))])
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        total = sum(timed(work) for _ in range(repeats))
    own = [(event.key, event.self_cpu_time_total) for event in profiler.key_averages()]
    return Shares(network, path, 1000 * fastest, parts_of(own, 1e6 * total))


def cpu_section(found: Sequence[Shares], size: tuple[int, int]) -> str:
    """The Markdown section of docs/performance.md."""
    lines = [
        "## Where the time goes on the CPU",
        "",
        "`python scripts/benchmark.py profile`: shares of the own times of operators (torch.profiler) at x4, on",
        f"1 x 3 x {size[0]} x {size[1]}, float32. Plain: references of the operators, PlainUSR with its branches.",
    ]
    for kind in WORKS:
        rows = [one for one in found if one.work == kind]
        if not rows:
            continue
        lines += ["", f"| {kind} | path | ms | {' | '.join(NAMES)} |", f"| --- | --- | ---: |{' ---: |' * len(NAMES)}"]
        for one in rows:
            parts = " | ".join(f"{one.parts[name]:.0%}" for name in NAMES)
            lines.append(f"| {one.network} | {one.path} | {one.milliseconds:.3g} | {parts} |")
    return "\n".join(lines) + "\n"


def cuda_section() -> str:
    """The kernels that take most of the time of the work that GPUs are bought for."""
    return "\n".join((CUDA_HEAD, *(kernel_profile(title, prepare, "cuda") for title, prepare in gpu_works())))


DEVICES = ("cpu", "cuda")
"""Whose profiles can be made."""

CUDA_HEAD = "## Where the time goes on the GPU\n\ntorch.profiler: the kernels that take most of the time of a call.\n"


def kernel_profile(title: str, prepare: Callable[[], Work], device: str) -> str:
    """The kernels of one call, those that take most time first; on the CPU, operators by their own time.

    Args:
        title: what is called.
        prepare: makes it, on the device.
        device: "cpu" or "cuda".
    """
    on_gpu = device == "cuda"
    with torch.device(device):
        work = prepare()
    work()
    seconds = min(timed(work) for _ in range(3))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        timed(work)
    table = _kernel_table(profiler.key_averages(), on_gpu=on_gpu)
    del work
    if on_gpu:
        torch.cuda.empty_cache()
    return f"### {title}\n\n{1000 * seconds:.3g} ms\n\n{table}\n"


def _kernel_table(events: Iterable[Any], *, on_gpu: bool) -> str:
    kind, own = (DeviceType.CUDA, "self_device_time_total") if on_gpu else (DeviceType.CPU, "self_cpu_time_total")
    kernels = [(event, float(getattr(event, own))) for event in events if event.device_type == kind]
    total = sum(time for _, time in kernels) or 1.0
    longest = sorted(kernels, key=lambda pair: -pair[1])[:_TOP]
    lines = ["| kernel | calls | ms | share |", "| --- | ---: | ---: | ---: |"]
    lines += [
        f"| {event.key.replace('|', '/')[:100]} | {event.count} | {time / 1000:.3g} | {time / total:.0%} |"
        for event, time in longest
    ]
    return "\n".join(lines)


def gpu_works() -> Iterator[tuple[str, Callable[[], Work]]]:
    """Training steps of PFT, HAT and ESC at 4 patches of 64 x 64, and ESC on an image; plain and as ``amp: bf16``."""
    for name in ("pft", "hat", "esc"):
        for amp in (False, True):
            label = "bf16" if amp else "float32"
            yield f"{name} x4, training step, 4 x 3 x 64 x 64, {label}", functools.partial(_training, name, amp)
    for dtype in (torch.float32, torch.bfloat16):
        yield f"esc x4, evaluation, 1 x 3 x 360 x 640, {dtype}", functools.partial(_esc, dtype)


def tiny_work() -> tuple[str, Callable[[], Work]]:
    """A work for a CPU, to find mistakes before a GPU does."""
    name, configuration = next(families())
    return f"{name} x4, training step, 1 x 3 x 32 x 32", lambda: step_work(configuration, (32, 32), plain=False)


def _training(name: str, amp: bool) -> Work:
    network = build_network(trained_configuration(name, 4))
    work = step(network, torch.rand(4, 3, 64, 64), 4)

    def mixed() -> object:
        # The loss and the backward pass under autocast too: for where the time goes it is the same.
        with torch.autocast("cuda", torch.bfloat16, enabled=amp):
            return work()

    return mixed


def _esc(dtype: torch.dtype) -> Work:
    network = build_network(trained_configuration("esc", 4)).to(dtype)
    return _inference(network, torch.rand(1, 3, 360, 640, dtype=dtype))


def evaluation_work(configuration: Mapping[str, object], size: tuple[int, int], *, plain: bool) -> Work:
    """A forward pass of one image of this size (h, w); ``plain``: by the references, with nothing folded."""
    network = _network(configuration, plain=plain)
    if isinstance(network, PlainUSR) and not plain:
        network = fold(network)
    return with_backend(_inference(network, torch.rand(1, 3, *size)), "reference" if plain else "auto")


def step_work(configuration: Mapping[str, object], size: tuple[int, int], *, plain: bool) -> Work:
    """Forward and backward pass of one image of this size (h, w); ``plain``: by the references."""
    work = step(_network(configuration, plain=plain), torch.rand(1, 3, *size), 4)
    return with_backend(work, "reference" if plain else "auto")


def _network(configuration: Mapping[str, object], *, plain: bool) -> nn.Module:
    """The network; the plain PlainUSR computes its branches."""
    branches = plain and str(configuration["type"]).startswith("PlainUSR")
    return build_network({**configuration, **({"fold_on_the_fly": False} if branches else {})})


def _inference(network: nn.Module, x: Tensor) -> Work:
    def work() -> Tensor:
        with torch.inference_mode():
            return upscale(network, x)

    return work
