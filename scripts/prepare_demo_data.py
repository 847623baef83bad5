"""Writes the photographs of the demo: ``python scripts/prepare_demo_data.py [-o datasets/demo]``.

They are the colour photographs that the scikit-image package carries inside itself; nothing is downloaded.
Low-resolution images are not written: data sets make them from the high-resolution ones. Files that are already right
are left alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
import importlib.util
from collections.abc import Sequence

import numpy as np

from data.images.files import Pixels, list_images, read_image, write_image
from data.resizing.matlab import mod_crop
from utils.command import run_command
from utils.errors import InputError
from utils.files import check_folder

ROOT = Path(__file__).resolve().parents[1]

# Of the colour images in the package: these are photographs. Left out are a colour wheel, a logo and chequerboards.
TRAINING = (
    "astronaut.png",  # portrait: face, fabric, lettering
    "motorcycle_left.png",  # metal, spokes, shelves; the two views of a stereo pair stay on the same side
    "motorcycle_right.png",
    "rocket.jpg",  # a launch pad: thin struts, sky
    "ihc.png",  # stained tissue under the microscope
    "retina.jpg",  # back of an eye: fine vessels
    "hubble_deep_field.jpg",  # galaxies
)
HELD_OUT = (
    "chelsea.png",  # a cat: fur
    "coffee.png",  # a cup: smooth edges, wood
)
MULTIPLE = 12  # sides of held-out images divide by every scale from 2 to 4, and by 6


def package_folder() -> Path:
    """The folder of images inside scikit-image.

    Raises:
        InputError: the package is not installed.
    """
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise InputError("the photographs come with scikit-image: pip install scikit-image")
    return Path(found.origin).parent / "data"


def prepare(source: Path, target: Path) -> list[Path]:
    """Write ``train/HR`` and ``val/HR`` below ``target``; returns the files that had to be written.

    Raises:
        InputError: a photograph is not in ``source``.
        StorageError: a file cannot be written.
    """
    written = []
    for part, names in (("train", TRAINING), ("val", HELD_OUT)):
        folder = target / part / "HR"
        for name in names:
            image = read_image(source / name)
            if part == "val":
                image = mod_crop(image, MULTIPLE)
            path = folder / f"{Path(name).stem}.png"
            if not _holds(path, image):
                write_image(path, image)
                written.append(path)
    return written


def other_images(target: Path) -> list[Path]:
    """Images in the demo's folders that this script does not know; a run would use them too."""
    known = {"train": TRAINING, "val": HELD_OUT}
    return [
        path
        for part, names in known.items()
        for path in list_images(target / part / "HR")
        if path.name not in {f"{Path(name).stem}.png" for name in names}
    ]


def _holds(path: Path, image: Pixels) -> bool:
    """Whether the file is there, whole, and shows ``image``."""
    if not path.exists():
        return False
    try:
        return np.array_equal(read_image(path), image)
    except InputError:
        return False


def main(argv: Sequence[str]) -> None:
    """Write the demo data set and say so."""
    parser = argparse.ArgumentParser(prog="prepare_demo_data.py", description="Write the photographs of the demo.")
    parser.add_argument(
        "-o", "--output", type=Path, default=ROOT / "datasets" / "demo", help="folder (default: datasets/demo)"
    )
    target = parser.parse_args(argv).output
    check_folder(target)
    written = prepare(package_folder(), target)
    print(
        f"{target}: {len(TRAINING)} photographs to train on, {len(HELD_OUT)} held out"
        f" ({len(written)} written, {len(TRAINING) + len(HELD_OUT) - len(written)} were there already)"
    )
    for path in other_images(target):
        print(f"note: {path} is not part of the demo, but runs on this folder will use it")


if __name__ == "__main__":
    sys.exit(run_command(main))
