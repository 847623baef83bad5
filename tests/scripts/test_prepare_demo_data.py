"""scripts/prepare_demo_data.py: which photographs it writes, and that it does so only once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.images.files import image_size, list_images, read_image
from data.resizing.matlab import mod_crop
from scripts.prepare_demo_data import HELD_OUT, MULTIPLE, TRAINING, main, other_images, package_folder, prepare
from tests.runs import command, run_line
from utils.command import run_command
from utils.errors import InputError


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("a folder") / "demo"
    assert len(prepare(package_folder(), target)) == len(TRAINING) + len(HELD_OUT)
    return target


def test_demo_photographs_are_written_without_loss(demo: Path) -> None:
    for part, names in (("train", TRAINING), ("val", HELD_OUT)):
        written = list_images(demo / part / "HR")
        assert [path.stem for path in written] == sorted(Path(name).stem for name in names)
        for name in names:
            expected = read_image(package_folder() / name)
            if part == "val":
                expected = mod_crop(expected, MULTIPLE)
            assert np.array_equal(read_image(demo / part / "HR" / f"{Path(name).stem}.png"), expected)


def test_demo_photographs_are_in_colour_and_large_enough(demo: Path) -> None:
    for path in [*list_images(demo / "train/HR"), *list_images(demo / "val/HR")]:
        image = read_image(path).astype(int)
        assert np.abs(image[..., 0] - image[..., 2]).mean() > 2, path
        assert min(image.shape[:2]) >= 288
    assert all(side % MULTIPLE == 0 for path in list_images(demo / "val/HR") for side in image_size(path))


def test_nothing_is_held_out_and_trained_on() -> None:
    assert not {name.split("_")[0] for name in TRAINING} & {name.split("_")[0] for name in HELD_OUT}


def test_demo_files_that_are_right_are_left_alone(demo: Path) -> None:
    path = demo / "val/HR/coffee.png"
    before = path.stat().st_mtime_ns
    assert prepare(package_folder(), demo) == []
    assert path.stat().st_mtime_ns == before
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])  # an earlier run that was killed by other means
    assert prepare(package_folder(), demo) == [path]
    assert path.read_bytes() == content


def test_images_that_are_not_of_the_demo_are_reported(demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert other_images(demo) == []
    other = demo / "train/HR/chelsea.png"
    other.write_bytes((demo / "val/HR/chelsea.png").read_bytes())
    main(["-o", str(demo)])
    assert f"note: {other} is not part of the demo" in capsys.readouterr().out
    other.unlink()


def test_photographs_that_scikit_image_lacks_are_reported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"astronaut\.png: there is no such file"):
        prepare(tmp_path, tmp_path / "demo")


def test_a_demo_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert run_command(main, ["-o", str(tmp_path / "file")]) == 2


def test_prepare_demo_data_runs_from_any_folder(tmp_path: Path) -> None:
    shown = run_line(tmp_path, command("scripts/prepare_demo_data.py", "--help")).stdout
    assert "datasets/demo" in shown
