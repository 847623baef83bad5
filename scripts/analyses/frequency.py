"""``analyse.py frequency``: which frequencies features have over depth, and the error of the output."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analysis.charts import depth_chart, error_chart
from analysis.crops import Crops
from analysis.drawing import check_charts
from analysis.results import Results
from analysis.spectra import Curve, Depth, error_curve, spectra_over_depth, thirds, upsampling_error_curve
from analysis.subjects import Subject
from scripts.analyses.common import add_images, add_networks, add_output, finish, prepare, subjects_of
from scripts.analyses.samples import add_crops, add_modules, counted, crops_for, modules_of, source_of
from utils.errors import InputError
from utils.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BICUBIC = "bicubic"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this kind."""
    add_networks(parser)
    add_images(parser, "hr")
    add_crops(parser)
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="crops computed together (default: 8)")
    add_modules(parser, "blocks")
    add_output(parser)


def run(typed: argparse.Namespace) -> None:
    """Compute, draw, print and write."""
    prepare(typed)
    check_charts("analyse.py frequency")
    if typed.batch < 1:
        raise InputError(f"--batch {typed.batch}: expected 1 or more")
    subjects = subjects_of(typed)
    names = modules_of(subjects, typed.of or ["blocks"])
    crops = crops_for(typed, subjects)
    depths: dict[str, Depth] = {}
    errors: dict[str, Curve] = {}
    passes = len(subjects) * (1 if crops[0].hr is None else 2)
    with Progress(passes * len(crops[0].lr), "frequencies", unit="crops") as progress:
        for subject, chosen, own in zip(subjects, names, crops, strict=True):
            batches = counted(own.batches(typed.batch), progress)
            depths[subject.name] = spectra_over_depth(subject.network, chosen, batches)
            if own.hr is not None:
                batches = counted(own.batches(typed.batch), progress)
                errors[subject.name] = error_curve(subject.network, batches, _truths(own.hr, typed.batch))
    truth = crops[0].hr
    if truth is not None:
        lr, hr = crops[0].batches(typed.batch), _truths(truth, typed.batch)
        errors[BICUBIC] = upsampling_error_curve(lr, hr, int(subjects[0].scale))
    finish(typed, _results(typed, subjects, crops[0], depths, errors), subjects)


def _truths(hr: NDArray[np.uint8], size: int) -> list[NDArray[np.uint8]]:
    return [hr[start : start + size] for start in range(0, len(hr), size)]


def _results(
    typed: argparse.Namespace,
    subjects: Sequence[Subject],
    crops: Crops,
    depths: Mapping[str, Depth],
    errors: Mapping[str, Curve],
) -> Results:
    side = crops.lr.shape[-1]
    lines = [
        f"log-amplitudes along the diagonal of the spectrum, mean over channels and {len(crops.lr)} crops of {side} x "
        f"{side} LR pixels from {len(crops.pictures)} pictures of {source_of(typed)}",
        *(_depth_line(name, depth) for name, depth in depths.items()),
        *(_error_line(name, curve, subjects[0].scale) for name, curve in errors.items()),
    ]
    arrays: dict[str, NDArray[np.float64]] = {}
    for name, depth in depths.items():
        arrays |= {
            f"{name}/features/{module}": _array(curve) for module, curve in zip(depth.names, depth.curves, strict=True)
        }
    arrays |= {f"{name}/error": _array(curve) for name, curve in errors.items()}
    figures = {
        "set": source_of(typed), "pictures": crops.pictures, "too_small": crops.too_small, "crop_side": side,
        "crops": len(crops.lr),
        "features": {
            name: {module: curve.relative.tolist() for module, curve in zip(depth.names, depth.curves, strict=True)}
            for name, depth in depths.items()
        },
        "error": {name: curve.amplitudes.tolist() for name, curve in errors.items()},
    }  # fmt: skip
    pictures: dict[str, Figure] = {"": depth_chart(depths)}
    if errors:
        pictures["error"] = error_chart(errors)
    return Results("frequency", "\n".join(lines), figures, arrays, pictures)


def _array(curve: Curve) -> NDArray[np.float64]:
    """Frequencies and log-amplitudes, [2, S / 2]."""
    return np.stack([curve.frequencies, curve.amplitudes])


def _depth_line(name: str, depth: Depth) -> str:
    """What a text would say of a network's features: where they are the most and the least of a low-pass."""
    ends = [thirds(curve.relative)[2] for curve in depth.curves]
    low, high = int(np.argmin(ends)), int(np.argmax(ends))
    return (
        f"{name}: in the highest third of the frequencies, {ends[0]:+.2f} in {depth.names[0]} and {ends[-1]:+.2f} in "
        f"{depth.names[-1]}, relative to frequency 0; lowest in {depth.names[low]} ({ends[low]:+.2f}), highest in "
        f"{depth.names[high]} ({ends[high]:+.2f})"
    )


def _error_line(name: str, curve: Curve, scale: float) -> str:
    """The error among the frequencies that an LR picture can have, and beyond them."""
    inside = curve.frequencies < np.pi / scale
    return (
        f"{name}: mean log-amplitude of SR - HR {curve.amplitudes[inside].mean():+.3f} below pi/{scale:g}, the "
        f"frequencies of LR pictures, {curve.amplitudes[~inside].mean():+.3f} above"
    )
