"""What is known of films: shape of the pixels, bits, colours, streams, and what will be lost."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from models.inference.film import HLG, PQ, Colour, Film, inspect_film
from tests.models.inference.films import SOUND, TEST, X264, ffmpeg, needs_ffmpeg
from utils.errors import InputError

VIDEO: dict[str, Any] = {"codec_type": "video", "index": 0, "avg_frame_rate": "25/1", "nb_frames": "3"}


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Inspects a film of which ffprobe says this about the stream of pictures, and about the others."""

    def inspect(stream: dict[str, Any], *others: dict[str, Any], **more: Any) -> Film:
        answer = {"streams": [{**VIDEO, **stream}, *others], **more}
        frames = {"frames": [{"side_data_list": more.get("light", [])}]}
        monkeypatch.setattr("models.inference.film.probe", lambda path, a: frames if "-show_frames" in a else answer)
        return inspect_film(Path("film.mkv"))

    return inspect


@pytest.mark.parametrize(
    ("stream", "more", "expected"),
    [
        ({"avg_frame_rate": "0/0", "r_frame_rate": "24/1", "nb_frames": "N/A"}, {"duration": "1.5"}, (24, 36)),
        ({"avg_frame_rate": "30000/1001"}, {}, (Fraction(30000, 1001), 3)),
        ({"nb_frames": "N/A"}, {"duration": "1.5"}, (25, 38)),
        ({"avg_frame_rate": None, "nb_frames": None}, {}, (25, 0)),
        # Of a variable rate the fastest; fields of interlaced films and a clock's ticks are none.
        ({"avg_frame_rate": "45/2", "r_frame_rate": "30/1", "nb_frames": "90"}, {"duration": "4"}, (30, 120)),
        ({"r_frame_rate": "50/1", "field_order": "tt"}, {}, (25, 3)),
        ({"r_frame_rate": "90000/1"}, {}, (25, 3)),
    ],
)
def test_rate_and_length_are_estimated_where_the_film_does_not_say(
    says: Any, stream: dict[str, Any], more: dict[str, str], expected: tuple[Fraction, int]
) -> None:
    film = says(stream, format=more)
    assert (film.rate, film.frames) == expected


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        # What players assume where nothing is said.
        ({"height": 48, "width": 64}, Colour("smpte170m", "bt709", "bt709")),
        ({"height": 480, "width": 720}, Colour("smpte170m", "smpte170m", "bt709")),
        ({"height": 576, "width": 720, "color_space": "unknown"}, Colour("smpte170m", "bt470bg", "bt709")),
        ({"height": 720, "width": 1280}, Colour("bt709", "bt709", "bt709")),
        ({"height": 1080, "width": 1080, "color_range": "pc"}, Colour("bt709", "bt709", "bt709", full=True)),
        ({"height": 48, "pix_fmt": "yuvj420p"}, Colour("smpte170m", "bt709", "bt709", full=True)),
        # What is said.
        ({"color_space": "bt709"}, Colour("bt709", "bt709", "bt709")),
        (
            {"color_space": "bt470bg", "color_primaries": "bt470bg", "color_transfer": "bt470bg"},
            Colour("bt470bg", "bt470bg", "bt470bg"),
        ),
        (
            {"color_space": "bt2020nc", "color_primaries": "bt2020", "color_transfer": PQ, "pix_fmt": "yuv420p10le"},
            Colour("bt2020nc", "bt2020", PQ),
        ),
        ({"color_space": "bt2020c", "color_transfer": HLG}, Colour("bt2020nc", "bt2020", HLG)),
        ({"color_space": "bt2020nc"}, Colour("bt2020nc", "bt2020", "bt2020-10")),
        ({"color_space": "gbr", "pix_fmt": "gbrp", "color_range": "pc"}, Colour("bt709", "bt709", "bt709", rgb=True)),
        ({"pix_fmt": "pal8"}, Colour("bt709", "bt709", "bt709", rgb=True)),
    ],
)
def test_colours_are_those_that_players_show(says: Any, stream: dict[str, Any], expected: Colour) -> None:
    assert says(stream).colour == expected


@pytest.mark.parametrize(
    ("layout", "bits"),
    [("yuv420p", 8), ("yuv420p10le", 10), ("p010le", 10), ("yuv444p12be", 12), ("gray10le", 10), ("rgb48le", 16),
     ("gbrp10le", 10), ("x2rgb10le", 10), ("yuva444p16le", 16), ("gray", 8), ("nv12", 8), (None, 8), ("p016le", 16)],
)  # fmt: skip
def test_bits(says: Any, layout: str | None, bits: int) -> None:
    assert says({"pix_fmt": layout}).bits == bits


@pytest.mark.parametrize(
    ("stream", "pixel"),
    [
        ({}, Fraction(1)),
        ({"sample_aspect_ratio": "0:1"}, Fraction(1)),
        ({"sample_aspect_ratio": "16:11"}, Fraction(16, 11)),
        ({"sample_aspect_ratio": "16:11", "tags": {"rotate": "90"}}, Fraction(11, 16)),
        ({"sample_aspect_ratio": "16:11", "side_data_list": [{"rotation": -90}]}, Fraction(11, 16)),
        ({"sample_aspect_ratio": "16:11", "side_data_list": [{"rotation": 180}]}, Fraction(16, 11)),
    ],
)
def test_the_shape_of_a_pixel_is_that_of_the_upright_film(says: Any, stream: dict[str, Any], pixel: Fraction) -> None:
    assert says(stream).pixel == pixel


def test_mastering_display_and_light_levels_are_those_of_the_first_frame(says: Any) -> None:
    points = {"red": (34000, 16000), "green": (13250, 34500), "blue": (7500, 3000), "white_point": (15635, 16450)}
    display: dict[str, Any] = {"side_data_type": "Mastering display metadata"}
    display |= {f"{name}_{axis}": f"{v}/50000" for name, pair in points.items() for axis, v in zip("xy", pair)}  # noqa: B905
    display |= {"min_luminance": "1/10000", "max_luminance": "10000000/10000"}
    light = {"side_data_type": "Content light level metadata", "max_content": 1000, "max_average": 400}
    film = says({"color_transfer": PQ}, light=[display, light])
    assert film.light == (
        "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
    )
    assert says({"color_transfer": PQ}).light == ""
    assert says({"color_transfer": HLG}, light=[display]).light == ""


@pytest.mark.parametrize(
    ("stream", "others", "note"),
    [
        ({"color_transfer": PQ}, [], "HDR (PQ): the network, which learnt from SDR pictures, works on its levels as"),
        ({"color_transfer": HLG}, [], "HDR (HLG)"),
        ({"pix_fmt": "yuv444p12le"}, [], "12 bits per channel become 10"),
        ({"field_order": "tt"}, [], "it is interlaced"),
        ({"pix_fmt": "yuva444p10le"}, [], "its transparency is dropped"),
        ({"tags": {"alpha_mode": "1"}}, [], "its transparency is dropped"),
        ({"side_data_list": [{"side_data_type": "DOVI configuration record"}]}, [], "its Dolby Vision metadata is"),
        ({}, [VIDEO], "the first of its 2 video streams is upscaled"),
        ({}, [{"codec_type": "data", "codec_name": "bin_data"}], "its data streams (1)"),
    ],
)
def test_what_is_odd_or_lost_is_said(
    says: Any, stream: dict[str, Any], others: list[dict[str, Any]], note: str
) -> None:
    (found,) = says(stream, *others).notes
    assert found.startswith(note)


def test_covers_and_the_text_of_chapters_are_no_streams_that_are_lost(says: Any) -> None:
    cover = {"codec_type": "video", "index": 2, "disposition": {"attached_pic": 1}}
    chapters = {"codec_type": "data", "codec_name": "bin_data"}
    film = says({"field_order": "progressive"}, cover, chapters, chapters=[{"id": 0}])
    assert film.notes == ()
    assert film.covers == (2,)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ({"color_space": "ictcp"}, r"coded by ictcp, which cannot be read here; convert them first: ffmpeg -i IN -vf"),
        ({"side_data_list": [{"dv_bl_signal_compatibility_id": 0}]}, r"Dolby Vision alone \(profile 5\)"),
        ({"codec_type": "audio"}, "it has no video stream"),
        ({"disposition": {"attached_pic": 1}}, "it has no video stream"),
    ],
)
def test_films_that_cannot_be_read_are_refused(says: Any, stream: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        says(stream)


@needs_ffmpeg
def test_a_film_of_ffmpeg(tmp_path: Path) -> None:
    (tmp_path / "s.srt").write_text("1\n00:00:00,100 --> 00:00:00,300\nhello\n")
    (tmp_path / "font.ttf").write_bytes(b"x")
    path = tmp_path / "a.mkv"
    ffmpeg(*TEST, *SOUND, "-i", tmp_path / "s.srt", *X264, "-c:s", "subrip", "-vf", "setsar=16/11",
           "-attach", tmp_path / "font.ttf", "-metadata:s:t", "mimetype=font/ttf", path)  # fmt: skip
    film = inspect_film(path)
    assert (film.rate, film.frames, film.pixel, film.bits) == (Fraction(10), 5, Fraction(16, 11), 8)
    assert [tuple(s) for s in film.subtitles] == [(2, "subrip")]
    assert (film.attachments, film.covers, film.notes) == (1, (), ())
