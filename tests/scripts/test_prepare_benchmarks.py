"""scripts/prepare_benchmarks.py: layouts in, one tree out; what is missing or wrong is named; sources stay."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from data.images.files import Pixels, image_size, read_image, write_image
from data.prepare import archives
from data.resizing.matlab import downscale, mod_crop
from scripts.prepare_benchmarks import main
from tests.data.pictures import noise
from utils.command import run_command
from utils.errors import InputError

SIZES = {"baby": (512, 512), "bird": (288, 288), "butterfly": (256, 256), "head": (280, 280), "woman": (344, 228)}
IMAGES = {name: np.asarray(cv2.GaussianBlur(noise(*size), (0, 0), 2), np.uint8) for name, size in SIZES.items()}


def run(*arguments: object) -> int:
    return run_command(main, [str(argument) for argument in arguments])


def cropped(name: str, scale: int) -> Pixels:
    return np.ascontiguousarray(mod_crop(IMAGES[name], scale))


def small(name: str, scale: int, multiple: int | None = None) -> Pixels:
    return downscale(np.ascontiguousarray(mod_crop(IMAGES[name], multiple or scale)), scale, rule="published")


def self_ex(folder: Path, scales: tuple[int, ...]) -> None:
    for scale in scales:
        for i, name in enumerate(IMAGES):
            stem = folder / f"Set5/image_SRF_{scale}/img_{i + 1:03}_SRF_{scale}"
            write_image(stem.with_name(stem.name + "_HR.png"), cropped(name, scale))
            write_image(stem.with_name(stem.name + "_LR.png"), small(name, scale))
            write_image(stem.with_name(stem.name + "_SRCNN.png"), noise(8, 8))


def edsr(folder: Path, scales: tuple[int, ...]) -> None:
    for name, image in IMAGES.items():
        write_image(folder / f"benchmark/Set5/HR/{name}.png", image)
        for scale in scales:
            write_image(folder / f"benchmark/Set5/LR_bicubic/X{scale}/{name}x{scale}.png", small(name, scale))


def basicsr(folder: Path, scales: tuple[int, ...]) -> None:
    for name, image in IMAGES.items():
        write_image(folder / f"Set5/original/{name}.bmp", image)
        write_image(folder / f"Set5/GTmod12/{name}.png", cropped(name, 12))
        for scale in scales:
            write_image(folder / f"Set5/LRbicx{scale}/{name}.png", small(name, scale, 12))


def rcan(folder: Path, scales: tuple[int, ...]) -> None:
    for scale in scales:
        for name in IMAGES:
            write_image(folder / f"Test/HR/Set5/x{scale}/{name}_HR_x{scale}.png", cropped(name, scale))
            write_image(folder / f"Test/LR/LRBI/Set5/x{scale}/{name}_LRBI_x{scale}.png", small(name, scale))


def zipped(folder: Path) -> Path:
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    shutil.rmtree(folder)
    return target


def tarred(folder: Path, kind: str) -> Path:
    target = folder.with_suffix(f".tar{kind}")
    mode = f"w:{kind[1:]}"
    with tarfile.open(target, mode) as archive:  # type: ignore[call-overload]
        archive.add(folder, "content")
    shutil.rmtree(folder)
    return target


PACKERS: dict[str, Callable[[Path], Path]] = {
    "folder": lambda folder: folder,
    "zip": zipped,
    "tar": lambda folder: tarred(folder, ""),
    "tar.gz": lambda folder: tarred(folder, ".gz"),
}


@pytest.mark.parametrize(
    ("layout", "packer"),
    [(self_ex, "folder"), (edsr, "tar"), (basicsr, "zip"), (rcan, "tar.gz")],
    ids=["self_ex", "edsr", "basicsr", "rcan"],
)
def test_sets_of_every_known_layout_are_arranged(
    tmp_path: Path, layout: Callable[[Path, tuple[int, ...]], None], packer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    layout(tmp_path / "downloads", (3, 4))
    source = PACKERS[packer](tmp_path / "downloads")
    before = {path: path.stat().st_mtime_ns for path in [source, *source.rglob("*")]}
    target = tmp_path / "tree"
    assert run("-i", source, "-o", target, "--sets", "Set5", "--scale", 3, 4) == 0, capsys.readouterr()
    printed = capsys.readouterr().out
    assert "Set5 x3: 5 of 5 images\nSet5 x4: 5 of 5 images\nSet5 whole images: 5 of 5 images" in printed
    for scale in (3, 4):
        pairs = {part: sorted((target / f"Set5/x{scale}/{part}").iterdir()) for part in ("HR", "LR")}
        assert [path.name for path in pairs["HR"]] == [path.name for path in pairs["LR"]]
        for name, high, low in zip(sorted(IMAGES), pairs["HR"], pairs["LR"], strict=True):
            assert name == high.stem or layout is self_ex
            multiple = 12 if layout is basicsr else scale
            assert np.array_equal(read_image(high), cropped(name, multiple))
            assert np.array_equal(read_image(low), small(name, scale, multiple))
    assert len(list((target / "Set5/HR").iterdir())) == 5
    assert sorted(path.name for path in target.iterdir()) == ["Set5"]
    assert before == {path: path.stat().st_mtime_ns for path in [source, *source.rglob("*")]}


def test_missing_low_resolution_files_are_reported_and_computed_with_make_lr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edsr(tmp_path / "in", (4,))
    command = ("-i", tmp_path / "in", "-o", tmp_path / "tree", "--sets", "Set5", "--scale", 2, 4)
    assert run(*command) == 2
    assert "Set5 x2: baby: no low-resolution file; --make_lr computes it" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tree").rglob("*.png")}
    assert len(before) == 15
    assert run(*command, "--make_lr") == 0
    assert "Set5 x2: 5 of 5 images, 5 low-resolution files computed" in capsys.readouterr().out
    for name in IMAGES:
        assert np.array_equal(read_image(tmp_path / f"tree/Set5/x2/LR/{name}.png"), small(name, 2))
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "tree").rglob("*.png")}
    assert {path: after[path] for path in before} == before  # what was there stays


def test_arranging_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    edsr(tmp_path / "in", (4,))
    command = ("-i", tmp_path / "in", "-o", tmp_path / "tree", "--sets", "Set5", "--scale", 4)
    assert run(*command) == 0
    folder = tmp_path / "tree/Set5/x4"
    (folder / "HR/baby.png").unlink()
    (folder / "LR/.baby.png.part").write_bytes(b"half")
    kept = (folder / "LR/bird.png").stat().st_mtime_ns
    assert run(*command) == 0
    assert np.array_equal(read_image(folder / "HR/baby.png"), IMAGES["baby"])
    assert (folder / "LR/bird.png").stat().st_mtime_ns == kept
    assert not (folder / "LR/.baby.png.part").exists()


def test_missing_damaged_and_odd_images_of_a_set_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edsr(tmp_path / "in", (4,))
    folder = tmp_path / "in/benchmark/Set5"
    (folder / "HR/bird.png").unlink()
    (folder / "LR_bicubic/X4/birdx4.png").unlink()
    write_image(folder / "LR_bicubic/X4/headx4.png", noise(70, 71))
    (folder / "HR/baby.png").write_bytes((folder / "HR/baby.png").read_bytes()[:9000])
    write_image(folder / "HR/woman.png", noise(400, 300))
    write_image(folder / "LR_bicubic/X4/womanx4.png", noise(100, 75))
    write_image(tmp_path / "tree/Set5/x4/HR/stranger.png", noise(8, 8))
    assert run("-i", tmp_path / "in", "-o", tmp_path / "tree", "--sets", "Set5", "Manga109", "--scale", 4) == 2
    printed = capsys.readouterr().out
    for line in (
        "headx4.png is 70 x 71 (height x width), but",
        "head.png is 280 x 280; expected 4 times that",
        "baby.png: the image cannot be read: it is cut short",
        "woman.png: 400 x 300 (height x width); no image of Set5 has this size",
        "Set5 x4: 1 of 5 images",
        "Set5: 1 images, expected 5",
        "stranger.png: not of these sources; remove it",
        "not in these sources: Manga109",
    ):
        assert line in printed, printed
    assert [path.name for path in (tmp_path / "tree/Set5/x4/LR").iterdir()] == ["butterfly.png"]


@pytest.mark.parametrize(
    ("name", "count"), [("B100", 100), ("Urban100", 100), ("Manga109", 109)], ids=["B100", "Urban100", "Manga109"]
)
def test_a_set_is_complete_with_its_published_number_of_images(
    tmp_path: Path, name: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    height, width = (321, 481) if name == "B100" else (24, 32)
    grey = np.zeros((height, width, 1), np.uint8)
    write_image(tmp_path / f"{name}/0.png", grey)
    for i in range(1, count):
        shutil.copy(tmp_path / f"{name}/0.png", tmp_path / f"{name}/{i}.png")
    for i in range(count):
        write_image(tmp_path / f"{name}/LRbicx8/{i}.png", grey[: height // 8, : width // 8])
    command = ("-i", tmp_path / name, "-o", tmp_path / "tree", "--scale", 8)
    assert run(*command) == 0
    assert f"{name} x8: {count} of {count} images" in capsys.readouterr().out
    assert image_size(tmp_path / f"tree/{name}/x8/HR/7.png") == (height // 8 * 8, width // 8 * 8)


def test_sources_without_benchmarks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "DIV2K/HR/a.png", noise(8, 8))
    cases = [
        (tmp_path / "nowhere", "there is no such file or folder"),
        (tmp_path / "DIV2K", "no images of Set5, Set14, B100, Urban100, Manga109 were found"),
        (tmp_path / "DIV2K/HR/a.png", "neither a folder nor an archive"),
        (tmp_path, "one lies in the other; sources are left alone"),
        (tmp_path / "Set5.zip", "the archive cannot be read"),
        (tmp_path / "Set5.tar.gz", "the archive cannot be read"),
    ]
    for name in ("Set5.zip", "Set5.tar.gz"):
        (tmp_path / name).write_bytes(b"no archive")
    for source, message in cases:
        assert run("-i", source, "-o", tmp_path / "tree") == 2
        assert message in capsys.readouterr().err


@pytest.mark.shared
def test_low_resolution_files_are_those_of_the_benchmarks(
    tmp_path: Path, shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Set5 and Set14 with half of what they need, in another layout: what is computed equals what is distributed."""
    for path in sorted((shared / "data").glob("Set*/x3/*/*.png")):
        dataset, _, part, name = path.parts[-4:]
        if part == "HR":
            (tmp_path / f"in/TestDataSR/HR/{dataset}/x3").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / f"in/TestDataSR/HR/{dataset}/x3/{name}")
    sets = ("--sets", "Set5", "Set14", "--scale", 3)
    assert run("-i", tmp_path / "in", "-o", tmp_path / "tree", *sets, "--make_lr") == 0, capsys.readouterr()
    compared = 0
    for path in sorted((tmp_path / "tree").glob("*/x3/LR/*.png")):
        assert np.array_equal(read_image(path), read_image(shared / "data" / path.relative_to(tmp_path / "tree")))
        compared += 1
    assert compared == 19


def test_an_unreadable_archive_is_reported_and_the_rest_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rcan(tmp_path / "in/good", (4,))
    for name in ("Set14.zip", "Urban100.tar", "Manga109.tar.gz", "B100.tar.xz"):
        (tmp_path / "in" / name).write_bytes(b"no archive at all " * 100)
    assert run("-i", tmp_path / "in", "-o", tmp_path / "tree", "--scale", 4) == 2
    said = capsys.readouterr().out
    assert "Set5 x4: 5 of 5 images" in said
    for name in ("Set14.zip", "Urban100.tar", "Manga109.tar.gz", "B100.tar.xz"):
        assert f"{name}: the archive cannot be read (" in said
    assert len(list((tmp_path / "tree/Set5/x4/LR").iterdir())) == 5
    assert not list((tmp_path / "tree").glob(".unpacked-*"))


def test_members_that_unpack_to_gigabytes_or_lead_out_of_the_tree_are_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_LARGEST", 1 << 20)
    png = cv2.imencode(".png", IMAGES["bird"])[1].tobytes()
    with zipfile.ZipFile(tmp_path / "Set5.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Set5/baby.png", bytes(1 << 21))
        archive.writestr("Set5/../../../bird.png", png)
        archive.writestr("Set5/..\\..\\head.png", png)
        archive.writestr("/Set5/woman.png", png)
    (tmp_path / "big").mkdir()
    (tmp_path / "big/butterfly.png").write_bytes(bytes(1 << 21))
    for kind in ("", ".gz"):
        with tarfile.open(tmp_path / f"Set5.tar{kind}", f"w:{kind[1:]}") as tar:  # type: ignore[call-overload]
            tar.add(tmp_path / "big", f"Set5/x{kind}")
    sources = [tmp_path / name for name in ("Set5.zip", "Set5.tar", "Set5.tar.gz")]
    assert run("-i", *sources, "-o", tmp_path / "out/tree", "--scale", 4, "--make_lr", "--sets", "Set5") == 2
    said = capsys.readouterr().out
    assert said.count("it unpacks to 2,097,152 bytes, and at most 1,048,576 are read") >= 2
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")} - {"big/butterfly.png"}
    assert all(name.startswith("out/tree/Set5/") and ".." not in name for name in made)


def test_damaged_archives_raise_input_errors_alone(tmp_path: Path) -> None:
    for name in ("bird", "head"):
        write_image(tmp_path / f"Set5/{name}.png", np.ascontiguousarray(IMAGES[name][:40, :40]))
    with zipfile.ZipFile(tmp_path / "Set5.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "Set5").iterdir():
            archive.write(path, path.name)
    for kind in ("", ".gz", ".xz", ".bz2"):
        with tarfile.open(tmp_path / f"Set5.tar{kind}", f"w:{kind[1:]}") as tar:  # type: ignore[call-overload]
            tar.add(tmp_path / "Set5", "Set5")
    rng = np.random.default_rng(0)
    refused = 0
    for path in sorted(tmp_path.glob("Set5.*")):
        whole = path.read_bytes()
        for number in range(30):
            broken = bytearray(whole)
            if number % 2:
                del broken[rng.integers(len(broken)) :]
            else:
                for place in rng.integers(0, len(broken), 4):
                    broken[place] = rng.integers(256)
            path.write_bytes(broken)
            with archives.open_sources([path], tmp_path / "out") as sources:
                refused += len(sources.unreadable)
                for entry in sources.entries:
                    try:
                        entry.pixels()
                    except InputError:
                        refused += 1
        path.write_bytes(whole)
    assert refused > 100
