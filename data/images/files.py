"""Image files to arrays and back: everything here is uint8 [H, W, 3] in R G B, or a tensor [3, H, W] in [0, 1]."""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.images.depth import is_ycc, spread, white_level
from data.images.head import check_pixels
from data.images.integrity import DAMAGE_ERRORS, damage, png_size
from data.images.kinds import PICTURE_KINDS, PICTURE_SUFFIXES, Kind, advice, kind_of, kind_of_bytes, kind_of_name
from data.images.png import still
from utils.devices import CPU
from utils.errors import InputError
from utils.files import atomic_write
from utils.log import get_logger
from utils.memory import memory_is_full
from utils.reading import read_regular
from utils.wording import first_few

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
"""Kinds of files that are written; more are read: see :mod:`data.images.kinds`."""

# For what OpenCV, or an early version of it, does not know. Named one by one: Pillow would start Ghostscript for EPS.
_PILLOW_KINDS = ("AVIF", "GIF", "JPEG2000", "DIB", "TGA", "QOI", "PCX", "SGI")
_LOOKED_AT = 2000  # entries of sub-folders

Pixels = NDArray[np.uint8]


def read_image(path: Path) -> Pixels:
    """The image in a file, uint8 [H, W, 3] RGB, whatever its kind.

    As OpenCV's colour mode reads it: the orientation tag is applied, transparency dropped, grey and palettes
    expanded, 16 bits reduced to 8.

    Raises:
        InputError: the file is missing, unreadable, no image, or cut short.
    """
    return decode_image(read_bytes(path), str(path))


def decode_image(data: bytes, name: str, *, keep_grey: bool = False) -> Pixels:
    """The image in the bytes of a file, uint8 [H, W, 3] RGB; ``name`` says in messages where they came from.

    With ``keep_grey``, a grey image is [H, W, 1].

    Raises:
        InputError: the bytes are no image, or only the beginning of one, or one of too many pixels.
    """
    check_pixels(data, name)
    decoded = opencv_pixels(data, name, cv2.IMREAD_ANYCOLOR if keep_grey else cv2.IMREAD_COLOR)
    if decoded.ndim == 2:
        return np.asarray(decoded[..., None], dtype=np.uint8)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def opencv_pixels(data: bytes, name: str, mode: int) -> NDArray[Any]:
    """The bytes of a file as OpenCV decodes them in one of its modes; :func:`decode_image` says what it raises."""
    kind = kind_of_bytes(data, name)
    if kind is not None and kind.role != "picture":
        what = "a film" if kind.role == "film" else f"a kind that is not supported; {advice(kind)}"
        raise InputError(f"{name}: the image cannot be read: it is {kind.name}, {what}")
    # Checked before decoding: some decoders fill the missing part with grey and say nothing.
    problem = damage(data)
    if problem:
        raise InputError(f"{name}: the image cannot be read: {problem}; copy it again or remove it")
    known = "" if kind is None else kind.name
    top = white_level(data, known)
    if known == "PNG":
        data = still(data)  # OpenCV crashes on some damaged animations
    try:
        decoded: NDArray[Any] | None = None
        if not (known == "JPEG 2000" and is_ycc(data)):
            # IMREAD_UNCHANGED, -1, has this bit.
            deep = cv2.IMREAD_ANYDEPTH if top is not None and known == "PNM" else 0
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), mode | deep)
    except cv2.error as error:
        if memory_is_full(error):  # which is no damage of the file
            raise MemoryError(f"{name}: {error.err}") from error
        limit = re.search(r"CV_(IO_MAX_IMAGE_\w+)", error.err or "")  # OpenCV's own names for its limits
        reason = error.err or error
        if limit:
            reason = f"it has too many pixels; the environment variable OPENCV_{limit[1]} raises the limit"
        raise InputError(f"{name}: the image cannot be read: {reason}") from error
    if decoded is not None and top is not None and (decoded.dtype == np.uint16 or known == "PNM"):
        decoded = spread(decoded, top, eight=top < 256 or mode in (cv2.IMREAD_COLOR, cv2.IMREAD_ANYCOLOR))
    if decoded is None and known in ("", "AVIF", "GIF", "JPEG 2000", "QOI"):
        decoded = _pillow_pixels(data, mode)
    if decoded is None:
        named = kind_of_name(name)
        if named is not None and named.role == "foreign":  # of those without a certain mark
            raise InputError(
                f"{name}: the image cannot be read: by its name it is of the kind {named.name}, which is not "
                f"supported; {advice(named)}"
            )
        raise InputError(
            f"{name}: the image cannot be read: it is damaged, or of a kind that is not supported"
            f" (known: {PICTURE_KINDS}, with 8 or 16 bits per channel)"
        )
    return decoded


def _pillow_pixels(data: bytes, mode: int) -> NDArray[Any] | None:
    """What OpenCV would make of a kind that it does not know: B G R, grey or with opacity; None: no such kind."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata
            Image.init()
            known = [kind for kind in _PILLOW_KINDS if kind in Image.OPEN]
            with Image.open(io.BytesIO(data), formats=known) as opened:
                image: Image.Image = opened if mode == cv2.IMREAD_UNCHANGED else ImageOps.exif_transpose(opened)
                grey = image.mode in ("1", "L", "LA") and mode != cv2.IMREAD_COLOR
                clear = mode == cv2.IMREAD_UNCHANGED and ("A" in image.getbands() or "transparency" in image.info)
                pixels = np.asarray(image.convert("RGBA" if clear else "L" if grey else "RGB"))
    except (Image.DecompressionBombError, *DAMAGE_ERRORS):
        return None
    return pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def encode_image(suffix: str, image: NDArray[Any], compression: int | None = None) -> bytes:
    """The bytes of an image file: [H, W, C] as the kind that ``suffix`` names.

    Args:
        suffix: such as ".png".
        image: uint8, or uint16 for PNG files; C is 3 for RGB, 1 for grey, 4 for RGB and opacity.
        compression: level of PNG files, 0 .. 9, or None for OpenCV's own.

    Raises:
        InputError: the picture is too large for the kind of file.
    """
    orders = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    ordered = cv2.cvtColor(image, orders[image.shape[2]]) if image.shape[2] in orders else image
    flags = [] if compression is None or suffix.lower() != ".png" else [cv2.IMWRITE_PNG_COMPRESSION, compression]
    return opencv_file(suffix, ordered, flags)


def opencv_file(suffix: str, pixels: NDArray[Any], flags: Sequence[int] = ()) -> bytes:
    """The bytes of an image file that OpenCV makes of pixels in its own order of colours.

    Raises:
        InputError: it cannot, above all because the picture is too large for the kind of file.
    """
    done, encoded = cv2.imencode(suffix.lower(), pixels, flags)
    if not done:  # what it has made is empty
        height, width = pixels.shape[:2]
        raise InputError(f"a picture of {width:,} x {height:,} pixels cannot be made a {suffix} file; choose .png")
    return bytes(encoded)


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        InputError: it is missing, may not be read, or is no regular file but a pipe, a device or a folder.
    """
    try:
        return read_regular(path)
    except FileNotFoundError as error:
        problem = "the link leads nowhere" if path.is_symlink() else "there is no such file"
        raise InputError(f"{path}: {problem}") from error
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read: {error.strerror or error}") from error


def is_file(path: Path) -> bool:
    """Whether there is such a file.

    Raises:
        InputError: that cannot be told, above all because its folder may not be looked into.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte, as in lists that are UTF-16
        return False
    except OSError as error:
        raise InputError(f"{path}: the file cannot be read: {error.strerror or error}") from error


def write_image(path: Path, image: Pixels) -> None:
    """Write uint8 [H, W, 3] or [H, W, 1] RGB as the kind of file that the suffix of ``path`` names; all or nothing.

    Raises:
        ValueError: the suffix names no known kind of image, or ``image`` is none.
        StorageError: the disk is full or the folder cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f'{path}: "{path.suffix}" is no known kind of image; use one of {", ".join(SUFFIXES)}')
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"{path}: expected an image uint8 [H,W,3] or [H,W,1], got {image.dtype} {list(image.shape)}")
    with atomic_write(path) as file:
        file.write(encode_image(path.suffix, image))


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the image in a file; PNG files are not decoded for it.

    Raises:
        InputError: as :func:`read_image`.
    """
    data = read_bytes(path)
    size = png_size(data)
    # An orientation tag may swap the sides.
    if size is not None and b"eXIf" not in data and not damage(data):
        return size
    height, width = decode_image(data, str(path)).shape[:2]
    return height, width


def list_images(folder: Path, *, keep_broken: bool = False) -> list[Path]:
    """The image files of a folder (not of its sub-folders), sorted by name; names that start with a dot are left out.

    All kinds that can be read count, whatever the files are called; :mod:`data.images.kinds` tells how that is found
    out. Pictures that cannot be read are reported, with their number, and left out; other files are none of our
    business.

    Args:
        folder: where they are.
        keep_broken: also list links that lead nowhere; reading them tells what is wrong.

    Raises:
        InputError: there is no such folder, it may not be read, it holds no images, or one of them is a link that leads
            nowhere or has a name that is not UTF-8.
    """
    try:
        if not folder.is_dir():
            kind = "is a file, not a folder" if folder.exists() else "does not exist"
            raise InputError(f"the folder {folder} {kind} (relative paths start at {Path.cwd()})")
        visible = sorted(item for item in folder.iterdir() if not item.name.startswith("."))
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {error.strerror or error}") from error
    files, broken = _files_and_broken(visible)
    if broken and not keep_broken:
        named = first_few(f"{path.name} ({problem})" for path, problem in broken.items())
        raise InputError(f"{len(broken)} images of the folder {folder} cannot be read: {named}; mend or remove them")
    found, foreign = sort_files(files)
    images = sorted([*found["picture"], *broken])
    for path in images:
        if path.name.encode(errors="ignore").decode() != path.name:
            raise InputError(f"{str(path)!r}: the file name is not UTF-8; rename it")
    if not images:
        raise InputError(f"the folder {folder} holds no images{instead(folder, files, foreign)}")
    for line in foreign_lines(foreign):
        get_logger().warning("the folder %s: %s", folder, line)
    return images


def sort_files(files: Iterable[Path]) -> tuple[Mapping[str, list[Path]], dict[Kind, list[Path]]]:
    """Files as (those of the roles "picture" and "film", pictures of kinds that cannot be read), in their order."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    foreign: defaultdict[Kind, list[Path]] = defaultdict(list)
    for path in files:
        try:
            kind = kind_of(path)
        except OSError:  # it may not be opened, or is a link that leads nowhere
            kind = kind_of_name(path.name)
        if kind is not None and kind.role == "foreign":
            foreign[kind].append(path)
        elif kind is not None:
            found[kind.role].append(path)
    return found, dict(foreign)


def foreign_lines(foreign: Mapping[Kind, Sequence[Path]]) -> list[str]:
    """A line for each kind of pictures that cannot be read: how many, which, and the next move."""
    lines = []
    for kind, paths in foreign.items():
        plural = ("picture", "is") if len(paths) == 1 else ("pictures", "are")
        named = first_few(path.name for path in paths)
        lines.append(
            f"{len(paths)} {kind.name} {plural[0]} cannot be read and {plural[1]} left out: {named}; {advice(kind)}"
        )
    return lines


def instead(
    folder: Path,
    files: Sequence[Path],
    foreign: Mapping[Kind, Sequence[Path]],
    roles: Sequence[str] = ("picture",),
    reach: str = "name one of them",
) -> str:
    """What a folder without images holds instead, as the end of a message: pictures in sub-folders above all.

    Args:
        folder: where images were sought.
        files: what lies there.
        foreign: those that are pictures of kinds that cannot be read.
        roles: what was sought.
        reach: the next move where it is in sub-folders.
    """
    where = _folders_with(folder, roles)
    if where:
        return f", but its sub-folders do ({first_few(map(str, where))}); {reach}"
    if foreign:
        return f" that can be read: {'; '.join(foreign_lines(foreign))}"
    others = f"; it holds {len(files)} other files, such as {files[0].name}" if files else ""
    return f" ({PICTURE_KINDS}){others}"


def _folders_with(folder: Path, roles: Sequence[str]) -> list[Path]:
    """Sub-folders, at any depth, with files of these roles; only the first entries are looked at."""
    seen, found = 0, []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if Path(parent) != folder:
            visible = (Path(parent, name) for name in sorted(names)[:_LOOKED_AT] if not name.startswith("."))
            if any(sort_files([path])[0].keys() & set(roles) for path in visible if path.is_file()):
                found.append(Path(parent))
        seen += len(names) + len(folders)
        if seen > _LOOKED_AT:
            break
    return found


def _files_and_broken(paths: Iterable[Path]) -> tuple[list[Path], dict[Path, str]]:
    """Those that are files; those that are called like images, but are not to be opened, and why."""
    files, broken = [], {}
    for path in paths:
        try:
            if stat.S_ISREG(path.stat().st_mode):
                files.append(path)
        except OSError as error:
            if path.suffix.lower() in PICTURE_SUFFIXES:
                missing = isinstance(error, FileNotFoundError)
                broken[path] = "the link leads nowhere" if missing else error.strerror or str(error)
    return files, broken


def to_tensor(image: Pixels) -> Tensor:
    """uint8 [H, W, C] in 0 .. 255 -> float32 [C, H, W] in [0, 1]."""
    return to_unit(planes(image))


def planes(image: NDArray[Any]) -> Tensor:
    """[H, W, C] -> [C, H, W] of the same type, a copy."""
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))


def in_unit(image: NDArray[Any]) -> NDArray[np.float32]:
    """uint8 in 0 .. 255 -> float32 in [0, 1]; what is in [0, 1] stays."""
    return np.divide(image, 255, dtype=np.float32) if image.dtype == np.uint8 else image


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 of any shape in 0 .. 255 -> float32 in [0, 1]."""
    # By a tensor: CUDA turns division by a number into multiplication with a rounded 1/255.
    return pixels.to(torch.float32).div_(torch.full((), 255.0, device=pixels.device))


def to_uint8(tensor: Tensor) -> Pixels:
    """[C, H, W] or [1, C, H, W] in [0, 1] -> uint8 [H, W, C], clipped and rounded half to even; a new array.

    Raises:
        ValueError: it is no image, or holds NaN or infinity, which no level stands for.
    """
    if not bool(tensor.isfinite().all()):
        raise ValueError(f"to_uint8: the image {list(tensor.shape)} holds values that are NaN or infinite")
    return to_levels(tensor).cpu().numpy()


def to_levels(tensor: Tensor) -> Tensor:
    """:func:`to_uint8` that stays on the device: [C, H, W] or [1, C, H, W] in [0, 1] -> uint8 [H, W, C], contiguous.

    It does not make the host wait, and so does not look for NaN, which becomes any level: the caller has to.
    """
    if tensor.ndim == 4 and tensor.shape[0] == 1:
        tensor = tensor[0]
    if tensor.ndim != 3:
        raise ValueError(f"to_uint8: expected one image [C,H,W] or [1,C,H,W], got {list(tensor.shape)}")
    levels = tensor.detach().to(torch.float32).clamp(0, 1).mul_(255).round_().to(torch.uint8)  # halves to even
    if levels.device != CPU:
        return levels.permute(1, 2, 0).contiguous()
    return torch.from_numpy(cv2.merge(list(levels.numpy()))).view(*levels.shape[1:], levels.shape[0])  # a tenth of that
