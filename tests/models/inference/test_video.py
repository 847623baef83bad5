"""Films: what ffmpeg is asked, frames in and out, failures; with small programs in its place, and with itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from data.images.files import Pixels
from models.inference.video import Film, inspect_film, upscale_film
from tests.data.pictures import noise
from utils.errors import InputError

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
    assert f"fps={RATE}" in arguments
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


def doubled(frame: Pixels) -> Pixels:
    return frame.repeat(2, 0).repeat(2, 1)


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="programs are scripts")


def test_every_frame_of_a_film_is_upscaled(programs: object, tmp_path: Path) -> None:
    source = film(tmp_path / "a.mkv")
    found = inspect_film(source)
    assert found == Film(Fraction(30000, 1001), 3)
    target = tmp_path / "deeper/out.mkv"
    assert upscale_film(source, target, found, doubled) == 3
    head, _, content = target.read_bytes().partition(b" 30000/1001 ")
    assert head == b"20x12"
    assert content == b"".join(doubled(frame).tobytes() for frame in FRAMES)
    assert [path.name for path in target.parent.iterdir()] == ["out.mkv"]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ('{"avg_frame_rate": "0/0", "r_frame_rate": "24/1"}', Film(Fraction(24), 36)),
        ('{"avg_frame_rate": "25/1", "nb_frames": "N/A"}', Film(Fraction(25), 38)),
        ("{}", Film(Fraction(25), 38)),
    ],
)
def test_rate_and_length_are_estimated_where_the_film_does_not_say(
    programs: Callable[[str], None], tmp_path: Path, stream: str, expected: Film
) -> None:
    programs(stream)
    assert inspect_film(film(tmp_path / "a.mkv")) == expected


def test_failures_of_ffmpeg_are_reported_and_leave_no_file(
    programs: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Film(Fraction(30000, 1001), 3)
    with pytest.raises(InputError, match=r"bad\.mkv: the film cannot be read: no film"):
        inspect_film(film(tmp_path / "bad.mkv"))
    broken = film(tmp_path / "broken.mkv")
    with pytest.raises(InputError, match=r"broken\.mkv: the film cannot be read to its end: error in the middle"):
        upscale_film(broken, tmp_path / "out.mkv", known, doubled)
    with pytest.raises(InputError, match=r"full\.mkv: ffmpeg cannot write the film: no space"):
        upscale_film(film(tmp_path / "a.mkv", [noise(300, 300)] * 9), tmp_path / "full.mkv", known, doubled)
    with pytest.raises(InputError, match="the film has no frames"):
        upscale_film(film(tmp_path / "none.mkv", []), tmp_path / "out.mkv", known, doubled)
    (tmp_path / "odd.mkv").write_bytes(b"something else\n\n\n")
    with pytest.raises(InputError, match="no PPM picture"):
        upscale_film(tmp_path / "odd.mkv", tmp_path / "out.mkv", known, doubled)

    def stop(frame: Pixels) -> Pixels:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        upscale_film(film(tmp_path / "a.mkv", FRAMES * 500), tmp_path / "out.mkv", known, stop)
    programs("")
    with pytest.raises(InputError, match="it has no video stream"):
        inspect_film(film(tmp_path / "a.mkv"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="films need the programs ffmpeg and ffprobe, and ffprobe is not installed"):
        inspect_film(tmp_path / "a.mkv")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name or ".part" in path.name]


@pytest.mark.skipif(not (shutil.which("ffmpeg") and shutil.which("ffprobe")), reason="ffmpeg is not installed")
def test_a_real_film_is_upscaled_with_ffmpeg(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 30).astype(np.uint8)[:, None, None] * np.ones((1, 40, 3), np.uint8)
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        "40x30",
        "-r",
        "24",
        "-i",
        "pipe:0",
    ]
    source, target = tmp_path / "a b.mkv", tmp_path / "out.mkv"
    subprocess.run([*command, "-c:v", "ffv1", str(source)], input=smooth.tobytes() * 5, check=True)
    found = inspect_film(source)
    assert found == Film(Fraction(24), 5)
    seen: list[Pixels] = []

    def tripled(frame: Pixels) -> Pixels:
        seen.append(frame)
        return frame.repeat(3, 0).repeat(3, 1)[:-1]  # an odd height

    assert upscale_film(source, target, found, tripled) == 5
    assert np.abs(seen[0].astype(int) - smooth).max() <= 3
    assert inspect_film(target) == Film(Fraction(24), 5)
    frames: list[Pixels] = []

    def kept(frame: Pixels) -> Pixels:
        frames.append(frame)
        return frame

    assert upscale_film(target, tmp_path / "read_back.mkv", found, kept) == 5
    assert [frame.shape for frame in frames] == [(90, 120, 3)] * 5
    assert np.abs(frames[0].astype(int)[:89] - tripled(smooth)).mean() < 6
