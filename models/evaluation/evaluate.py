"""Scores of a network on a data set: image by image, and their means."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from archs.contract import at_scale, contract_of
from config.schema import TileOptions, ValOptions
from data import EvalDataset, Sample, to_levels
from metrics import LevelMetric, Metric, Output, UndefinedScoreError
from models.distributed import World
from models.evaluation.beside import Beside
from models.evaluation.pictures import bicubic_to
from models.inference.tiling import PFT_TILES, EqualTiles, GrownTiles, Tiling
from models.inference.upscale import check_whole, memory_kept_for, upscale
from models.precision.choice import FLOAT32, Arithmetic
from models.precision.faults import first_fault
from models.weights.layout import for_inference, to_channels_last
from utils.device_memory import release_kept_memory
from utils.errors import InputError, StopRequested
from utils.memory import FullMemoryError, memory_for
from utils.progress import Progress
from utils.signals import StopFlag
from utils.wording import first_few

Cause = Literal["image", "output", "memory"]
Keep = Callable[[Sample, Tensor], None]

_NAMED = 3  # images without a score, and reasons, that a message names
_SMALLER = "tiles (tile: {tile_size: 256}, or val.use_chop), val.batch_size: 1, or a smaller image"
_WAITING = 4  # batches' worth of images that may wait for others of their size


@dataclass(frozen=True)
class EvalRow:
    """One image.

    Attributes:
        name: base name of the low-resolution file.
        height: of the output, pixels.
        width: of the output, pixels.
        scores: metric -> value, NaN where there is none; empty without ground truth.
        bicubic: the same for bicubic upsampling of the input, where it was asked for.
        seconds: time of the network, without reading and scoring.
        fault: why there is no score; None where all is well.
        cause: of the fault: "image", which cannot be read or is of no use; "output" of the network, which is no number,
            or a metric of it; "memory", which does not suffice.
    """

    name: str
    height: int
    width: int
    scores: Mapping[str, float]
    bicubic: Mapping[str, float]
    seconds: float
    fault: str | None = None
    cause: Cause | None = None


@dataclass(frozen=True)
class EvalReport:
    """One data set: its rows in the order of the set.

    Attributes:
        dataset: its name.
        rows: one per image.
        memory: most bytes in use while it was evaluated, on the GPU or by the process; 0 where it was not looked at.
        scale: of its images.
        arithmetic: in which the network computed.
    """

    dataset: str
    rows: tuple[EvalRow, ...]
    memory: int = 0
    scale: float = 1
    arithmetic: Arithmetic = FLOAT32

    @property
    def scores(self) -> dict[str, float]:
        """Metric -> mean over the images of the per-image value; NaN where any of them has none."""
        return _means([row.scores for row in self.rows])

    @property
    def bicubic(self) -> dict[str, float]:
        """The same for bicubic upsampling."""
        return _means([row.bicubic for row in self.rows])

    @property
    def seconds(self) -> float:
        """Mean time of the network per image."""
        return math.fsum(row.seconds for row in self.rows) / max(len(self.rows), 1)

    @property
    def faults(self) -> str:
        """Which images have no score, and why, in one sentence; empty where all have."""
        failed = [row for row in self.rows if row.fault is not None]
        if not failed:
            return ""
        names = first_few((row.name for row in failed), _NAMED)
        reasons = list(dict.fromkeys(row.fault for row in failed if row.fault is not None))
        more = f"; and {len(reasons) - _NAMED} others" if len(reasons) > _NAMED else ""
        return (
            f"{len(failed)} of {len(self.rows)} images of {self.dataset} have no score ({names}): "
            f"{'; '.join(reasons[:_NAMED])}{more}"
        )

    @property
    def causes(self) -> set[Cause]:
        """Of all faults."""
        return {row.cause for row in self.rows if row.cause is not None}

    def as_json(self) -> dict[str, object]:
        """For ``scores.json``, where what is no number (infinite PSNR of equal images, no score) becomes null."""
        return {
            "seconds_per_image": round(self.seconds, 4),
            "peak_memory": self.memory,
            "mean": {"scores": self.scores, "bicubic": self.bicubic},
            "images": [
                {
                    "name": row.name,
                    "size": [row.height, row.width],
                    "scores": dict(row.scores),
                    "bicubic": dict(row.bicubic),
                    "seconds": round(row.seconds, 4),
                    **({} if row.fault is None else {"fault": row.fault}),
                }
                for row in self.rows
            ],
        }

    def table(self) -> str:
        """Rows and means as text: image, then each metric, for bicubic and ours where both were scored."""
        metrics = list(self.scores)
        both = bool(self.bicubic)
        heads = [f"{metric} {who}" for metric in metrics for who in (("bicubic", "ours") if both else ("ours",))]
        if not both:
            heads = metrics
        lines = [(row.name, row.scores, row.bicubic) for row in self.rows]
        body = [[name, *_cells(scores, bicubic, metrics, both)] for name, scores, bicubic in lines]
        mean = [f"mean of {len(self.rows)}", *_cells(self.scores, self.bicubic, metrics, both)]
        return format_table([self.dataset, *heads], [*body, mean])


def evaluate(
    network: nn.Module,
    dataset: EvalDataset,
    options: ValOptions,
    *,
    device: torch.device,
    tile: TileOptions | None = None,
    channels_last: bool = False,
    world: World | None = None,
    keep: Keep | None = None,
    stop: StopFlag | None = None,
    skip_large: bool = False,
    arithmetic: Arithmetic | None = None,
) -> EvalReport:
    """Upscale and score every image of a data set; the images are shared among the ranks.

    The network's mode and the random generators are left as they were. A network that is trained in another form
    (PlainUSR's branches) is converted once by its ``for_inference``; one for any scale works at that of the data set.
    PSNR and SSIM are measured on the device, so that of the outputs only those leave it that ``keep`` fetches.

    An image that cannot be read or scored, and an output that is not finite, have no score: NaN, and a fault in its
    row, which the caller reports. The others are scored all the same.

    Args:
        network: on ``device``.
        dataset: its ``read(i)`` gives lq [3,h,w] and, where there is ground truth, gt [3,s*h,s*w].
        options: metrics, whether bicubic is scored too, self-ensemble, how many images of one size go together.
        device: where the network runs.
        tile: upscale in tiles, as HAT's test files ask; ``options.use_chop`` asks for RGT's, ``pft_chop`` for PFT's.
        channels_last: memory layout of the network.
        world: the processes that share the work.
        keep: called with each sample and the 8-bit output [s*h,s*w,3] on ``device``, on the rank that made it; not
            with what is not finite.
        stop: left with StopRequested when it is set.
        skip_large: an image that is too large for the memory is a fault of its row, too.
        arithmetic: what the network computes in, which ``options.precision`` asks for; None: float32.

    Raises:
        InputError: the options ask for something that this network cannot do.
        FullMemoryError: the memory is full, and ``skip_large`` is not set.
        StopRequested: see ``stop``.
    """
    world, arithmetic = world or World(), arithmetic or FLOAT32
    prepared = at_scale(arithmetic.of(for_inference(network)), dataset.scale)
    if channels_last:
        prepared = to_channels_last(prepared)
    tiling, multiple = tiling_of(options, tile), _multiple(prepared, options)
    check_whole(prepared, tiling, multiple)
    kept = contextlib.ExitStack()
    scorer = _Scorer(
        prepared, type(network).__name__, dataset.name, options, tiling, multiple, device, keep, skip_large, kept
    )
    mine: list[tuple[int, EvalRow]] = []
    with Progress(len(dataset), dataset.name, shown=options.pbar and world.is_main) as progress:

        def done(rows: Iterable[tuple[int, EvalRow]]) -> None:
            for row in rows:
                mine.append(row)
                progress.advance(min(world.size, progress.total - progress.done))

        def samples(beside: Beside) -> Iterator[tuple[int, Sample]]:
            numbers = range(world.rank, len(dataset), world.size)
            for i, reading in zip(numbers, beside.ahead(dataset.read, numbers), strict=True):
                if stop:
                    raise StopRequested(f"stopped while evaluating {dataset.name}", stop.exit_code)
                with scorer.caught(dataset.name_of(i)) as fault:
                    sample = reading()
                if fault:
                    done([(i, fault[0])])
                else:
                    yield i, sample

        with kept, Beside.of(device) as beside:
            scored: list[Scored] = []
            for group in of_equal_size(samples(beside), options.batch_size):
                scored, before = scorer.scored(group, beside), scored
                done(map(scorer.row, before))  # which were measured while this group was upscaled
            done(map(scorer.row, scored))
    rows = sorted((pair for part in world.gather(mine) for pair in part), key=lambda pair: pair[0])
    completed = _completed([row for _, row in rows], options)
    return EvalReport(dataset.name, completed, scale=dataset.scale, arithmetic=arithmetic)


class Scored(NamedTuple):
    """An image whose metrics are, or are being, measured.

    Attributes:
        number: in the data set.
        sample: the image.
        image: the output, uint8 [s*h, s*w, 3], to be kept; None where there is none, or it is not finite.
        row: gives the row, and waits for it.
    """

    number: int
    sample: Sample
    image: Tensor | None
    row: Callable[[], EvalRow]


@dataclass(frozen=True)
class _Scorer:
    """Makes rows of samples; arguments as of :func:`evaluate`."""

    network: nn.Module
    called: str
    dataset: str
    options: ValOptions
    tiling: Tiling | None
    multiple: int
    device: torch.device
    keep: Keep | None
    skip_large: bool
    kept: contextlib.ExitStack

    def scored(self, group: Sequence[tuple[int, Sample]], beside: Beside) -> list[Scored]:
        """The samples of a group, upscaled; where it fails as a whole, each image is tried by itself."""
        names = first_few(sample.name for _, sample in group)
        made: list[Scored] = []
        with self.caught(names, retried=len(group) > 1) as fault:
            made = self._scored(group, beside)
        if not fault:
            return made
        if len(group) == 1:
            [(i, sample)], row = group, fault[0]
            return [Scored(i, sample, None, lambda: row)]
        return [item for single in group for item in self.scored([single], beside)]

    def row(self, item: Scored) -> tuple[int, EvalRow]:
        """The numbered row of an image, once its metrics are known; the image is kept then."""
        with self.caught(item.sample.name) as fault:
            row = item.row()
            if self.keep is not None and item.image is not None:
                self.keep(item.sample, item.image)
        return item.number, fault[0] if fault else row

    def _scored(self, group: Sequence[tuple[int, Sample]], beside: Beside) -> list[Scored]:
        lq = torch.stack([sample.lq for _, sample in group]).to(self.device)
        # To the end of the set: what one image has freed serves the next.
        self.kept.enter_context(memory_kept_for(self.network, len(lq) * lq.shape[-2] * lq.shape[-1]))
        started = time.perf_counter()
        outputs = self._upscaled(lq)
        images = [to_levels(output) for output in outputs]
        finite = _finite(outputs)  # waits for the device
        seconds = (time.perf_counter() - started) / len(group)
        where = None if all(finite) else first_fault(self.network, lambda: self._upscaled(lq))
        broken = f"the output of {self.called} is not finite (NaN or infinity){'' if where is None else f', {where}'}"
        scale = contract_of(self.network).scale
        return [
            Scored(
                i, sample, image if sound else None,
                beside.start(_row, sample, image, values, scale, self.options, seconds, None if sound else broken),
            )
            for (i, sample), image, values, sound in zip(group, images, outputs, finite, strict=True)
        ]  # fmt: skip

    def _upscaled(self, lq: Tensor) -> Tensor:
        return upscale(
            self.network, lq, self_ensemble=self.options.self_ensemble, tiling=self.tiling, multiple=self.multiple
        )

    @contextlib.contextmanager
    def caught(self, name: str, *, retried: bool = False) -> Iterator[list[EvalRow]]:
        """A list that has a row with a fault after the block, where an image, or the memory for it, made it fail."""
        rows: list[EvalRow] = []
        try:
            with memory_for(f"the image {name} of {self.dataset}", _SMALLER):
                yield rows
        except InputError as error:
            rows.append(EvalRow(name, 0, 0, {}, {}, 0.0, str(error), "image"))
        except FullMemoryError as error:
            if not (self.skip_large or retried):
                raise
            rows.append(EvalRow(name, 0, 0, {}, {}, 0.0, str(error), "memory"))
        if rows and rows[0].cause == "memory":
            release_kept_memory(self.device)


def _finite(outputs: Tensor) -> list[bool]:
    """Whether each output has finite values only; a sum tells, in a tenth of the time, where all have."""
    values = outputs.flatten(1)
    if bool(values.sum(1).isfinite().all()):
        return [True] * len(values)
    found: list[bool] = values.isfinite().all(1).tolist()
    return found


def _completed(rows: Sequence[EvalRow], options: ValOptions) -> tuple[EvalRow, ...]:
    """The rows, those without scores with NaN for what the others have; for all metrics, where no row has any."""
    names = next((list(row.scores) for row in rows if row.scores), list(options.metrics))
    base = next((list(row.bicubic) for row in rows if row.bicubic), [])

    def completed(row: EvalRow) -> EvalRow:
        if row.cause is None or row.scores:
            return row
        scores, bicubic = dict.fromkeys(names, math.nan), dict.fromkeys(base, math.nan)
        return dataclasses.replace(row, scores=scores, bicubic=bicubic)

    return tuple(map(completed, rows))


def of_equal_size(samples: Iterable[tuple[int, Sample]], most: int) -> Iterator[list[tuple[int, Sample]]]:
    """Numbered samples in groups of up to ``most`` whose low-resolution images have one size.

    A group goes out when it is full. Its samples wait for others of their size, but of more than a few groups' worth
    of samples those that have waited longest go out as they are: a set of many sizes is not gathered in memory.
    """
    waiting: dict[torch.Size, list[tuple[int, Sample]]] = {}
    for number, sample in samples:
        group = waiting.setdefault(sample.lq.shape, [])
        group.append((number, sample))
        if len(group) == most:
            yield waiting.pop(sample.lq.shape)
        elif sum(map(len, waiting.values())) > _WAITING * most:
            yield waiting.pop(next(iter(waiting)))
    yield from waiting.values()


def tiling_of(options: ValOptions, tile: TileOptions | None) -> Tiling | None:
    """The published way of cutting images that the options ask for; None for whole images."""
    if tile is not None:
        return GrownTiles(tile.tile_size, tile.tile_pad)
    if options.use_chop:
        return EqualTiles(options.chop_size, options.chop_pad)
    return PFT_TILES if options.pft_chop else None


def way_of(options: ValOptions, tile: TileOptions | None, arithmetic: Arithmetic | None = None) -> str:
    """How the network is applied to images, for reports: two scores can be compared where this is the same."""
    tiling = tiling_of(options, tile)
    return "".join([
        "whole images" if tiling is None else f"images {tiling}",
        ", extended to multiples of the window" if options.pad_to_window else "",
        ", self-ensemble" if options.self_ensemble else "",
        "" if arithmetic is None or arithmetic.precision == "fp32" else f", in {arithmetic}",
    ])  # fmt: skip


def _multiple(network: nn.Module, options: ValOptions) -> int:
    """What images are extended to multiples of."""
    if not options.pad_to_window:
        return 1
    window = contract_of(network).window_size
    if window is None:
        raise InputError(f"val.pad_to_window: {type(network).__name__} has no window_size; leave the key out")
    return window


def format_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, means: bool = True) -> str:
    """Columns aligned, first one left, the others right; ``means``: a line before the last row, which holds them."""
    widths = [max(len(line[i]) for line in (heads, *rows)) for i in range(len(heads))]
    text = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in (heads, *rows)
    ]
    rule = "-" * len(text[0])
    body = [*text[1:-1], rule, text[-1]] if means else text[1:]
    return "\n".join([text[0], rule, *body])


def score_text(value: float | None) -> str:
    """A score as tables show it; empty for what was not measured."""
    return "" if value is None else "no score" if math.isnan(value) else f"{value:.4f}"


def _row(
    sample: Sample, image: Tensor, values: Tensor, scale: float, options: ValOptions, seconds: float, fault: str | None
) -> EvalRow:
    """The row of an output, of 8 bits and not rounded; with a fault, which says that it is none, no metric is asked."""
    height, width = image.shape[:2]
    reference = None if sample.gt is None else to_levels(sample.gt).to(image.device)
    # Without ground truth, only the metrics that need none.
    metrics = {n: m for n, m in options.metrics.items() if reference is not None or not m.needs_reference}
    output = Output(image, reference, values, None, scale, {})
    if not all(isinstance(metric, LevelMetric) for metric in metrics.values()):  # four times the bytes of levels
        truth = None if sample.gt is None else sample.gt.to(image.device)
        output = output._replace(values=values.clamp(0, 1), true_values=truth)
    cause: Cause | None = None if fault is None else "output"
    base: dict[str, float] = {}
    try:
        if fault is None:
            scores, fault = _score(output, metrics)
            cause = None if fault is None else "output"
        else:
            scores = dict.fromkeys(metrics, math.nan)
        if options.bicubic:
            simple = bicubic_to(sample.lq, height, width)
            levels, simple = to_levels(simple).to(image.device), simple.clamp(0, 1).to(image.device)
            base, _ = _score(output._replace(levels=levels, values=simple, shared={}), metrics)
    except InputError as error:  # of a metric: the image is too small for it
        scores = dict.fromkeys(metrics, math.nan)
        base = dict(scores) if options.bicubic else {}
        fault, cause = f"{sample.gt_path or sample.lq_path}: {error}", "image"
    return EvalRow(sample.name, height, width, scores, base, seconds, fault, cause)


def _score(output: Output, metrics: Mapping[str, Metric]) -> tuple[dict[str, float], str | None]:
    """Metric -> value, NaN where it has none for this image; and why."""
    scores, reasons = {}, []
    for name, metric in metrics.items():
        try:
            scores[name] = float(metric.of_output(output))
        except UndefinedScoreError as error:
            scores[name] = math.nan
            reasons.append(str(error))
        else:
            if math.isnan(scores[name]):
                reasons.append(f"{name} is no number")
    return scores, "; ".join(reasons) or None


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = rows[0] if rows else {}
    return {name: math.fsum(row[name] for row in rows) / len(rows) for name in names}


def _cells(scores: Mapping[str, float], base: Mapping[str, float], metrics: Sequence[str], both: bool) -> list[str]:
    return [score_text(values[metric]) for metric in metrics for values in ((base, scores) if both else (scores,))]
