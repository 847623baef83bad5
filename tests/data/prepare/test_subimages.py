from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.images.files import read_image, write_image
from data.prepare.subimages import Grid, crops, cut_subimages, starts
from tests.data.pictures import noise, write_folder
from utils.errors import InputError

SMALL = Grid(16, 10)


@pytest.mark.shared
def test_recorded_names_and_places(shared: Path) -> None:
    cases = json.loads((shared / "golden/formats/subimages.json").read_text())["cases"]
    assert cases
    for case in cases:
        grid = Grid(case["crop_size"], case["step"], case["thresh_size"])
        found = crops(case["file"], case["height"], case["width"], grid)
        expected = [tuple(item) for item in case["sub_images"]]
        assert len(found) == case["count"]
        assert found == expected or found[:3] + found[-3:] == expected


@given(length=st.integers(1, 300), size=st.integers(1, 60), step=st.integers(1, 70))
def test_squares_reach_both_ends(length: int, size: int, step: int) -> None:
    places = starts(length, Grid(size, step))
    if length < size:
        assert places == []
        return
    assert places[0] == 0
    assert places[-1] == length - size
    assert places == sorted(set(places))


def test_squares_are_the_pixels(tmp_path: Path) -> None:
    write_image(tmp_path / "hr/a x4.png", noise(30, 26))
    write_image(tmp_path / "hr/b.jpg", noise(16, 16))
    assert cut_subimages(tmp_path / "hr", tmp_path / "sub", SMALL) == (3 * 2 + 1, [])
    image = read_image(tmp_path / "hr/a x4.png")
    for name, top, left in crops("a x4.png", 30, 26, SMALL):
        assert np.array_equal(read_image(tmp_path / "sub" / name), image[top : top + 16, left : left + 16])
    assert np.array_equal(read_image(tmp_path / "sub/b_s001.png"), read_image(tmp_path / "hr/b.jpg"))


def test_what_is_done_is_kept_until_the_image_changes(tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", ["a.png", "b.png"], 26, 26)
    cut_subimages(tmp_path / "hr", tmp_path / "sub", SMALL)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sub").iterdir()}
    (tmp_path / "sub/a_s002.png").unlink()
    (tmp_path / "sub/.a_s002.png.part").write_bytes(b"half")  # where a killed run left off
    cut_subimages(tmp_path / "hr", tmp_path / "sub", SMALL)
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "sub").iterdir()}
    assert set(after) == set(before)
    assert {path.name for path in after if after[path] != before[path]} == {f"a_s00{i}.png" for i in range(1, 5)}
    write_image(tmp_path / "hr/b.png", noise(26, 26, 9))
    cut_subimages(tmp_path / "hr", tmp_path / "sub", SMALL)
    assert np.array_equal(read_image(tmp_path / "sub/b_s001.png"), noise(26, 26, 9)[:16, :16])


def test_images_that_cannot_be_cut(tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", ["a.png", "b.png"], 26, 26)
    write_image(tmp_path / "hr/c.png", noise(15, 40))
    with pytest.raises(InputError, match=r"c\.png: the image is 15 x 40 .*smaller than the sub-images \(16\)"):
        cut_subimages(tmp_path / "hr", tmp_path / "sub", SMALL)
    count, left = cut_subimages(tmp_path / "hr", tmp_path / "sub", SMALL, skip_bad=True)
    assert count == 8
    assert len(left) == 1
    write_image(tmp_path / "hr/ax2.png", noise(26, 26))
    with pytest.raises(InputError, match="their sub-images would have the same names"):
        cut_subimages(tmp_path / "hr", tmp_path / "sub", SMALL)


def test_a_second_folder_adds_to_the_first_unless_names_are_the_same(tmp_path: Path) -> None:
    """Squares of one image would be taken for those of another, or take their places."""
    write_folder(tmp_path / "one", ["a.png", "b.png"])
    write_folder(tmp_path / "two", ["c.png"])
    write_image(tmp_path / "three/b.png", noise(24, 32, seed=9))
    grid, out = Grid(16, 16), tmp_path / "out"
    assert cut_subimages(tmp_path / "one", out, grid)[0] + cut_subimages(tmp_path / "two", out, grid)[0] == 12
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError, match=r"three/b\.png: .*out holds files of the same name that were made of .*/one;"):
        cut_subimages(tmp_path / "three", out, grid)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (tmp_path / "one").rename(tmp_path / "moved")
    assert cut_subimages(tmp_path / "moved", out, grid)[0] == 8
    for square in out.glob("b_s*"):
        square.unlink()
    (tmp_path / "three/b.png").touch()
    assert cut_subimages(tmp_path / "three", out, grid)[0] == 4
    assert json.loads((out / ".origins.json").read_text(encoding="utf-8")).keys() == {
        str(tmp_path / name) for name in ("one", "moved", "two", "three")
    }
