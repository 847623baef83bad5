"""Films, frame by frame, through the programs ffmpeg and ffprobe where they are installed.

Frames come and go through pipes; none is written to the disk. Sound and subtitles are copied as they are.

Shapes: H W pixels of a frame.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from data.images.files import Pixels
from utils.errors import InputError
from utils.files import make_folder

_QUALITY = "16"  # of x264: hardly distinguishable from the frames
# Players take high-definition films for BT.709; sides of 4:2:0 pictures are even.
_TO_YUV = "scale=out_color_matrix=bt709:out_range=tv,pad=ceil(iw/2)*2:ceil(ih/2)*2,format=yuv420p"


class Film(NamedTuple):
    """What is known of a film beforehand.

    Attributes:
        rate: frames per second, as a fraction.
        frames: their number, estimated where the file does not say; 0 where nothing is known.
    """

    rate: Fraction
    frames: int


def inspect_film(path: Path) -> Film:
    """Rate and length of the first video stream.

    Raises:
        InputError: ffmpeg is not installed, or the file holds no film.
    """
    entries = "stream=avg_frame_rate,r_frame_rate,nb_frames:format=duration"
    command = [_program("ffprobe"), "-v", "error", "-select_streams", "v:0", "-show_entries", entries, "-of", "json"]
    done = subprocess.run([*command, _local(path)], capture_output=True, text=True, check=False)
    streams = json.loads(done.stdout or "{}").get("streams", []) if done.returncode == 0 else []
    if not streams:
        raise InputError(f"{path}: the film cannot be read: {_last_line(done.stderr) or 'it has no video stream'}")
    rates = [_fraction(streams[0].get(name)) for name in ("avg_frame_rate", "r_frame_rate")]
    rate = next((rate for rate in rates if rate > 0), Fraction(25))
    duration = json.loads(done.stdout).get("format", {}).get("duration", "0")
    counted = str(streams[0].get("nb_frames", ""))
    return Film(rate, int(counted) if counted.isdecimal() else round(_number(duration) * rate))


def upscale_film(source: Path, target: Path, film: Film, frame: Callable[[Pixels], Pixels]) -> int:
    """Put every frame of a film through a function; the result takes its place at the end, or not at all.

    Args:
        source: the film.
        target: its suffix chooses the container.
        film: what :func:`inspect_film` said.
        frame: uint8 [H, W, 3] R G B to a frame of any one size.

    Returns:
        Number of frames.

    Raises:
        InputError: ffmpeg is not installed, cannot read the film or cannot write the result.
    """
    make_folder(target.parent)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    count = 0
    writer: subprocess.Popen[bytes] | None = None
    try:
        with tempfile.TemporaryFile() as notes, _running(_reading(source, film), notes, source) as reader:
            assert reader.stdout is not None
            for pixels in _frames(reader.stdout, source):
                result = frame(pixels)
                if writer is None:
                    command = _writing(source, temporary, film, result.shape[1], result.shape[0])
                    writer = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=notes)
                _put(writer, result, notes, target)
                count += 1
            if writer is None:
                raise InputError(f"{source}: the film has no frames")
            _finish(writer, notes, target)
        temporary.replace(target)
    finally:
        if writer is not None:
            _end(writer)
        temporary.unlink(missing_ok=True)
    return count


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise InputError(f"films need the programs ffmpeg and ffprobe, and {name} is not installed (or not on PATH)")
    return found


def _local(path: Path) -> str:
    """The path as ffmpeg takes it for a file, whatever its name begins with."""
    return f"file:{path}"


def _reading(source: Path, film: Film) -> list[str]:
    # PPM: every frame says its size, which is that after the rotation the film asks for. The filter makes the rate
    # constant, so that picture and sound stay together.
    quiet = [_program("ffmpeg"), "-nostdin", "-v", "error"]
    frames = ["-map", "0:v:0", "-vf", f"fps={film.rate}", "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24"]
    return [*quiet, "-i", _local(source), *frames, "pipe:1"]


def _writing(source: Path, target: Path, film: Film, width: int, height: int) -> list[str]:
    quiet = [_program("ffmpeg"), "-y", "-v", "error"]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(film.rate), "-i", "pipe:0"]
    kept = ["-i", _local(source), "-map", "0:v", "-map", "1:a?", "-map", "1:s?", "-map_metadata", "1", "-c", "copy"]
    video = ["-c:v", "libx264", "-crf", _QUALITY, "-vf", _TO_YUV]
    colours = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    return [*quiet, *raw, *kept, *video, *colours, _local(target)]


@contextmanager
def _running(command: list[str], notes: IO[bytes], source: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program that reads; ended when the block is left; its failure is raised as an InputError."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=notes)
    try:
        yield process
        if process.wait() != 0:
            raise InputError(f"{source}: the film cannot be read to its end: {_last_error(notes)}")
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a program, if it runs, and close its pipes."""
    if process.poll() is None:
        process.kill()
        process.wait()
    for pipe in filter(None, (process.stdin, process.stdout)):
        with suppress(BrokenPipeError):  # what it did not read is lost, as it should be
            pipe.close()


def _frames(stream: IO[bytes], source: Path) -> Iterator[Pixels]:
    """The frames of a stream of PPM pictures."""
    while magic := stream.readline():
        sizes = stream.readline().split()
        if magic.strip() != b"P6" or len(sizes) != 2 or stream.readline().strip() != b"255":
            raise InputError(f"{source}: ffmpeg sent something that is no PPM picture")
        width, height = map(int, sizes)
        content = stream.read(3 * width * height)
        if len(content) < 3 * width * height:
            return  # ffmpeg was stopped; its exit code says so
        yield np.frombuffer(content, np.uint8).reshape(height, width, 3)


def _put(writer: subprocess.Popen[bytes], frame: Pixels, notes: IO[bytes], target: Path) -> None:
    assert writer.stdin is not None
    try:
        writer.stdin.write(frame.tobytes())
    except BrokenPipeError as error:
        writer.wait()
        raise InputError(f"{target}: ffmpeg cannot write the film: {_last_error(notes)}") from error


def _finish(writer: subprocess.Popen[bytes], notes: IO[bytes], target: Path) -> None:
    assert writer.stdin is not None
    with suppress(BrokenPipeError):  # the exit code says more
        writer.stdin.close()
    if writer.wait() != 0:
        raise InputError(f"{target}: ffmpeg cannot write the film: {_last_error(notes)}")


def _last_error(notes: IO[bytes]) -> str:
    notes.seek(0)
    return _last_line(notes.read().decode(errors="replace")) or "it says nothing about the reason"


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _fraction(text: str | None) -> Fraction:
    try:
        return Fraction(text or "0")
    except (ValueError, ZeroDivisionError):  # "0/0": not known
        return Fraction(0)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # "N/A"
        return 0.0
