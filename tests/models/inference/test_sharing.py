"""How work is shared out: every item once, in equal shares, the same for everybody who looks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.inference.film import Film, inspect_film
from models.inference.jobs import Job, plan_jobs
from models.inference.sharing import Part, Plan, parse_part, part_of, shared_out, work_of
from tests.models.inference.films import TEST, ffmpeg, needs_ffmpeg
from tests.scripts.upscale.runs import picture
from utils.errors import InputError

WORK = st.lists(st.integers(0, 10**6).map(float), max_size=60)


@given(WORK, st.integers(1, 12))
def test_every_item_is_in_one_share_and_no_share_is_larger_than_another_by_more_than_an_item(
    work: list[float], count: int
) -> None:
    shares = shared_out(work, count)
    assert len(shares) == count
    assert sorted(i for share in shares for i in share) == list(range(len(work)))
    loads = [sum(work[i] for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(work, default=0.0)
    assert shared_out(list(work), count) == shares


@given(st.lists(st.floats(0, 1e12), max_size=30))
def test_a_plan_begins_with_the_most_work_and_keeps_its_names(work: list[float]) -> None:
    jobs = [Job(Path(f"in/{i}\udcff.png"), Path(f"out/{i}.png")) for i in range(len(work))]
    plan = Plan(tuple(jobs), tuple(work), (Path("out/x.png"),), ("two lines", "ü"), 3)
    assert Plan.from_json(plan.to_json()) == plan
    sorted_plan = plan.largest_first()
    assert list(sorted_plan.work) == sorted(work, reverse=True)
    assert dict(zip(sorted_plan.jobs, sorted_plan.work, strict=True)) == dict(zip(jobs, work, strict=True))
    assert sorted_plan.unread == 3


@pytest.mark.parametrize("text", ["1/1", "1/8", "8/8", "02/8"])
def test_parts_are_counted_from_one(text: str) -> None:
    assert parse_part(text) == Part(*map(int, text.split("/")))


@pytest.mark.parametrize("text", ["", "/", "/8", "0/8", "9/8", "1/0", "-1/8", "1/8/2", "a/b", "1.0/2", " 1/2", "१/२"])
def test_other_parts_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"--part must be i/n with i from 1 to n, such as 2/8 .*, got '"):
        parse_part(text)


def test_work_is_the_number_of_pixels_in_all_frames_and_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out.tif"
    assert work_of(Job(picture(tmp_path / "a.png", 20, 50), target)) == 1.0
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        for page in torch.zeros(4, 10, 50, 3, dtype=torch.uint8).numpy():
            writer.write(page, photometric="rgb", metadata=None)
    assert work_of(Job(tmp_path / "b.tif", target)) == 2.0
    assert work_of(Job(tmp_path / "b.tif", tmp_path / "out.png")) == 0.5  # its first page is all that is upscaled
    (tmp_path / "c.png").write_bytes(b"no picture")
    assert work_of(Job(tmp_path / "c.png", target)) == 0
    film = Job(tmp_path / "d.mp4", tmp_path / "out.mp4")
    assert work_of(film) == 0  # it is not there
    known = Film(Fraction(25), 30, height=100, width=200)
    monkeypatch.setattr("models.inference.sharing.inspect_film", lambda path: known)
    assert work_of(film) == 600
    assert work_of(film, films=False) == 0


@needs_ffmpeg
def test_the_work_of_a_film(tmp_path: Path) -> None:
    ffmpeg(*TEST, tmp_path / "a.mkv")
    film = inspect_film(tmp_path / "a.mkv")
    assert film.frames == 5
    assert work_of(Job(tmp_path / "a.mkv", tmp_path / "b.mkv")) == 5 * film.height * film.width / 1000 > 0


def test_parts_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i, height in enumerate((900, 100, 500, 400, 300)):  # in thousands of pixels: 90, 10, 50, 40, 30
        picture(tmp_path / f"in/{i}.png", height, 100)
    jobs = plan_jobs([str(tmp_path / "in")], tmp_path / "out")
    parts = [part_of(jobs, Part(i, 2), [str(tmp_path / "in")]) for i in (1, 2)]
    assert [[job.source.stem for job in part] for part in parts] == [["0", "4"], ["1", "2", "3"]]  # 120 and 100
    assert part_of(jobs, Part(7, 7), [str(tmp_path / "in")]) == []
    with pytest.raises(InputError, match=r"0_x4\.png would be among the pictures that later parts find"):
        part_of(plan_jobs([str(tmp_path / "in")], tmp_path / "in", "_x4"), Part(1, 2), [str(tmp_path / "in")])
    # Where one of several machines does not know the lengths of films, its parts would be others.
    (tmp_path / "in/film.mp4").write_bytes(b"film")
    monkeypatch.setattr("models.inference.ffmpeg.shutil.which", lambda name: None)
    with pytest.raises(InputError, match="ffprobe is not installed"):
        part_of(plan_jobs([str(tmp_path / "in")], tmp_path / "out"), Part(1, 2), [str(tmp_path / "in")])


def test_files_of_unknown_size_are_spread(tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(b"no picture")
    jobs = plan_jobs([str(tmp_path)], tmp_path / "out")
    assert [len(part_of(jobs, Part(i, 3), [str(tmp_path)])) for i in (1, 2, 3)] == [2, 2, 2]
