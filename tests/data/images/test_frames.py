"""All frames and pages of a file: what is seen, how long and how often; written to every kind of file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from data.images.files import encode_image
from data.images.frames import Timing, look_at, open_frames
from data.images.output_kinds import Encoding
from data.images.photo import Photo, read_photo
from data.images.photo_writer import pictures_held, write_frames
from data.images.png import write_animation
from tests.data.pictures import BLOCKS, PROFILE, exif, levels
from tests.models.inference.films import TEST, ffmpeg, needs_av1
from utils.errors import InputError

TOP, DURATIONS = 255, (40, 100, 250)


def disc(place: int, *, opacity: int = 255) -> NDArray[np.uint8]:
    """A transparent picture with a red square at another place."""
    picture = np.zeros((24, 32, 4), np.uint8)
    picture[4:14, place : place + 8] = (200, 30, 20, opacity)
    return picture


DISCS = [disc(place) for place in (2, 9, 20)]
PHOTOS = [np.roll(BLOCKS, 8 * shift, axis=1) for shift in range(3)]


def animation(path: Path, frames: list[NDArray[np.uint8]], *, loop: int | None = 0, **more: Any) -> Path:
    images = [Image.fromarray(frame) for frame in frames]
    how = more if loop is None else {"loop": loop, **more}
    if path.suffix == ".webp":
        how |= {"lossless": True, "exact": True}
    durations = list(DURATIONS[: len(frames)])
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, **how)
    return path


def seen(path: Path) -> list[NDArray[np.uint8]]:
    """The frames of a file as Pillow shows them, R G B and opacity."""
    with Image.open(path) as image:
        return [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(image)]


def as_seen(photo: Photo) -> NDArray[Any]:
    alpha = np.full((*photo.pixels.shape[:2], 1), photo.top, photo.pixels.dtype) if photo.alpha is None else photo.alpha
    return np.concatenate([np.broadcast_to(photo.pixels, (*alpha.shape[:2], 3)), alpha], axis=2)


@pytest.mark.parametrize(("suffix", "options"), [
    (".gif", {"disposal": 2}), (".gif", {"disposal": 0}), (".gif", {"disposal": 3}),
    (".png", {"disposal": 0, "blend": 1}), (".png", {"disposal": 1, "blend": 0}), (".png", {"disposal": 2, "blend": 1}),
    (".webp", {}),
])  # fmt: skip
@pytest.mark.parametrize("loop", [0, 3])
def test_frames_are_read_whole(tmp_path: Path, suffix: str, options: dict[str, Any], loop: int) -> None:
    path = animation(tmp_path / f"a{suffix}", DISCS, loop=loop, **options)
    frames = open_frames(path)
    assert look_at(path) == (frames.sort, frames.count) == ("animation", 3)
    plays = loop + 1 if suffix == ".gif" and loop else loop  # GIF files count how often it is repeated
    assert frames.timing == Timing(DURATIONS, plays)
    for photo, expected in zip(frames, seen(path), strict=True):
        assert np.array_equal(as_seen(photo), expected)
    assert len(list(frames)) == 3  # may be read again


def test_a_gif_without_a_loop_is_shown_once(tmp_path: Path) -> None:
    timing = open_frames(animation(tmp_path / "a.gif", PHOTOS, loop=None)).timing
    assert timing is not None
    assert timing.plays == 1


def test_opaque_animations_have_no_opacity_and_grey_ones_are_grey(tmp_path: Path) -> None:
    assert {photo.alpha is None for photo in open_frames(animation(tmp_path / "a.webp", PHOTOS))} == {True}
    grey = [frame[..., 0] for frame in PHOTOS]
    assert {photo.pixels.shape for photo in open_frames(animation(tmp_path / "a.png", grey))} == {(64, 48, 1)}


@pytest.mark.parametrize("frames", [DISCS, PHOTOS], ids=["transparent", "opaque"])
@pytest.mark.parametrize("source", [".gif", ".png", ".webp"])
@pytest.mark.parametrize("result", [".gif", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("plays", [0, 1, 4])
def test_an_animation_stays_one(
    tmp_path: Path, source: str, result: str, frames: list[NDArray[np.uint8]], plays: int
) -> None:
    loop = {0: 0, 1: None, 4: 3}[plays] if source == ".gif" else plays
    options: dict[str, Any] = {".gif": {"disposal": 2}, ".png": {"disposal": 1, "blend": 0}}.get(source, {})
    source_frames = open_frames(animation(tmp_path / f"in{source}", frames, loop=loop, **options))
    path = tmp_path / f"out{result}"
    losses = write_frames(path, source_frames, source_frames)
    found = open_frames(path)
    assert found.count == 3
    expected = [as_seen(photo) for photo in source_frames]
    if result == ".tif":
        assert losses.dropped == ("durations of the frames",)
        assert found.sort == "pages"
    else:
        assert losses.dropped == ()
        assert found.timing == Timing(DURATIONS, plays)
    for photo, whole in zip(found, expected, strict=True):
        there = whole[..., 3] > 0  # the colour of what cannot be seen is free
        assert np.array_equal(as_seen(photo)[there], whole[there])
        assert np.array_equal(as_seen(photo)[..., 3], whole[..., 3])
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []


def test_an_animation_as_avif_keeps_frames_and_durations(tmp_path: Path) -> None:
    if ".avif" not in Image.registered_extensions():
        pytest.skip("Pillow without AVIF")
    source = open_frames(animation(tmp_path / "in.gif", PHOTOS, loop=3))
    assert write_frames(tmp_path / "out.avif", source, source) == (("number of plays",), ())
    frames = open_frames(tmp_path / "out.avif")
    assert frames.timing == Timing(DURATIONS, 0)
    for photo, expected in zip(frames, source, strict=True):
        assert np.abs(photo.pixels.astype(int) - expected.pixels).mean() < 6


@pytest.mark.parametrize("suffix", [".jpg", ".bmp"])
def test_frames_that_a_file_cannot_hold_are_named_and_not_read(tmp_path: Path, suffix: str) -> None:
    source = open_frames(animation(tmp_path / "in.png", PHOTOS))
    path = tmp_path / f"out{suffix}"
    read: list[int] = []

    def photos() -> Any:
        for number, photo in enumerate(source):
            read.append(number)
            yield photo

    assert write_frames(path, photos(), source) == (("frames 2 to 3",), ())
    assert read == [0]
    assert pictures_held(path, "animation", 3) == 1
    assert np.abs(read_photo(path).pixels.astype(int) - PHOTOS[0]).max() < 30
    two = open_frames(animation(tmp_path / "two.png", PHOTOS[:2]))
    assert write_frames(path, two, two).dropped == ("frame 2",)


def test_durations_that_gif_cannot_hold_are_rounded_and_named(tmp_path: Path) -> None:
    images = [Image.fromarray(frame) for frame in PHOTOS]
    images[0].save(tmp_path / "in.png", save_all=True, append_images=images[1:], duration=[33, 100, 100])
    source = open_frames(tmp_path / "in.png")
    assert write_frames(tmp_path / "out.gif", source, source).dropped == ("durations finer than 10 ms",)
    assert open_frames(tmp_path / "out.gif").timing == Timing((30, 100, 100), 0)


def test_what_gif_cannot_hold_of_colours_is_named(tmp_path: Path) -> None:
    noisy = [levels(24, 32, 3, np.uint8, seed) for seed in range(2)]
    source = open_frames(animation(tmp_path / "in.webp", noisy))
    assert write_frames(tmp_path / "out.gif", source, source).dropped == ("colours beyond 256",)
    half = open_frames(animation(tmp_path / "half.webp", [disc(place, opacity=200) for place in (2, 9)]))
    assert write_frames(tmp_path / "out.gif", half, half).dropped == ("half transparency",)
    photo = read_photo(tmp_path / "out.gif")
    assert photo.alpha is not None
    assert photo.alpha[8, 5] == 255
    assert photo.pixels[8, 5].tolist() == [200, 30, 20]


def test_the_still_picture_of_an_animated_png_is_named(tmp_path: Path) -> None:
    still, *others = (Image.fromarray(frame) for frame in [BLOCKS[::-1], *PHOTOS])
    how: dict[str, Any] = {"save_all": True, "append_images": others, "default_image": True}
    still.save(tmp_path / "a.png", duration=list(DURATIONS), **how)
    frames = open_frames(tmp_path / "a.png")
    assert look_at(tmp_path / "a.png") == ("animation", 3)
    assert frames.count == 3
    assert np.array_equal(next(iter(frames)).pixels, PHOTOS[0])
    losses = write_frames(tmp_path / "b.png", frames, frames)
    assert losses.lost == ("the picture that stands for the animation",)


def test_animated_png_files_of_16_bits_are_read_with_8_and_that_is_named(tmp_path: Path) -> None:
    frames = [encode_image(".png", frame.astype(np.uint16) * 257) for frame in PHOTOS]
    with (tmp_path / "a.png").open("wb") as file:
        write_animation(file, map(memoryview, frames), [40, 100, 250], 0, [])
    found = open_frames(tmp_path / "a.png")
    assert write_frames(tmp_path / "b.png", found, found).lost == ("the lower 8 of 16 bits",)
    assert all(np.array_equal(photo.pixels, frame) for photo, frame in zip(found, PHOTOS, strict=True))


@needs_av1
def test_avif_animations_of_10_bits_are_read_with_8_and_that_is_named(tmp_path: Path) -> None:
    ffmpeg(*TEST, "-c:v", "libaom-av1", "-cpu-used", "8", "-pix_fmt", "yuv420p10le", "-f", "avif", tmp_path / "a.avif")
    found = open_frames(tmp_path / "a.avif")
    assert found.count == 5
    assert write_frames(tmp_path / "b.png", found, found).lost == ("the lower 2 of 10 bits",)


def test_notes_of_an_animation_are_kept(tmp_path: Path) -> None:
    source = open_frames(animation(tmp_path / "in.webp", PHOTOS, icc_profile=PROFILE, exif=exif(1)))
    for name in ("out.png", "out.webp"):
        write_frames(tmp_path / name, source, source)
        photo = read_photo(tmp_path / name)
        assert photo.profile == PROFILE
        assert photo.exif is not None


class TestPages:
    """TIFF files: each page with its own size and depth."""

    PAGES = (levels(9, 7, 3, np.uint16), levels(5, 11, 1, np.uint8), levels(6, 6, 4, np.uint16))

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        with tifffile.TiffWriter(tmp_path / "in.tif") as writer:
            for page in self.PAGES:
                kind = "rgb" if page.shape[2] > 1 else "minisblack"
                more: dict[str, Any] = {"extrasamples": ["unassalpha"]} if page.shape[2] == 4 else {}
                writer.write(page if page.shape[2] > 1 else page[..., 0], photometric=kind, metadata=None, **more)
        return tmp_path / "in.tif"

    def test_pages_keep_size_and_depth(self, source: Path, tmp_path: Path) -> None:
        frames = open_frames(source)
        assert look_at(source) == (frames.sort, frames.count) == ("pages", 3)
        assert write_frames(tmp_path / "out.tif", frames, frames) == ((), ())
        for photos in (frames, open_frames(tmp_path / "out.tif")):
            for photo, page in zip(photos, self.PAGES, strict=True):
                assert photo.pixels.dtype == page.dtype
                whole = as_seen(photo) if page.shape[2] == 4 else photo.pixels
                assert np.array_equal(whole, page)

    @pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".jpg"])
    def test_pages_that_a_file_cannot_hold_are_named(self, source: Path, tmp_path: Path, suffix: str) -> None:
        frames = open_frames(source)
        assert "pages 2 to 3" in write_frames(tmp_path / f"out{suffix}", frames, frames).dropped
        assert read_photo(tmp_path / f"out{suffix}").pixels.shape == (9, 7, 3)

    def test_compression_is_that_asked_for(self, source: Path, tmp_path: Path) -> None:
        frames = open_frames(source)
        sizes = []
        for level in (0, 9):
            write_frames(tmp_path / "out.tif", frames, frames, Encoding(compression=level))
            with tifffile.TiffFile(tmp_path / "out.tif") as file:
                sizes.append([str(page.compression.name) for page in file.pages])  # type: ignore[attr-defined]
        assert sizes == [["NONE"] * 3, ["ADOBE_DEFLATE"] * 3]

    def test_a_damaged_page_is_reported_with_its_number(self, source: Path, tmp_path: Path) -> None:
        data = source.read_bytes()
        with tifffile.TiffFile(source) as file:
            end = file.pages[2].dataoffsets[0] + 3
        source.write_bytes(data[:end])
        frames = open_frames(source)
        with pytest.raises(InputError, match=r"in\.tif, page 3: the image cannot be read: it is cut short"):
            write_frames(tmp_path / "out.tif", frames, frames)
        assert not (tmp_path / "out.tif").exists()

    def test_reduced_copies_are_no_pages(self, tmp_path: Path) -> None:
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            writer.write(self.PAGES[0], photometric="rgb", metadata=None)
            writer.write(self.PAGES[0][::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
        frames = open_frames(tmp_path / "a.tif")
        assert (frames.sort, frames.count) == ("picture", 1)
        assert write_frames(tmp_path / "b.png", frames, frames).lost == ("reduced copies or masks (1)",)


def test_damaged_frames_are_reported_and_nothing_is_written(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.gif", [levels(24, 32, 3, np.uint8, seed) for seed in range(3)])
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(InputError, match=r"a\.gif.*cannot be read"):
        frames = open_frames(path)
        write_frames(tmp_path / "out.png", frames, frames)
    assert [item.name for item in tmp_path.iterdir()] == ["a.gif"]
    with pytest.raises(InputError, match="there is no such file"):
        open_frames(tmp_path / "nowhere.gif")
    assert look_at(tmp_path / "nowhere.gif") == ("picture", 1)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".avif", ".tif"])
def test_whatever_is_damaged_is_an_error_of_the_user(tmp_path: Path, suffix: str) -> None:
    """Decoders raise what their parsers stumble over: IndexError, RuntimeError, struct.error, ..."""
    if suffix == ".avif":
        pytest.importorskip("PIL._avif")
    path = tmp_path / f"a{suffix}"
    images = [Image.fromarray(photo[:16, :16]) for photo in PHOTOS]
    images[0].save(path, save_all=True, append_images=images[1:])
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    read = 0
    for _ in range(150):
        data = bytearray(whole)
        for place in random.integers(0, len(data), 3):
            data[place] = random.integers(0, 256)
        path.write_bytes(data)
        look_at(path)
        with suppress(InputError):
            read += len([*open_frames(path, 10**6)])
    assert read > 0 or suffix == ".png"  # which has checksums


def test_gif_files_hold_durations_and_plays_up_to_a_limit(tmp_path: Path) -> None:
    images = [Image.fromarray(photo) for photo in PHOTOS]
    images[0].save(tmp_path / "a.png", save_all=True, append_images=images[1:], duration=700_000, loop=70_000)
    frames = open_frames(tmp_path / "a.png")
    losses = write_frames(tmp_path / "a.gif", frames, frames)
    assert "durations beyond 655 s" in losses.dropped
    found = open_frames(tmp_path / "a.gif").timing
    assert found is not None
    assert (found.durations[0], found.plays) == (655_350, 65536)
