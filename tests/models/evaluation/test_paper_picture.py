"""The layout of papers: where things stand, which figures are marked, what is refused."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from data.resizing.matlab import Region
from models.evaluation.paper_picture import Method, PaperRow, paper_sheet, sheet_pixels, write_pdf

Scores = tuple[float | None, ...]


def row(scores: Sequence[Scores], height: int = 40, width: int = 60, box: Region | None = None) -> PaperRow:
    pixels: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 200, (height, width, 3), dtype=np.uint8)
    methods = [Method(f"m{i}", pixels, score) for i, score in enumerate(scores)]
    return PaperRow("an image", pixels, box or Region(4, 6, 10, 20), methods, "PSNR/SSIM" if scores[0] else "")


def captions(rows: Sequence[PaperRow]) -> list[str]:
    """The lines of a sheet: *bold*, _underlined_."""
    return [
        "".join(f"*{p.text}*" if p.bold else f"_{p.text}_" if p.underlined else p.text for p in caption.pieces)
        for caption in paper_sheet(rows).captions
    ]


def test_the_best_is_bold_and_the_second_underlined() -> None:
    found = captions([row([(28.314, 0.81), (28.312, 0.8), (27.0, None), (26.0, 0.8)])])
    assert found == [
        "an image", "m0", "*28.31*/*0.8100*", "m1", "*28.31*/_0.8000_", "m2", "_27.00_/-", "m3", "26.00/_0.8000_",
        "HR", "PSNR/SSIM",
    ]  # fmt: skip
    assert captions([row([(28.314, 0.81)])])[2] == "28.31/0.8100"
    assert captions([row([(28.3, 0.8), (27.0, 0.9)])])[2:5:2] == ["*28.30*/0.8000", "27.00/*0.9000*"]
    assert captions([row([(), ()])]) == ["an image", "m0", "m1", "HR"]


@pytest.mark.parametrize(("methods", "lines"), [(2, 1), (3, 2), (6, 2)])
def test_nothing_overlaps_and_nothing_is_cut_off(methods: int, lines: int) -> None:
    sheet = paper_sheet([row([(30.0, 0.9)] * methods), row([(30.0, 0.9)] * methods, 90, 50, Region(0, 0, 30, 15))])
    filled = np.zeros((sheet.height, sheet.width), int)
    for part in sheet.images:
        filled[part.top : part.top + part.height, part.left : part.left + part.width] += 1
        assert part.top + part.height <= sheet.height
        assert part.left + part.width <= sheet.width
    assert filled.max() == 1
    assert len({part.top for part in sheet.images[1 : methods + 2]}) == lines
    picture = sheet_pixels(sheet)
    assert picture.shape == (sheet.height, sheet.width, 3)
    for caption in sheet.captions:
        strip = picture[caption.top : caption.top + 20, caption.left : caption.left + caption.width]
        assert strip.shape[:2] == (20, caption.width)
        assert strip.min() < 100


def test_signs_of_formulas_in_names_are_letters_in_a_pdf() -> None:
    pytest.importorskip("matplotlib")
    plain = row([(30.0, 0.9)])
    method = Method(r"$\frac_1$", plain.truth, (30.0, 0.9))
    file = io.BytesIO()
    write_pdf(paper_sheet([PaperRow("50 % of $x_", plain.truth, plain.box, [method], "PSNR/SSIM")]), file)
    assert file.getvalue().startswith(b"%PDF")


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="as many methods each"):
        paper_sheet([row([(1.0,)]), row([(1.0,), (2.0,)])])
    with pytest.raises(ValueError, match="is no part of the image"):
        paper_sheet([row([(1.0,)], box=Region(35, 0, 10, 10))])
    with pytest.raises(ValueError, match="as many methods each"):
        paper_sheet([])
