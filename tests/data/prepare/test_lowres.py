from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from data.images.files import list_images, read_image, write_image
from data.prepare.lowres import make_low_resolution
from data.resizing.matlab import Rule, downscale, mod_crop
from tests.data.pictures import noise, write_folder
from utils.errors import InputError


@pytest.mark.parametrize("rule", ["double", "published"])
def test_files_are_downscaled_images(tmp_path: Path, rule: Rule) -> None:
    write_folder(tmp_path / "hr", ["a b.png", "ü.png"], 25, 30)
    write_image(tmp_path / "hr/grey.png", noise(25, 30)[..., :1])
    count, left = make_low_resolution(tmp_path / "hr", tmp_path / "lr", [2, 3], rule=rule, cropped=tmp_path / "mod")
    assert (count, left) == (6, [])
    for scale in (2, 3):
        for path in list_images(tmp_path / "hr"):
            large = mod_crop(read_image(path), scale)
            small = read_image(tmp_path / f"lr/X{scale}/{path.stem}x{scale}.png")
            assert np.array_equal(small, downscale(large, scale, rule=rule))
            assert np.array_equal(read_image(tmp_path / f"mod/X{scale}/{path.name}"), large)
    assert np.asarray(cv2.imread(str(tmp_path / "lr/X2/greyx2.png"), cv2.IMREAD_UNCHANGED)).shape == (12, 15)


def test_what_is_done_is_kept(tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", ["a.png", "b.png"])
    make_low_resolution(tmp_path / "hr", tmp_path / "lr", [4], template="{}_LRBI_x{s}")
    kept = tmp_path / "lr/X4/a_LRBI_x4.png"
    before = kept.stat().st_mtime_ns
    (tmp_path / "lr/X4/b_LRBI_x4.png").unlink()
    make_low_resolution(tmp_path / "hr", tmp_path / "lr", [4], template="{}_LRBI_x{s}")
    assert kept.stat().st_mtime_ns == before
    assert (tmp_path / "lr/X4/b_LRBI_x4.png").is_file()


def test_folders_may_name_the_scale(tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", ["a.png"])
    make_low_resolution(tmp_path / "hr", tmp_path / "x{s}/LR", [2, 4], template="{}", cropped=tmp_path / "x{s}/HR")
    assert (tmp_path / "x4/LR/a.png").is_file()
    assert (tmp_path / "x2/HR/a.png").is_file()


def test_images_without_a_pixel_left(tmp_path: Path) -> None:
    write_image(tmp_path / "hr/a.png", noise(3, 30))
    with pytest.raises(InputError, match=r"a\.png: the image is 3 x 30 .*smaller than one pixel at x4"):
        make_low_resolution(tmp_path / "hr", tmp_path / "lr", [4])


def test_files_that_would_take_each_others_place(tmp_path: Path) -> None:
    write_folder(tmp_path / "X2", ["a.png", "a.bmp"])
    with pytest.raises(InputError, match=r"a\.png and .*a\.bmp: their files would have the same name"):
        make_low_resolution(tmp_path / "X2", tmp_path / "lr", [2])
    (tmp_path / "X2/a.bmp").unlink()
    with pytest.raises(InputError, match="X2 would be written to, but is the input folder, too"):
        make_low_resolution(tmp_path / "X2", tmp_path, [2], template="{}")
    with pytest.raises(InputError, match="X4 would be written to, but is the folder of other files, at x4, too"):
        make_low_resolution(tmp_path / "X2", tmp_path / "lr", [4], cropped=tmp_path / "lr")
    assert not (tmp_path / "lr").exists()


def test_images_that_had_to_be_cropped_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path / "hr", ["a.png", "b.png"], 24, 32)
    make_low_resolution(tmp_path / "hr", tmp_path / "lr", [2, 4])
    assert not caplog.text
    make_low_resolution(tmp_path / "hr", tmp_path / "lr", [3])
    assert "2 images are no multiples of the scale, such as " in caplog.text
    assert "a.png at x3: training takes" in caplog.text
    caplog.clear()
    make_low_resolution(tmp_path / "hr", tmp_path / "lr3", [3], cropped=tmp_path / "mod")
    assert not caplog.text


@pytest.mark.shared
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_published_files_are_made_value_for_value(shared: Path, name: str, scale: int) -> None:
    folder = shared / "data" / name / f"x{scale}"
    pairs = list(zip(list_images(folder / "HR"), list_images(folder / "LR"), strict=True))
    assert pairs
    for large, small in pairs[:6]:
        image = mod_crop(read_image(large), scale)
        assert np.array_equal(downscale(image, scale, rule="published"), read_image(small)), large
        assert (downscale(image, scale) == read_image(small)).mean() < 0.95


def test_low_resolution_files_of_two_folders_are_not_mixed_up(tmp_path: Path) -> None:
    write_folder(tmp_path / "one", ["a.png"])
    write_image(tmp_path / "two/a.png", noise(24, 32, seed=9))
    write_image(tmp_path / "two/b.png", noise(24, 32, seed=9))
    make_low_resolution(tmp_path / "one", tmp_path / "out", [2])
    before = (tmp_path / "out/X2/ax2.png").read_bytes()
    with pytest.raises(InputError, match=r"two/a\.png: .*X2 holds files of the same name that were made of .*/one; "):
        make_low_resolution(tmp_path / "two", tmp_path / "out", [3, 2])
    assert (tmp_path / "out/X2/ax2.png").read_bytes() == before
    assert make_low_resolution(tmp_path / "one", tmp_path / "out", [2, 3])[0] == 2


def test_a_link_to_itself_is_no_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", ["a.png"])
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(InputError, match="link"):
        make_low_resolution(tmp_path / "hr", tmp_path / "link", [2])
    with pytest.raises(InputError, match=r"the folder .*link does not exist"):
        make_low_resolution(tmp_path / "link", tmp_path / "lr", [2])
    assert [item.name for item in tmp_path.iterdir() if item.name != "link"] == ["hr"]
