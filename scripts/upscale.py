"""Upscale images and videos: ``python scripts/upscale.py -i FILE_FOLDER_OR_PATTERN -o OUT -w WEIGHTS``.

The network is taken from the weight file (its own options, or its keys), or from ``network_g`` of an option file given
with ``-opt``. Results are PNG files unless --format or OUT names another kind of file; depth, grey, transparency,
metadata and all frames and pages are kept, or named where the file cannot hold them. Films go through ffmpeg. A file
that fails is reported, and the others are upscaled. Several processes share the work under torchrun, or by --part 1/8,
2/8, ... Details: docs/upscaling.md.

Exit codes: 0 done, 1 a file failed or is a picture of a kind that cannot be read, 2 bad input, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
import functools
import time
from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch

from archs.contract import contract_of
from config.command import device_help, number
from config.values import Precision
from data.images.files import foreign_lines
from data.images.frames import open_frames
from data.images.head import MAX_PIXELS
from data.images.output_kinds import FORMATS, Encoding, check_encoding, check_size
from data.images.photo import Levels, Photo
from data.images.photo_writer import Losses, pictures_held, write_frames
from data.images.resize import Resize, parse_resize, resized
from models.inference.film import inspect_film
from models.inference.jobs import Job, left_out, plan_jobs
from models.inference.photo import TileChoice, Upscaler, check_memory, upscale_photo
from models.inference.ranks import Sharing, shared_with_ranks
from models.inference.sharing import Plan, parse_part, part_of, work_of
from models.inference.upscale import Watch, memory_kept_for
from models.inference.video import film_notes, upscale_film
from models.precision.choice import choose_precision
from models.precision.network import in_precision
from models.runtimes.onnx_file import is_onnx
from models.weights.recognise import network_from_weights, stored_keep
from utils import devices
from utils.command import run_command
from utils.errors import InputError
from utils.files import check_folder, remove_unfinished
from utils.log import configure_logging
from utils.memory import memory_is_full
from utils.progress import Progress, console_line
from utils.scale import scaled_length
from utils.signals import leave_at_once


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="upscale.py", description="Upscale images and videos.", allow_abbrev=False)
    parser.add_argument(
        "-i", "--input", nargs="+", required=True, metavar="PATH", help="files, folders, patterns such as 'a/**/*.png'"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="folder, or file for one picture"
    )
    parser.add_argument(
        "-w", "--weights", type=Path, required=True, metavar="FILE", help=".pth, .safetensors or .onnx file"
    )
    parser.add_argument("-opt", type=Path, metavar="FILE", help="option file whose network_g describes the network")
    parser.add_argument(
        "--key", help="entry of the weight file (default: the EMA weights where it has some, else its only ones)"
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
    parser.add_argument(
        "--precision", choices=get_args(Precision),
        help="compute in fp32 (default), fp16 (for GPUs) or bf16 (GPUs, new CPUs): half the memory, faster",
    )  # fmt: skip
    parser.add_argument("--half", action="store_true", help="the same as --precision fp16")
    parser.add_argument("--scale", type=number, metavar="S", help="factor such as 3.7, for networks of arbitrary scale")
    parser.add_argument("--suffix", default="", help="added to the names of the results, before .png")
    parser.add_argument(
        "--format", choices=FORMATS, help="kind of the resulting pictures (default: png, tif for pages)"
    )
    parser.add_argument("--quality", type=int, metavar="N", help="1 .. 100, of jpg (default: 95), webp, avif and jxl")
    parser.add_argument("--lossless", action="store_true", help="of webp (default without --quality) and jxl")
    parser.add_argument(
        "--compression", type=int, metavar="N", help="0 .. 9, of png and tif: larger is smaller, slower"
    )
    parser.add_argument(
        "--resize", nargs="+", metavar="SIZE",
        help="size of the results, after the network: 2x (times the input's), WIDTHxHEIGHT, or: longest PIXELS",
    )  # fmt: skip
    parser.add_argument(
        "--max_pixels", type=int, default=MAX_PIXELS, metavar="N",
        help=f"pictures of more pixels are refused, since a small file can unpack to them (default: {MAX_PIXELS})",
    )  # fmt: skip
    parser.add_argument(
        "--provider", metavar="NAME", help="what runs an ONNX file: cpu (default), cuda, ..., openvino, openvino:bf16"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist instead of leaving them")
    parser.add_argument(
        "--part", metavar="I/N", help="only the I-th of N parts of about as much work, such as 2/8, for SLURM arrays"
    )
    parser.add_argument("--device", metavar="NAME", help=device_help("auto"))
    parser.add_argument("--cpu", action="store_true", help="the same as --device cpu")
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
    """Progress over all pictures in thousands of input pixels, so that the ETA knows how large they are.

    Of several processes, the one that reports shows what all have done.
    """

    def __init__(self, plan: Plan, sharing: Sharing) -> None:
        self.plan, self.sharing = plan, sharing
        total = max(1, round(sum(plan.work)))
        done = round(sharing.done())  # by ranks that torchrun has started again since
        self.progress = Progress(total, "upscale", unit="kpixels", done=done, shown=sharing.is_main)
        self.share = 0.0  # done of the job that this process is at

    def advance(self, job: int, share: float) -> None:
        """A share of the work on one picture is done."""
        self.share += share * self.plan.work[job]
        if self.progress.terminal:
            done = round(self.sharing.done() + self.share)
            self.progress.advance(done=done, note=self.plan.jobs[job].source.name)

    def settle(self) -> None:
        """A job is done with, whether it failed or not."""
        self.share = 0.0
        if self.progress.terminal:
            self.progress.done = round(self.sharing.done())

    def wait(self) -> None:
        """Others are at work."""
        if self.progress.terminal:
            self.progress.advance(done=round(self.sharing.done()), note="")

    def close(self) -> None:
        """After the last job; where all were films, which have bars of their own, none remains."""
        if not any(self.plan.work):
            self.progress.finish(keep=False)


def upscale_picture(
    job: Job, upscaler: Upscaler, watch: Watch, max_pixels: int, encoding: Encoding, resize: Resize | None
) -> str:
    """Upscale one picture, or all frames or pages of a file; returns the line to print.

    Raises:
        InputError: the picture cannot be read, or is too large for the memory or for the kind of file.
    """
    frames = open_frames(job.source, max_pixels)
    held = pictures_held(job.target, frames.sort, frames.count)
    sizes: list[str] = []
    seconds = 0.0

    def upscaled(photo: Photo) -> Photo:
        nonlocal seconds
        height, width = photo.pixels.shape[:2]
        target = _target(upscaler, height, width, resize)
        check_size(job.target, *target)
        check_memory(*target, photo)
        started = time.perf_counter()
        result = upscale_photo(photo, upscaler, lambda share: watch(share / held))
        if resize is not None:
            result = resized(result, *target)
        seconds += time.perf_counter() - started
        sizes.append(f"{_size(photo.pixels.shape)} -> {_size(result.pixels.shape)}")
        return result

    losses = write_frames(job.target, map(upscaled, frames), frames, encoding)
    count = f", {held} {'pages' if frames.sort == 'pages' else 'frames'}" if held > 1 else ""
    return f"{job.target}: {sizes[0]}{count}, {seconds:.2f} s{_note(losses, job.target.suffix)}"


def _target(upscaler: Upscaler, height: int, width: int, resize: Resize | None) -> tuple[int, int]:
    """(height, width) of the result."""
    if resize is not None:
        return resize.target(height, width)
    scale = contract_of(upscaler.network).scale
    return scaled_length(height, scale), scaled_length(width, scale)


def _note(losses: Losses, suffix: str) -> str:
    """What the result does not have of the source."""
    said = [f"{', '.join(losses.dropped)} dropped: {suffix} files hold none"] if losses.dropped else []
    if losses.lost:
        said.append(f"{', '.join(losses.lost)} not kept")
    return f" ({'; '.join(said)})" if said else ""


def upscale_video(job: Job, upscaler: Upscaler, resize: Resize | None, *, shown: bool = True) -> str:
    """Upscale one film, with a bar if that is to be shown; returns the line to print.

    Raises:
        InputError: ffmpeg is not installed, or cannot read or write it.
    """
    film = inspect_film(job.source)
    for note in film_notes(film, job.target):
        console_line(f"{job.source}: {note}", sys.stdout)
    started = time.perf_counter()
    with (
        Progress(max(1, film.frames), job.source.name, unit="frames", shown=shown) as progress,
        memory_kept_for(upscaler.network, film.height * film.width),
    ):
        last: list[Levels] = []  # a frame and its result

        def frame(pixels: Levels) -> Levels:
            if not last or not np.array_equal(pixels, last[0]):  # a constant rate repeats frames
                result = upscale_photo(Photo(pixels), upscaler)
                if resize is not None:
                    result = resized(result, *resize.target(*pixels.shape[:2]))
                last[:] = pixels, result.pixels
            progress.advance()
            return last[1]

        count, complaint = upscale_film(job.source, job.target, film, frame)
        progress.total = count  # it was an estimate
    note = f" (ffmpeg complained about the source: {complaint})" if complaint else ""
    unit = "frame" if count == 1 else "frames"
    return f"{job.target}: {count} {unit}, {time.perf_counter() - started:.2f} s{note}"


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"


def check_onnx(typed: argparse.Namespace) -> None:
    """Raise InputError where an ONNX file is given together with options that say how PyTorch computes."""
    given = [f"--{name}" for name in ("precision", "half", "cpu", "device") if getattr(typed, name)]
    if given and is_onnx(typed.weights):
        raise InputError(
            f"{given[0]} is for weights that PyTorch runs; what {typed.weights} computes in was chosen when it was "
            "exported, and --provider chooses what runs it"
        )


def device_for(typed: argparse.Namespace, local_rank: int = 0, local_ranks: int = 1) -> torch.device:
    """Where the network computes, in one of several processes of a machine.

    Raises:
        InputError: there is no such device, or two are named.
    """
    if typed.cpu and typed.device not in (None, "cpu"):
        raise InputError(f"--cpu is --device cpu, and --device {typed.device} is asked for too; leave out one of them")
    asked = "cpu" if typed.cpu else typed.device or "auto"
    device = devices.choose(asked, local_rank=local_rank, local_ranks=local_ranks)
    devices.use(device)
    return device


def precision_for(typed: argparse.Namespace, device: torch.device, *, shown: bool = True) -> Precision:
    """In what precision the network computes; a line, if that is to be shown, says so where it is not as asked or fast.

    Raises:
        InputError: the two options contradict each other, or the device would take too long.
    """
    asked: Precision = typed.precision or ("fp16" if typed.half else "fp32")
    if typed.half and asked != "fp16":
        raise InputError(f"--half is --precision fp16, and --precision {asked} is asked for too; leave out one of them")
    called = "--half" if typed.half and typed.precision is None else None
    chosen = choose_precision(asked, device, called=called)
    if chosen.note is not None and shown:
        console_line(chosen.note, sys.stderr)
    return chosen.precision


def main(argv: Sequence[str]) -> int:
    """Upscale what the command line names; 1 if any file failed or is of a kind that cannot be read."""
    typed = parse(argv)
    configure_logging()
    with leave_at_once(), shared_with_ranks(argv) as sharing:
        configure_logging(rank=0 if sharing.is_main else 1)
        return upscale_all(typed, sharing)


def plan_for(typed: argparse.Namespace, encoding: Encoding, sharing: Sharing) -> Plan:
    """What the command line asks for: jobs, and results that are left as they are; of one part with ``--part``.

    Raises:
        InputError: it cannot be done, or results cannot be encoded in this way.
    """
    part = None if typed.part is None else parse_part(typed.part)
    planned = plan_jobs(typed.input, typed.output, typed.suffix, typed.format)
    own = planned if part is None else part_of(planned, part, typed.input)
    jobs = [job for job in own if typed.overwrite or not job.target.exists()]
    for folder in {job.target.parent for job in jobs}:
        check_folder(folder)
    check_encoding([job.target for job in planned if not job.is_video], encoding)
    open_targets = {job.target for job in jobs}
    kept = [job.target for job in own if job.target not in open_targets]
    foreign = left_out(typed.input) if part is None or part.number == 1 else {}
    work = [work_of(job, films=sharing.several) for job in jobs]
    plan = Plan(tuple(jobs), tuple(work), tuple(kept), tuple(foreign_lines(foreign)), sum(map(len, foreign.values())))
    return plan.largest_first() if sharing.several else plan


def upscale_all(typed: argparse.Namespace, sharing: Sharing) -> int:
    """Upscale what the command line, as read by :func:`parse`, names; returns the exit code."""
    with sharing.preparing() as known:
        check_onnx(typed)
        tile, device = tile_choice(typed.tile), device_for(typed, sharing.local_rank, sharing.local_ranks)
        resize = None if typed.resize is None else parse_resize(typed.resize)
        encoding = Encoding(typed.quality, typed.lossless, typed.compression)
        precision = precision_for(typed, device, shown=sharing.is_main)
        plan = plan_for(typed, encoding, sharing) if known is None else known
        network = network_from_weights(typed.weights, typed.opt, typed.key, typed.scale, typed.provider)
        keep = stored_keep(typed.weights) if precision == "fp16" else ()
        network = in_precision(network, precision, keep).to(device)
        upscaler = Upscaler(network, tile, typed.overlap, typed.self_ensemble)
        if known is None:
            announce(plan)
        if sharing.is_main:
            remove_unfinished(job.target for job in plan.jobs if not job.is_video)  # films see to theirs
        sharing.begin(plan)
    bar = Bar(plan, sharing)
    with bar.progress:
        for number in sharing.take(plan, bar.wait):
            job = plan.jobs[number]
            try:
                if job.is_video:
                    said = upscale_video(job, upscaler, resize, shown=sharing.is_main)
                else:
                    watch = functools.partial(bar.advance, number)
                    said = upscale_picture(job, upscaler, watch, typed.max_pixels, encoding, resize)
                console_line(said, sys.stdout)
                failed = False
            except Exception as error:
                if not (isinstance(error, InputError) or memory_is_full(error)):
                    raise
                failed = True
                message = str(error) if isinstance(error, InputError) else "the memory does not suffice"
                named = message if str(job.source) in message else f"{job.source}: {message}"
                console_line(f"failed: {named}", sys.stderr)
            sharing.settle(number, plan.work[number], failed=failed)
            bar.settle()
        bar.close()
    return report(plan, sharing, typed.part) if sharing.is_main else 0


def announce(plan: Plan) -> None:
    """Print what is not going to be upscaled."""
    for path in plan.kept:
        console_line(f"{path} exists and is left as it is (--overwrite replaces it)", sys.stdout)
    for line in plan.foreign:
        console_line(line, sys.stderr)


def report(plan: Plan, sharing: Sharing, part: str | None) -> int:
    """Print the last line, with what all processes have done; returns the exit code."""
    failed = sharing.failures(plan)
    others = f", {plan.unread} left out" if plan.unread else ""
    where = "" if part is None else f" (part {part})"
    print(f"{len(plan.jobs) - failed} upscaled, {len(plan.kept)} left as they were, {failed} failed{others}{where}")
    code = 1 if failed or plan.unread else 0
    sharing.end(code)
    return code


if __name__ == "__main__":
    sys.exit(run_command(main))
