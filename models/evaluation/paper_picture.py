"""A comparison as papers print it: the true image with a box, and beside it the box enlarged, of every method.

Shapes: H W high-resolution pixels; all images uint8 [.., .., 3] in R G B. Lengths are pixels of the PNG picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from data.resizing.matlab import Region
from models.evaluation.pictures import cut_out
from utils.optional import require_packages

Pixels = NDArray[np.uint8]

_CELL = 220  # about the width of an enlarged box
_GAP = 8
_LINE = 20  # height of a line of a caption
_WIDEST = 1.6  # the whole image: width / height at most
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SIZE = 0.5
_FRAME = (230, 30, 30)
_INCHES = 7.0  # width in a PDF: that of a page's text
_LETTERS = 14.0  # height of PDF letters


@dataclass(frozen=True)
class Method:
    """A picture of one image.

    Attributes:
        name: of its caption.
        pixels: [H, W, 3].
        scores: figures below the name, as "28.31" and "0.8123"; higher is better. None: undefined.
    """

    name: str
    pixels: Pixels
    scores: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class PaperRow:
    """One image.

    Attributes:
        title: below the whole image.
        truth: the true image [H, W, 3].
        box: what is enlarged.
        methods: from left to right and row by row; the true image comes last by itself.
        heads: what the scores are, as "PSNR/SSIM", below the true image's name; empty where there are none.
    """

    title: str
    truth: Pixels
    box: Region
    methods: Sequence[Method]
    heads: str = ""


@dataclass(frozen=True)
class _Piece:
    text: str
    bold: bool = False
    underlined: bool = False


@dataclass(frozen=True)
class _Caption:
    """A line of text, in the middle of a width."""

    pieces: Sequence[_Piece]
    left: int
    top: int
    width: int


@dataclass(frozen=True)
class _Placed:
    """Pixels, in a rectangle of the sheet; the box in pixels of their own."""

    pixels: Pixels
    left: int
    top: int
    width: int
    height: int
    box: Region | None = None


@dataclass(frozen=True)
class Sheet:
    """Where everything stands; drawn by :func:`sheet_pixels` and :func:`write_pdf`."""

    width: int
    height: int
    images: Sequence[_Placed]
    captions: Sequence[_Caption]


def paper_sheet(rows: Sequence[PaperRow]) -> Sheet:
    """Lay out images as rows of equal width.

    Args:
        rows: with as many methods each. Boxes should have one shape: all are enlarged to one width.

    Raises:
        ValueError: there is no row, rows have different numbers of methods, or a box lies outside its image.
    """
    if not rows or len({len(row.methods) for row in rows}) > 1:
        raise ValueError("paper_sheet: rows with as many methods each are needed")
    for row in rows:
        if cut_out(row.truth, row.box).shape[:2] != (row.box.height, row.box.width) or min(row.box) < 0:
            raise ValueError(f"paper_sheet: {row.box} is no part of the image {list(row.truth.shape)}")
    first = rows[0].box
    cell = first.width * max(1, round(_CELL / first.width))
    number = len(rows[0].methods) + 1
    lines = 1 if number < 4 else 2
    columns = -(-number // lines)
    heights = [max(1, round(row.box.height * cell / row.box.width)) for row in rows]
    captions = [_LINE * (2 if row.heads else 1) for row in rows]
    wholes = [
        lines * (height + caption + _GAP) - _GAP - caption for height, caption in zip(heights, captions, strict=True)
    ]
    left = max(
        round(whole * min(_WIDEST, row.truth.shape[1] / row.truth.shape[0]))
        for row, whole in zip(rows, wholes, strict=True)
    )
    images: list[_Placed] = []
    texts: list[_Caption] = []
    top = 0
    for row, height, caption, whole in zip(rows, heights, captions, wholes, strict=True):
        images.append(_fitted(row, top, left, whole))
        texts.append(_Caption([_Piece(row.title)], 0, top + whole, left))
        marked = _marked([method.scores for method in row.methods])
        for i, method in enumerate([*row.methods, Method("HR", row.truth)]):
            x = left + _GAP + (i % columns) * (cell + _GAP)
            y = top + (i // columns) * (height + caption + _GAP)
            images.append(_Placed(cut_out(method.pixels, row.box), x, y, cell, height))
            texts.append(_Caption([_Piece(method.name)], x, y + height, cell))
            below = marked[i] if i < len(marked) else [_Piece(row.heads)]
            if row.heads:
                texts.append(_Caption(below, x, y + height + _LINE, cell))
        top += whole + caption + 2 * _GAP
    return Sheet(left + columns * (cell + _GAP), top - 2 * _GAP, images, texts)


def sheet_pixels(sheet: Sheet) -> Pixels:
    """A sheet as a picture [.., .., 3]: pixels of a box are enlarged to squares; the whole image is resampled."""
    out = np.full((sheet.height, sheet.width, 3), 255, np.uint8)
    for placed in sheet.images:
        size = placed.width, placed.height
        way = cv2.INTER_NEAREST if placed.box is None else cv2.INTER_CUBIC
        if placed.width < placed.pixels.shape[1]:
            way = cv2.INTER_AREA
        drawn = cv2.resize(placed.pixels, size, interpolation=way)
        if placed.box is not None:
            x, y, width, height = _scaled(placed.box, placed)
            cv2.rectangle(drawn, (round(x), round(y)), (round(x + width) - 1, round(y + height) - 1), _FRAME, 2)
        out[placed.top : placed.top + placed.height, placed.left : placed.left + placed.width] = drawn
    for caption in sheet.captions:
        _write(out, caption)
    return out


def check_pdf() -> None:
    """Make sure that PDF files can be written, before the work.

    Raises:
        InputError: matplotlib is not installed.
    """
    require_packages("a PDF picture", "requirements-analysis.txt", "matplotlib")


def write_pdf(sheet: Sheet, file: BinaryIO) -> None:
    """Write a sheet as a PDF page: images with the pixels that they have, text as text (Type 42), 7 inches wide.

    Raises:
        InputError: matplotlib is not installed.
    """
    check_pdf()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(_INCHES, _INCHES * sheet.height / sheet.width))
    canvas = FigureCanvasAgg(figure)
    points = 72 * _INCHES / sheet.width  # of a pixel of the sheet
    for placed in sheet.images:
        place = (
            placed.left / sheet.width, 1 - (placed.top + placed.height) / sheet.height,
            placed.width / sheet.width, placed.height / sheet.height,
        )  # fmt: skip
        axes = figure.add_axes(place)
        axes.set_axis_off()
        axes.imshow(placed.pixels, interpolation="none", aspect="auto")  # "none" keeps a PDF's pixels as they are
        if placed.box is not None:
            box = placed.box
            corner = (box.left - 0.5, box.top - 0.5)
            colour = tuple(value / 255 for value in _FRAME)
            axes.add_patch(Rectangle(corner, box.width, box.height, fill=False, edgecolor=colour, linewidth=2 * points))
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    for caption in sheet.captions:
        y = 1 - (caption.top + 0.75 * _LINE) / sheet.height
        drawn = []
        for piece in caption.pieces:
            weight = "bold" if piece.bold else "normal"
            size = _LETTERS * points
            drawn.append(figure.text(0, y, piece.text, fontsize=size, fontweight=weight, parse_math=False))
        widths = [text.get_window_extent(renderer).width / figure.bbox.width for text in drawn]
        # Text that is too long becomes smaller, not cut off.
        ratio = min(1.0, caption.width / sheet.width / max(sum(widths), 1e-9))
        x = (caption.left + caption.width / 2) / sheet.width - ratio * sum(widths) / 2
        for piece, text, width in zip(caption.pieces, drawn, widths, strict=True):
            text.set_x(x)
            text.set_fontsize(_LETTERS * points * ratio)
            if piece.underlined:
                below = y - 0.15 * _LINE / sheet.height
                figure.add_artist(Line2D([x, x + ratio * width], [below, below], color="black", linewidth=points))
            x += ratio * width
    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(file, format="pdf", metadata={"CreationDate": None})


def _fitted(row: PaperRow, top: int, width: int, height: int) -> _Placed:
    """The whole true image in the middle of a rectangle at the left of the sheet."""
    rows, columns = row.truth.shape[:2]
    ratio = min(width / columns, height / rows)
    own = max(1, round(columns * ratio)), max(1, round(rows * ratio))
    return _Placed(row.truth, (width - own[0]) // 2, top + (height - own[1]) // 2, *own, row.box)


def _scaled(box: Region, placed: _Placed) -> tuple[float, float, float, float]:
    """Left, top, width and height of a box in the pixels that its image is drawn with."""
    y, x = placed.height / placed.pixels.shape[0], placed.width / placed.pixels.shape[1]
    return box.left * x, box.top * y, box.width * x, box.height * y


def _marked(scores: Sequence[tuple[float | None, ...]]) -> list[list[_Piece]]:
    """The scores of each method: "28.31/0.8123", of each figure the best bold; of three, the second underlined."""
    places = (2, 4)
    columns = [
        [f"{value:.{places[i]}f}" if value is not None and math.isfinite(value) else "-" for value in column]
        for i, column in enumerate(zip(*scores, strict=True))
    ]
    known = [[text for text in column if text != "-"] for column in columns]
    # The second of two would be the worst.
    ranks = [sorted(set(column), key=float, reverse=True)[: min(2, len(column) - 1)] for column in known]

    def pieces(texts: Sequence[str]) -> Iterator[_Piece]:
        for i, text in enumerate(texts):
            rank = ranks[i].index(text) if text in ranks[i] else None
            yield from [_Piece("/")] if i else []
            yield _Piece(text, bold=rank == 0, underlined=rank == 1)

    return [list(pieces(texts)) for texts in zip(*columns, strict=True)] or [[] for _ in scores]


def _write(out: Pixels, caption: _Caption) -> None:
    """Draw a caption into a picture, smaller where it would not fit."""
    widths = [cv2.getTextSize(piece.text, _FONT, _FONT_SIZE, 1)[0][0] for piece in caption.pieces]
    ratio = min(1.0, (caption.width - 2) / max(sum(widths), 1))
    x = caption.left + (caption.width - ratio * sum(widths)) / 2
    base = caption.top + _LINE - 6
    for piece, width in zip(caption.pieces, widths, strict=True):
        place = (round(x), base)
        cv2.putText(out, piece.text, place, _FONT, _FONT_SIZE * ratio, (0, 0, 0), 1 + piece.bold, cv2.LINE_AA)
        if piece.underlined:
            cv2.line(out, (round(x), base + 3), (round(x + ratio * width), base + 3), (0, 0, 0), 1)
        x += ratio * width
