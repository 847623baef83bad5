"""Films: what ffmpeg is asked, frames in and out, failures; with small programs in its place, and with itself."""

from __future__ import annotations

import errno
import itertools
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.images.files import Pixels
from data.images.photo import Levels
from models.inference.film import PQ, Film, inspect_film
from models.inference.video import film_notes, upscale_film
from tests.data.pictures import noise
from tests.models.inference.films import (
    SOUND,
    TEST,
    X264,
    coded,
    decoded,
    ffmpeg,
    needs_ffmpeg,
    needs_x265,
    ramp,
    streams,
    tags,
)  # fmt: skip
from utils.errors import InputError, StopRequested
from utils.signals import leave_at_once

FRAMES = [noise(6, 10, seed) for seed in range(3)]

# A film is, for these programs, its frames as PPM pictures; "bad" in its name makes them fail.
PROBE = """
import sys
source = sys.argv[-1].removeprefix("file:")
if "bad" in source:
    sys.exit("no film")
print('{"streams": [%s], "format": {"duration": "1.5"}}' % STREAM)
"""
FFMPEG = """
import shutil, sys
from pathlib import Path
arguments = sys.argv[1:]
source = arguments[arguments.index("-i") + 1].removeprefix("file:")
if "image2pipe" in arguments:
    assert any(text.startswith(f"fps={RATE}:start_time=0,") for text in arguments)
    sys.stdout.buffer.write(Path(source).read_bytes())
    sys.exit("error in the middle" if "broken" in source else 0)
target = Path(arguments[-1].removeprefix("file:"))
size, rate = (arguments[arguments.index(name) + 1] for name in ("-s", "-r"))
if "full" in target.name:
    target.write_bytes(b"begun")
    sys.exit("no space")
with target.open("wb") as file:
    file.write(f"{size} {rate} ".encode())
    shutil.copyfileobj(sys.stdin.buffer, file)
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts the programs into the place of ffmpeg's, for films of a given stream."""

    def install(stream: str, rate: str = "30000/1001") -> None:
        for name, text in (("ffprobe", PROBE), ("ffmpeg", FFMPEG)):
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            program = path.with_suffix(".py")
            program.write_text(f"STREAM, RATE = {stream!r}, {rate!r}\n{text}")
            # Not in the first line itself, which cannot name an interpreter whose path has a space.
            path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -SE "{program}" "$@"\n')
            path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    install('{"avg_frame_rate": "30000/1001", "nb_frames": "3"}')
    return install


def film(path: Path, frames: list[Pixels] = FRAMES) -> Path:
    content = b"".join(b"P6\n%d %d\n255\n" % (f.shape[1], f.shape[0]) + f.tobytes() for f in frames)
    path.write_bytes(content)
    return path


def doubled(frame: Any) -> Any:
    """A frame twice as high and wide."""
    return frame.repeat(2, 0).repeat(2, 1)


KNOWN = Film(Fraction(30000, 1001), 3)
# A film of Blu-ray subtitles: two compositions without objects, and their ends.
SUBTITLE_PICTURE = b"".join(
    b"PG" + struct.pack(">IIBH", stamp, 0, kind, len(content)) + content
    for stamp in (9000, 36000)
    for kind, content in ((0x16, struct.pack(">HHBHBBBB", 64, 48, 0x10, 0, 0x80, 0, 0, 0)), (0x80, b""))
)

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="programs are scripts")


def test_every_frame_of_a_film_is_upscaled(programs: object, tmp_path: Path) -> None:
    source = film(tmp_path / "a.mkv")
    found = inspect_film(source)
    assert (found.rate, found.frames) == (Fraction(30000, 1001), 3)
    target = tmp_path / "deeper/out.mkv"
    assert upscale_film(source, target, found, doubled) == (3, "")
    head, _, content = target.read_bytes().partition(b" 30000/1001 ")
    assert head == b"20x12"
    assert content == b"".join(doubled(frame).tobytes() for frame in FRAMES)
    assert [path.name for path in target.parent.iterdir()] == ["out.mkv"]


def test_odd_sides_repeat_their_last_row_and_column(programs: object, tmp_path: Path) -> None:
    source = film(tmp_path / "a.mkv")
    upscale_film(source, tmp_path / "out.mkv", KNOWN, lambda frame: frame[:5, :9])
    head, _, content = (tmp_path / "out.mkv").read_bytes().partition(b" 30000/1001 ")
    assert head == b"10x6"
    first = np.frombuffer(content, np.uint8)[: 6 * 10 * 3].reshape(6, 10, 3)
    assert np.array_equal(first[:5, :9], FRAMES[0][:5, :9])
    assert np.array_equal(first[5], first[4])
    assert np.array_equal(first[:, 9], first[:, 8])


def test_failures_of_ffmpeg_are_reported_and_leave_no_file(
    programs: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"bad\.mkv: the film cannot be read: no film"):
        inspect_film(film(tmp_path / "bad.mkv"))
    broken = film(tmp_path / "broken.mkv")
    with pytest.raises(InputError, match=r"broken\.mkv: the film cannot be read to its end: error in the middle"):
        upscale_film(broken, tmp_path / "out.mkv", KNOWN, doubled)
    with pytest.raises(InputError, match=r"full\.mkv: ffmpeg cannot write the film: no space"):
        upscale_film(film(tmp_path / "a.mkv", [noise(300, 300)] * 9), tmp_path / "full.mkv", KNOWN, doubled)
    with pytest.raises(InputError, match="the film has no frames"):
        upscale_film(film(tmp_path / "none.mkv", []), tmp_path / "out.mkv", KNOWN, doubled)
    with pytest.raises(InputError, match="the size of its frames changes in the middle"):
        upscale_film(film(tmp_path / "two.mkv", [noise(6, 6), noise(8, 8)]), tmp_path / "out.mkv", KNOWN, doubled)
    (tmp_path / "odd.mkv").write_bytes(b"something else\n\n\n")
    with pytest.raises(InputError, match="no PPM picture"):
        upscale_film(tmp_path / "odd.mkv", tmp_path / "out.mkv", KNOWN, doubled)
    with pytest.raises(InputError, match="cannot be written: the name is too long"):
        upscale_film(film(tmp_path / "a.mkv"), tmp_path / f"{'x' * 245}.mkv", KNOWN, doubled)
    programs("")
    with pytest.raises(InputError, match="it has no video stream"):
        inspect_film(film(tmp_path / "a.mkv"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="films need the programs ffmpeg and ffprobe, and ffprobe is not installed"):
        inspect_film(tmp_path / "a.mkv")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name or ".part" in path.name]


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, StopRequested)])
def test_signals_leave_no_file(programs: object, tmp_path: Path, number: int, error: type[BaseException]) -> None:
    def stop(frame: Levels) -> Levels:
        assert list(tmp_path.glob(".out.mkv.*.part"))
        signal.raise_signal(number)
        return frame

    with pytest.raises(error), leave_at_once():
        upscale_film(film(tmp_path / "a.mkv", FRAMES * 500), tmp_path / "out.mkv", KNOWN, stop)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_what_a_killed_run_left_is_removed_and_what_another_writes_is_not(programs: object, tmp_path: Path) -> None:
    import fcntl

    ours, others, later = (tmp_path / name for name in (".out.mkv.1.part", ".out.mkv.2.part", ".other.mkv.3.part"))
    for path in (ours, others, later):
        path.write_bytes(b"begun")
    with others.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        upscale_film(film(tmp_path / "a.mkv"), tmp_path / "out.mkv", KNOWN, doubled)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == [later.name, others.name]


def test_locks_that_the_file_system_has_not_stop_nothing(
    programs: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".out.mkv.1.part").write_bytes(b"begun")
    monkeypatch.setattr("fcntl.flock", refuse)
    upscale_film(film(tmp_path / "a.mkv"), tmp_path / "out.mkv", KNOWN, doubled)
    assert (tmp_path / ".out.mkv.1.part").exists()  # perhaps somebody is writing it


@needs_ffmpeg
class TestWithFfmpeg:
    """Films as ffmpeg makes them, put through repetition of pixels, which changes nothing but the size."""

    @pytest.mark.parametrize(
        ("matrix", "span", "arguments", "expected"),
        [
            ("bt601", "tv", (), ("tv", "smpte170m", "bt709", "bt709")),  # nobody says; the result does
            ("bt601", "tv", tags("smpte170m", "smpte170m", "smpte170m", "tv"),
             ("tv", "smpte170m", "smpte170m", "smpte170m")),
            ("bt601", "tv", tags("bt470bg", "bt470bg", "gamma28", "tv"), ("tv", "bt470bg", "bt470bg", "bt470bg")),
            ("bt709", "tv", tags("bt709", "bt709", "bt709", "tv"), ("tv", "bt709", "bt709", "bt709")),
            ("bt709", "pc", tags("bt709", "bt709", "iec61966-2-1", "pc"), ("pc", "bt709", "bt709", "iec61966-2-1")),
        ],
    )  # fmt: skip
    def test_colours_survive(
        self, tmp_path: Path, matrix: str, span: str, arguments: tuple[str, ...], expected: tuple[str, ...]
    ) -> None:
        source = coded(tmp_path / "a.mkv", matrix, span, "yuv420p", "-c:v", "libx264", "-qp", "0", *arguments)
        seen: list[Levels] = []

        def frame(pixels: Levels) -> Any:
            seen.append(pixels)
            return doubled(pixels)

        assert upscale_film(source, tmp_path / "b.mp4", inspect_film(source), frame) == (3, "")
        assert np.abs(seen[0] / 255 - ramp()).mean() < 1 / 255
        (stream,) = streams(tmp_path / "b.mp4")
        names = ("color_range", "color_space", "color_primaries", "color_transfer")
        assert tuple(stream[name] for name in names) == expected
        assert (stream["width"], stream["height"]) == (128, 96)
        assert np.abs(decoded(tmp_path / "b.mp4") - doubled(ramp())).mean() < 1.5 / 255

    def test_a_variable_rate_becomes_its_fastest(self, tmp_path: Path) -> None:
        source = tmp_path / "a.mp4"  # six frames at 10 per second, then three at 5: 7.7 in the mean
        test = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=1.2", "-vf", "select='lt(n,6)+not(mod(n,2))'")
        ffmpeg(*test, *X264, tmp_path / "a.mkv")  # of which the rate stays variable in every version of ffmpeg
        ffmpeg("-i", tmp_path / "a.mkv", "-c", "copy", source)
        found = inspect_film(source)
        assert (found.rate, found.frames) == (Fraction(10), 11)
        seen: list[Levels] = []

        def frame(pixels: Levels) -> Any:
            seen.append(pixels)
            return pixels

        count = upscale_film(source, tmp_path / "b.mp4", found, frame).frames
        changes = [not np.array_equal(a, b) for a, b in itertools.pairwise(seen)]
        assert (count, changes) == (11, [True] * 6 + [False, True] * 2)

    @needs_x265
    @pytest.mark.parametrize(
        ("matrix", "arguments", "expected"),
        [
            ("bt2020", tags("bt2020nc", "bt2020", PQ, "tv"), ("bt2020nc", "bt2020", PQ)),
            ("bt2020", tags("bt2020nc", "bt2020", "arib-std-b67", "tv"), ("bt2020nc", "bt2020", "arib-std-b67")),
            ("bt709", tags("bt709", "bt709", "bt709", "tv"), ("bt709", "bt709", "bt709")),
        ],
    )
    def test_ten_bits_and_hdr_stay(
        self, tmp_path: Path, matrix: str, arguments: tuple[str, ...], expected: tuple[str, ...]
    ) -> None:
        light = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
        encoder = ("-c:v", "libx265", "-x265-params", f"lossless=1:log-level=error:hdr10=1:{light}")
        source = coded(tmp_path / "a.mkv", matrix, "tv", "yuv420p10le", *encoder, *arguments)
        found = inspect_film(source)
        seen: list[Levels] = []

        def frame(pixels: Levels) -> Any:
            seen.append(pixels)
            return doubled(pixels)

        assert upscale_film(source, tmp_path / "b.mp4", found, frame) == (3, "")
        assert seen[0].dtype == np.uint16
        assert np.abs(seen[0] / 65535 - ramp()).mean() < 0.3 / 255  # 8 bits alone would be at 0.75
        (stream,) = streams(tmp_path / "b.mp4")
        assert (stream["codec_tag_string"], stream["pix_fmt"]) == ("hvc1", "yuv420p10le")
        assert tuple(stream[name] for name in ("color_space", "color_primaries", "color_transfer")) == expected
        assert np.abs(decoded(tmp_path / "b.mp4") - doubled(ramp())).mean() < 1.2 / 255
        assert found.light == (light if PQ in expected else "")
        assert inspect_film(tmp_path / "b.mp4").light == found.light

    @pytest.mark.parametrize("turned", [False, True])
    def test_the_shape_that_is_displayed_stays(self, tmp_path: Path, turned: bool) -> None:
        ffmpeg(*TEST, *SOUND, *X264, "-c:a", "aac", "-vf", "setsar=16/11", tmp_path / "a.mp4")
        if turned:
            ffmpeg("-i", tmp_path / "a.mp4", "-c", "copy", "-metadata:s:v", "rotate=90", tmp_path / "turned.mp4")
            (tmp_path / "turned.mp4").replace(tmp_path / "a.mp4")
        found = inspect_film(tmp_path / "a.mp4")
        for name in ("b.mp4", "b.mkv"):
            upscale_film(tmp_path / "a.mp4", tmp_path / name, found, doubled)
            shape, size = ("33:64", (96, 128)) if turned else ("64:33", (128, 96))
            stream = streams(tmp_path / name)[0]
            assert stream["display_aspect_ratio"] == shape
            assert (stream["width"], stream["height"]) == size

    def test_sound_subtitles_chapters_covers_and_tags_stay(self, tmp_path: Path) -> None:
        (tmp_path / "s.srt").write_text("1\n00:00:00,100 --> 00:00:00,300\nhello\n")
        chapters = ";FFMETADATA1\ntitle=A film\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=250\ntitle=one\n"
        (tmp_path / "m.txt").write_text(chapters)
        ffmpeg(*TEST, "-frames:v", "1", tmp_path / "cover.png")
        ffmpeg(*TEST, *SOUND, "-i", tmp_path / "s.srt", "-i", tmp_path / "cover.png", "-i", tmp_path / "m.txt",
               "-map", "0", "-map", "1", "-map", "2", "-map", "3", "-map_metadata", "4", *X264, "-c:a", "aac", "-c:s",
               "mov_text", "-metadata:s:a:0", "language=deu", "-c:v:1", "png", "-disposition:v:1", "attached_pic",
               tmp_path / "a.mp4")  # fmt: skip
        found = inspect_film(tmp_path / "a.mp4")
        upscale_film(tmp_path / "a.mp4", tmp_path / "b.mp4", found, doubled)
        kinds = {s["codec_name"]: s for s in streams(tmp_path / "b.mp4")}
        assert {"h264", "aac", "mov_text", "png"} <= set(kinds)
        assert kinds["png"]["disposition"]["attached_pic"] == 1
        assert kinds["aac"]["tags"]["language"] == "deu"
        written = ffmpeg("-i", tmp_path / "b.mp4", "-f", "ffmetadata", "-")
        assert b"title=A film" in written
        assert b"title=one" in written
        assert b"hello" in ffmpeg("-i", tmp_path / "b.mp4", "-map", "0:s", "-f", "srt", "-")
        assert film_notes(found, tmp_path / "b.mp4") == ()

    def test_picture_and_sound_stay_together_where_the_picture_begins_later(self, tmp_path: Path) -> None:
        ffmpeg(*TEST, "-c:v", "libx264", "-bf", "0", tmp_path / "v.mkv")
        ffmpeg(*SOUND, "-itsoffset", "0.3", "-i", tmp_path / "v.mkv", "-map", "0:a", "-map", "1:v", "-c:v", "copy",
               "-c:a", "aac", tmp_path / "a.mkv")  # fmt: skip
        found = inspect_film(tmp_path / "a.mkv")
        assert upscale_film(tmp_path / "a.mkv", tmp_path / "b.mkv", found, doubled).frames == 8

    @pytest.mark.parametrize(
        ("codec", "suffix", "expected"),
        [("subrip", ".mp4", "mov_text"), ("ass", ".mov", "mov_text"), ("mov_text", ".mkv", "subrip")],
    )
    def test_text_that_the_container_does_not_take_is_converted(
        self, tmp_path: Path, codec: str, suffix: str, expected: str
    ) -> None:
        (tmp_path / "s.srt").write_text("1\n00:00:00,100 --> 00:00:00,300\nhello\n")
        source = tmp_path / ("a.mp4" if codec == "mov_text" else "a.mkv")
        ffmpeg(*TEST, "-i", tmp_path / "s.srt", "-map", "0", "-map", "1", *X264, "-c:s", codec, source)
        target = tmp_path / f"b{suffix}"
        found = inspect_film(source)
        upscale_film(source, target, found, doubled)
        assert film_notes(found, target) == (f"its {codec} subtitles become {expected}",)
        assert streams(target)[1]["codec_name"] == expected
        assert b"hello" in ffmpeg("-i", target, "-map", "0:s", "-f", "srt", "-")

    def test_streams_that_the_container_cannot_hold_are_known_before_the_network_works(self, tmp_path: Path) -> None:
        """Pictures as subtitles (of Blu-ray discs) cannot be turned into text; sound of .wav is none of MP4's."""

        def refuse(frame: Levels) -> Levels:
            raise AssertionError("the network worked")

        (tmp_path / "s.sup").write_bytes(SUBTITLE_PICTURE)
        ffmpeg(*TEST, "-i", tmp_path / "s.sup", "-map", "0", "-map", "1", *X264, "-c:s", "copy", tmp_path / "a.mkv")
        message = (
            r"b\.mp4: ffmpeg cannot write the film: .*hdmv_pgs_subtitle.*not currently supported in container; name "
            r"the result \.mkv, which holds nearly everything"
        )
        found = inspect_film(tmp_path / "a.mkv")
        with pytest.raises(InputError, match=message):
            upscale_film(tmp_path / "a.mkv", tmp_path / "b.mp4", found, refuse)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv", "s.sup"]
        upscale_film(tmp_path / "a.mkv", tmp_path / "b.mkv", found, doubled)
        assert [s["codec_name"] for s in streams(tmp_path / "b.mkv")] == ["h264", "hdmv_pgs_subtitle"]

    def test_what_the_source_lacks_is_said(self, tmp_path: Path) -> None:
        ffmpeg(*TEST, *X264, "-bf", "0", "-g", "1", tmp_path / "a.mkv")
        content = (tmp_path / "a.mkv").read_bytes()
        (tmp_path / "a.mkv").write_bytes(content[: len(content) * 3 // 5])
        outcome = upscale_film(tmp_path / "a.mkv", tmp_path / "b.mkv", inspect_film(tmp_path / "a.mkv"), doubled)
        assert 0 < outcome.frames < 5
        assert outcome.complaint


@pytest.mark.shared
@needs_ffmpeg
def test_the_films_of_the_cases(shared: Path, tmp_path: Path) -> None:
    subprocess.run(["bash", str(shared / "cases/make_films.sh"), str(tmp_path)], check=True)
    for source, name, shape, codecs in [
        ("sar.mp4", "out.mp4", "64:33", ["h264", "aac"]),
        ("subs.mkv", "out2.mp4", "4:3", ["h264", "aac", "mov_text"]),
    ]:
        upscale_film(tmp_path / source, tmp_path / name, inspect_film(tmp_path / source), doubled)
        written = streams(tmp_path / name)
        assert written[0]["display_aspect_ratio"] == shape
        assert [stream["codec_name"] for stream in written] == codecs
