"""Films, frame by frame, through the programs ffmpeg and ffprobe where they are installed.

Frames come and go through pipes; none is written to the disk. Sound, subtitles, chapters, covers and attachments are
copied.

Shapes: H W pixels of a frame.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from data.images.photo import Levels
from models.inference.encoding import CONTAINERS, encoder_for, left_out, reading, rehearse, writing
from models.inference.ffmpeg import reason
from models.inference.film import Film
from utils.errors import InputError
from utils.files import lock, make_folder, remove_unfinished, rename_whole, storage_error, sync_file, unfinished


class Outcome(NamedTuple):
    """What came of a film.

    Attributes:
        frames: number of frames.
        complaint: what ffmpeg complained about in the source and went on, or "".
    """

    frames: int
    complaint: str


def film_notes(film: Film, target: Path) -> tuple[str, ...]:
    """What is odd about a film, or will be lost in ``target``, for the user."""
    return (*film.notes, *left_out(film, CONTAINERS[target.suffix.lower()]))


def upscale_film(source: Path, target: Path, film: Film, frame: Callable[[Levels], Levels]) -> Outcome:
    """Put every frame of a film through a function; the result takes its place at the end, or not at all.

    What cannot be written is found out before the first frame. What killed runs left half-written is removed.

    Args:
        source: the film.
        target: its suffix chooses the container, one of ``CONTAINERS``.
        film: what :func:`models.inference.film.inspect_film` said.
        frame: [H, W, 3] R G B to a frame of any one size and the same type: uint8, or uint16 for films of more than 8
            bits or HDR, whose levels are as they are coded.

    Raises:
        InputError: ffmpeg is not installed, cannot read the film or cannot write the result.
    """
    container = CONTAINERS[target.suffix.lower()]
    encoder = encoder_for(source, film, container)
    rehearse(source, target, film, encoder)
    make_folder(target.parent)
    count, size = 0, (0, 0)
    writer: subprocess.Popen[bytes] | None = None
    with _unfinished(target) as temporary, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complaints:
        try:
            with _running(reading(source, film), complaints, source) as reader:
                assert reader.stdout is not None
                for pixels in _frames(reader.stdout, source):
                    result = _even(frame(pixels))
                    if writer is None:
                        size = (result.shape[1], result.shape[0])
                        writer = _start(writing(source, temporary, film, encoder, size, container), said)
                    if size != (result.shape[1], result.shape[0]):
                        raise InputError(f"{source}: the size of its frames changes in the middle; cut it there first")
                    _put(writer, result, said, target)
                    count += 1
                if writer is None:
                    raise InputError(f"{source}: the film has no frames")
                _finish(writer, said, target)
            sync_file(temporary)
            rename_whole(temporary, target)
            return Outcome(count, _complaint(complaints))
        finally:
            if writer is not None:
                _end(writer)


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """A hidden file beside ``target`` to write to, locked, and removed at the end if it is still there."""
    remove_unfinished([target])
    temporary = unfinished(target)
    try:
        file = temporary.open("wb")
    except OSError as error:
        raise storage_error(target, error) from error
    try:
        with file:
            lock(file)
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _start(command: list[str], notes: IO[bytes]) -> subprocess.Popen[bytes]:
    # In a session of its own: Ctrl-C on the terminal ends this process, which then ends the program.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=notes, start_new_session=True)


@contextmanager
def _running(command: list[str], notes: IO[bytes], source: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The program that reads; ended when the block is left; its failure is raised as an InputError."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=notes, start_new_session=True
    )
    try:
        yield process
        if process.wait() != 0:
            raise InputError(f"{source}: the film cannot be read to its end: {reason(_text(notes))}")
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


def _frames(stream: IO[bytes], source: Path) -> Iterator[Levels]:
    """The frames of a stream of PPM pictures."""
    sizes_of_levels = {b"255": 1, b"65535": 2}
    while magic := stream.readline():
        sizes = stream.readline().split()
        each = sizes_of_levels.get(stream.readline().strip())
        if magic.strip() != b"P6" or len(sizes) != 2 or each is None:
            raise InputError(f"{source}: ffmpeg sent something that is no PPM picture")
        width, height = map(int, sizes)
        content = stream.read(3 * width * height * each)
        if len(content) < 3 * width * height * each:
            return  # ffmpeg was stopped; its exit code says so
        if each == 1:
            yield np.frombuffer(content, np.uint8).reshape(height, width, 3)
        else:
            yield np.frombuffer(content, np.dtype(">u2")).reshape(height, width, 3).astype(np.uint16)


def _even(frame: Levels) -> Levels:
    """A frame whose last row and column are repeated where their number is odd, as 4:2:0 pictures need it."""
    height, width = frame.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return frame
    padded: Levels = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")  # type: ignore[assignment]
    return padded


def _put(writer: subprocess.Popen[bytes], frame: Levels, notes: IO[bytes], target: Path) -> None:
    assert writer.stdin is not None
    try:
        writer.stdin.write((frame if frame.dtype == np.uint8 else frame.astype("<u2")).tobytes())
    except BrokenPipeError as error:
        writer.wait()
        raise InputError(f"{target}: ffmpeg cannot write the film: {reason(_text(notes))}") from error


def _finish(writer: subprocess.Popen[bytes], notes: IO[bytes], target: Path) -> None:
    assert writer.stdin is not None
    with suppress(BrokenPipeError):  # the exit code says more
        writer.stdin.close()
    if writer.wait() != 0:
        raise InputError(f"{target}: ffmpeg cannot write the film: {reason(_text(notes))}")


def _complaint(notes: IO[bytes]) -> str:
    text = _text(notes)
    return reason(text) if text.strip() else ""


def _text(notes: IO[bytes]) -> str:
    notes.seek(0)
    return notes.read().decode(errors="replace")
