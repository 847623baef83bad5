"""What ffmpeg is asked for, and which of its lines is the reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from models.inference import ffmpeg
from models.inference.ffmpeg import encoder_formats, local, probe, program, reason, run_with
from tests.models.inference.films import needs_ffmpeg
from utils.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[mp4 @ 0x55d0c8a0] Could not find tag for codec subrip in stream #2, codec not currently supported in "
            "container\nCould not write header for output file #0 (incorrect codec parameters ?): Invalid argument\n"
            "Error initializing output stream 0:0 -- \n",
            "Could not find tag for codec subrip in stream #2, codec not currently supported in container",
        ),
        ("\nUnknown encoder 'libx264'\n", "Unknown encoder 'libx264'"),
        ("av_interleaved_write_frame(): No space left on device\nConversion failed!\n",
         "av_interleaved_write_frame(): No space left on device"),
        ("Conversion failed!\n", "Conversion failed!"),
        ("", "it says nothing about the reason"),
    ],
)  # fmt: skip
def test_the_reason_is_the_first_line_that_is_no_consequence(text: str, expected: str) -> None:
    assert reason(text) == expected


def test_names_that_begin_like_a_protocol_or_an_option_are_files() -> None:
    assert local(Path("-x.mkv")) == "file:-x.mkv"
    assert local(Path("pipe:1")) == "file:pipe:1"


def test_programs_that_are_not_installed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="films need the programs ffmpeg and ffprobe, and ffprobe is not installed"):
        program("ffprobe")


def test_what_a_program_says_when_it_fails() -> None:
    code = "import sys; sys.exit(sys.stdin.read() or 0)"
    assert run_with([sys.executable, "-c", code], b"no space") == "no space\n"
    assert run_with([sys.executable, "-c", code], b"") is None


def test_a_program_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "_LIMIT", 0.3)
    with pytest.raises(InputError, match=r"did not end within 0 s: -c import time.*; the program or the disk hangs"):
        run_with([sys.executable, "-c", "import time; time.sleep(60)"], b"")


@needs_ffmpeg
def test_files_that_are_no_films(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no film")
    with pytest.raises(InputError, match=r"a\.mp4: the film cannot be read: .*[a-z]"):
        probe(tmp_path / "a.mp4", ["-show_streams"])
    assert "yuv420p" in encoder_formats("libx264")
    assert encoder_formats("no_such_encoder") == frozenset()
