"""Make data sets ready for training: ``python scripts/prepare_dataset.py COMMAND ... --help``.

subimages   cut large images into overlapping squares, as BasicSR does
lr          make low-resolution files by MATLAB's bicubic
meta        write a list of images with their sizes (meta_info)
lmdb        write an LMDB data set in BasicSR's layout
pack        write a pack: decoded images in memory-mapped files, the fastest to train from
check       read everything and report what is wrong; exit code 2 if anything is

Sources are never changed. A command that was interrupted goes on where it stopped when it is run again.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
import os
from collections.abc import Callable, Mapping, Sequence

from data.images.faults import SHOWN, by_fault, fault_lines
from data.prepare.check import check_images
from data.prepare.common import check_text_target
from data.prepare.lmdb_writer import write_lmdb
from data.prepare.lowres import make_low_resolution
from data.prepare.meta import write_meta
from data.prepare.pack_writer import write_pack
from data.prepare.subimages import Grid, cut_subimages
from utils.command import run_command
from utils.errors import InputError
from utils.files import check_folder, check_writable, write_text
from utils.log import configure_logging


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="prepare_dataset.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    cut = _command(commands, "subimages", subimages, "cut large images into overlapping squares")
    _folders(cut, "folder of images", "folder for the squares")
    cut.add_argument("--crop_size", type=_positive, default=480, help="side of a square (default: 480)")
    cut.add_argument("--step", type=_positive, default=240, help="distance of neighbouring squares (default: 240)")
    cut.add_argument(
        "--thresh_size", type=_whole, default=0, help="wider rests get a square at the border (default: 0)"
    )
    cut.add_argument("--compression", type=_level, default=3, help="level of PNG files, 0 to 9 (default: 3)")
    _skip(cut)

    small = _command(commands, "lr", low_resolution, "make low-resolution files by MATLAB's bicubic")
    _folders(
        small, "folder of high-resolution images", "parent of the folders X2, X3, ..., or a folder with {s} in its path"
    )
    small.add_argument("--scale", type=_positive, nargs="+", required=True, help="whole factors, such as 2 3 4")
    small.add_argument(
        "--rule", choices=("published", "double"), default="published",
        help="published: as benchmark files were made, value for value (default); double: MATLAB in double precision",
    )  # fmt: skip
    small.add_argument("--template", default="{}x{s}", help='name without extension (default: "{}x{s}")')
    small.add_argument("--hr", type=Path, metavar="DIR", help="the same for the cropped high-resolution images")
    _skip(small)

    listing = _command(commands, "meta", meta, "write a list of images with their sizes")
    _folders(listing, "folder of images", "text file")

    lmdb = _command(commands, "lmdb", to_lmdb, "write an LMDB data set in BasicSR's layout")
    _folders(lmdb, "folder of images, NAME.pack or NAME.lmdb", "NAME.lmdb")
    lmdb.add_argument("--compression", type=_level, default=1, help="level of the PNG files inside (default: 1)")
    lmdb.add_argument("--copy", action="store_true", help="store the files as they are instead of as new PNG files")
    _meta_file(lmdb)
    _skip(lmdb)

    pack = _command(commands, "pack", to_pack, "write a pack, the fastest to train from")
    _folders(pack, "folder of images, NAME.lmdb or NAME.pack", "NAME.pack")
    pack.add_argument("--shard_mib", type=_positive, default=1024, help="size of its files (default: 1024)")
    _meta_file(pack)
    _skip(pack)

    look = _command(commands, "check", check, "read everything and report what is wrong")
    where = "folder of images, NAME.lmdb or NAME.pack"
    given = look.add_mutually_exclusive_group(required=True)
    given.add_argument("-i", "--input", type=Path, metavar="INPUT", help=f"{where}; it is left as it is")
    given.add_argument("folder", nargs="?", type=Path, help="the same, without a flag")
    look.add_argument("--lq", type=Path, metavar="DIR", help="folder of low-resolution partners")
    look.add_argument("--scale", type=_positive, default=1, help="size of an image / size of its partner")
    look.add_argument("--template", default="{}", help='name of a partner, such as "{}x4" (default: "{}")')
    look.add_argument("--least", type=_positive, default=1, help="smallest side, such as the gt_size of a training")
    look.add_argument("--report", type=Path, metavar="FILE", help="write the findings to a text file")
    _meta_file(look)
    return parser.parse_args(argv)


def subimages(typed: argparse.Namespace) -> None:
    """See the module's docstring."""
    grid = Grid(typed.crop_size, typed.step, typed.thresh_size)
    _check_apart(typed.input, typed.output)
    count, left = cut_subimages(typed.input, typed.output, grid, compression=typed.compression, skip_bad=typed.skip_bad)
    _report(f"{typed.output}: {count:,} sub-images", left)


def low_resolution(typed: argparse.Namespace) -> None:
    """See the module's docstring."""
    if "{}" not in typed.template or "/" in typed.template:
        raise InputError(f'--template: expected a name with "{{}}" in it, as in "{{}}x{{s}}", got "{typed.template}"')
    count, left = make_low_resolution(
        typed.input, typed.output, typed.scale, rule=typed.rule, template=typed.template, cropped=typed.hr,
        skip_bad=typed.skip_bad,
    )  # fmt: skip
    _report(f"{typed.output}: {count:,} low-resolution images", left)


def meta(typed: argparse.Namespace) -> None:
    """See the module's docstring."""
    _report(f"{typed.output}: {write_meta(typed.input, typed.output):,} images")


def to_lmdb(typed: argparse.Namespace) -> None:
    """See the module's docstring."""
    count, left = write_lmdb(
        typed.input, typed.output, meta_file=typed.meta_info_file, compression=typed.compression, copy=typed.copy,
        skip_bad=typed.skip_bad,
    )  # fmt: skip
    _report(f"{typed.output}: {count:,} images", left)


def to_pack(typed: argparse.Namespace) -> None:
    """See the module's docstring."""
    count, left = write_pack(
        typed.input, typed.output, meta_file=typed.meta_info_file, shard_bytes=typed.shard_mib << 20,
        skip_bad=typed.skip_bad,
    )  # fmt: skip
    _report(f"{typed.output}: {count:,} images", left)


def check(typed: argparse.Namespace) -> None:
    """See the module's docstring; raises InputError when anything is wrong."""
    if typed.report:
        check_text_target(typed.report)
        check_writable(typed.report)
    source = typed.input or typed.folder
    findings = check_images(
        source, meta_file=typed.meta_info_file, least=typed.least, lq_folder=typed.lq, scale=typed.scale,
        template=typed.template,
    )  # fmt: skip
    sections = {
        "cannot be read": findings.unreadable,
        "have a wrong size": findings.sizes,
        "come twice": findings.duplicates,
        "do not pair": findings.unpaired,
        "are grey among coloured ones, which is no problem": findings.grey,
        "hold several pictures, of which the first is used": findings.several,
    }
    head = f"{source}: {findings.images:,} images read, {len(findings.problems):,} problems"
    if typed.report:
        write_text(typed.report, _listed(head, sections) + "\n")
    shown = _listed(head, sections, together=True)
    if findings.problems:
        where = f"is in {typed.report}" if typed.report else "can be written by --report FILE"
        raise InputError(f"{shown}\na line for each of them {where}")
    _report(shown)


def _listed(head: str, sections: Mapping[str, Sequence[str]], *, together: bool = False) -> str:
    """A line for each image, or with ``together`` for each fault."""
    lines = [head]
    for title, found in sections.items():
        if found:
            shown = fault_lines(found) if together else found
            lines += [f"{title} ({len(found):,}):", *(f"  {line}" for line in shown)]
    return "\n".join(lines)


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    function: Callable[[argparse.Namespace], None],
    help: str,
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help, description=help)
    parser.set_defaults(function=function)
    return parser


def _folders(parser: argparse.ArgumentParser, source: str, target: str) -> None:
    parser.add_argument("-i", "--input", type=Path, required=True, help=f"{source}; it is left as it is")
    parser.add_argument("-o", "--output", type=Path, required=True, help=target)


def _skip(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--skip_bad", action="store_true", help="leave out images that cannot be used, and report them")


def _meta_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--meta_info_file", type=Path, metavar="FILE", help="list of the images to take")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, 0 or above, got {text}")
    return int(text)


def _level(text: str) -> int:
    if not text.isdecimal() or int(text) > 9:
        raise argparse.ArgumentTypeError(f"expected a level from 0 to 9, got {text}")
    return int(text)


def _check_apart(source: Path, target: Path) -> None:
    if os.path.realpath(source) == os.path.realpath(target):
        raise InputError(f"{target}: the output folder is the input folder; choose another, sources are left alone")


def _report(text: str, left: Sequence[str] = ()) -> None:
    lines = [line for group, line in zip(by_fault(left), fault_lines(left), strict=True) if len(group) > SHOWN]
    print("\n  ".join([text + (f"; {len(left):,} images were left out" if left else ""), *lines]))


def main(argv: Sequence[str]) -> None:
    """Run one command."""
    typed = parse(argv)
    configure_logging()
    if "output" in typed:
        (check_writable if typed.function is meta else check_folder)(typed.output)
    typed.function(typed)


if __name__ == "__main__":
    sys.exit(run_command(main))
