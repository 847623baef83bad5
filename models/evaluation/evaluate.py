"""Scores of a network on a data set: image by image, and their means."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from archs.contract import contract_of
from config.schema import TileOptions, ValOptions
from data import EvalDataset, Sample, imresize, to_levels
from metrics import Metric, UndefinedScoreError
from models.distributed import World
from models.inference.tiling import PFT_TILES, EqualTiles, GrownTiles, Tiling
from models.inference.upscale import upscale
from models.weights.layout import for_inference, to_channels_last
from utils.errors import InputError, StopRequested
from utils.progress import Progress
from utils.signals import StopFlag
from utils.wording import first_few

Keep = Callable[[Sample, Tensor], None]

_NAMED = 3  # images without a score that a message names
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
        fault: why the output, or a metric of it, is no number; None where all is well.
    """

    name: str
    height: int
    width: int
    scores: Mapping[str, float]
    bicubic: Mapping[str, float]
    seconds: float
    fault: str | None = None


@dataclass(frozen=True)
class EvalReport:
    """One data set: its rows in the order of the set.

    Attributes:
        dataset: its name.
        rows: one per image.
        memory: most bytes in use while it was evaluated, on the GPU or by the process; 0 where it was not looked at.
    """

    dataset: str
    rows: tuple[EvalRow, ...]
    memory: int = 0

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
        reasons = "; ".join(dict.fromkeys(row.fault for row in failed if row.fault is not None))
        return f"{len(failed)} of {len(self.rows)} images of {self.dataset} have no score ({names}): {reasons}"

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
) -> EvalReport:
    """Upscale and score every image of a data set; the images are shared among the ranks.

    The network's mode and the random generators are left as they were. A network that is trained in another form
    (PlainUSR's branches) is converted once by its ``for_inference``. PSNR and SSIM are measured on the device, so that
    of the outputs only those leave it that ``keep`` fetches. An output that is not finite has no score: NaN, and a
    fault in its row, which the caller reports.

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
    """
    world = world or World()
    prepared = for_inference(network)
    if channels_last:
        prepared = to_channels_last(prepared)
    tiling, multiple = tiling_of(options, tile), _multiple(prepared, options)
    mine: list[tuple[int, EvalRow]] = []

    def samples() -> Iterator[tuple[int, Sample]]:
        for i in range(world.rank, len(dataset), world.size):
            if stop:
                raise StopRequested(f"stopped while evaluating {dataset.name}", stop.exit_code)
            yield i, dataset.read(i)

    with Progress(len(dataset), dataset.name, shown=options.pbar and world.is_main) as progress:
        for group in of_equal_size(samples(), options.batch_size):
            lq = torch.stack([sample.lq for _, sample in group]).to(device)
            started = time.perf_counter()
            outputs = upscale(prepared, lq, self_ensemble=options.self_ensemble, tiling=tiling, multiple=multiple)
            images = [to_levels(output) for output in outputs]
            finite = outputs.isfinite().flatten(1).all(1).tolist()  # waits for the device
            seconds = (time.perf_counter() - started) / len(group)
            for (i, sample), image, sound in zip(group, images, finite, strict=True):
                fault = None if sound else f"the output of {type(network).__name__} is not finite (NaN or infinity)"
                mine.append((i, _row(sample, image, options, seconds, fault)))
                if keep is not None and sound:
                    keep(sample, image)
            progress.advance(min(world.size * len(group), progress.total - progress.done))
    rows = [pair for part in world.gather(mine) for pair in part]
    return EvalReport(dataset.name, tuple(row for _, row in sorted(rows, key=lambda pair: pair[0])))


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


def way_of(options: ValOptions, tile: TileOptions | None) -> str:
    """How the network is applied to images, for reports: two scores can be compared where this is the same."""
    tiling = tiling_of(options, tile)
    return "".join([
        "whole images" if tiling is None else f"images {tiling}",
        ", extended to multiples of the window" if options.pad_to_window else "",
        ", self-ensemble" if options.self_ensemble else "",
    ])  # fmt: skip


def _multiple(network: nn.Module, options: ValOptions) -> int:
    """What images are extended to multiples of."""
    if not options.pad_to_window:
        return 1
    window = contract_of(network).window_size
    if window is None:
        raise InputError(f"val.pad_to_window: {type(network).__name__} has no window_size; leave the key out")
    return window


def bicubic(sample: Sample, height: int, width: int) -> Tensor:
    """The input of a sample upscaled to this size by MATLAB's bicubic, uint8 [height, width, 3]."""
    resized = imresize(sample.lq, height / sample.lq.shape[-2])
    if resized.shape[-1] < width:  # a scale that is no whole number rounds the two sides apart
        resized = imresize(sample.lq, width / sample.lq.shape[-1])
    return to_levels(resized[..., :height, :width])


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


def _row(sample: Sample, image: Tensor, options: ValOptions, seconds: float, fault: str | None) -> EvalRow:
    """The row of an 8-bit output; with a fault, which says that it is none, no metric is asked."""
    height, width = image.shape[:2]
    reference = None if sample.gt is None else to_levels(sample.gt).to(image.device)
    # Without ground truth, only the metrics that need none.
    metrics = {n: m for n, m in options.metrics.items() if reference is not None or not m.needs_reference}
    if fault is None:
        scores, fault = _score(image, reference, metrics)
    else:
        scores = dict.fromkeys(metrics, math.nan)
    base: dict[str, float] = {}
    if options.bicubic:
        base, _ = _score(bicubic(sample, height, width).to(image.device), reference, metrics)
    return EvalRow(sample.name, height, width, scores, base, seconds, fault)


def _score(
    image: Tensor, reference: Tensor | None, metrics: Mapping[str, Metric]
) -> tuple[dict[str, float], str | None]:
    """Metric -> value, NaN where it has none for this image; and why."""
    scores, reasons = {}, []
    for name, metric in metrics.items():
        try:
            scores[name] = float(metric.of_tensors(image, reference))
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
