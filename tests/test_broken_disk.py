"""A disk that cannot be written, by its quota or its own fault: one message that names the file, and nothing lost."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import cv2
import pytest

from data.prepare.common import SETTINGS
from data.prepare.origins import ORIGINS
from data.prepare.pack_writer import write_pack
from data.prepare.subimages import Grid, cut_subimages
from models.training.checkpoint import CheckpointFolder
from tests.data.pictures import write_folder
from tests.disk import failing
from tests.runs import picture, run_here, workplace
from utils.errors import StorageError
from utils.log import configure_logging

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="open files are known by /proc")

TRAIN = ("train.py", "-opt", "train.yml", "--force_yml", "train:total_iter=4", "logger:save_checkpoint_freq=2")
SHORT = (*TRAIN, "val=null")
FULL = "the disk is full: {} could not be written; free some space and resume"
BROKEN = "{} could not be written: " + os.strerror(errno.EIO)
FAULTS = [("write", errno.EDQUOT, FULL), ("fsync", errno.EIO, BROKEN), ("close", errno.EIO, BROKEN)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("request_", "number", "message"), FAULTS)
@pytest.mark.parametrize("file", ["models/net_g_4.pth", "training_states/4.state"])
def test_a_checkpoint_that_cannot_be_written(
    file: str, request_: str, number: int, message: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = CheckpointFolder(Path("experiments/tiny"))
    with failing(rf"\.{Path(file).name}\.\d+\.part", request_, number):
        assert run_here(*SHORT) == 1
    said = capsys.readouterr().err
    assert said.count(message.format(folder.root / file)) == 1
    assert "Traceback" not in said
    assert folder.steps() == [2]
    assert not list(folder.root.rglob("*.part"))
    assert run_here(*SHORT, "--auto_resume") == 0
    assert "at iteration 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "file"),
    [
        (r"metrics\.jsonl", "experiments/tiny/metrics.jsonl"),
        (r"\.options_as_read\.yml.*", "experiments/tiny/options_as_read.yml"),
        ("training_states", "experiments/tiny/training_states/2.state"),  # whose name is to be made safe
    ],
)
def test_another_file_of_a_run_that_cannot_be_written(
    name: str, file: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = "fsync" if file.endswith("state") else "write"
    with failing(name, request, errno.EIO):
        assert run_here(*SHORT) == 1
    said = capsys.readouterr().err
    assert said.count(BROKEN.format(file)) == 1
    assert "Traceback" not in said
    assert run_here(*SHORT, "--auto_resume") == 0


@pytest.mark.parametrize(("request_", "number"), [("write", errno.EDQUOT), ("write", errno.EIO), ("close", errno.EIO)])
def test_a_log_that_cannot_be_written_stops_nothing(
    request_: str, number: int, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with failing(r"train_tiny_.*\.log", request_, number):
        assert run_here(*SHORT) == 0
        assert run_here(*SHORT, "--auto_resume") == 0
        configure_logging()  # which closes the last one
    said = capfd.readouterr().err
    assert said.count("on the console alone") == 2  # once for each run
    assert "Traceback" not in said
    assert "Exception ignored" not in said


def test_pictures_that_cannot_be_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = r"\.held_out_0.*\.png\.\d+\.part"
    with failing(pictures, "close", errno.EIO):
        assert run_here(*TRAIN, "val:save_img=true", "val:val_freq=2") == 1
        assert (
            BROKEN.format("experiments/tiny/visualization/HeldOut/held_out_0/held_out_0_2.png")
            in capsys.readouterr().err
        )
    assert run_here(*SHORT) == 0
    capsys.readouterr()
    with failing(pictures, "write", errno.EDQUOT):
        assert run_here("test.py", "-opt", "test.yml") == 1
        said = capsys.readouterr().err
        assert FULL.format("results/tiny_test/visualization/HeldOut/held_out_0_tiny_test.png") in said
        assert "Traceback" not in said
    with failing(r"\.scores\.json.*", "fsync", errno.EIO):
        assert run_here("test.py", "-opt", "test.yml") == 1
        assert BROKEN.format("results/tiny_test/scores.json") in capsys.readouterr().err


def test_an_upscaled_picture_that_cannot_be_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cv2.imwrite("small.png", picture(0, 12, 16))
    assert run_here(*SHORT) == 0
    for kind in ("png", "jpg", "tif", "webp", "bmp", "gif"):
        for request in ("close",) if kind == "jpg" else ("write", "close"):  # Pillow writes JPEG by the handle
            weights = "experiments/tiny/models/net_g_latest.pth"
            command = ("scripts/upscale.py", "-i", "small.png", "-o", f"big.{kind}", "-w", weights, "--cpu")
            with failing(rf"\.big\.{kind}\.\d+\.part", request, errno.EIO):
                assert run_here(*command) == 1
            said = capsys.readouterr().err
            assert BROKEN.format(f"big.{kind}") in said
            assert "Traceback" not in said
            assert not list(place.glob("*big*"))


@pytest.mark.parametrize(("request_", "number"), [("write", errno.EDQUOT), ("close", errno.EIO)])
def test_prepared_data_that_cannot_be_written(request_: str, number: int, tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", ["a.png"])
    with (
        failing(r"shard-.*", request_, number),
        pytest.raises(StorageError, match=r"shard-00000.* could not be written"),
    ):
        write_pack(tmp_path / "hr", tmp_path / "a.pack")
    with failing(r"\.\d+-\d+\.part", request_, number), pytest.raises(StorageError, match=r"a_s001\.png could not be"):
        cut_subimages(tmp_path / "hr", tmp_path / "sub", Grid(16, 16))
    assert {path.name for path in (tmp_path / "sub").iterdir()} == {SETTINGS, ORIGINS}
    assert write_pack(tmp_path / "hr", tmp_path / "a.pack")[0] == 1
    cut_subimages(tmp_path / "hr", tmp_path / "sub", Grid(16, 16))
