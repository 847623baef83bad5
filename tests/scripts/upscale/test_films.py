"""scripts/upscale.py: films among the inputs."""

from __future__ import annotations

import io
import itertools
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from data.images.files import read_image
from data.images.photo import Photo
from models.inference.film import Film
from tests.models.inference.films import TEST, ffmpeg, needs_ffmpeg, streams
from utils.errors import InputError


def test_a_film_without_ffmpeg_fails_and_the_pictures_are_upscaled(
    run: Callable[..., int], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (folder / "film.mp4").write_bytes(b"film")
    monkeypatch.setattr("models.inference.ffmpeg.shutil.which", lambda name: None)
    assert run(folder) == 1
    written = capsys.readouterr()
    assert "film.mp4: films need the programs ffmpeg and ffprobe, and ffprobe is not installed" in written.err
    assert "3 upscaled, 0 left as they were, 1 failed" in written.out


def test_films_that_fail_leave_no_bar_on_the_terminal(
    run: Callable[..., int], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def fail(source: Path, target: Path, film: Film, frame: Callable[[Any], Any]) -> None:
        for _ in range(3):
            frame(read_image(folder / "a.png"))
        raise InputError(f"{source}: the disk is full")

    monkeypatch.setattr("scripts.upscale.inspect_film", lambda path: Film(Fraction(25), 10))
    monkeypatch.setattr("scripts.upscale.upscale_film", fail)
    monkeypatch.setattr("time.monotonic", itertools.count().__next__)  # every step is drawn
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "film.mp4").touch()
    assert run(tmp_path / "film.mp4") == 1
    assert "film.mp4 3/10" in screen.getvalue()
    shown = [line.rsplit("\x1b[2K", 1)[-1] for line in screen.getvalue().split("\n") if "INFO: weights" not in line]
    assert shown == [f"failed: {tmp_path / 'film.mp4'}: the disk is full", ""]
    (folder / "b.bmp").write_bytes(b"BM")
    screen.truncate(0)
    assert run(folder) == 1
    assert "kpixels" in screen.getvalue().split("\n")[-2]
    assert " 1/1 " in screen.getvalue().split("\n")[-2]  # two pictures of half a thousand pixels


@needs_ffmpeg
def test_a_film_is_upscaled_with_its_notes(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("-vf", "setsar=16/11,setfield=tff", "-flags", "+ilme+ildct", "-c:v", "mpeg2video")
    ffmpeg(*TEST, *arguments, tmp_path / "a.mpg")
    assert run(tmp_path / "a.mpg") == 0
    out = tmp_path / "out/a.mkv"
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'a.mpg'}: it is interlaced, and its frames are upscaled as they are" in printed
    assert f"{out}: 5 frames, " in printed
    assert streams(out)[0]["display_aspect_ratio"] == streams(tmp_path / "a.mpg")[0]["display_aspect_ratio"] == "16:9"


@needs_ffmpeg
def test_frames_that_are_repeated_are_upscaled_once(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ffmpeg(*TEST, "-vf", "trim=end_frame=2,loop=3:1,setpts=N/10/TB", "-c:v", "ffv1", tmp_path / "a.mkv")  # 1 1 1 1 2
    calls: list[Photo] = []

    def count(photo: Photo, upscaler: object) -> Photo:
        calls.append(photo)
        return photo

    monkeypatch.setattr("scripts.upscale.upscale_photo", count)
    assert run(tmp_path / "a.mkv") == 0
    assert len(calls) == 2
    ffmpeg("-i", tmp_path / "out/a.mkv", tmp_path / "%d.png")
    assert len(list(tmp_path.glob("?.png"))) == 5
