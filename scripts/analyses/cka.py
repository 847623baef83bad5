"""``analyse.py cka``: how alike layers are, of one network, of two networks, or of two checkpoints of a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from analysis.charts import matrix_chart
from analysis.crops import Crops
from analysis.drawing import check_charts
from analysis.results import Results
from analysis.similarity import LEAST, PixelSimilarity, Similarity, pixel_similarity, similarity
from analysis.subjects import Subject
from scripts.analyses.common import add_images, add_networks, add_output, finish, prepare, subjects_of
from scripts.analyses.samples import add_crops, add_modules, counted, crops_for, modules_of, source_of
from utils.errors import InputError
from utils.progress import Progress
from utils.wording import first_few


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this kind."""
    add_networks(parser)
    add_images(parser, "lr")
    add_crops(parser)
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="crops computed together (default: 32)")
    add_modules(
        parser, "blocks, or layers where the samples are pixels: of ESC its window attentions and convolutional ones"
    )
    parser.add_argument(
        "--samples", choices=("images", "pixels"), default="images",
        help="what the samples are: crops, or the pixels of a crop, with the mean cosine of their channel vectors too",
    )  # fmt: skip
    add_output(parser)


def run(typed: argparse.Namespace) -> None:
    """Compute, draw, print and write."""
    prepare(typed)
    check_charts("analyse.py cka")
    if typed.batch < LEAST:
        raise InputError(f"--batch {typed.batch}: CKA needs at least {LEAST} crops in a batch, better 8 or more")
    subjects = subjects_of(typed)
    if len(subjects) > 2:
        raise InputError(f"cka compares one network with itself, or two; {len(subjects)} are given")
    of = typed.of or (["layers"] if typed.samples == "pixels" else ["blocks"])
    names = modules_of(subjects, of)
    crops = crops_for(typed, subjects)
    if typed.samples == "pixels":
        found = _of_pixels(subjects, names, crops)
        finish(typed, _results(typed, subjects, crops[0], found.similarity, found), subjects)
    else:
        _check_count(len(crops[0].lr), crops[0])
        finish(typed, _results(typed, subjects, crops[0], _of_images(typed, subjects, names, crops)), subjects)


def _check_count(count: int, crops: Crops) -> None:
    if count < LEAST:
        side = crops.lr.shape[-1]
        raise InputError(
            f"the pictures give {count} crops of {side} x {side} low-resolution pixels, CKA needs at least {LEAST}, "
            "better 8 or more; give more pictures with -i, or smaller crops with --side"
        )


def _of_images(
    typed: argparse.Namespace, subjects: Sequence[Subject], names: Sequence[Sequence[str]], crops: Sequence[Crops]
) -> Similarity:
    batches = [list(one.batches(typed.batch, LEAST)) for one in crops]
    with Progress(sum(len(batch) for batch in batches[0]), "similarity", unit="crops") as progress:
        watched = [counted(batches[0], progress), *batches[1:]]
        return similarity([subject.network for subject in subjects], names, watched)


def _of_pixels(subjects: Sequence[Subject], names: Sequence[Sequence[str]], crops: Sequence[Crops]) -> PixelSimilarity:
    images = [list(one.batches(1)) for one in crops]
    with Progress(len(images[0]), "similarity", unit="crops") as progress:
        watched = [counted(images[0], progress), *images[1:]]
        return pixel_similarity([subject.network for subject in subjects], names, watched)


def _results(
    typed: argparse.Namespace,
    subjects: Sequence[Subject],
    crops: Crops,
    found: Similarity,
    pixels: PixelSimilarity | None = None,
) -> Results:
    across = len(subjects) == 2
    titles = (subjects[0].name, subjects[-1].name)
    used = _used(found, crops, pixels is not None)
    chart = matrix_chart(found.cka, found.rows.names, found.columns.names, titles=titles, measure="CKA")
    pictures = {"": chart}
    arrays: dict[str, NDArray[np.float64]] = {"cka": found.cka}
    lines = [_sample_line(typed, crops, found, used, pixels is not None), *_lines("CKA", found.cka, found, titles)]
    figures: dict[str, object] = {
        "samples": typed.samples, "n": found.samples, "batches": found.batches, "set": source_of(typed),
        "pictures": crops.pictures, "too_small": crops.too_small, "crop_side": crops.lr.shape[-1],
        "rows": {"network": titles[0], "modules": found.rows.names, "d": found.rows.values},
        "columns": {"network": titles[1], "modules": found.columns.names, "d": found.columns.values},
        "cka": found.cka.tolist(),
    }  # fmt: skip
    if pixels is not None:
        pictures["cosine"] = matrix_chart(
            pixels.cosine,
            found.rows.names,
            found.columns.names,
            titles=titles,
            measure="mean cosine per pixel",
            signed=True,
        )
        arrays["cosine"] = pixels.cosine
        figures["cosine"] = pixels.cosine.tolist()
        lines += _lines("cosine", pixels.cosine, found, titles)
    if across and found.rows.names == found.columns.names:
        lines.append(_same_line(found))
    return Results("cka", "\n".join(lines), figures, arrays, pictures)


def _used(found: Similarity, crops: Crops, of_pixels: bool) -> int:
    """Crops that took part."""
    return found.batches if of_pixels else min(len(crops.lr), found.samples * found.batches)


def _sample_line(typed: argparse.Namespace, crops: Crops, found: Similarity, used: int, of_pixels: bool) -> str:
    side = crops.lr.shape[-1]
    what = f"the {found.samples:,} pixels of each of {used} crops" if of_pixels else f"{used} crops"
    batches = "one batch" if found.batches == 1 else f"{found.batches} batches"
    values = sorted({*found.rows.values, *found.columns.values})
    d = f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
    note = f"; too small: {first_few(crops.too_small)}" if crops.too_small else ""
    return (
        f"linear CKA, unbiased: samples are {what} of {side} x {side} LR pixels from {len(crops.pictures)} pictures of "
        f"{source_of(typed)} (n = {found.samples:,} in {batches}, d = {d}){note}"
    )


def _lines(measure: str, values: NDArray[np.float64], found: Similarity, titles: tuple[str, str]) -> list[str]:
    """What a text would say of a matrix: the most and the least similar pair, the mean, what is not defined."""
    own = values.shape[0] == values.shape[1] and titles[0] == titles[1]
    compared = np.triu(np.ones(values.shape, bool), 1) if own else np.ones(values.shape, bool)
    compared &= np.isfinite(values)
    undefined = int(np.isnan(values).sum())
    lines = []
    if compared.any():
        shown = np.where(compared, values, np.nan)
        high, low = (np.unravel_index(int(place), values.shape) for place in (np.nanargmax(shown), np.nanargmin(shown)))

        def pair(place: Sequence[np.intp]) -> str:
            row, column = int(place[0]), int(place[1])
            names = (found.rows.names[row], found.columns.names[column])
            first, second = names if own else (f"{titles[0]} {names[0]}", f"{titles[1]} {names[1]}")
            return f"{first} and {second} ({values[row, column]:.3f})"

        where = f"{titles[0]}: " if own else ""
        lines.append(
            f"{where}{measure} is highest of {pair(high)}, lowest of {pair(low)}, mean {np.nanmean(shown):.3f}"
        )
    if undefined:
        lines.append(f"{measure} is not defined for {undefined} of {values.size} pairs")
    return lines


def _same_line(found: Similarity) -> str:
    """Of two networks with the same layers: which of them changed."""
    same = found.cka.diagonal()
    if not np.isfinite(same).any():
        return "CKA of equal layers is not defined"
    least, most = int(np.nanargmin(same)), int(np.nanargmax(same))
    names = found.rows.names
    return (
        f"equal layers: mean CKA {np.nanmean(same):.3f}; {names[least]} differs most ({same[least]:.3f}), "
        f"{names[most]} least ({same[most]:.3f})"
    )
