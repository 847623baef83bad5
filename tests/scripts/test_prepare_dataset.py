"""scripts/prepare_dataset.py: its commands, one after another, and what they say."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.images.files import list_images, read_image, write_image
from data.prepare import common
from data.prepare.meta import write_meta
from data.prepare.origins import ORIGINS
from scripts.prepare_dataset import main
from tests.data.pictures import noise, write_folder
from tests.runs import command, run_line
from utils.command import run_command
from utils.errors import InputError


def run(*arguments: object) -> int:
    return run_command(main, [str(argument) for argument in arguments])


@pytest.fixture
def hr(tmp_path: Path) -> Path:
    write_folder(tmp_path / "hr", ["a b.png", "é.png", "z.png"], 48, 56)
    return tmp_path / "hr"


def test_photographs_become_lr_sub_images_list_lmdb_and_pack(
    hr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in list_images(hr)}
    assert run("lr", "-i", hr, "-o", tmp_path / "lr", "--scale", 2, 4) == 0
    assert run("subimages", "-i", hr, "-o", tmp_path / "sub", "--crop_size", 32, "--step", 16) == 0
    assert run("meta", "-i", tmp_path / "sub", "-o", tmp_path / "meta.txt") == 0
    for kind in ("lmdb", "pack"):
        assert run(kind, "-i", tmp_path / "sub", "-o", tmp_path / f"sub.{kind}") == 0
        assert run("check", tmp_path / f"sub.{kind}", "--least", 32) == 0
    lists = ("--lq", tmp_path / "lr/X4", "--scale", 4, "--template", "{}x4")
    assert run("check", hr, *lists) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path / 'lr'}: 6 low-resolution images" in printed
    assert f"{tmp_path / 'sub'}: 18 sub-images" in printed
    assert f"{tmp_path / 'sub.pack'}: 18 images" in printed
    assert "6 images read, 0 problems" in printed
    assert (tmp_path / "meta.txt").read_text().startswith("a b_s001.png (32,32,3)\n")
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in list_images(hr)}


def test_images_of_every_name_are_prepared(hr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (hr / "z.png").rename(hr / "z.jfif")
    Image.fromarray(read_image(hr / "é.png")).save(hr / "é.gif")
    (hr / "é.png").unlink()
    (hr / "phone.heic").write_bytes(b"")
    assert run("lr", "-i", hr, "-o", tmp_path / "lr", "--scale", 2) == 0
    assert sorted(path.name for path in (tmp_path / "lr/X2").glob("[!.]*")) == ["a bx2.png", "zx2.png", "éx2.png"]
    assert run("subimages", "-i", hr, "-o", tmp_path / "sub", "--crop_size", 48, "--step", 48) == 0
    assert run("meta", "-i", hr, "-o", tmp_path / "meta.txt") == 0
    assert (tmp_path / "meta.txt").read_text().split("\n")[1:3] == ["z.jfif (48,56,3)", "é.gif (48,56,3)"]
    for kind in ("lmdb", "pack"):
        assert run(kind, "-i", hr, "-o", tmp_path / f"hr.{kind}") == 0
        assert run("check", tmp_path / f"hr.{kind}") == 0
    assert f"{hr}: 1 HEIC picture cannot be read and is left out: phone.heic" in capsys.readouterr().err


def test_check_reports_every_kind_of_problem(hr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("lr", "-i", hr, "-o", tmp_path / "lr", "--scale", 4, "--template", "{}")
    small = tmp_path / "lr/X4"
    shutil.copy(hr / "z.png", hr / "zz.png")
    shutil.copy(small / "z.png", small / "zz.png")
    write_image(hr / "tiny.png", noise(8, 8, 5))
    write_image(small / "tiny.png", noise(2, 2))
    write_image(hr / "grey.png", noise(48, 48, 6)[..., :1])
    write_image(small / "grey.png", noise(12, 12))
    write_image(small / "é.png", noise(12, 13))
    (hr / "a b.png").write_bytes((hr / "a b.png").read_bytes()[:500])
    report = tmp_path / "report.txt"
    command = ("check", hr, "--lq", small, "--scale", 4, "--least", 16, "--report", report)
    assert run(*command) == 2
    printed = capsys.readouterr().err
    assert f"{hr}: " in printed
    assert printed.strip().endswith(f"a line for each of them is in {report}")
    for line in (
        "images read, 5 problems",
        f"{hr / 'a b.png'}: the image cannot be read: it is cut short",
        f"{hr / 'tiny.png'}: 8 x 8 (height x width), smaller than 16",
        f"{small / 'é.png'}: 12 x 13, but {hr / 'é.png'} is 48 x 56; expected 4 times as many rows and columns",
        f"{small / 'grey.png'} and {hr / 'grey.png'}: one is grey, the other coloured",
        f"{hr / 'zz.png'}: the same pixels as {hr / 'z.png'}",
        "are grey among coloured ones, which is no problem (1):",
    ):
        assert line in report.read_text()
    (small / "z.png").unlink()
    (small / "é.png").write_bytes(b"")
    (hr / "zz.bmp").symlink_to("nowhere.bmp")
    write_image(hr / "z.bmp", noise(48, 48, 7))
    assert run(*command) == 2
    for line in (
        f"{hr / 'z.bmp'}: has no partner z.bmp in {small}",
        f"{hr / 'z.png'}: has no partner z.png in {small}",
        f"{small / 'é.png'}: the image cannot be read: the file is empty",
        f"{hr / 'zz.bmp'}: the link leads nowhere",
        f"{hr / 'z.png'}: the same name without extension as {hr / 'z.bmp'}",
    ):
        assert line in report.read_text()


def test_check_names_files_with_several_pictures(hr: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (Image.fromarray(noise(48, 48, seed)) for seed in (8, 9))
    first.save(hr / "moving.webp", save_all=True, append_images=[second], lossless=True)
    second.save(hr / "scan.tif", save_all=True, append_images=[first, first])
    assert run("check", hr) == 0
    printed = capsys.readouterr().out
    assert "hold several pictures, of which the first is used (2):" in printed
    assert f"{hr / 'moving.webp'}: 2 frames" in printed
    assert f"{hr / 'scan.tif'}: 3 pages" in printed


def test_damaged_packs_are_found(hr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("pack", "-i", hr, "-o", tmp_path / "hr.pack")
    with (tmp_path / "hr.pack/shard-00000.bin").open("r+b") as file:
        file.seek(48 * 56 * 3 + 100)
        file.write(b"damage")
    assert run("check", tmp_path / "hr.pack") == 2
    assert "hr.pack: z: the pixels are damaged (checksum)" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [(), ("-i",), ("--input",)])
def test_check_prints_a_line_for_each_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: tuple[str, ...]
) -> None:
    write_folder(tmp_path, [f"{i:02}.png" for i in range(14)])
    assert run("check", *flag, tmp_path, "--least", 100) == 2
    printed = capsys.readouterr().err
    named = ", ".join(f"{tmp_path}/{i:02}.png" for i in range(3))
    size = re.search(r"14 images: (\d+ x \d+) \(height x width\), smaller than 100: ", printed)
    assert size
    assert f"{size[0]}{named}, ...\n" in printed
    assert "a line for each of them can be written by --report FILE" in printed


def test_check_takes_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ((), ("a", "-i", "b")):
        with pytest.raises(SystemExit) as left:
            run("check", *arguments)
        assert left.value.code == 2
        assert "-i/--input" in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_written_data_set(
    hr: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        write(path, content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert run("lr", "-i", hr, "-o", tmp_path / "lr", "--scale", 2) == 1
    assert "the disk is full: " in capsys.readouterr().err
    left = {path.name for path in (tmp_path / "lr").rglob("*") if path.is_file()}
    assert left <= {common.SETTINGS, ORIGINS}  # no half ones
    assert run("lr", "-i", hr, "-o", tmp_path / "lr", "--scale", 2) == 0


def test_bad_arguments_of_prepare_dataset_are_reported(
    hr: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("subimages", "-i", hr, "-o", hr) == 2
    assert "the output folder is the input folder" in capsys.readouterr().err
    assert run("pack", "-i", tmp_path / "nowhere", "-o", tmp_path / "x.pack") == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    for template in ("x2", "../{}"):
        assert run("lr", "-i", hr, "-o", tmp_path, "--scale", 2, "--template", template) == 2
    capsys.readouterr()
    before = (hr / "z.png").read_bytes()
    assert run("meta", "-i", hr, "-o", hr / "z.png") == 2
    assert "z.png is the name of an image; expected the name of a text file" in capsys.readouterr().err
    assert run("check", hr, "--report", hr / "z.png") == 2
    assert run("check", hr, "--report", hr) == 2
    assert f"{hr} is a folder; expected the name of a text file" in capsys.readouterr().err
    assert (hr / "z.png").read_bytes() == before
    (hr / "é.png").write_bytes(b"no image")
    assert run("pack", "-i", hr, "-o", tmp_path / "x.pack") == 2
    assert "é.png: the image cannot be read" in capsys.readouterr().err
    assert run("pack", "-i", hr, "-o", tmp_path / "x.pack", "--skip_bad") == 0
    assert "2 images; 1 images were left out" in capsys.readouterr().out
    for i in range(9):
        (hr / f"bad{i}.png").write_bytes(b"no image")
    assert run("pack", "-i", hr, "-o", tmp_path / "y.pack", "--skip_bad") == 0
    printed = capsys.readouterr()
    assert printed.err.count("left out: ") == 3
    assert "2 images; 10 images were left out\n  10 images: the image cannot be read" in printed.out


def test_names_that_a_list_cannot_hold_are_refused(tmp_path: Path) -> None:
    for name in ("a\nb.png", " a.png"):
        write_image(tmp_path / name.strip() / name, noise(8, 8))
        with pytest.raises(InputError, match="cannot stand in a list"):
            write_meta(tmp_path / name.strip(), tmp_path / "meta.txt")


def test_unfinished_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".a.png.part").write_bytes(b"half")
    with common.writing_to(tmp_path):
        common.write_picture(tmp_path / "a.png", noise(8, 8))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert np.array_equal(read_image(tmp_path / "a.png"), noise(8, 8))


def test_prepare_dataset_runs_from_any_folder(tmp_path: Path) -> None:
    shown = run_line(tmp_path, command("scripts/prepare_dataset.py", "--help")).stdout
    for name in ("subimages", "lr", "meta", "lmdb", "pack", "check"):
        assert name in shown


def test_check_reports_all_images_that_do_not_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hr, small, report = tmp_path / "hr", tmp_path / "lr", tmp_path / "report.txt"
    write_folder(hr, [f"{i}.png" for i in range(15)])
    write_folder(small, ["0.png"])
    assert run("check", hr, "--lq", small, "--report", report) == 2
    assert report.read_text().count("has no partner") == 14
    printed = capsys.readouterr().err
    assert printed.count("has no partner") == 1
    assert "do not pair (14):" in printed
