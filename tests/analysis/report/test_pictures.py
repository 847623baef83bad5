"""Pictures of a page: LR, bicubic, networks and HR of each image, small enough."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from analysis.report.model import Picture
from analysis.report.pictures import pictures_of
from analysis.report.runs import Notes, read_run
from analysis.report.scores import scored_sets
from analysis.report.thumbnails import FullPictures, crops, figure, thumbnails
from data import read_image, write_image
from scripts.faults.workplace import picture
from tests.analysis.report.run_folders import blurred, of_test, of_training, write_images
from utils.errors import InputError


def decoded(src: str) -> NDArray[np.uint8]:
    """The picture of a data URI, R G B."""
    head, _, text = src.partition(",")
    assert head == "data:image/webp;base64"
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def made(folders: list[Path], full: FullPictures | None = None, most: int = 200) -> tuple[list[Picture], Notes]:
    runs, notes = [read_run(folder) for folder in folders], Notes()
    pictures, numbers = pictures_of(
        runs, scored_sets(runs, notes), notes, most=most, room=10_000_000, full=full
    )  # fmt: skip
    assert sorted(numbers.values()) == list(range(len(pictures)))
    return list(pictures), notes


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_images(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_image_is_shown_as_each_method_shows_it(place: Path) -> None:
    pictures, notes = made(
        [of_training(place), of_test(place)], FullPictures(place / "a page/pictures", place / "a page")
    )
    assert notes.found == {}
    assert [(own.set, own.image) for own in pictures] == [("HeldOut", "held_out_0"), ("HeldOut", "held_out_1")]
    first = pictures[0]
    assert [panel.label for panel in first.panels] == ["LR", "bicubic", "tiny_test", "tiny at 12", "HR"]
    assert {(panel.width, panel.height) for panel in first.panels} == {(96, 80)}
    assert [panel.scores.get("psnr") for panel in first.panels] == [None, 24.0, 27.0, 25.0, None]
    shown = {panel.label: decoded(panel.src) for panel in first.panels}
    assert shown["LR"].shape == (40, 48, 3)
    grey = np.abs(shown["HR"].mean(-1) - picture(0, 80, 96).mean(-1))
    assert grey.mean() < 8  # WebP keeps a colour for four pixels
    paths = [place / "a page" / (panel.full or "") for panel in first.panels]
    assert np.array_equal(read_image(paths[-1]), picture(0, 80, 96))
    assert np.array_equal(read_image(paths[2]), blurred(0, 3))
    assert first.crop is not None
    left, top, width, height = first.crop
    assert (width, height) == (48, 40)
    assert [crop.label for crop in first.crops] == [panel.label for panel in first.panels]
    part = decoded(first.crops[-1].src)  # without loss, since there is room
    assert np.array_equal(part, picture(0, 80, 96)[top : top + height, left : left + width])


def test_a_training_alone_shows_its_earlier_iterations(place: Path) -> None:
    [first, _], _ = made([of_training(place)])
    assert [panel.label for panel in first.panels] == ["LR", "bicubic", "tiny at 12", "tiny at 8", "HR"]


def test_without_the_data_set_the_networks_are_left(place: Path) -> None:
    folder = of_test(place)
    (place / "held_out").rename(place / "moved")
    [first, _], notes = made([folder])
    assert [panel.label for panel in first.panels] == ["tiny_test"]
    assert first.crop is None
    [note] = notes.found["tiny_test"]
    assert note.startswith("HR and LR of HeldOut are not shown: ")
    assert "held_out/HR" in note


def test_pictures_that_cannot_be_read_are_noted(place: Path) -> None:
    folder = of_test(place)
    (folder / "visualization/HeldOut/held_out_0_tiny_test.png").write_bytes(b"no picture")
    (place / "held_out/HR/held_out_1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    [only], notes = made([folder])
    assert [panel.label for panel in only.panels] == ["tiny_test"]
    assert len(notes.found["tiny_test"]) == 2
    unsaved = of_test(place, "unsaved")
    (unsaved / "visualization").rename(place / "elsewhere")
    assert made([unsaved])[1].found == {"unsaved": {"no pictures were saved (val.save_img), or they are gone": None}}


def test_of_too_many_images_the_worst_and_the_best_are_shown(place: Path) -> None:
    folder = of_test(place)
    for number in range(2, 5):
        write_image(folder / f"visualization/HeldOut/held_out_{number}_tiny_test.png", blurred(number, 3))
    pictures, notes = made([folder], most=2)
    # Those that have no score count as the worst; the gain of the second is 5 dB, of the first 3.
    assert [own.image for own in pictures] == ["held_out_1", "held_out_2"]
    assert list(notes.found["tiny_test"]) == [
        "HeldOut: 2 of 5 images are shown: those of least and of largest gain",
        "HR and LR of held_out_2 are not shown: there is no such image in HeldOut now",
    ]


def test_thumbnails_keep_to_their_room() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    for most, largest in ((1_000_000, 400), (60_000, 400), (10_000, 400), (1_000_000, 100)):
        small = thumbnails([noise, noise[:75, :100]], most, largest)
        sizes = [decoded(src).shape for src in small]
        assert sum(map(len, small)) <= most
        assert max(sizes[0]) <= largest
        assert sizes[0][0] / sizes[0][1] == pytest.approx(0.75, abs=0.02)
        assert (max(sizes[0]) == 400) == (most == 1_000_000 and largest == 400)
    assert sum(map(len, crops([noise[:64, :64]], 5_000))) <= 6_000


def test_figures_of_analyses_are_kept_where_they_are_small(tmp_path: Path) -> None:
    file = tmp_path / "lam.png"
    write_image(file, picture(0, 64, 64))
    assert base64.b64decode(figure(file, 100_000).partition(",")[2]) == file.read_bytes()
    assert len(figure(file, 3_000)) <= 3_000
    file.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"lam\.png"):
        figure(file, 100_000)
