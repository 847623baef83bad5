"""What a report page shows, as the page's JSON has it: :meth:`Report.as_json`.

A value that is no number (an image without a score, a loss that is not finite) is NaN here and null in the JSON.
Sources of pictures are data URIs, or paths relative to the folder of the page with ``/`` between their parts, quoted as
addresses are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MARK = '<meta name="generator" content="FocalSR report">'
"""Stands within the first kilobytes of each page that is made here; only a page that has it is replaced unasked."""

Group = Literal["loss", "rate", "score", "speed", "other"]


@dataclass(frozen=True)
class Run:
    """A training run or a test.

    Attributes:
        name: no two runs of a report have the same.
        folder: ``experiments/NAME`` or ``results/NAME``, as it was typed.
        kind: what was run.
        options: key with dots -> value as text, defaults included.
        versions: package -> version.
        hardware: "gpu", "cpu", ... -> text.
        command: that repeats it; None where it is not known.
        iteration: the last one on record; None for a test.
        total_iter: of the options; None for a test.
        notes: what is missing, damaged or worth knowing, a sentence each.
    """

    name: str
    folder: str
    kind: Literal["train", "test"]
    options: Mapping[str, str]
    versions: Mapping[str, str]
    hardware: Mapping[str, str]
    command: str | None
    iteration: int | None
    total_iter: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """An option that is not the same in all runs.

    Attributes:
        key: with dots.
        values: one for each run; None where the run has no such option.
    """

    key: str
    values: tuple[str | None, ...]


@dataclass(frozen=True)
class Series:
    """The curve of one run, ascending; thinned where the run has logged more than can be seen.

    Attributes:
        run: index into the runs of the report.
        steps: iterations.
        values: at each of them; of a thinned series, the mean of the values that the point stands for. NaN breaks the
            line.
        low: least value that each point stands for; None where nothing was thinned.
        high: likewise, the largest.
    """

    run: int
    steps: tuple[int, ...]
    values: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Curve:
    """A chart.

    Attributes:
        title: ``l_pix``, ``lr``, ``Set5: psnr``, ``images/s``.
        group: what is drawn together.
        log: whether a logarithmic axis suits it; all its values are positive then.
        series: one for each run that has it.
    """

    title: str
    group: Group
    log: bool
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Metric:
    """A column of a table of scores.

    Attributes:
        name: as in the option file.
        better: which values are good.
        places: digits after the point.
    """

    name: str
    better: Literal["higher", "lower"]
    places: int


@dataclass(frozen=True)
class ImageScores:
    """A row of a table of scores.

    Attributes:
        name: of the image.
        size: height and width of the output, pixels.
        scores: method -> metric -> value.
        picture: index into the pictures of the report; None where none is shown.
        fault: why there is no score, by method; empty where all is well.
    """

    name: str
    size: tuple[int, int]
    scores: Mapping[str, Mapping[str, float]]
    picture: int | None = None
    fault: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """Scores of a set that the authors of a network print.

    Attributes:
        variant: of the network, ``PFT-light``.
        source: where they stand.
        scores: metric -> value.
    """

    variant: str
    source: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class ScoredSet:
    """The scores of one data set at one scale, of all networks that were tested on it.

    Attributes:
        name: of the set.
        scale: super-resolution factor.
        metrics: the columns; the first one ranks the images.
        methods: "bicubic" first where it was scored, then the names of the runs.
        images: in the order of the set.
        mean: method -> metric -> mean over the images.
        published: None where nothing is.
    """

    name: str
    scale: float
    metrics: tuple[Metric, ...]
    methods: tuple[str, ...]
    images: tuple[ImageScores, ...]
    mean: Mapping[str, Mapping[str, float]]
    published: Published | None = None


@dataclass(frozen=True)
class Panel:
    """One of the pictures of an image, of the size of HR.

    Attributes:
        label: "LR", "bicubic", the name of a run, or "HR".
        src: data URI of a thumbnail, or a path beside the page.
        full: path of the full picture beside the page; None where only the thumbnail is there.
        width: of the full picture, pixels.
        height: likewise.
        scores: metric -> value; empty for LR and HR.
    """

    label: str
    src: str
    full: str | None
    width: int
    height: int
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Crop:
    """The part of largest gain, of one of the panels, at full resolution.

    Attributes:
        label: of the panel.
        src: data URI.
    """

    label: str
    src: str


@dataclass(frozen=True)
class Picture:
    """An image as each method shows it.

    Attributes:
        set: name of its data set.
        image: its name.
        panels: LR, bicubic, the networks, HR; those that there are.
        crop: left, top, width, height of the part of largest gain, in pixels of HR; None without HR.
        crops: that part of each panel; none without HR.
    """

    set: str
    image: str
    panels: tuple[Panel, ...]
    crop: tuple[int, int, int, int] | None = None
    crops: tuple[Crop, ...] = ()


@dataclass(frozen=True)
class Analysis:
    """A result of ``scripts/analyse.py``.

    Attributes:
        kind: "lam", "attention", ...
        title: a line.
        text: what a paper would say about it; lines are kept.
        src: data URI of its picture, or a path beside the page; None where it has none.
    """

    kind: str
    title: str
    text: str
    src: str | None


@dataclass(frozen=True)
class Report:
    """All that a page shows.

    Attributes:
        title: of the page.
        made: when, as text.
        command: that makes the page anew.
        runs: whose curves, scores and pictures these are.
        differences: between the options of the runs; none where there is one run.
        curves: of the training runs.
        sets: scores of the tests.
        pictures: images worth looking at.
        analyses: results of ``scripts/analyse.py``.
    """

    title: str
    made: str
    command: str
    runs: tuple[Run, ...]
    differences: tuple[Difference, ...] = ()
    curves: tuple[Curve, ...] = ()
    sets: tuple[ScoredSet, ...] = ()
    pictures: tuple[Picture, ...] = ()
    analyses: tuple[Analysis, ...] = ()

    def as_json(self) -> dict[str, object]:
        """As plain dictionaries and lists; write it with :func:`utils.files.json_text`, which makes NaN null."""
        return dataclasses.asdict(self)
