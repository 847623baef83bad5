"""Where the weights of VGG networks are, and reading them: torchvision's files, which are never downloaded here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from losses.vgg import VGGKind, needed_layers, shapes_of
from utils.errors import InputError
from utils.log import get_logger
from utils.reading import open_regular, shown
from utils.tensor_files.reading import tensor_content

FOLDER = Path("experiments/pretrained_models")
"""Where the files are looked for first."""
# torchvision's names of its ImageNet weights; the digits are the first ones of the file's SHA-256.
FILES: Mapping[VGGKind, str] = {
    "vgg11": "vgg11-8a719046.pth",
    "vgg13": "vgg13-19584684.pth",
    "vgg16": "vgg16-397923af.pth",
    "vgg19": "vgg19-dcbb9e9d.pth",
    "vgg11_bn": "vgg11_bn-6002323d.pth",
    "vgg13_bn": "vgg13_bn-abd245e5.pth",
    "vgg16_bn": "vgg16_bn-6c64b313.pth",
    "vgg19_bn": "vgg19_bn-c79401a0.pth",
}


def find(kind: VGGKind, given: Path | None) -> Path:
    """The file with the weights of a network.

    Args:
        kind: of the network.
        given: a file that the user names; None: torchvision's file in :data:`FOLDER`, or in torchvision's cache.

    Raises:
        InputError: there is none.
    """
    name = FILES[kind]
    if given is not None:
        path = given.expanduser()
        if path.is_file():
            return path
        what = "is no file" if path.exists() else "there is no such file"
        raise InputError(f"vgg_weights: {shown(given)}: {what}; it should be {_described(kind)}")
    places = (FOLDER / name, Path(torch.hub.get_dir()) / "checkpoints" / name)
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise InputError(
            f"the perceptual loss needs {_described(kind)}; put that file into {FOLDER} or name it in vgg_weights "
            f"(nothing is downloaded by itself; where torchvision is installed, torchvision.models.{kind}"
            f"(weights='IMAGENET1K_V1') fetches it into {places[1].parent}, where it is found)"
        )
    return found


def read(path: Path, kind: VGGKind, layers: Collection[str], device: torch.device) -> dict[str, Tensor]:
    """The tensors of a file up to the deepest of ``layers``, on a device, in float32 or as float64.

    Raises:
        InputError: the file cannot be read, is of another network, or holds NaN or inf.
    """
    with tensor_content(path) as content:
        _check(content, path, kind, len(needed_layers(kind, layers)))
        last = len(needed_layers(kind, layers))
        taken = {name: content[name] for name in shapes_of(kind) if _number(name) < last}
        bad = next((name for name, value in taken.items() if not value.isfinite().all()), None)
        if bad is not None:
            raise InputError(f"{shown(path)}: {bad} holds NaN or inf: the file is damaged; take {_described(kind)}")
        # float64 only in files of tests: it is kept, so that they can be exact.
        result = {
            name: value.to(device, torch.promote_types(value.dtype, torch.float32)) for name, value in taken.items()
        }
    _check_name(path)
    return result


def _described(kind: VGGKind) -> str:
    """Torchvision's file of a network, as messages name it."""
    name = FILES[kind]
    return f"torchvision's ImageNet weights of {kind} ({name}, whose SHA-256 begins with {_digits(name)})"


def _digits(name: str) -> str | None:
    """The beginning of the SHA-256 that the name of a file of torchvision's holds."""
    found = re.search(r"-([0-9a-f]{8})\.pth$", name)
    return None if found is None else found[1]


def _number(name: str) -> int:
    """N of ``features.N.weight``."""
    return int(name.split(".")[1])


def _check(content: Mapping[str, Any], path: Path, kind: VGGKind, last: int) -> None:
    """Raise InputError unless a file holds what a network's layers below ``last`` need, and nothing of another's."""
    wrong = _misfit(content, kind, last)
    if wrong is None:
        return
    others = (other for other in get_args(VGGKind) if other != kind and _misfit(content, other, last=1000) is None)
    other = next(others, None)
    said = wrong if other is None else f"it holds the weights of {other}"
    raise InputError(f"{shown(path)}: not the weights of {kind}: {said}; take {_described(kind)}")


def _misfit(content: Mapping[str, Any], kind: VGGKind, last: int) -> str | None:
    """What does not fit a network; layers from ``last`` on may be absent, but must not contradict it."""
    shapes = shapes_of(kind)
    for name, shape in shapes.items():
        value = content.get(name)
        if value is None:
            if _number(name) < last:
                return f"{name} is missing"
        elif not isinstance(value, Tensor) or not value.is_floating_point():
            return f"{name} holds no floating-point numbers"
        elif value.shape != shape:
            return f"{name} is {list(value.shape)} instead of {list(shape)}"
    counters = {name.replace("running_mean", "num_batches_tracked") for name in shapes}
    more = (name for name in map(str, content) if name not in shapes and name not in counters)
    return next((f"it has {name}, which {kind} has not" for name in more if name.startswith("features.")), None)


def _check_name(path: Path) -> None:
    """Warn of a file with a name of torchvision's that is not torchvision's: those of old carry no checksums inside."""
    digits = _digits(path.name)
    if digits is None:
        return
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if not digest.hexdigest().startswith(digits):
        get_logger().warning(
            "%s: its SHA-256 begins with %s, not with %s as its name says: it has been changed or is damaged",
            shown(path), digest.hexdigest()[:8], digits,
        )  # fmt: skip
