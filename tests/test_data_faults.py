"""What happens to the files of a run: pipes in the place of pictures, file systems that do not answer, odd names."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data.images.files import list_images, read_image
from data.images.photo import picture_size
from data.patches.dataset import PatchDataset
from models.inference.film import inspect_film
from models.inference.jobs import plan_jobs
from tests.data.pictures import write_folder
from tests.runs import run, run_here, workplace
from utils.errors import InputError

posix = pytest.mark.skipif(sys.platform == "win32", reason="pipes in folders and these signals are POSIX's")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
WORKER = "datasets:train:num_worker_per_gpu=1"


@posix
@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_becomes_a_pipe_ends_the_run(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    collect = PatchDataset.collect

    def replaced(dataset: PatchDataset, keys: Any, step: int = 0, reading: Any = None) -> Any:
        if step == 3:
            for path in Path("photos/HR").iterdir():
                path.unlink()
                os.mkfifo(path)
        return collect(dataset, keys, step, reading)

    monkeypatch.setattr(PatchDataset, "collect", replaced)
    options = ["datasets:train:io_backend:type=disk", f"datasets:train:num_worker_per_gpu={workers}"]
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", *options) in (1, 2)
    said = capsys.readouterr().err
    assert "the file cannot be read: it is a pipe, not a regular file" in said
    assert "Traceback" not in said


@posix
def test_a_signal_is_answered_while_the_images_of_a_batch_do_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    collect = PatchDataset.collect

    def hanging(dataset: PatchDataset, keys: Any, step: int = 0, reading: Any = None) -> Any:
        if step == 5:
            os.kill(os.getppid(), signal.SIGTERM)
            time.sleep(1000)
        return collect(dataset, keys, step, reading)

    with monkeypatch.context() as patched:
        patched.setattr(PatchDataset, "collect", hanging)
        started = time.monotonic()
        assert run_here("train.py", "-opt", "train.yml", "--force_yml", WORKER) == 143
        assert time.monotonic() - started < 60
    assert "stopped at iteration" in capsys.readouterr().err
    states = sorted((tmp_path / "experiments/tiny/training_states").iterdir())
    assert int(states[-1].stem) <= 5
    assert run_here("train.py", "-opt", "train.yml", "--auto_resume") == 0


@posix
def test_pipes_are_refused_by_every_reader_of_pictures_and_films(tmp_path: Path) -> None:
    for name in ("a.png", "a.unknown", "film.mp4"):
        os.mkfifo(tmp_path / name)
    write_folder(tmp_path, ["b.png"])
    assert list_images(tmp_path) == [tmp_path / "b.png"]
    assert picture_size(tmp_path / "a.png") is None
    for read, said in (
        (lambda: read_image(tmp_path / "a.png"), "the file cannot be read: it is a pipe, not a regular file"),
        (lambda: read_image(tmp_path), "the file cannot be read: it is a folder, not a file"),
        (lambda: read_image(Path("/dev/zero")), "the file cannot be read: it is a device, not a regular file"),
        (lambda: inspect_film(tmp_path / "film.mp4"), "the film cannot be read: it is a pipe, not a regular file"),
        (lambda: plan_jobs([str(tmp_path / "a.png")], tmp_path / "out"), "it is a pipe or a device; expected a file"),
    ):
        with pytest.raises(InputError, match=said):
            read()
    assert len(plan_jobs([str(tmp_path), str(tmp_path / "*.png")], tmp_path / "out")) == 1


@pytest.fixture
def unspeakable(tmp_path: Path) -> Path:
    """A folder whose name is not UTF-8."""
    folder = tmp_path / os.fsdecode("Größe ".encode() + b"\xff")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes no such names")
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux alone")
def test_folders_whose_names_are_not_utf8_serve_every_command(
    unspeakable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(unspeakable)
    workplace(Path())  # OpenCV, which makes the pictures, does not take the whole path
    roots = [f"path:experiments_root={unspeakable}/experiments", f"datasets:train:dataroot_gt={unspeakable}/photos/HR"]
    more = ["train:total_iter=2", "logger:use_tb_logger=true", "datasets:train:io_backend:type=disk", WORKER]
    done = run(unspeakable, "train.py", "-opt", str(unspeakable / "train.yml"), "--force_yml", *roots, *more)
    assert done.returncode == 0, done.stderr
    assert "TensorBoard cannot write there, since the path is not UTF-8" in done.stderr
    [log] = (unspeakable / "experiments/tiny").glob("train_*.log")
    assert r"Größe \udcff" in log.read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux alone")
def test_data_sets_are_made_in_folders_whose_names_are_not_utf8(
    unspeakable: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(unspeakable / "hr", ["ü 😀.png", "-dash.png"])
    script, hr = "scripts/prepare_dataset.py", str(unspeakable / "hr")
    assert run_here(script, "subimages", "-i", hr, "-o", f"{unspeakable}/sub", "--crop_size", "16") == 0
    assert run_here(script, "lr", "-i", hr, "-o", f"{unspeakable}/lr", "--scale", "2") == 0
    assert run_here(script, "subimages", "-i", hr, "-o", f"{unspeakable}/sub", "--crop_size", "16") == 0
    for kind in ("pack", "lmdb"):
        assert run_here(script, kind, "-i", hr, "-o", f"{unspeakable}/hr.{kind}") == 0
        assert run_here(script, "check", "-i", f"{unspeakable}/hr.{kind}", "--report", f"{unspeakable}/r.txt") == 0
    assert "Traceback" not in capsys.readouterr().err


@posix
def test_a_python_that_knows_ascii_alone_says_what_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LC_ALL", "POSIX"), ("PYTHONUTF8", "0"), ("PYTHONIOENCODING", "ascii")):
        monkeypatch.setenv(name, value)
    write_folder(tmp_path / "hr", ["ü.png"])
    done = run(tmp_path, "scripts/prepare_dataset.py", "pack", "-i", "hr", "-o", "hr.pack")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    if "takes the names of files for ASCII" not in done.stderr:
        pytest.skip("this system's locales are all UTF-8")
    assert "what helps: PYTHONUTF8=1 in the environment" in done.stderr
    monkeypatch.setenv("PYTHONUTF8", "1")
    assert run(tmp_path, "scripts/prepare_dataset.py", "pack", "-i", "hr", "-o", "hr.pack").returncode == 0
