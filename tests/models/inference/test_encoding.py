"""The command lines of ffmpeg: encoders, containers, what is left out."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import pytest

from models.inference.encoding import encoder_for, left_out, reading, rehearse, writing
from models.inference.film import PQ, Colour, Film, Subtitles
from utils.errors import InputError

PLAIN = Film(Fraction(25), 10)
DEEP = dataclasses.replace(PLAIN, bits=10)
HDR = dataclasses.replace(DEEP, colour=Colour("bt2020nc", "bt2020", PQ), light="max-cll=1000,400")
SOURCE, TARGET = Path("a.mkv"), Path("b.mp4")


@pytest.fixture(autouse=True)
def formats(monkeypatch: pytest.MonkeyPatch) -> dict[str, frozenset[str]]:
    """What the encoders of an imagined ffmpeg take."""
    known = {name: frozenset({"yuv420p", "yuv420p10le"}) for name in ("libx264", "libx265")}
    monkeypatch.setattr("models.inference.encoding.encoder_formats", lambda name: known.get(name, frozenset()))
    monkeypatch.setattr("models.inference.encoding.program", lambda name: name)
    return known


def test_eight_bits_are_for_x264_and_more_for_x265() -> None:
    assert encoder_for(SOURCE, PLAIN, "mp4") == ("libx264", "yuv420p", ())
    params = ("-x265-params", "log-level=error")
    assert encoder_for(SOURCE, DEEP, "matroska") == ("libx265", "yuv420p10le", params)
    params = ("-x265-params", "log-level=error:hdr10=1:max-cll=1000,400")
    assert encoder_for(SOURCE, HDR, "mov") == ("libx265", "yuv420p10le", (*params, "-tag:v:0", "hvc1"))


def test_without_x265_ten_bits_are_for_x264_and_without_both_the_film_is_to_be_converted(
    formats: dict[str, frozenset[str]],
) -> None:
    del formats["libx265"]
    assert encoder_for(SOURCE, HDR, "mp4") == ("libx264", "yuv420p10le", ())
    formats["libx264"] = frozenset({"yuv420p"})
    with pytest.raises(InputError, match=r"a\.mkv: it has 10 bits .* convert .*: ffmpeg -i IN -vf format=yuv420p -c:a"):
        encoder_for(SOURCE, DEEP, "mp4")
    with pytest.raises(InputError, match=r"10 bits per channel and is HDR, .* -vf zscale=t=linear.*tonemap=hable"):
        encoder_for(SOURCE, HDR, "mp4")


def test_frames_come_and_go_by_the_matrix_of_the_film() -> None:
    text = " ".join(reading(SOURCE, HDR))
    assert "-vf fps=25:start_time=0,scale=in_color_matrix=bt2020:in_range=tv:" in text
    assert "-pix_fmt rgb48be" in text
    text = " ".join(writing(SOURCE, TARGET, HDR, encoder_for(SOURCE, HDR, "mp4"), (64, 48), "mp4"))
    assert "-pix_fmt rgb48le -s 64x48 -r 25 -i pipe:0" in text
    assert "scale=out_color_matrix=bt2020:out_range=tv:" in text
    assert "-colorspace:v:0 bt2020nc -color_primaries:v:0 bt2020 -color_trc:v:0 16 -color_range:v:0 tv" in text
    assert "scale=in_color" not in " ".join(reading(SOURCE, dataclasses.replace(PLAIN, colour=Colour(rgb=True))))


def test_what_a_container_does_not_hold_is_said() -> None:
    film = dataclasses.replace(
        PLAIN, subtitles=(Subtitles(2, "ass"), Subtitles(3, "hdmv_pgs_subtitle")), covers=(4,), attachments=2
    )
    assert left_out(film, "mp4") == (
        "its ass subtitles become mov_text",
        "its attachments (2), such as fonts, are dropped: only .mkv files hold them",
    )
    (cover,) = left_out(film, "matroska")
    assert cover.startswith("its cover picture is dropped")
    text = " ".join(writing(SOURCE, TARGET, film, encoder_for(SOURCE, film, "mp4"), (2, 2), "mp4"))
    assert "-map 1:2 -c:s:0 mov_text -map 1:3 -c:s:1 copy -map 1:4 -c:v:1 copy -disposition:v:1 attached_pic" in text
    assert "1:t?" not in text
    text = " ".join(writing(SOURCE, TARGET, film, encoder_for(SOURCE, film, "matroska"), (2, 2), "matroska"))
    assert "-c:s:0 copy" in text
    assert "1:4" not in text
    assert "-map 1:t? -c:t copy" in text


def test_a_rehearsal_without_sound_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "[mp4 @ 0x1] Cannot write moov atom before EAC3 packets parsed."
    monkeypatch.setattr("models.inference.encoding.run_with", lambda command, content: said)
    rehearse(SOURCE, TARGET, PLAIN, encoder_for(SOURCE, PLAIN, "mp4"))


@pytest.mark.parametrize(
    ("failed", "target", "message"),
    [
        ("codec not currently supported in container", "b.mp4", r"container; name the result \.mkv"),
        ("Only audio, video, and subtitles are supported", "b.mkv", r"take that stream out first: ffmpeg -i IN -map 0"),
        ("Unknown encoder 'libx264'", "b.mp4", r"cannot write the film: Unknown encoder 'libx264'$"),
    ],
)
def test_a_rehearsal_that_fails_says_the_next_move(
    monkeypatch: pytest.MonkeyPatch, failed: str, target: str, message: str
) -> None:
    commands = []

    def run(command: list[str], content: bytes) -> str:
        commands.append(command)
        assert len(content) == 64 * 64 * 3
        return failed

    monkeypatch.setattr("models.inference.encoding.run_with", run)
    with pytest.raises(InputError, match=message):
        rehearse(SOURCE, Path(target), PLAIN, encoder_for(SOURCE, PLAIN, "mp4"))
    assert commands[0][commands[0].index("-t") :][:4] == ["-t", "5", "-i", "file:a.mkv"]
