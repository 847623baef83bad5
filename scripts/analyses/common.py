"""What the kinds of analysis have in common: flags, networks, pictures, and writing results."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import torch

from analysis.images import Crop, Kind, Picture, Rule, files_of, read_picture
from analysis.results import Results, check_output, write
from analysis.subjects import Subject, open_subjects
from config.command import device_help, number
from utils import devices
from utils.errors import InputError


class Refused(argparse.Action):
    """A flag of other programs that has no meaning here, and why."""

    def __init__(self, option_strings: Sequence[str], dest: str, why: str) -> None:
        super().__init__(option_strings, dest, nargs="?", help=argparse.SUPPRESS)
        self.why = why

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Raise InputError."""
        raise InputError(f"{self.option_strings[0]} has no meaning here: {self.why}")


def add_networks(parser: argparse.ArgumentParser) -> None:
    """Flags that name networks and how they compute."""
    group = parser.add_argument_group("networks")
    group.add_argument(
        "-w", "--weights", nargs="+", default=[], metavar="[NAME=]FILE", help=".pth or .safetensors files"
    )
    group.add_argument(
        "-opt", nargs="+", type=Path, default=[], metavar="FILE",
        help="option files that describe the networks, or name the weights too (test files)",
    )  # fmt: skip
    group.add_argument("--key", help="entry of the weight files (default: the EMA weights where there are some)")
    group.add_argument("--scale", type=number, metavar="S", help="factor such as 3.7, for networks of arbitrary scale")
    group.add_argument("--device", metavar="NAME", help=device_help("auto"))
    group.add_argument("--float64", action="store_true", help="compute in float64: 2 to 10 times slower, 9 more digits")


def add_images(parser: argparse.ArgumentParser, kind: Kind, rule: Rule = "matlab", *, required: bool = True) -> None:
    """Flags that name pictures; ``kind`` is what files are unless the command says otherwise."""
    group = parser.add_argument_group("pictures")
    group.add_argument(
        "-i", "--input", nargs="+", type=Path, required=required, default=[], metavar="PATH", help="files or folders"
    )
    group.add_argument(
        "--input_is", choices=get_args(Kind), default=kind,
        help=f"lr: the networks' input; hr: the input is made from them (default: {kind})",
    )  # fmt: skip
    group.add_argument(
        "--downscale", choices=get_args(Rule), default=rule,
        help=f"bicubic that makes the input from HR files (default: {rule})",
    )  # fmt: skip
    group.add_argument(
        "--crop", type=crop_of, metavar="LEFT,TOP,WIDTH,HEIGHT", help="part of the files, in their pixels"
    )
    group.add_argument(
        "--tile", action=Refused, why="a network is looked into as a whole; give a part of the picture with --crop"
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """Flags about results."""
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER", help="where results go")
    parser.add_argument("--overwrite", action="store_true", help="replace results of this kind in that folder")


def numbers(text: str, names: str) -> list[int]:
    """Whole numbers between commas, as many as there are names between commas.

    Raises:
        argparse.ArgumentTypeError: they are not.
    """
    parts = text.split(",")
    if len(parts) != len(names.split(",")) or not all(re.fullmatch(r"-?\d+", part.strip()) for part in parts):
        raise argparse.ArgumentTypeError(f"expected {names} as whole numbers, got {text}")
    return [int(part) for part in parts]


def crop_of(text: str) -> Crop:
    """``LEFT,TOP,WIDTH,HEIGHT``."""
    return Crop(*numbers(text, "LEFT,TOP,WIDTH,HEIGHT"))


def prepare(typed: argparse.Namespace) -> None:
    """Check the output folder, before anything takes time."""
    check_output(typed.output, typed.kind, overwrite=typed.overwrite)


def subjects_of(typed: argparse.Namespace) -> list[Subject]:
    """The networks that a command line names."""
    device = devices.choose(typed.device or "auto")
    devices.use(device)
    dtype = torch.float64 if typed.float64 else torch.float32
    return open_subjects(typed.weights, typed.opt, key=typed.key, scale=typed.scale, device=device, dtype=dtype)


def one_scale(subjects: Sequence[Subject]) -> float:
    """The scale of networks that are compared.

    Raises:
        InputError: they have different ones.
    """
    scales = {subject.scale for subject in subjects}
    if len(scales) > 1:
        each = ", ".join(f"{subject.name} x{subject.scale:g}" for subject in subjects)
        raise InputError(f"networks of one scale can be compared, these are {each}")
    return scales.pop()


def pictures_for(typed: argparse.Namespace, subject: Subject) -> Iterator[Picture]:
    """The pictures that a command line names, as one network takes them, read one by one."""
    for path in files_of(typed.input):
        yield read_picture(
            path, kind=typed.input_is, scale=subject.scale, channels=subject.channels, crop=typed.crop,
            rule=typed.downscale, dtype=subject.dtype, device=subject.device,
        )  # fmt: skip


def finish(typed: argparse.Namespace, results: Results, subjects: Sequence[Subject] = ()) -> None:
    """Print what was found and write it."""
    print(results.text)
    for path in write(typed.output, results, subjects):
        print(f"wrote {path}")
