"""Upscale images and videos: ``python scripts/upscale.py -i FILE_FOLDER_OR_PATTERN -o OUT -w WEIGHTS``.

The network is taken from the weight file (its own options, or its keys), or from ``network_g`` of an option file given
with ``-opt``. Results are PNG files unless OUT names another kind of file; depth, grey, transparency, colour profile
and EXIF block are kept. Films go through ffmpeg. A file that fails is reported, and the others are upscaled.
Details: docs/upscaling.md.

Exit codes: 0 done, 1 a file failed, 2 bad input, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

from config.command import number
from data.images.files import Pixels
from data.images.head import MAX_PIXELS
from data.images.photo import Photo, picture_size, read_photo, write_photo
from models.inference.jobs import Job, plan_jobs
from models.inference.photo import TileChoice, Upscaler, upscale_photo
from models.inference.video import inspect_film, upscale_film
from models.weights.recognise import network_from_weights
from utils.command import run_command
from utils.errors import InputError
from utils.progress import Progress, console_line


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="upscale.py", description="Upscale images and videos.", allow_abbrev=False)
    parser.add_argument(
        "-i", "--input", nargs="+", required=True, metavar="PATH", help="files, folders, patterns such as 'a/**/*.png'"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder, or file for one picture"
    )
    parser.add_argument("-w", "--weights", type=Path, required=True, metavar="FILE", help=".pth or .safetensors file")
    parser.add_argument("-opt", type=Path, metavar="FILE", help="option file whose network_g describes the network")
    parser.add_argument(
        "--key", default="params_ema", help="entry of the weight file (default: params_ema, else params)"
    )
    parser.add_argument(
        "--tile", default="auto", metavar="N",
        help="work in tiles of N x N input pixels; 0: whole; auto: as large as the memory allows (default)",
    )  # fmt: skip
    parser.add_argument(
        "--overlap", type=int, default=32, metavar="N", help="input pixels that neighbouring tiles share (default: 32)"
    )
    parser.add_argument(
        "--self_ensemble",
        action="store_true",
        help="self-ensemble: mean over eight flips and rotations; eight times slower",
    )
    parser.add_argument("--half", action="store_true", help="compute in float16: half the memory, faster on GPUs")
    parser.add_argument("--scale", type=number, metavar="S", help="factor such as 3.7, for networks of arbitrary scale")
    parser.add_argument("--suffix", default="", help="added to the names of the results, before .png")
    parser.add_argument(
        "--max_pixels", type=int, default=MAX_PIXELS, metavar="N",
        help=f"pictures of more pixels are refused, since a small file can unpack to them (default: {MAX_PIXELS})",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist instead of leaving them")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    return parser.parse_args(argv)


def tile_choice(text: str) -> TileChoice:
    """What ``--tile`` says.

    Raises:
        InputError: it is none of the three.
    """
    if text == "auto":
        return "auto"
    if not text.isdecimal():
        raise InputError(f"--tile must be auto, 0 (whole pictures) or a number of pixels, got {text}")
    return int(text) or None


class Bar:
    """Progress over all pictures in thousands of input pixels, so that the ETA knows how large they are."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        sizes = {job: picture_size(job.source) for job in jobs if not job.is_video}
        self.weights = {job: size[0] * size[1] / 1000 for job, size in sizes.items() if size is not None}
        self.progress = Progress(max(1, round(sum(self.weights.values()))), "upscale", unit="kpixels")
        self.done = 0.0

    def advance(self, job: Job, share: float) -> None:
        """A share of the work on one picture is done."""
        self.done += share * self.weights.get(job, 0.0)
        self.progress.advance(done=round(self.done), note=job.source.name)


def upscale_picture(job: Job, upscaler: Upscaler, bar: Bar, max_pixels: int) -> str:
    """Upscale one picture; returns the line to print.

    Raises:
        InputError: the picture cannot be read, or is too large for the memory.
    """
    photo = read_photo(job.source, max_pixels)
    started = time.perf_counter()
    result = upscale_photo(photo, upscaler, lambda share: bar.advance(job, share))
    seconds = time.perf_counter() - started
    dropped = write_photo(job.target, result)
    note = f" ({', '.join(dropped)} dropped: {job.target.suffix} files hold none)" if dropped else ""
    return f"{job.target}: {_size(photo.pixels.shape)} -> {_size(result.pixels.shape)}, {seconds:.2f} s{note}"


def upscale_video(job: Job, upscaler: Upscaler) -> str:
    """Upscale one film; returns the line to print.

    Raises:
        InputError: ffmpeg is not installed, or cannot read or write it.
    """
    film = inspect_film(job.source)
    started = time.perf_counter()
    with Progress(max(1, film.frames), job.source.name, unit="frames") as progress:

        def frame(pixels: Pixels) -> Pixels:
            result = upscale_photo(Photo(pixels), upscaler).pixels
            progress.advance()
            return result  # type: ignore[return-value]  # of 8 bits, as the frame

        count = upscale_film(job.source, job.target, film, frame)
    return f"{job.target}: {count} frames, {time.perf_counter() - started:.2f} s"


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"


def main(argv: Sequence[str]) -> int:
    """Upscale what the command line names; 1 if any file failed."""
    typed = parse(argv)
    tile = tile_choice(typed.tile)
    planned = plan_jobs(typed.input, typed.output, typed.suffix)
    network = network_from_weights(typed.weights, typed.opt, typed.key, typed.scale)
    network = network.to(
        device="cuda" if torch.cuda.is_available() and not typed.cpu else "cpu",
        dtype=torch.float16 if typed.half else None,
    )
    upscaler = Upscaler(network, tile, typed.overlap, typed.self_ensemble)
    jobs = [job for job in planned if typed.overwrite or not job.target.exists()]
    for job in planned:
        if job not in jobs:
            console_line(f"{job.target} exists and is left as it is (--overwrite replaces it)", sys.stdout)
    failed = 0
    bar = Bar(jobs)
    with bar.progress:
        for job in jobs:
            try:
                if job.is_video:
                    said = upscale_video(job, upscaler)
                else:
                    said = upscale_picture(job, upscaler, bar, typed.max_pixels)
                console_line(said, sys.stdout)
            except InputError as error:
                failed += 1
                message = str(error)
                named = message if str(job.source) in message else f"{job.source}: {message}"
                console_line(f"failed: {named}", sys.stderr)
    print(f"{len(jobs) - failed} upscaled, {len(planned) - len(jobs)} left as they were, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
