"""Which files become which."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from models.inference.jobs import left_out, plan_jobs, would_find
from utils.errors import InputError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "a.png",
        "a.jpg",
        "b.JPG",
        "film.avi",
        "film.mp4",
        ".hidden.png",
        "notes.txt",
        "deep/a.png",
        "deep/c.tif",
    ):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(*inputs: str, output: str = "out", suffix: str = "", kind: str | None = None) -> dict[str, str]:
    return {str(job.source): str(job.target) for job in plan_jobs(inputs, Path(output), suffix, kind)}


def test_the_kind_of_results_can_be_chosen(tree: Path) -> None:
    assert results("in/*.png", "in/film.avi", kind="webp") == {
        "in/a.png": "out/a.webp",
        "in/film.avi": "out/film.mkv",
    }
    assert results("in/a.png", output="x.jpeg", kind="jpg") == {"in/a.png": "x.jpeg"}
    with pytest.raises(InputError, match=r"-o x\.png and --format jpg contradict each other"):
        results("in/a.png", output="x.png", kind="jpg")


def test_pages_become_tiff_files(tree: Path) -> None:
    image = Image.new("L", (4, 3))
    image.save("in/deep/c.tif", save_all=True, append_images=[image])
    assert results("in/deep/c.tif") == {"in/deep/c.tif": "out/c.tif"}
    assert results("in/deep/c.tif", kind="png") == {"in/deep/c.tif": "out/c.png"}
    image.save("in/deep/c.tif")
    assert results("in/deep/c.tif") == {"in/deep/c.tif": "out/c.png"}


def test_every_picture_and_film_of_a_folder_has_a_result_of_its_own(tree: Path) -> None:
    assert results("in", suffix="_x4") == {
        "in/a.jpg": "out/a.jpg_x4.png",
        "in/a.png": "out/a.png_x4.png",
        "in/b.JPG": "out/b_x4.png",
        "in/film.avi": "out/film_x4.mkv",
        "in/film.mp4": "out/film_x4.mp4",
    }
    (tree / "in/film.mkv").touch()
    (tree / "in/film.png").touch()
    assert results("in/film*") == {
        "in/film.avi": "out/film.avi.mkv",
        "in/film.mkv": "out/film.mkv.mkv",
        "in/film.mp4": "out/film.mp4",
        "in/film.png": "out/film.png",
    }


def test_patterns_keep_sub_folders(tree: Path) -> None:
    assert results("in/**/*.png") == {"in/a.png": "out/a.png", "in/deep/a.png": "out/deep/a.png"}
    assert results("in/*/*") == {"in/deep/a.png": "out/deep/a.png", "in/deep/c.tif": "out/deep/c.png"}
    assert results(str(tree / "in/[b]*")) == {str(tree / "in/b.JPG"): "out/b.png"}


def test_a_file_that_several_inputs_name_is_taken_once(tree: Path) -> None:
    assert results("in/a.png", "in/*.png", "in/deep/c.tif") == {"in/a.png": "out/a.png", "in/deep/c.tif": "out/c.png"}


def test_a_single_file_may_name_its_result(tree: Path) -> None:
    assert results("in/a.png", output="x.tif") == {"in/a.png": "x.tif"}
    assert results("in/film.avi", output="x.mp4") == {"in/film.avi": "x.mp4"}
    assert [job.is_video for job in plan_jobs(["in/film.avi"], Path("x.mp4"))] == [True]
    (tree / "v1.5").mkdir()
    assert results("in/a.png", output="v1.5") == {"in/a.png": "v1.5/a.png"}  # a folder, despite its name


def test_pictures_and_films_are_known_by_their_contents(tree: Path) -> None:
    (tree / "in/scan").write_bytes(b"\xff\xd8\xff\xe0")
    (tree / "in/clip.part1").write_bytes(b"\0\0\0\x18ftypisom")
    (tree / "in/c.jfif").touch()
    (tree / "in/old.MPG").touch()
    found = results("in")
    assert {"in/scan": "out/scan.png", "in/c.jfif": "out/c.png", "in/old.MPG": "out/old.mkv"}.items() <= found.items()
    assert found["in/clip.part1"] == "out/clip.mkv"
    assert len(found) == 9
    assert results("in/sc*") == {"in/scan": "out/scan.png"}
    assert not left_out(["in", "in/a.png"])


def test_links_that_lead_nowhere_fail_by_name(tree: Path) -> None:
    for name in ("x.png", "x.mp4", "x.heic", "x.txt", "x"):
        (tree / "in" / name).symlink_to(tree / "nowhere")
    links = {"in/x.png": "out/x.png", "in/x.mp4": "out/x.mp4"}
    assert links.items() <= results("in").items()
    assert results("in/x*") == links
    assert [path.name for paths in left_out(["in"]).values() for path in paths] == ["x.heic"]


def test_pictures_that_cannot_be_read_are_left_out_by_name(tree: Path) -> None:
    for name in ("x.heic", "y.HEIC", "raw.cr2", ".hidden.cr2"):
        (tree / "in" / name).touch()
    assert not any(name.startswith(("in/x", "in/y", "in/raw")) for name in results("in"))
    found = {kind.name: [path.name for path in paths] for kind, paths in left_out(["in", "in/*.heic"]).items()}
    assert found == {"HEIC": ["x.heic", "y.HEIC"], "camera RAW": ["raw.cr2"]}
    assert results("in/x.heic") == {"in/x.heic": "out/x.png"}  # named itself, it fails when it is read
    assert not left_out(["in/x.heic"])
    with pytest.raises(InputError, match=r"no picture fits this pattern .*; 1 camera RAW picture .* raw\.cr2; develop"):
        plan_jobs(["in/r*"], Path("out"))


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["nowhere"], "out", "nowhere: there is no such file or folder"),
        (["in/*.gif"], "out", "no picture fits this pattern"),
        (["in/deep/*.txt"], "out", "no picture fits this pattern"),
        (["in"], "out.png", "name a folder, since in is not the only file"),
        (["in/a.png", "in/b.JPG"], "out.png", "name a folder"),
        (["in/a.png"], "out.xyz", "a file that ends in one of .png"),
        (["in/film.mp4"], "out.png", "a file that ends in one of .mp4"),
        (["in/a.png"], "in", "a.png is a picture to be upscaled and would be replaced"),
        (["in/a.png", "in/deep/a.png"], "out", "would both become out"),
    ],
)
def test_inputs_and_outputs_that_cannot_be_are_refused(
    tree: Path, inputs: list[str], output: str, message: str
) -> None:
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        plan_jobs(inputs, Path(output))


def test_a_folder_whose_sub_folders_hold_the_pictures_says_how_to_reach_them(tree: Path) -> None:
    (tree / "in").rename(tree / "above")
    (tree / "in").mkdir()
    (tree / "above").rename(tree / "in/above")
    with pytest.raises(InputError) as caught:
        plan_jobs(["in"], Path("out"))
    assert str(caught.value) == (
        "the folder in holds no images and no films, but its sub-folders do (in/above, in/above/deep); name one of "
        "them, or -i 'in/**/*' for all"
    )
    assert results("in/**/*")["in/above/deep/c.tif"] == "out/above/deep/c.png"


def test_a_folder_without_pictures_and_films_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no images and no films \(PNG, JPEG"):
        plan_jobs([str(tmp_path)], Path("out"))


@pytest.mark.parametrize(
    ("text", "found", "not_found"),
    [
        ("in", ["in/a.png"], ["in/b/a.png", "out/a.png"]),
        ("in/*.png", ["in/a.png"], ["in/b/a.png", "in/a.tif", "out/a.png"]),
        ("in/**/*.png", ["in/a.png", "in/b/a.png", "in/b/c/a.png"], ["in/a.tif", "out/a.png"]),
        ("in/b*/*", ["in/b/a.png", "in/bc/a.tif"], ["in/a.png", "in/b/c/a.png", "in/c/a.png"]),
        ("*.png", ["a.png"], ["in/a.png"]),
        ("in/a.png", [], ["in/a.png", "in/b.png"]),
    ],
)
def test_which_results_would_be_found_again(
    text: str, found: list[str], not_found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").touch()
    assert all(would_find(text, Path(path)) for path in found)
    assert not any(would_find(text, tmp_path / path) for path in not_found)
