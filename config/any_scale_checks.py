"""What must hold in the option files of networks for any scale: the data, the scales, the network, the losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import archs
from archs.contract import for_any_scale
from config.document import Document
from config.schema import ADVERSARIAL_MODELS
from config.training_checks import value_of
from data.datasets.any_scale import query_problem
from losses import LOSSES, PERCEPTUAL
from utils.errors import InputError
from utils.scalars import is_null
from utils.scale import scale_text
from utils.typed import KeyPath, Report, fields_of, key_text
from utils.wording import first_few

ANY_SCALE = "AnyScaleDataset"

_TRAINING: KeyPath = ("datasets", "train")
_SCALES: KeyPath = ("val", "scales")
_PIXEL_LOSSES = ("pixel_opt", "wave_opt", "fft_opt", "mesa_opt")
_TILES: tuple[KeyPath, ...] = (("tile",), ("val", "use_chop"), ("val", "pft_chop"), ("val", "pad_to_window"))


def check_any_scale(document: Document, report: Report, *, training: bool) -> None:
    """Report what contradicts training at several scales, or validation and tests at several scales."""
    name = value_of(document, ("network_g", "type"), str, "")
    network = _class_of(name)
    if training:
        kind = value_of(document, (*_TRAINING, "type"), str, "")
        scale = value_of(document, ("scale",), int | float | tuple[float, float], 1)
        if kind == ANY_SCALE:
            _check_network(report, name, network)
            _check_range(document, report, scale, network)
            _check_losses(document, report)
            if value_of(document, (*_TRAINING, "color"), str | None) == "y":
                report.problem((*_TRAINING, "color"), "networks for any scale see R, G and B; leave the key out")
        elif not isinstance(scale, int):
            shown = f"{scale:g}" if isinstance(scale, float) else f"[{scale[0]:g}, {scale[1]:g}]"
            expected = f"expected a whole number; others, and ranges, are for datasets.train.type {ANY_SCALE}"
            report.problem(("scale",), f"{expected}, got {shown}")
    _check_scales(document, report, name, network)


def _class_of(name: str) -> type | None:
    """The class of a network; None where there is none, which is reported elsewhere."""
    try:
        return archs.network_class(name)
    except InputError:
        return None


def _known() -> str:
    return ", ".join(name for name in archs.NETWORKS if for_any_scale(archs.network_class(name)))


def _check_network(report: Report, name: str, network: type | None) -> None:
    if network is not None and not for_any_scale(network):
        expected = f"expected a network for any scale ({_known()}) to train on {ANY_SCALE}"
        report.problem(("network_g", "type"), f"{expected}, got {name}")


def _check_range(
    document: Document, report: Report, scale: int | float | tuple[float, float], network: type | None
) -> None:
    low, high = scale if isinstance(scale, tuple) else (scale, scale)
    if not math.isfinite(low + high):  # reported where the key is read
        return
    if low > high:
        report.problem(("scale",), f"expected the smaller scale first, got [{low:g}, {high:g}]")
        return
    lq_size = value_of(document, (*_TRAINING, "lq_size"), int, 64)
    queries: KeyPath = (*_TRAINING, "sample_q")
    absent = is_null(document.get(queries)) and "sample_q" in (document.get(_TRAINING) or {})
    problem = query_problem(lq_size, None if absent else value_of(document, queries, int, 2304), low, high)
    if problem is not None:
        report.problem(queries if "sample_q" in document.get(_TRAINING) else _TRAINING, f"sample_q: {problem}")
    fields = {} if network is None else fields_of(network)
    if "scale_max" in fields:
        most = value_of(document, ("network_g", "scale_max"), float, fields["scale_max"].default)
        path: KeyPath = ("network_g", "scale_max")
        if high > most:
            how = "" if document.get(path) is not None else ", the default"
            report.problem(path, f"expected the largest scale of the training, {high:g}, got {most:g}{how}")
        elif high < most:
            report.note(
                path, f"scales between {high:g}, the largest of the training, and {most:g} are new to the network"
            )


def _check_losses(document: Document, report: Report) -> None:
    """Losses of single points: there are no neighbours to look at."""
    model = value_of(document, ("model_type",), str, "")
    if model in ADVERSARIAL_MODELS:
        report.problem(
            ("model_type",), f"{model} looks at whole patches, and {ANY_SCALE} asks for single pixels; choose SRModel"
        )
    entries = document.get(("train", "losses"))
    sections: dict[KeyPath, Any] = {("train", key): document.get(("train", key)) for key in _PIXEL_LOSSES}
    sections |= {("train", "losses", i): own for i, own in enumerate(entries if isinstance(entries, list) else ())}
    pointwise = [name for name, loss in LOSSES.items() if loss.pointwise]
    for path, section in sections.items():
        name = str(section.get("type")) if isinstance(section, Mapping) else ""
        if name in {*LOSSES, *PERCEPTUAL} and name not in pointwise:
            asks = f"{name} looks at neighbours, and {ANY_SCALE} asks for single pixels"
            report.problem((*path, "type"), f"{asks}; choose {', '.join(pointwise)}")
        if name and str(section.get("target")) == "gt_usm":
            report.problem((*path, "target"), f"{ANY_SCALE} asks for single pixels, which cannot be sharpened")
    for key in ("perceptual_opt", "ldl_opt"):
        if not is_null(document.get(("train", key))):
            report.problem(
                ("train", key), f"it looks at whole patches, and {ANY_SCALE} asks for single pixels; leave it out"
            )


def _check_scales(document: Document, report: Report, name: str, network: type | None) -> None:
    """The scales of validation and tests."""
    scales = value_of(document, _SCALES, tuple[int | float, ...] | None)
    if scales is None:
        return
    # By what they are called: folders and scores go by that.
    if not scales or len(set(map(scale_text, scales))) < len(scales):
        report.problem(_SCALES, f"expected each scale once, and at least one, got {_listed(scales)}")
    if network is not None and not for_any_scale(network):
        report.problem(_SCALES, f"{name} is for one scale; leave the key out, or choose a network for any ({_known()})")
    broken = [scale for scale in scales if not float(scale).is_integer()]
    cut = [path for path in _TILES if not is_null(document.get(path)) and str(document.get(path)).lower() != "false"]
    if broken and cut:
        shown, keys = first_few(map(scale_text, broken)), " and ".join(map(key_text, cut))
        report.problem(_SCALES, f"images are upscaled as a whole at {shown}: leave out {keys}")
    datasets: Any = document.get(("datasets",))
    for key, section in datasets.items() if isinstance(datasets, Mapping) and len(scales) > 1 else ():
        if key == "train" or not isinstance(section, Mapping) or section.get("type") == ANY_SCALE:
            continue
        if section.get("type") != "SingleImageDataset" and not is_null(section.get("dataroot_lq")):
            advice = f"choose type {ANY_SCALE}, whose dataroot_lq names a folder for each, as in {{2: X2, 3: X3}}"
            report.problem(("datasets", key, "dataroot_lq"), f"it is of one scale, and val.scales names more; {advice}")


def _listed(scales: tuple[int | float, ...]) -> str:
    return f"[{', '.join(f'{scale:g}' for scale in scales)}]"
