"""scripts/upscale.py: files with several pictures, kinds of results, their settings and their size."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from data.images.files import read_image, to_tensor, to_uint8
from data.images.frames import Timing, open_frames
from data.images.photo import Photo, read_photo
from data.images.resize import resized
from models.inference.jobs import Job
from models.inference.ranks import Sharing
from models.inference.sharing import Plan, work_of
from models.inference.upscale import upscale
from scripts.upscale import Bar
from tests.models.inference.films import needs_ffmpeg
from tests.scripts.upscale.runs import input_sizes, picture


def animated(path: Path, count: int = 3) -> Path:
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (10, 14, 3), dtype=np.uint8)) for _ in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=[40, 80, 120][:count], loop=2, lossless=True)
    return path


class TestFramesAndPages:
    """Files with several pictures: each goes through the network, whole."""

    def test_every_frame_of_an_animation_is_upscaled(
        self, run: Callable[..., int], tmp_path: Path, network: torch.nn.Module, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = animated(tmp_path / "a.webp")
        assert run(source) == 0
        assert "a.png: 14 x 10 -> 28 x 20, 3 frames" in capsys.readouterr().out
        found = open_frames(tmp_path / "out/a.png")
        assert found.timing == Timing((40, 80, 120), 2)
        for photo, before in zip(found, open_frames(source), strict=True):
            expected = to_uint8(upscale(network, to_tensor(before.pixels)))  # type: ignore[arg-type]
            assert np.abs(photo.pixels.astype(int) - expected.astype(int)).max() <= 1

    def test_frames_that_the_result_cannot_hold_are_reported(
        self, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = animated(tmp_path / "a.webp")
        with input_sizes() as sizes:
            assert run(source, "--format", "jpg", "--cpu") == 0
        assert "(frames 2 to 3 dropped: .jpg files hold none)" in capsys.readouterr().out
        assert len({*sizes}) == 1
        assert read_image(tmp_path / "out/a.jpg").shape == (20, 28, 3)

    def test_what_was_not_read_is_reported_too(
        self, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = Image.new("RGB", (14, 10), (90, 60, 30))
        image.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[image], dpi=(300, 300))
        assert run(tmp_path / "a.jpg", "--format", "webp") == 0
        note = "(resolution dropped: .webp files hold none; 1 further picture of an MPO file not kept)"
        assert note in capsys.readouterr().out

    def test_pages_become_a_tiff_file_with_their_depths(self, run: Callable[..., int], tmp_path: Path) -> None:
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            writer.write(np.full((9, 12, 3), 40000, np.uint16), photometric="rgb", metadata=None)
            writer.write(np.full((7, 5), 90, np.uint8), photometric="minisblack", metadata=None)
        assert run(tmp_path / "a.tif") == 0
        first, second = open_frames(tmp_path / "out/a.tif")
        assert (first.pixels.shape, str(first.pixels.dtype)) == ((18, 24, 3), "uint16")
        assert (second.pixels.shape, str(second.pixels.dtype)) == ((14, 10, 1), "uint8")

    def test_the_bar_counts_all_frames(self, run: Callable[..., int], tmp_path: Path) -> None:
        job = Job(animated(tmp_path / "a.webp"), tmp_path / "a.png")
        assert work_of(job) == pytest.approx(3 * 140 / 1000)
        assert work_of(job._replace(target=tmp_path / "a.jpg")) == 0.14
        assert Bar(Plan((job, job), (2.6, 2.6)), Sharing()).progress.total == 5

    @pytest.mark.shared
    def test_the_pictures_of_the_cases_keep_frames_and_transparency(
        self, run: Callable[..., int], shared: Path, tmp_path: Path
    ) -> None:
        subprocess.run([sys.executable, str(shared / "cases/make_pictures.py"), str(tmp_path / "cases")], check=True)
        weights = shared / "weights/PlainUSRU_Rep_x4.pth"
        sources = [str(tmp_path / "cases" / name) for name in ("animated.webp", "grey_trns.png")]
        assert run(tmp_path / "cases/logo.png", "-i", *sources, "--cpu", weights=weights) == 0
        frames = open_frames(tmp_path / "out/animated.png")
        assert frames.timing == Timing((100, 100), 0)
        first, second = frames
        assert np.abs(first.pixels.astype(int) - second.pixels[::-1]).mean() < 2  # the second is the first, upside down
        grey = read_photo(tmp_path / "out/grey_trns.png")
        assert grey.alpha is not None
        assert 0 < (grey.alpha < 128).mean() < 0.1


class TestEncodingAndSize:
    """--format, --quality, --lossless, --compression, --resize."""

    def test_results_are_of_the_kind_asked_for(self, run: Callable[..., int], folder: Path, tmp_path: Path) -> None:
        assert run(folder, "--format", "webp", "--quality", "30") == 0
        lossy = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
        assert sorted(lossy) == ["a.webp", "b.webp", "c.webp"]
        assert run(folder, "--format", "webp", "--lossless", "--overwrite") == 0
        assert all(path.stat().st_size > lossy[path.name] for path in (tmp_path / "out").iterdir())
        assert run(folder / "a.png", "--compression", "0") == 0
        assert run(folder / "a.png", "--compression", "9", output=tmp_path / "small.png") == 0
        assert (tmp_path / "small.png").stat().st_size < (tmp_path / "out/a.png").stat().st_size

    @pytest.mark.parametrize(
        ("size", "expected"),
        [(["1.5x"], (30, 39)), (["33x17"], (17, 33)), (["longest", "20"], (15, 20)), (["longest", "100"], (77, 100))],
    )
    def test_results_have_the_size_asked_for(
        self, run: Callable[..., int], folder: Path, tmp_path: Path, network: torch.nn.Module, size: list[str],
        expected: tuple[int, int],
    ) -> None:  # fmt: skip
        assert run(folder / "a.png", "--resize", *size) == 0
        result = read_photo(tmp_path / "out/a.png")
        assert result.pixels.shape[:2] == expected
        upscaled = to_uint8(upscale(network, to_tensor(read_image(folder / "a.png"))))
        assert np.abs(result.pixels.astype(int) - resized(Photo(upscaled), *expected).pixels).max() <= 1

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (
                ["--quality", "90"],
                "--quality is for JPEG, WebP, AVIF and JPEG XL files, and the results are .png files",
            ),
            (["--format", "jpg", "--lossless"], ".jpg files are not lossless here"),
            (["--format", "webp", "--compression", "3"], "--compression is for PNG and TIFF files"),
            (["--resize", "big"], "--resize big: expected a factor"),
            (
                ["--format", "jxl"],
                ".jxl files cannot be written by the installed Pillow; the package pillow-jxl-plugin",
            ),
        ],
    )
    def test_settings_that_cannot_be_are_refused_before_anything_is_read(
        self, run: Callable[..., int], folder: Path, tmp_path: Path, more: list[str], message: str,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        Image.init()
        monkeypatch.delitem(Image.SAVE, "JXL", raising=False)
        assert run(folder, *more, weights=tmp_path / "nowhere.pth") == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    @needs_ffmpeg
    def test_films_have_the_size_asked_for(self, run: Callable[..., int], tmp_path: Path) -> None:
        source = tmp_path / "a.mkv"
        raw = ["ffmpeg", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "26x20", "-i", "pipe:0"]
        subprocess.run([*raw, "-c:v", "ffv1", str(source)], input=bytes(range(240)) * 13, check=True)
        assert run(source, "--resize", "longest", "40") == 0
        probe = ["ffprobe", "-v", "error", "-show_entries", "stream=width,height", "-of", "csv=p=0"]
        done = subprocess.run([*probe, str(tmp_path / "out/a.mkv")], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "40,32"  # 31 rows, and one for H.264

    def test_a_result_too_large_for_its_kind_fails_before_the_network_runs(
        self, run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wide = picture(tmp_path / "wide.png", 2, 8200)
        with input_sizes() as sizes:
            assert run(wide, "--format", "webp") == 1
        assert not sizes
        assert "the result has 16400 x 4 pixels, and .webp files at most 16383 a side" in capsys.readouterr().err
        assert run(wide, "--format", "webp", "--resize", "longest", "16383") == 0
