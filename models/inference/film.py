"""What a film is: rate, length, shape of its pixels, bits, colours, and the streams beside the pictures.

Colours of a film are coded by a matrix (Y'CbCr from R'G'B'), a transfer function and primaries, each of which the file
may name or not. Whoever plays a film without these tags guesses by its size, so that an upscaled film without tags
would be played in other colours than its source. Here the guess is made from the source, and written into the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from models.inference.ffmpeg import probe
from utils.errors import InputError

PQ, HLG = "smpte2084", "arib-std-b67"  # transfer functions of HDR films, as ffmpeg calls them
_UNKNOWN = (None, "", "unknown", "unspecified", "reserved")
# Matrices as files name them -> as ffmpeg's filter "scale" does.
MATRICES = {
    "bt709": "bt709", "fcc": "fcc", "bt470bg": "bt601", "smpte170m": "bt601", "smpte240m": "smpte240m",
    "bt2020nc": "bt2020", "bt2020c": "bt2020",
}  # fmt: skip
# Transfer functions as files name them -> their numbers in ITU-T H.273, since ffmpeg's encoders have other names.
TRANSFERS = {
    "bt709": 1, "bt470m": 4, "bt470bg": 5, "smpte170m": 6, "smpte240m": 7, "linear": 8, "log100": 9, "log316": 10,
    "iec61966-2-4": 11, "bt1361e": 12, "iec61966-2-1": 13, "bt2020-10": 14, "bt2020-12": 15, PQ: 16, "smpte428": 17,
    HLG: 18,
}  # fmt: skip
_LIGHT = ("green", "blue", "red", "white_point")
_INTERLACED = ("tt", "bb", "tb", "bt")
_FASTEST = 120  # frames per second; what ffprobe says beyond that of a variable rate is the clock's, not the film's


class Colour(NamedTuple):
    """How colours are coded, in ffmpeg's names.

    Attributes:
        matrix: of Y'CbCr: a key of ``MATRICES``.
        primaries: such as "bt709".
        transfer: function, a key of ``TRANSFERS``.
        full: levels 0 .. 255 rather than 16 .. 235.
        rgb: the source is R'G'B', to which matrix and range do not apply.
    """

    matrix: str = "bt709"
    primaries: str = "bt709"
    transfer: str = "bt709"
    full: bool = False
    rgb: bool = False

    @property
    def hdr(self) -> str | None:
        """Name of the kind of HDR, if it is."""
        return {PQ: "PQ", HLG: "HLG"}.get(self.transfer)


class Subtitles(NamedTuple):
    """A stream of subtitles: its number among the streams of the file, and its codec."""

    stream: int
    codec: str


@dataclasses.dataclass(frozen=True)
class Film:
    """What is known of a film beforehand.

    Attributes:
        rate: frames per second, as a fraction; of a variable rate the fastest, at which no frame is left out.
        frames: their number, estimated where the file does not say; 0 where nothing is known.
        pixel: width / height of a pixel, after the rotation that the film asks for.
        bits: per channel.
        colour: how it is coded.
        light: mastering display and light levels of an HDR film as x265 takes them, or "".
        subtitles: all of them.
        covers: indices of the streams that are cover pictures.
        attachments: number of attached files, such as fonts.
        height: of a frame, before any rotation.
        width: of a frame.
        notes: what will be lost or is odd, for the user.
    """

    rate: Fraction
    frames: int
    pixel: Fraction = Fraction(1)
    bits: int = 8
    colour: Colour = dataclasses.field(default_factory=Colour)
    light: str = ""
    subtitles: tuple[Subtitles, ...] = ()
    covers: tuple[int, ...] = ()
    attachments: int = 0
    notes: tuple[str, ...] = ()
    height: int = 0
    width: int = 0


def inspect_film(path: Path) -> Film:
    """What is known of a film; of several streams of pictures, the first counts.

    Raises:
        InputError: ffmpeg is not installed, the file holds no film, or its colours are coded in an unknown way.
    """
    found = probe(path, ["-show_streams", "-show_format", "-show_chapters"])
    streams = found.get("streams", [])
    video = [s for s in streams if s.get("codec_type", "video") == "video" and not _disposed(s, "attached_pic")]
    if not video:
        raise InputError(f"{path}: the film cannot be read: it has no video stream")
    first = video[0]
    if any(side.get("dv_bl_signal_compatibility_id") == 0 for side in first.get("side_data_list", [])):
        raise InputError(
            f"{path}: its colours are those of Dolby Vision alone (profile 5), which cannot be read here; convert it "
            "to HDR10 first, with ffmpeg's filter libplacebo"
        )
    rate, constant = _rate(first)
    whole = found.get("format", {})
    counted = str(first.get("nb_frames", "")) if constant else ""
    colour = _colour(path, first)
    return Film(
        rate=rate,
        frames=int(counted) if counted.isdecimal() else round(_number(whole.get("duration")) * rate),
        pixel=_pixel(first),
        bits=_bits(first),
        colour=colour,
        light=_light(path) if colour.transfer == PQ else "",
        subtitles=tuple(
            Subtitles(s["index"], s.get("codec_name", "unknown")) for s in streams if s.get("codec_type") == "subtitle"
        ),
        covers=tuple(s["index"] for s in streams if _disposed(s, "attached_pic")),
        attachments=sum(s.get("codec_type") == "attachment" for s in streams),
        notes=_notes(first, len(video), _data_streams(streams, chapters=bool(found.get("chapters"))), colour),
        height=int(first.get("height", 0)),
        width=int(first.get("width", 0)),
    )


def _rate(stream: dict[str, Any]) -> tuple[Fraction, bool]:
    """Frames per second of the result, and whether the film has as many frames as that and its length say."""
    mean, fine = (_fraction(stream.get(name)) for name in ("avg_frame_rate", "r_frame_rate"))
    if mean <= 0:
        return (fine, True) if fine > 0 else (Fraction(25), True)
    # At the mean of a variable rate the fast parts would lose frames. Of interlaced films "fine" may count fields.
    if mean < fine <= _FASTEST and stream.get("field_order") not in _INTERLACED:
        return fine, False
    return mean, True


def _data_streams(streams: Sequence[dict[str, Any]], *, chapters: bool) -> int:
    """Streams that are neither seen nor heard; the text of chapters, which are copied, is none of them."""
    data = [s for s in streams if s.get("codec_type") == "data"]
    return sum(not (chapters and s.get("codec_name") == "bin_data") for s in data)


def _disposed(stream: dict[str, Any], name: str) -> bool:
    return bool(stream.get("disposition", {}).get(name))


def _colour(path: Path, stream: dict[str, Any]) -> Colour:
    layout = stream.get("pix_fmt") or ""
    rgb = layout.startswith(("rgb", "bgr", "gbr", "argb", "abgr", "0rgb", "0bgr", "x2rgb", "x2bgr", "pal", "bayer"))
    wide = stream.get("width", 0) >= 1280 or stream.get("height", 0) > 576  # what players take for high definition
    matrix = stream.get("color_space")
    if rgb or matrix in ("gbr", "rgb"):
        rgb, matrix = True, "bt709"
    elif matrix in _UNKNOWN:
        matrix = "bt709" if wide else "smpte170m"
    if matrix not in MATRICES:
        raise InputError(
            f"{path}: its colours are coded by {matrix}, which cannot be read here; convert them first: "
            "ffmpeg -i IN -vf scale=out_color_matrix=bt709 -colorspace bt709 -c:a copy OUT.mkv"
        )
    primaries, transfer = stream.get("color_primaries"), stream.get("color_transfer")
    if primaries in _UNKNOWN:
        sizes = {480: "smpte170m", 486: "smpte170m", 576: "bt470bg"}
        primaries = "bt2020" if matrix.startswith("bt2020") else "bt709"
        primaries = sizes.get(stream.get("height", 0), primaries) if MATRICES[matrix] == "bt601" else primaries
    if transfer not in TRANSFERS:
        transfer = "bt2020-10" if matrix.startswith("bt2020") else "bt709"
    full = stream.get("color_range") == "pc" or layout.startswith("yuvj")
    # Constant luminance takes another computation than a matrix; it is rare, and comes close.
    return Colour("bt2020nc" if matrix == "bt2020c" else matrix, str(primaries), str(transfer), full and not rgb, rgb)


def _bits(stream: dict[str, Any]) -> int:
    """Bits per channel, from the name of the pixel format: yuv420p10le, p010le, x2rgb10le, gbrp12be, rgb48le."""
    layout = stream.get("pix_fmt") or ""
    if layout.startswith(("rgb48", "bgr48", "rgba64", "bgra64", "gray16", "ya16")):
        return 16
    for bits in (16, 14, 12, 10, 9):
        if layout.removesuffix("le").removesuffix("be").endswith((f"p{bits}", f"gray{bits}", f"rgb{bits}", f"0{bits}")):
            return bits
    return 32 if "f32" in layout else 8


def _pixel(stream: dict[str, Any]) -> Fraction:
    """Width / height of a pixel, when the film is shown upright; 1 where nothing is said."""
    text = str(stream.get("sample_aspect_ratio", "")).replace(":", "/")
    shape = _fraction(text)
    turns = [side.get("rotation") for side in stream.get("side_data_list", [])]
    turns.append(stream.get("tags", {}).get("rotate"))
    turn = next((_number(turn) for turn in turns if turn is not None), 0.0)
    if shape <= 0:
        return Fraction(1)
    return 1 / shape if round(turn / 90) % 2 else shape


def _light(path: Path) -> str:
    """Mastering display and light levels as x265 takes them, from the first frame; "" where it has none."""
    shown = ["-select_streams", "V:0", "-show_frames", "-read_intervals", "%+#1"]
    frames = probe(path, [*shown, "-show_entries", "frame=side_data_list"]).get("frames") or [{}]
    parts = []
    for side in frames[0].get("side_data_list", []):
        if side.get("side_data_type") == "Mastering display metadata" and "red_x" in side:
            points = [[round(_fraction(side[f"{name}_{axis}"]) * 50000) for axis in "xy"] for name in _LIGHT]
            levels = [round(_fraction(side[f"{name}_luminance"]) * 10000) for name in ("max", "min")]
            pairs = zip(("G", "B", "R", "WP", "L"), [*points, levels], strict=True)
            parts.append("master-display=" + "".join(f"{name}({a},{b})" for name, (a, b) in pairs))
        elif side.get("side_data_type") == "Content light level metadata":
            parts.append(f"max-cll={side['max_content']},{side['max_average']}")
    return ":".join(parts)


def _notes(stream: dict[str, Any], videos: int, data: int, colour: Colour) -> tuple[str, ...]:
    notes = []
    if colour.hdr:
        notes.append(
            f"HDR ({colour.hdr}): the network, which learnt from SDR pictures, works on its levels as they are coded; "
            "the result has 10 bits and the same tags"
        )
    if _bits(stream) > 10:
        notes.append(f"{_bits(stream)} bits per channel become 10")
    if stream.get("field_order") in _INTERLACED:
        notes.append(
            "it is interlaced, and its frames are upscaled as they are, with combs where something moves; better "
            "deinterlace it first: ffmpeg -i IN -vf bwdif -c:a copy OUT"
        )
    layout = stream.get("pix_fmt") or ""
    if layout.startswith(("yuva", "rgba", "bgra", "argb", "abgr", "gbrap", "ya")) or str(
        stream.get("tags", {}).get("alpha_mode", "")
    ).startswith("1"):
        notes.append("its transparency is dropped: the result can hold none")
    sides = [str(side.get("side_data_type", "")) for side in stream.get("side_data_list", [])]
    if any("DOVI" in side for side in sides):
        notes.append("its Dolby Vision metadata is dropped; what remains is what other players show")
    if videos > 1:
        notes.append(f"the first of its {videos} video streams is upscaled, the others are dropped")
    if data:
        notes.append(f"its data streams ({data}), such as time codes and positions, are dropped")
    return tuple(notes)


def _fraction(text: object) -> Fraction:
    try:
        return Fraction(str(text or "0"))
    except (ValueError, ZeroDivisionError):  # "0/0", "N/A": not known
        return Fraction(0)


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:  # "N/A", or nothing
        return 0.0
