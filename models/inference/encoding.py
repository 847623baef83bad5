"""How a film is taken apart and put together again: the command lines of ffmpeg.

Frames come as PPM pictures, which say their size: that after the rotation that the film asks for. They go as raw
pixels. Matrix, range, primaries and transfer function are the source's, and so is the shape of a pixel.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from models.inference.ffmpeg import encoder_formats, local, program, reason, run_with
from models.inference.film import MATRICES, TRANSFERS, Film
from utils.errors import InputError

# Suffix of a film that is written -> ffmpeg's name of the container; of .m4v alone it would make one without H.265.
CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_QUALITY = "16"  # of x264 and x265: hardly distinguishable from the frames
_REHEARSAL = "5"  # seconds of the source
_EXACT = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_TEXT = ("subrip", "ass", "ssa", "webvtt", "text", "mov_text")  # subtitles that ffmpeg can turn into each other
# Codecs of text that a container takes, and the one that others are turned into.
_HELD = {"matroska": (("subrip", "ass", "ssa", "webvtt", "text"), "subrip"), "mp4": (("mov_text",), "mov_text")}


class Encoder(NamedTuple):
    """What writes the frames: its name, the pixel format, further arguments."""

    name: str
    layout: str
    arguments: tuple[str, ...]


def is_deep(film: Film) -> bool:
    """Whether a film is computed and written with more than 8 bits."""
    return film.bits > 8 or film.colour.hdr is not None


def encoder_for(source: Path, film: Film, container: str) -> Encoder:
    """x264, and for 10 bits x265 where it is there.

    Raises:
        InputError: the film has more than 8 bits, and this ffmpeg can encode them in neither way.
    """
    if not is_deep(film):
        return Encoder("libx264", "yuv420p", ())
    layout = "yuv420p10le"
    if layout in encoder_formats("libx265"):
        light = f":hdr10=1:{film.light}" if film.light else ""
        brand = () if container == "matroska" else ("-tag:v:0", "hvc1")  # the one that Apple's players know
        return Encoder("libx265", layout, ("-x265-params", f"log-level=error{light}", *brand))
    if layout in encoder_formats("libx264"):
        return Encoder("libx264", layout, ())
    filters = "zscale=t=linear:npl=100,tonemap=hable,zscale=t=bt709:m=bt709:p=bt709:r=tv," if film.colour.hdr else ""
    raise InputError(
        f"{source}: it has {film.bits} bits per channel{' and is HDR' if film.colour.hdr else ''}, and this ffmpeg "
        "encodes 8 bits only; install one with libx265, or convert the film: "
        f"ffmpeg -i IN -vf {filters}format=yuv420p -c:a copy OUT"
    )


def reading(source: Path, film: Film) -> list[str]:
    """The command that sends the frames as PPM pictures, of 8 or 16 bits per channel."""
    # A constant rate keeps picture and sound together; so does a first frame that is shown from the beginning on.
    filters = [f"fps={film.rate}:start_time=0"]
    if not film.colour.rgb:
        matrix = MATRICES[film.colour.matrix]
        filters.append(f"scale=in_color_matrix={matrix}:in_range={_range(film)}:{_EXACT}")
    layout = "rgb48be" if is_deep(film) else "rgb24"
    frames = ["-map", "0:V:0", "-vf", ",".join(filters), "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", layout]
    return [program("ffmpeg"), "-nostdin", "-v", "error", "-i", local(source), *frames, "pipe:1"]


def writing(
    source: Path, target: Path, film: Film, encoder: Encoder, size: tuple[int, int], container: str, seconds: str = ""
) -> list[str]:
    """The command that takes raw frames, R'G'B' of 8 bits or 16 (little-endian), and all other streams of the source.

    Args:
        source: the film whose sound, subtitles, chapters, covers and attachments are taken.
        target: file to write, whatever its suffix.
        film: what is known of it.
        encoder: for the frames.
        size: width and height of the frames, even.
        container: ffmpeg's name of it.
        seconds: read no more than these of the source.
    """
    width, height = size
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb48le" if is_deep(film) else "rgb24", "-s", f"{width}x{height}"]
    limit = ["-t", seconds] if seconds else []
    inputs = [*raw, "-r", str(film.rate), "-i", "pipe:0", *limit, "-i", local(source)]
    return [
        *(program("ffmpeg"), "-y", "-v", "error", *inputs, *_other_streams(film, container)),
        *("-c:v:0", encoder.name, "-crf", _QUALITY, "-filter:v:0", _to_yuv(film, encoder.layout), *_tags(film)),
        *(*encoder.arguments, "-f", container, local(target)),
    ]


def rehearse(source: Path, target: Path, film: Film, encoder: Encoder) -> None:
    """Write one frame and some seconds of sound, so that what cannot be written is known before hours of work.

    Raises:
        InputError: ffmpeg has not the encoder, or the container does not hold a stream of the film.
    """
    container = CONTAINERS[target.suffix.lower()]
    black = bytes(64 * 64 * 3 * (2 if is_deep(film) else 1))
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, f"trial{target.suffix}")
        command = writing(source, trial, film, encoder, (64, 64), container, seconds=_REHEARSAL)
        failed = run_with(command, black)
    if failed is not None and "packets parsed" not in failed:  # sound that begins later is there in the end
        raise InputError(f"{target}: ffmpeg cannot write the film: {reason(failed)}{_next_move(failed, target)}")


def left_out(film: Film, container: str) -> tuple[str, ...]:
    """What the container does not take as it is, for the user."""
    notes = [f"its {s.codec} subtitles become {_subtitle_codec(s.codec, container)}" for s in film.subtitles
             if _subtitle_codec(s.codec, container) != "copy"]  # fmt: skip
    if film.attachments and container != "matroska":
        notes.append(f"its attachments ({film.attachments}), such as fonts, are dropped: only .mkv files hold them")
    if film.covers and container == "matroska":  # ffmpeg would make films of them
        notes.append("its cover picture is dropped: .mkv files hold it as an attachment, which this is not made into")
    return tuple(notes)


def _next_move(failed: str, target: Path) -> str:
    if not re.search("container|codec tag|not supported|unsupported|only|experimental", failed, re.IGNORECASE):
        return ""
    if target.suffix.lower() != ".mkv":
        return "; name the result .mkv, which holds nearly everything"
    return "; take that stream out first: ffmpeg -i IN -map 0 -map -0:STREAM -c copy OUT.mkv"


def _other_streams(film: Film, container: str) -> Sequence[str]:
    chosen = ["-map", "0:v", "-map", "1:a?", "-c:a", "copy"]
    for i, subtitles in enumerate(film.subtitles):
        chosen += ["-map", f"1:{subtitles.stream}", f"-c:s:{i}", _subtitle_codec(subtitles.codec, container)]
    for i, index in enumerate(film.covers if container != "matroska" else (), 1):
        chosen += ["-map", f"1:{index}", f"-c:v:{i}", "copy", f"-disposition:v:{i}", "attached_pic"]
    if container == "matroska":
        chosen += ["-map", "1:t?", "-c:t", "copy"]
    return [*chosen, "-map_metadata", "1", "-map_chapters", "1"]


def _subtitle_codec(codec: str, container: str) -> str:
    held, other = _HELD["matroska" if container == "matroska" else "mp4"]
    return other if codec in _TEXT and codec not in held else "copy"


def _to_yuv(film: Film, layout: str) -> str:
    colour = film.colour
    return ",".join(
        [
            f"scale=out_color_matrix={MATRICES[colour.matrix]}:out_range={_range(film)}:{_EXACT}",
            f"format={layout}",
            f"setsar={film.pixel.numerator}/{film.pixel.denominator}",
            f"setparams=range={_range(film)}:color_primaries={colour.primaries}:color_trc={TRANSFERS[colour.transfer]}"
            f":colorspace={colour.matrix}",
        ]
    )


def _tags(film: Film) -> list[str]:
    colour = film.colour
    named = [("-colorspace:v:0", colour.matrix), ("-color_primaries:v:0", colour.primaries)]
    named += [("-color_trc:v:0", str(TRANSFERS[colour.transfer])), ("-color_range:v:0", _range(film))]
    return [text for pair in named for text in pair]


def _range(film: Film) -> str:
    return "pc" if film.colour.full else "tv"
