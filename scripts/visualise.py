"""Draw pictures of what a network does.

``python scripts/visualise.py comparison --sr OUTPUT --gt TRUTH -o PICTURE`` sets low resolution, bicubic, the
network's output and the ground truth side by side, with the PSNR (Y) of each, and below them, enlarged, the part where
the network gains most over bicubic. OUTPUT and TRUTH are two images, or two folders whose images belong together by
name (``baby.png`` and ``baby_SUFFIX.png``).
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from data.images.files import SUFFIXES, image_size, list_images, read_image, write_image
from data.resizing.matlab import downscale, mod_crop
from metrics import calculate_psnr
from models.evaluation.pictures import bicubic_picture, comparison_picture, cut_out, most_improved_part
from utils.command import run_command
from utils.errors import InputError
from utils.files import check_writable

Pixels = NDArray[np.uint8]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="visualise.py", description="Draw pictures of what a network does.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    comparison = kinds.add_parser("comparison", help="LR, bicubic, the network's output and HR side by side")
    comparison.add_argument("--sr", type=Path, required=True, help="the network's output: an image or a folder")
    comparison.add_argument("--gt", type=Path, required=True, help="the ground truth: an image or a folder")
    comparison.add_argument("--lq", type=Path, help="the input; without it, bicubic downscaling of the ground truth")
    comparison.add_argument("--scale", type=int, default=4, help="factor between LR and HR (default: 4)")
    comparison.add_argument("--name", default="ours", help="caption of the network's output (default: ours)")
    comparison.add_argument(
        "--part",
        type=int,
        default=6,
        help="enlarge the 1/PART of height and width where the gain over bicubic is largest (default: 6); 0: none",
    )
    comparison.add_argument("--width", type=int, help="shrink the picture to this many columns, if it has more")
    comparison.add_argument("-o", "--output", type=Path, required=True, help="file, or folder for several pictures")
    return parser.parse_args(argv)


def pairs(typed: argparse.Namespace) -> list[tuple[Path, Path, Path | None, Path]]:
    """The files of each picture: output of the network, ground truth, input if given, and the picture to write."""
    if not typed.gt.is_dir():
        return [(typed.sr, typed.gt, typed.lq, typed.output)]
    truths = {path.stem: path for path in list_images(typed.gt)}
    inputs = {path.stem: path for path in list_images(typed.lq)} if typed.lq else {}
    found = []
    for path in list_images(typed.sr):
        stems = [stem for stem in truths if path.stem == stem or path.stem.startswith(f"{stem}_")]
        if not stems:
            raise InputError(f"{path}: no image in {typed.gt} has a name that this one begins with")
        stem = max(stems, key=len)  # for "a_b_suffix", "a_b" rather than "a"
        if typed.lq and stem not in inputs:
            raise InputError(f"{typed.lq}: there is no {stem}, the input that belongs to {truths[stem]}")
        found.append((path, truths[stem], inputs.get(stem), typed.output / f"{stem}.png"))
    return found


def draw(sr_file: Path, gt_file: Path, lq_file: Path | None, typed: argparse.Namespace) -> Pixels:
    """One comparison."""
    scale = typed.scale
    sr = read_image(sr_file)
    gt = mod_crop(read_image(gt_file), scale)
    if sr.shape != gt.shape:
        raise InputError(
            f"{sr_file} has {sr.shape[1]} x {sr.shape[0]} pixels, {gt_file} (cropped to a multiple of {scale})"
            f" {gt.shape[1]} x {gt.shape[0]}: they do not belong together, or --scale is wrong"
        )
    if lq_file is not None and image_size(lq_file) != (gt.shape[0] // scale, gt.shape[1] // scale):
        raise InputError(f"{lq_file} is not 1/{scale} of the size of {gt_file}; choose another --lq or --scale")
    lq = downscale(gt, scale) if lq_file is None else read_image(lq_file)
    bicubic = bicubic_picture(lq, scale)
    captions = [
        f"LR {lq.shape[1]} x {lq.shape[0]}",
        f"bicubic {psnr(bicubic, gt, border=scale)}",
        f"{typed.name} {psnr(sr, gt, border=scale)}",
        "HR",
    ]
    if not typed.part:
        return shrunk(comparison_picture(lq, sr, gt, captions=captions), typed.width)
    part = most_improved_part(bicubic, sr, gt, gt.shape[0] // typed.part, gt.shape[1] // typed.part)
    of_part = ["", *(psnr(cut_out(image, part), cut_out(gt, part), border=0) for image in (bicubic, sr)), ""]
    return shrunk(comparison_picture(lq, sr, gt, crop=part, captions=captions, crop_captions=of_part), typed.width)


def psnr(image: Pixels, truth: Pixels, *, border: int) -> str:
    """PSNR (Y) as a caption says it, or nothing where the border leaves no pixels."""
    if min(image.shape[:2]) <= 2 * border:
        return ""
    return f"{calculate_psnr(image, truth, crop_border=border, test_y_channel=True):.2f} dB"


def shrunk(picture: Pixels, width: int | None) -> Pixels:
    """A picture [H, W, 3] with at most ``width`` columns; each pixel is the mean of those that it replaces."""
    if width is None or picture.shape[1] <= width:
        return picture
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def main(argv: Sequence[str]) -> None:
    """Draw what the command line asks for."""
    typed = parse(argv)
    if typed.scale < 1 or typed.part < 0:
        raise InputError("--scale must be 1 or more, --part 0 or more")
    if typed.width is not None and typed.width < 1:
        raise InputError(f"--width {typed.width}: expected 1 or more")
    if not typed.gt.is_dir() and typed.output.suffix.lower() not in SUFFIXES:
        raise InputError(f"{typed.output}: name a file that ends in one of {', '.join(SUFFIXES)}")
    chosen = pairs(typed)
    for *_, target in chosen:
        check_writable(target)
    for sr_file, gt_file, lq_file, target in chosen:
        write_image(target, draw(sr_file, gt_file, lq_file, typed))
        print(f"wrote {target}")


if __name__ == "__main__":
    sys.exit(run_command(main))
