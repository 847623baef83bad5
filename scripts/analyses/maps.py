"""``analyse.py maps``: importance maps and gates, alphas, kernels, feature maps: what a network has of them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from analysis.charts import alpha_chart
from analysis.drawing import Pixels, check_charts
from analysis.features import each_map
from analysis.images import Picture
from analysis.map_pictures import FeaturePicture, feature_picture, feature_sheet, importance_sheet, kernel_sheet
from analysis.maps import (
    SHOWS,
    Alphas,
    ImportanceMap,
    Kind,
    alphas,
    check_kind,
    dynamic_kernels,
    importance_maps,
    kinds_of,
    shared_kernel,
)  # fmt: skip
from analysis.results import Results
from analysis.subjects import Subject
from scripts.analyses.common import add_images, add_networks, add_output, finish, pictures_for, prepare, subjects_of
from scripts.analyses.samples import add_modules, modules_of
from utils.errors import InputError
from utils.progress import Progress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_IMAGE: tuple[Kind, ...] = ("hai",)
"""Kinds that are read off the weights."""


@dataclass
class _Collected:
    """What is written, as it comes together."""

    lines: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    pictures: dict[str, Pixels | Figure] = field(default_factory=dict)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this kind."""
    add_networks(parser)
    add_images(parser, "lr", required=False)
    each = "; ".join(f"{kind}: {shows}" for kind, shows in SHOWS.items())
    parser.add_argument(
        "--map", nargs="+", choices=get_args(Kind), metavar="MAP",
        help=f"which maps (default: all that the networks have); {each}",
    )  # fmt: skip
    add_modules(parser, "groups, or blocks where there are none; of feature maps")
    add_output(parser)


def run(typed: argparse.Namespace) -> None:
    """Compute, draw, print and write."""
    prepare(typed)
    subjects = subjects_of(typed)
    kinds = {subject.name: _chosen(typed, subject) for subject in subjects}
    wanted = {kind for chosen in kinds.values() for kind in chosen}
    if wanted - set(NO_IMAGE) and not typed.input:
        raise InputError(f"maps: {' and '.join(sorted(wanted - set(NO_IMAGE)))} are of a picture; give one with -i")
    if "hai" in wanted:
        check_charts("analyse.py maps --map hai")
    if typed.of and "features" not in wanted:
        raise InputError("--of names the modules of feature maps; add --map features")
    showing = [subject for subject in subjects if "features" in kinds[subject.name]]
    modules = modules_of(showing, typed.of or ["groups"])
    names = {subject.name: chosen for subject, chosen in zip(showing, modules, strict=True)}
    collected = _Collected()
    with_alphas = {subject.name: alphas(subject.network) for subject in subjects if "hai" in kinds[subject.name]}
    if with_alphas:
        _collect_alphas(collected, with_alphas)
    for subject in subjects:
        of_pictures = [kind for kind in kinds[subject.name] if kind not in NO_IMAGE]
        if of_pictures:
            for picture in pictures_for(typed, subject):
                _collect(collected, subject, picture, of_pictures, names.get(subject.name, []))
    finish(
        typed, Results("maps", "\n".join(collected.lines), collected.figures, collected.arrays, collected.pictures),
        subjects,
    )  # fmt: skip


def _chosen(typed: argparse.Namespace, subject: Subject) -> Sequence[Kind]:
    """The kinds of maps that are made of a network."""
    if not typed.map:
        return kinds_of(subject.network)
    for kind in typed.map:
        check_kind(subject.network, kind, subject.name)
    return [kind for kind in get_args(Kind) if kind in typed.map]


def _collect(
    collected: _Collected, subject: Subject, picture: Picture, kinds: Sequence[Kind], names: Sequence[str]
) -> None:
    """All maps that one network makes of one picture."""
    place, network, x = f"{subject.name}, {picture.name}", subject.network, picture.lr
    prefix, stem = f"{subject.name}/{picture.name}", _file_name(f"{subject.name}_{picture.name}")
    if "importance" in kinds:
        found = importance_maps(network, x)
        collected.lines.append(_importance_line(place, found))
        collected.pictures[f"importance_{stem}"] = importance_sheet(x, found)
        for one in found:
            collected.arrays[f"{prefix}/{one.name}/importance"] = one.importance.astype(np.float32)
            collected.arrays[f"{prefix}/{one.name}/gate"] = one.gate.astype(np.float32)
        collected.figures.setdefault("importance", {})[prefix] = {one.name: _statistics(one) for one in found}
    if "kernels" in kinds:
        shared, generated = shared_kernel(network), dynamic_kernels(network, x)
        collected.lines.append(_kernel_line(place, shared, [layer.kernels for layer in generated]))
        collected.pictures[f"kernels_{stem}"] = kernel_sheet(shared, generated, x)
        collected.arrays[f"{subject.name}/shared_kernel"] = shared
        collected.arrays |= {f"{prefix}/{layer.name}/generated": layer.kernels for layer in generated}
    if "features" in kinds:
        shown = _features(network, x, names, place)
        collected.lines.append(_feature_line(place, shown))
        collected.pictures[f"features_{stem}"] = feature_sheet(x, shown)
        for module in shown:
            collected.arrays[f"{prefix}/{module.name}/energy"] = module.energy.astype(np.float32)
            collected.arrays[f"{prefix}/{module.name}/components"] = module.components.astype(np.float32)
        explained = {module.name: module.explained for module in shown}
        collected.figures.setdefault("explained_variance", {})[prefix] = explained


def _features(network: Any, x: Tensor, names: Sequence[str], place: str) -> list[FeaturePicture]:
    found: dict[str, FeaturePicture] = {}
    with Progress(len(names), place, unit="maps") as progress:

        def take(name: str, features: Tensor) -> None:
            found[name] = feature_picture(name, features[0])
            progress.advance()

        each_map(network, x, names, take)
    return [found[name] for name in names]


def _collect_alphas(collected: _Collected, networks: Mapping[str, Sequence[Alphas]]) -> None:
    collected.pictures["hai"] = alpha_chart(networks)
    for name, blocks in networks.items():
        collected.figures.setdefault("hai", {})[name] = {
            block.name: {"attention": block.attention, **block.statistics} for block in blocks
        }
        for block in blocks:
            collected.arrays[f"{name}/{block.name}"] = block.values
        size = {block.name: float(np.abs(block.values).mean()) for block in blocks}
        low, high = min(size, key=lambda key: size[key]), max(size, key=lambda key: size[key])
        means = ", ".join(
            f"{attention} {np.mean([block.values.mean() for block in blocks if block.attention == attention]):+.4f}"
            for attention in ("L-SA", "RG-SA")
            if any(block.attention == attention for block in blocks)
        )
        collected.lines.append(
            f"{name}: mean alpha of {len(blocks)} blocks x {len(blocks[0].values)} channels: {means}; mean |alpha| "
            f"{size[low]:.4f} in {low} to {size[high]:.4f} in {high}"
        )


def _statistics(one: ImportanceMap) -> dict[str, float]:
    return {
        "importance_mean": float(one.importance.mean()),
        "importance_std_over_pixels_of_channel_mean": float(one.importance.std()),
        "importance_min": one.least,
        "importance_max": one.most,
        "gate_mean": float(one.gate.mean()),
        "gate_min": float(one.gate.min()),
        "gate_max": float(one.gate.max()),
    }


def _importance_line(place: str, found: Sequence[ImportanceMap]) -> str:
    means = [float(one.importance.mean()) for one in found]
    spreads = [float(one.importance.std()) for one in found]
    gates = [float(one.gate.mean()) for one in found]
    most = max(float(one.gate.max()) for one in found)
    low, high = found[int(np.argmin(means))].name, found[int(np.argmax(means))].name
    average = (
        f"{means[0]:.3f} in {low}" if len(found) == 1 else f"{min(means):.3f} in {low} to {max(means):.3f} in {high}"
    )
    return (
        f"{place}: importance, mean over channels, averages {average}, standard deviation over pixels "
        f"{_span(spreads)}; gates average {_span(gates)}, never above {most:.3f}"
    )


def _span(values: Sequence[float]) -> str:
    return f"{values[0]:.3f}" if len(values) == 1 else f"{min(values):.3f} to {max(values):.3f}"


def _kernel_line(place: str, shared: NDArray[np.float64], generated: Sequence[NDArray[np.float64]]) -> str:
    power, middle = shared**2, len(shared) // 2
    inside = power[middle - 1 : middle + 2, middle - 1 : middle + 2].sum() / power.sum()
    sizes = [float(np.sqrt((kernels**2).mean())) for kernels in generated]
    return (
        f"{place}: the shared kernel of {len(shared)} x {len(shared)} has {100 * inside:.1f} % of its energy in the "
        f"middle 3 x 3; generated kernels have RMS {min(sizes):.3g} to {max(sizes):.3g} in {len(sizes)} layers"
    )


def _feature_line(place: str, shown: Sequence[FeaturePicture]) -> str:
    first, last = shown[0], shown[-1]
    return (
        f"{place}: three components explain {100 * sum(first.explained):.0f} % of the variance of {first.name} and "
        f"{100 * sum(last.explained):.0f} % of that of {last.name}"
    )


def _file_name(text: str) -> str:
    """A part of a file name for a name of any letters."""
    return re.sub(r"[^\w.-]+", "_", text)
