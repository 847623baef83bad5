"""The power fails at any moment: every checkpoint that was written is there afterwards, and what is there is whole."""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from data.images.pack import INDEX
from data.prepare.lmdb_writer import write_lmdb
from data.prepare.lowres import make_low_resolution
from data.prepare.pack_writer import write_pack
from models.training import checkpoint
from models.training.checkpoint import CheckpointFolder
from tests.data.pictures import write_folder
from tests.disk import Event, Recorder, Tree, build
from tests.runs import run_here, workplace
from tests.test_straight_line import assert_same_run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="folders are synchronised by their handles")

RUN = ("train.py", "-opt", "train.yml", "--force_yml", "logger:save_checkpoint_freq=2", "logger:keep_last=1")


def recorded(place: Path, runs: list[tuple[str, ...]]) -> Recorder:
    """What some trainings, one after the other, ask of the disk; a mark for each checkpoint that is written."""
    recorder = Recorder(place)
    write = checkpoint.write

    def marked(folder: CheckpointFolder, taken: Any, **keywords: Any) -> None:
        write(folder, taken, **keywords)
        recorder.mark(f"saved {taken.step}")

    with pytest.MonkeyPatch.context() as patch, recorder.recording():
        patch.chdir(place)
        patch.setattr(checkpoint, "write", marked)
        for arguments in runs:
            recorder.mark("starts")
            assert run_here(*RUN, *arguments) == 0
            recorder.mark("ends")
    return recorder


def whole_files(recorder: Recorder) -> dict[str, set[bytes]]:
    """By the names of files, without their folders: what they held when they got their names."""
    found = defaultdict(set)
    for event in recorder.events:
        if event.kind == "rename":
            for path, content in event.contents.items():
                found[Path(path).name].add(content)
    return found


def resumable(tree: Tree, run: str) -> list[int]:
    """The iterations of the states of a run whose networks are there, newest first."""
    steps = [int(match[1]) for path in tree if (match := re.fullmatch(rf"{run}/training_states/(\d+)\.state", path))]
    for step in steps:
        assert f"{run}/models/net_g_{step}.pth" in tree  # a state implies its networks
    return sorted(steps, reverse=True)


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Recorder:
    """A training, one that goes on to more iterations, and one that begins anew."""
    place = workplace(tmp_path_factory.mktemp("power loss"))
    return recorded(place, [("train:total_iter=8",), ("train:total_iter=12", "--auto_resume"), ("train:total_iter=4",)])


def test_what_was_saved_is_there_whenever_the_power_fails(training: Recorder) -> None:
    whole = whole_files(training)
    marks = [event.target if event.kind == "mark" else "" for event in training.events]
    looked = 0
    for number, tree in training.crashes():
        done = marks[:number]
        for path, content in tree.items():
            name = Path(path).name
            if name.endswith((".pth", ".state", ".yml")):
                assert content in whole[name], (path, number)
        runs = {path.split("/")[1] for path in tree if path.startswith("experiments/tiny")}
        found = {run: resumable(tree, f"experiments/{run}") for run in runs}
        third = done.count("starts") == 3
        before = [int(mark[6:]) for mark in done if mark.startswith("saved")]
        if not third and before:
            assert found["tiny"][0] >= before[-1], number
        if third:  # the earlier run is there, under one of its names
            assert any(steps[:1] == [12] for steps in found.values()), number
            if len(before) > 6:
                assert found["tiny"][0] >= before[-1], number
        for run, steps in found.items():
            lines = tree.get(f"experiments/{run}/metrics.jsonl", b"").splitlines()
            figures = [json.loads(line)["step"] for line in lines if line.endswith(b"}") and b'"train"' in line]
            assert not steps or figures[: steps[0]] == list(range(1, steps[0] + 1)), number
        looked += 1
    assert looked > 600


@pytest.mark.slow
def test_runs_go_on_after_the_power_has_failed(
    training: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = workplace(tmp_path / "whole")
    monkeypatch.chdir(whole)
    assert run_here(*RUN) == 0
    crashes = [tree for number, tree in training.crashes(seed=1, mixtures=1)]
    first = [tree for tree in crashes if not any("archived" in path for path in tree)]
    for number, tree in enumerate(first[i * len(first) // 4] for i in range(1, 4)):
        place = workplace(tmp_path / str(number))
        build(tree, place)
        monkeypatch.chdir(place)
        assert run_here(*RUN, "--auto_resume") == 0
        assert_same_run(whole / "experiments/tiny", place / "experiments/tiny")
        assert not list(place.rglob("*.part"))


@pytest.mark.parametrize("suffix", ["pack", "lmdb"])
def test_a_data_set_gets_its_name_when_it_is_whole(tmp_path: Path, suffix: str) -> None:
    write_folder(tmp_path / "hr", [f"{number}.png" for number in range(6)])
    place, recorder = tmp_path / "made", Recorder(tmp_path / "made")
    place.mkdir()
    with recorder.recording():
        if suffix == "pack":
            write_pack(tmp_path / "hr", place / "a.pack", shard_bytes=1500)
        else:
            write_lmdb(tmp_path / "hr", place / "a.lmdb", commit_every=2)
        recorder.mark("done")
    result = place / f"a.{suffix}"
    # What LMDB itself writes is safe when a commit returns, but for the names of its files.
    files = {path.name: path.read_bytes() for path in result.iterdir() if path.suffix != ".mdb"}
    found = 0
    for number, tree in recorder.crashes():
        named = {Path(path).name: content for path, content in tree.items() if path.startswith(f"a.{suffix}/")}
        if named:
            found += 1
            assert files.items() <= named.items(), number  # perhaps with what is known of shards beside it
        elif number == len(recorder.events):
            raise AssertionError
        shards = {name[:-5] for name in (Path(path).name for path in tree) if name.endswith(".json") and name != INDEX}
        for shard in shards if suffix == "pack" else ():
            assert tree[f"a.pack.part/{shard}" if not named else f"a.pack/{shard}"] == files[shard], number
    assert found
    moved = next(i for i, event in enumerate(recorder.events) if event.target == f"a.{suffix}")
    assert Event("fsync", f"a.{suffix}.part") in recorder.events[:moved]
    assert recorder.events[moved + 1] == Event("fsync", ".")


def test_a_lost_end_of_a_prepared_picture_is_noticed(tmp_path: Path) -> None:
    write_folder(tmp_path / "hr", ["a.png"])
    make_low_resolution(tmp_path / "hr", tmp_path / "lr", [2])
    small = tmp_path / "lr/X2/ax2.png"
    whole = small.read_bytes()
    for kept in (0, 5, len(whole) // 2, len(whole) - 1):
        small.write_bytes(whole[:kept])
        make_low_resolution(tmp_path / "hr", tmp_path / "lr", [2])
        assert small.read_bytes() == whole
