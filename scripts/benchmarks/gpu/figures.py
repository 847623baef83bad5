"""The figures that a GPU is asked for, in the order in which they are worth its time.

A figure is one piece of work in one way of doing it; the lines of a table that have the same ``work`` are compared.
``tiny`` figures are small enough for a CPU; they are there to find mistakes before a GPU does.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import torch

from config.variants import PLAINUSR
from scripts.benchmarks import operators, published, training
from scripts.benchmarks.gpu import loading, products
from scripts.benchmarks.gpu.tables import AUTO, IMAGE, LOOP, OPERATOR, PAPER, PLAIN, STEP, Figure, Published, Rounded
from scripts.benchmarks.measure import Comparison

_ESC_PAPER = {  # x2, x3, x4
    "esc": (Published(120.9, 831), Published(41.4, 385), Published(21.9, 215)),
    "esc_light": (Published(73.2), Published(25.2), Published(13.3)),
    "esc_fp": (Published(94.3), Published(34.8), Published(21.7)),
}
_ROUNDED: dict[str, Rounded] = {"tf32": "all", "tf32 convolutions": "convolutions"}
_ITERATIONS = 500  # of a call of train.py, which starts its workers
_SHOWN = {"tf32": "TF32", "tf32 convolutions": "TF32 convolutions"}


def figures(*, tiny: bool = False) -> list[Figure]:
    """All of them, in order of worth.

    Args:
        tiny: small enough for a CPU, and without those that compile.

    Raises:
        InputError: an option file that names a size cannot be read.
    """
    image = (32, 32) if tiny else (180, 320)
    found = [
        *_pft(tiny), *_esc(tiny), *_steps(tiny), *_operators(tiny), *_plainusr(image), *_loop(tiny), *_windows(image),
    ]  # fmt: skip
    return found if tiny else [*found, *_compiled_steps(), *_compiled(image), *products.flex()]


def _evaluation(table: str, name: str, scale: int, image: tuple[int, int], mode: str, way: str = AUTO) -> Figure:
    """The evaluation of an image; ``mode`` is of MODES, or of _ROUNDED."""
    rounded = _ROUNDED.get(mode, "none")
    shown = _SHOWN.get(mode, mode.replace("_", ", "))
    mode = "float32" if mode in _ROUNDED else mode
    height, width = image
    return Figure(
        f"{table}/{name}_x{scale}_{width}x{height}/{_slug(way)}_{_slug(shown)}", table,
        f"{name} x{scale}, 1 x 3 x {height} x {width}", f"{way}, {shown}",
        functools.partial(
            published.evaluation, name, scale, image, mode, "reference" if way == PLAIN else "auto"
        ),
        IMAGE, needs=published.needs_of(mode), tf32=rounded,
    )  # fmt: skip


def _step(table: str, name: str, scale: int, mode: str, way: str = AUTO, *, tiny: bool = False) -> Figure:
    """The published training step."""
    batch, side = (1, 32) if tiny else published.training_sizes(name, scale)
    shown = mode.replace("_", ", ")
    return Figure(
        f"{table}/{name}_x{scale}/{_slug(way)}_{_slug(shown)}", table,
        f"{name} x{scale}, {batch} x 3 x {side} x {side}", f"{way}, {shown}",
        functools.partial(
            published.training, name, scale, (batch, side), mode, "reference" if way == PLAIN else "auto"
        ),
        STEP, needs=published.needs_of(mode),
    )  # fmt: skip


def _slug(text: str) -> str:
    return text.lower().replace(", ", "_").replace(" ", "_")


def _pft(tiny: bool) -> Iterator[Figure]:
    """The training step against gather-based operators, and two image sizes."""
    name = "pft_light" if tiny else "pft"
    yield _step("pft_step", name, 4, "float32", PLAIN, tiny=tiny)
    yield _step("pft_step", name, 4, "float32", tiny=tiny)
    yield _step("pft_step", name, 4, "bf16", tiny=tiny)
    for scale, image in ((4, (180, 320)), (2, (360, 640))):
        for mode in ("float32", "bf16"):
            yield _evaluation("pft_image", name, scale, (32, 32) if tiny else image, mode)


def _esc(tiny: bool) -> Iterator[Figure]:
    for name, printed in _ESC_PAPER.items():
        for scale, paper in zip((2, 3, 4), printed, strict=True):
            image = (32, 32) if tiny else (720 // scale, 1280 // scale)
            for mode in ("tf32 convolutions", "float32"):
                yield dataclasses.replace(
                    _evaluation("esc", name, scale, image, mode), protocol=PAPER, published=paper
                )  # fmt: skip


def _windows(image: tuple[int, int]) -> Iterator[Figure]:
    for name in ("hat_s", "hat", "hat_l", "rgt_s", "rgt"):
        yield _evaluation("windows", name, 4, image, "float32", PLAIN)
        for mode in ("float32", "tf32", "bf16"):
            yield _evaluation("windows", name, 4, image, mode)


def _plainusr(image: tuple[int, int]) -> Iterator[Figure]:
    for name in PLAINUSR:
        for mode in ("float32", "bf16"):
            yield _evaluation("plainusr", name, 4, image, mode)


def _steps(tiny: bool) -> Iterator[Figure]:
    for name in ("hat_s", "esc_light") if tiny else ("hat", "esc"):
        yield _step("step", name, 4, "float32", PLAIN, tiny=tiny)
        for mode in ("float32", "bf16"):
            yield _step("step", name, 4, mode, tiny=tiny)


def _compiled_steps() -> Iterator[Figure]:
    for name in ("esc", "hat"):
        yield _step("step", name, 4, "bf16_compiled")


def _compiled(image: tuple[int, int]) -> Iterator[Figure]:
    for name in ("esc", "hat_s", "rgt_s", "hat", "rgt", "hat_l"):
        yield _evaluation("compiled", name, 4, image, "bf16_compiled")


def _operators(tiny: bool) -> Iterator[Figure]:
    """Every operator in both directions by its reference and by "auto"; PyTorch's best where it has one."""
    for row in operators.comparisons():
        backends = row.key.startswith("ops/backend_")
        image = "_720p_" in row.key
        if backends or image or ("_quick_" in row.key) != tiny:
            continue
        yield _operator(row, "reference")
        yield from products.others(row)
        yield _operator(row, "auto")


def _operator(row: Comparison, way: str) -> Figure:
    side = row.ours if way == "auto" else row.baseline
    return Figure(
        f"operators/{row.key.removeprefix('ops/')}/{way}", "operators", f"{row.key.removeprefix('ops/')}: {row.work}",
        way, side.prepare, OPERATOR, cost=row.cost, needs=side.needs,
    )  # fmt: skip


def _loop(tiny: bool) -> Iterator[Figure]:
    steps, workers = (2, 0) if tiny else (_ITERATIONS, 4)
    work = f"PlainUSR-U x4, {steps} iterations, {training.BATCH} x 3 x {training.PATCH} x {training.PATCH}, float32"
    bare = functools.partial(training.bare_loop, steps)
    trained = functools.partial(training.trainer_loop, steps, workers)
    protocol = LOOP._replace(calls=3)
    yield Figure("loop/iterations/bare", "loop", work, "forward, backward, Adam, average", bare, protocol)
    yield Figure(
        "loop/iterations/train.py", "loop", work, f"train.py, {workers} processes that cut patches", trained, protocol
    )  # fmt: skip
    workers, size = (0, loading.SMALL) if tiny else (4, loading.SIDE)
    yield Figure(
        "loop/pack/batch", "loop", f"a batch of {loading.BATCH} patches of 256 x 256 and 64 x 64",
        f"from a pack, {workers} workers, on the device", functools.partial(loading.batches, size, workers),
        LOOP._replace(warm_ups=10, calls=100),
    )  # fmt: skip
    work = f"esc x4, {loading.IMAGES} images of {size} x {size}"
    for name, way in (("network", "the network alone"), ("scored", "read, upscaled, PSNR and SSIM")):
        yield Figure(
            f"loop/validation/{name}", "loop", work, way,
            functools.partial(loading.validation, size, scored=name == "scored"), LOOP._replace(warm_ups=1, calls=3),
        )  # fmt: skip


def precise(figure: Figure) -> None:
    """Let products round their float32 factors, or not, as the figure says."""
    torch.set_float32_matmul_precision("high" if figure.tf32 == "all" else "highest")
    torch.backends.cudnn.allow_tf32 = figure.tf32 != "none"
