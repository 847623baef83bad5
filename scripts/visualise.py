"""Pictures and tables of what networks do, as papers print them.

``python scripts/visualise.py comparison --sr OUTPUT --gt TRUTH -o PICTURE`` sets low resolution, bicubic, the
network's output and the ground truth side by side, with the PSNR (Y) of each, and below them, enlarged, the part where
the network gains most over bicubic. OUTPUT and TRUTH are two images, or two folders whose images belong together by
name (``baby.png`` and ``baby_SUFFIX.png``). ``--sr A=OUTPUT B=OUTPUT`` has a column for each network.
``--layout paper`` draws the ground truth with a box, and beside it the box enlarged, of bicubic, every network and the
ground truth.

``python scripts/visualise.py table results/A results/B`` prints the scores of tests as one LaTeX table, beside those
that are published.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from analysis.report.runs import RunFiles, images_of, mapping_of, read_run
from config.schema import TestOptions
from data.images.files import SUFFIXES, image_size, list_images, read_image, write_image
from data.resizing.matlab import Region, downscale, mod_crop
from metrics import calculate_psnr, calculate_ssim
from metrics.psnr_ssim import WINDOW
from models.evaluation.latex import ScoredTest, SetScores, latex_table
from models.evaluation.paper_picture import Method, PaperRow, check_pdf, paper_sheet, sheet_pixels, write_pdf
from models.evaluation.pictures import (
    bicubic_picture,
    comparison_picture,
    cut_out,
    most_different_part,
    most_improved_part,
)
from utils.command import run_command
from utils.errors import InputError
from utils.files import atomic_write, check_writable, write_text

Pixels = NDArray[np.uint8]

PDF = ".pdf"
_SHAPE = 0.75  # height / width of the box that --layout paper chooses


@dataclass(frozen=True)
class Picture:
    """The files of an image.

    Attributes:
        name: of the image.
        outputs: of each network, by its name.
        gt: the ground truth.
        lq: the input, if given.
    """

    name: str
    outputs: Mapping[str, Path]
    gt: Path
    lq: Path | None


@dataclass(frozen=True)
class Images:
    """The pixels of a picture: all of one size, but the input, which is smaller by the scale."""

    lq: Pixels
    bicubic: Pixels
    outputs: Mapping[str, Pixels]
    gt: Pixels


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="visualise.py", description="Pictures and tables of what networks do.")
    kinds = parser.add_subparsers(dest="kind", required=True)
    comparison = kinds.add_parser("comparison", help="LR, bicubic, the networks' outputs and HR side by side")
    comparison.add_argument(
        "--sr", nargs="+", required=True, metavar="[NAME=]PATH", help="outputs of networks: images or folders"
    )
    comparison.add_argument("--gt", type=Path, required=True, help="the ground truth: an image or a folder")
    comparison.add_argument("--lq", type=Path, help="the input; without it, bicubic downscaling of the ground truth")
    comparison.add_argument("--scale", type=int, default=4, help="factor between LR and HR (default: 4)")
    comparison.add_argument("--name", default="ours", help="caption of a single network's output (default: ours)")
    comparison.add_argument(
        "--layout", choices=("row", "paper"), default="row",
        help="row: whole images above parts of them (default); paper: HR with a box, beside it the box of each method",
    )  # fmt: skip
    comparison.add_argument(
        "--part",
        type=int,
        default=6,
        help="enlarge the 1/PART of height and width where the gain over bicubic is largest, or where several networks "
        "differ most (default: 6); 0: none",
    )
    comparison.add_argument(
        "--box", nargs="+", default=(), metavar="[IMAGE=]LEFT,TOP,WIDTH,HEIGHT",
        help="what is enlarged, in pixels of HR, of all images or of one",
    )  # fmt: skip
    comparison.add_argument(
        "--scores", choices=("part", "image", "none"), default="part",
        help="with --layout paper: PSNR/SSIM (Y) of the enlarged part (default) or of the whole image",
    )  # fmt: skip
    comparison.add_argument("--images", nargs="+", metavar="NAME", help="only these images of the folders")
    comparison.add_argument("--width", type=int, help="shrink the picture to this many columns, if it has more")
    comparison.add_argument(
        "-o", "--output", type=Path, required=True,
        help="file, or folder for several pictures; with --layout paper a file shows several as rows, and may be a PDF",
    )  # fmt: skip
    table = kinds.add_parser("table", help="the scores of tests as a LaTeX table (booktabs), beside the published ones")
    table.add_argument("results", nargs="+", type=Path, metavar="RESULTS", help="folders of tests: results/NAME")
    table.add_argument("-o", "--output", type=Path, help="write it to this file; without, it is printed")
    table.add_argument("--overwrite", action="store_true", help="replace the file")
    return parser.parse_args(argv)


def methods_of(typed: argparse.Namespace) -> dict[str, Path]:
    """Name -> path of each network's output."""
    found: dict[str, Path] = {}
    for text in typed.sr:
        name, sign, path = text.partition("=")
        if not sign or Path(text).exists():
            name, path = typed.name if len(typed.sr) == 1 else Path(text).stem, text
        if name in found:
            raise InputError(f"--sr: two outputs are called {name}; name them: --sr A=PATH B=PATH")
        found[name] = Path(path)
    return found


def pictures(typed: argparse.Namespace) -> list[Picture]:
    """The files of each image, in the order of the first network's outputs, or of ``--images``."""
    methods = methods_of(typed)
    if not typed.gt.is_dir():
        return [Picture(typed.gt.stem, methods, typed.gt, typed.lq)]
    truths = {path.stem: path for path in list_images(typed.gt)}
    inputs = {path.stem: path for path in list_images(typed.lq)} if typed.lq else {}
    by_method = {name: paired(path, truths, typed.gt) for name, path in methods.items()}
    stems = typed.images or list(next(iter(by_method.values())))
    for stem in stems:
        for name, outputs in by_method.items():
            if stem not in outputs:
                raise InputError(f"{methods[name]}: there is no output for {stem}")
        if typed.lq and stem not in inputs:
            raise InputError(f"{typed.lq}: there is no {stem}, the input that belongs to {truths[stem]}")
    return [
        Picture(stem, {name: outputs[stem] for name, outputs in by_method.items()}, truths[stem], inputs.get(stem))
        for stem in stems
    ]


def paired(folder: Path, truths: Mapping[str, Path], where: Path) -> dict[str, Path]:
    """Name of a ground truth -> the output in a folder that belongs to it."""
    found = {}
    for path in list_images(folder):
        stems = [stem for stem in truths if path.stem == stem or path.stem.startswith(f"{stem}_")]
        if not stems:
            raise InputError(f"{path}: no image in {where} has a name that this one begins with")
        found[max(stems, key=len)] = path  # for "a_b_suffix", "a_b" rather than "a"
    return found


def images_of_picture(picture: Picture, scale: int) -> Images:
    """Read an image."""
    gt = mod_crop(read_image(picture.gt), scale)
    outputs = {}
    for name, path in picture.outputs.items():
        outputs[name] = read_image(path)
        if outputs[name].shape != gt.shape:
            height, width = outputs[name].shape[:2]
            raise InputError(
                f"{path} has {width} x {height} pixels, {picture.gt} (cropped to a multiple of {scale})"
                f" {gt.shape[1]} x {gt.shape[0]}: they do not belong together, or --scale is wrong"
            )
    lq_file = picture.lq
    if lq_file is not None and image_size(lq_file) != (gt.shape[0] // scale, gt.shape[1] // scale):
        raise InputError(f"{lq_file} is not 1/{scale} of the size of {picture.gt}; choose another --lq or --scale")
    lq = downscale(gt, scale) if lq_file is None else read_image(lq_file)
    return Images(lq, bicubic_picture(lq, scale), outputs, gt)


def box_of(picture: Picture, images: Images, typed: argparse.Namespace) -> Region | None:
    """What is enlarged of an image: as typed, or where a network gains most, or where several differ most."""
    rows, columns = images.gt.shape[:2]
    for text in typed.box:
        name, _, numbers = text.rpartition("=")
        if name not in ("", picture.name):
            continue
        try:
            left, top, width, height = map(int, numbers.split(","))
        except ValueError:
            raise InputError(f"--box {text}: expected LEFT,TOP,WIDTH,HEIGHT in pixels of HR, as 10,20,60,40") from None
        if min(left, top) < 0 or min(width, height) < 1 or left + width > columns or top + height > rows:
            raise InputError(f"--box {text} lies outside {picture.gt}, which has {columns} x {rows} pixels")
        return Region(top, left, height, width)
    if not typed.part:
        return None
    height, width = rows // typed.part, columns // typed.part
    if typed.layout == "paper":
        height = round(_SHAPE * width)
    outputs = list(images.outputs.values())
    if len(outputs) == 1:
        return most_improved_part(images.bicubic, outputs[0], images.gt, height, width)
    return most_different_part(outputs, images.gt, height, width)


def draw(picture: Picture, typed: argparse.Namespace) -> Pixels:
    """One comparison, whole images side by side."""
    images = images_of_picture(picture, typed.scale)
    lq, gt, outputs = images.lq, images.gt, list(images.outputs.values())
    shown = {"bicubic": images.bicubic, **images.outputs}
    captions = [
        f"LR {lq.shape[1]} x {lq.shape[0]}",
        *(f"{name} {psnr(image, gt, border=typed.scale)}" for name, image in shown.items()),
        "HR",
    ]
    part = box_of(picture, images, typed)
    of_part = None
    if part is not None:
        truth = cut_out(gt, part)
        of_part = ["", *(psnr(cut_out(image, part), truth, border=0) for image in shown.values()), ""]
    drawn = comparison_picture(
        lq, outputs[0], gt, more=outputs[1:], crop=part, captions=captions, crop_captions=of_part
    )  # fmt: skip
    return shrunk(drawn, typed.width)


def paper_row(picture: Picture, typed: argparse.Namespace) -> PaperRow:
    """One image of the layout of papers."""
    images = images_of_picture(picture, typed.scale)
    box = box_of(picture, images, typed)
    assert box is not None
    border = typed.scale if typed.scores == "image" else 0
    methods = []
    for name, pixels in {"Bicubic": images.bicubic, **images.outputs}.items():
        scores: tuple[float | None, ...] = ()
        if typed.scores != "none":
            measured = (pixels, images.gt)
            if typed.scores == "part":
                measured = (cut_out(pixels, box), cut_out(images.gt, box))
            scores = psnr_and_ssim(*measured, border=border)
        methods.append(Method(name, pixels, scores))
    heads = "" if typed.scores == "none" else "PSNR/SSIM"
    return PaperRow(f"{picture.name} (x{typed.scale})", images.gt, box, methods, heads)


def psnr_and_ssim(image: Pixels, truth: Pixels, *, border: int) -> tuple[float | None, float | None]:
    """Both on Y; None where the image is too small."""
    least = min(image.shape[:2]) - 2 * border
    first = calculate_psnr(image, truth, crop_border=border, test_y_channel=True) if least > 0 else None
    return first, calculate_ssim(image, truth, crop_border=border, test_y_channel=True) if least >= WINDOW else None


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


def compare(typed: argparse.Namespace) -> None:
    """Draw comparisons."""
    check(typed)
    folder = typed.gt.is_dir()
    suffix = typed.output.suffix.lower()
    together = typed.layout == "paper" and suffix in (PDF, *SUFFIXES)
    chosen = pictures(typed)
    targets = [typed.output] if together or not folder else [typed.output / f"{one.name}.png" for one in chosen]
    for target in targets:
        check_writable(target)
    if typed.layout == "row":
        for picture, target in zip(chosen, targets, strict=True):
            write_image(target, draw(picture, typed))
            print(f"wrote {target}")
        return
    groups = [chosen] if together else [[picture] for picture in chosen]
    for group, target in zip(groups, targets, strict=True):
        sheet = paper_sheet([paper_row(picture, typed) for picture in group])
        if target.suffix.lower() == PDF:
            with atomic_write(target) as file:
                write_pdf(sheet, file)
        else:
            write_image(target, shrunk(sheet_pixels(sheet), typed.width))
        print(f"wrote {target}")


def check(typed: argparse.Namespace) -> None:
    """Raise InputError where values of the command line cannot be used."""
    if typed.scale < 1 or typed.part < 0:
        raise InputError("--scale must be 1 or more, --part 0 or more")
    if typed.width is not None and typed.width < 1:
        raise InputError(f"--width {typed.width}: expected 1 or more")
    if typed.layout == "paper" and not typed.part and not typed.box:
        raise InputError("--layout paper enlarges a part: give --box, or --part 1 or more")
    suffix = typed.output.suffix.lower()
    if suffix == PDF:
        if typed.layout != "paper":
            raise InputError(f"{typed.output}: PDF pictures are those of --layout paper")
        if typed.width is not None:
            raise InputError("--width is for pictures of pixels, not for PDF")
        check_pdf()
    elif not typed.gt.is_dir() and suffix not in SUFFIXES:
        raise InputError(f"{typed.output}: name a file that ends in one of {', '.join(SUFFIXES)}")


def scored(files: RunFiles) -> ScoredTest:
    """A test as its folder describes it."""
    if not isinstance(files.options, TestOptions):
        reasons = "; ".join(files.run.notes) if files.run.kind == "test" else "it is a training run"
        raise InputError(f"{files.path}: no table can be made of it: {reasons}")
    sets = {}
    for name, dataset in mapping_of(files.scores.get("datasets")).items():
        mean = mapping_of(mapping_of(dataset).get("mean"))
        names = frozenset(str(image.get("name")) for image in images_of(mapping_of(dataset)))
        sets[name] = SetScores(names, numbers(mean.get("scores")), numbers(mean.get("bicubic")))
    return ScoredTest(files.run.name, files.options, str(files.scores.get("way", "")), sets)


def numbers(scores: object) -> dict[str, float | None]:
    """Metric -> value, None for what is none."""
    return {
        str(name): float(value) if isinstance(value, int | float) else None
        for name, value in mapping_of(scores).items()
    }


def tabulate(typed: argparse.Namespace) -> None:
    """Print or write a table."""
    if typed.output is not None:
        if typed.output.exists() and not typed.overwrite:
            raise InputError(f"{typed.output} exists; name another file, or give --overwrite")
        check_writable(typed.output)
    table = latex_table([scored(read_run(folder)) for folder in typed.results])
    if typed.output is None:
        print(table, end="")
    else:
        write_text(typed.output, table)
        print(f"wrote {typed.output}")


def main(argv: Sequence[str]) -> None:
    """Draw or print what the command line asks for."""
    typed = parse(argv)
    if typed.kind == "table":
        tabulate(typed)
    else:
        compare(typed)


if __name__ == "__main__":
    sys.exit(run_command(main))
