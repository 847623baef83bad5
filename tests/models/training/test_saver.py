"""Checkpoints written in the background: what they hold, what is kept, what happens when writing fails."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from archs import build_network
from config.schema import TrainOptions
from models.distributed import World
from models.training import checkpoint
from models.training.checkpoint import CheckpointFolder
from models.training.saver import Saver
from models.training.state import TrainState
from models.weights.files import load_weights
from tests.runs import run_here, workplace
from tests.states import options, save, state_of
from utils.errors import InputError, StorageError


def trained(chosen: TrainOptions) -> TrainState:
    torch.manual_seed(0)
    state = state_of(chosen)
    advance(state)
    return state


def advance(state: TrainState) -> None:
    state.generator.network(torch.rand(1, 3, 8, 8)).sum().backward()
    state.generator.optimizer.step()
    state.step += 1


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_training_goes_on_while_a_checkpoint_is_written(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = options()
    state = trained(chosen)
    expected = {key: value.clone() for key, value in state.generator.network.state_dict().items()}
    moments = [value["exp_avg"].clone() for value in state.generator.optimizer.state_dict()["state"].values()]
    may_write = threading.Event()
    write = checkpoint.write

    def slowly(*arguments: Any, **keywords: Any) -> None:
        assert may_write.wait(30)
        write(*arguments, **keywords)

    monkeypatch.setattr(checkpoint, "write", slowly)
    folder = CheckpointFolder(place / "run")
    saver = Saver(folder, chosen, World())
    saver.save(state)
    advance(state)
    assert names(folder.states) == []
    may_write.set()
    saver.close()
    content = torch.load(folder.network(1), weights_only=True)
    assert all(torch.equal(content["params"][key], value) for key, value in expected.items())
    kept = torch.load(folder.state(1), weights_only=True)["optimizers"][0]["state"]
    assert all(torch.equal(value["exp_avg"], before) for value, before in zip(kept.values(), moments, strict=True))
    assert not torch.equal(next(iter(state.generator.network.parameters())), next(iter(expected.values())))


def test_a_failed_write_is_raised_by_the_next_save(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = options()
    state = trained(chosen)
    saver = Saver(CheckpointFolder(place / "run"), chosen, World())

    def full(*_: Any, **__: Any) -> None:
        raise StorageError(errno.ENOSPC, "the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write", full)
        saver.save(state)
        advance(state)
        with pytest.raises(StorageError, match="the disk is full"):
            saver.save(state)
    saver.close()


def test_pruning_keeps_the_newest_checkpoints_and_the_multiples(place: Path) -> None:
    chosen = options("logger:keep_last=2", "logger:keep_every=4", "logger:save_safetensors=true")
    state = trained(chosen)
    folder = CheckpointFolder(place / "run")
    saver = Saver(folder, chosen, World())
    for _ in range(7):
        saver.save(state)
        advance(state)
    saver.close()
    assert names(folder.states) == ["4.state", "6.state", "7.state"]
    steps = (4, 6, 7)
    assert names(folder.networks) == [f"net_g_{step}.{end}" for step in steps for end in ("pth", "safetensors")]


def test_safetensors_hold_the_ema_weights_and_the_options(place: Path) -> None:
    chosen = options("logger:save_safetensors=true")
    state = trained(chosen)
    folder = CheckpointFolder(place / "run")
    saver = Saver(folder, chosen, World())
    saver.save(state)
    saver.close()
    path = folder.network(1).with_suffix(".safetensors")
    assert state.generator.ema is not None
    other = build_network(chosen.network_g.as_mapping())
    load_weights(other, path)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), state.generator.ema.parameters(), strict=True))
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["step"]) == 1
    assert json.loads(metadata["network_g"])["type"] == "PlainUSR_ultra"
    assert json.loads(metadata["options"])["scale"] == 2


@pytest.mark.parametrize("part", ["state", "network"])
def test_one_changed_bit_of_a_checkpoint_is_found(place: Path, part: str, log: list[str]) -> None:
    chosen = options()
    state = trained(chosen)
    folder = CheckpointFolder(place / "run")
    for _ in range(2):
        save(folder, state, chosen)
        advance(state)
    path = folder.state(2) if part == "state" else folder.network(2)
    damaged = bytearray(path.read_bytes())
    value = next(iter(state.generator.network.parameters()))
    whole = torch.load(path, weights_only=True)
    tensor = whole["optimizers"][0]["state"][0]["exp_avg"] if part == "state" else whole["params"]["head.weight"]
    at = bytes(damaged).index(tensor.numpy().tobytes())
    damaged[at + 5] ^= 1
    path.write_bytes(damaged)
    torch.load(path, weights_only=True)  # torch does not notice
    with pytest.raises(InputError, match=r"the file is damaged: its checksum is wrong"):
        checkpoint.read_resume(folder.state(2), chosen.path)
    found = checkpoint.find_resume(folder, chosen.path, World())
    assert found is not None
    assert found.step == 1
    assert any("skipped: " in line and "checksum" in line for line in log)
    assert value.isfinite().all()


def test_the_best_weights_are_kept(place: Path) -> None:
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", "train:total_iter=8") == 0
    folder = CheckpointFolder(place / "experiments/tiny")
    records = [json.loads(line) for line in (folder.root / "metrics.jsonl").read_text().splitlines()]
    scores = {record["step"]: record["scores"]["psnr"] for record in records if record["kind"] == "val"}
    best = max(scores, key=lambda step: scores[step])
    content = torch.load(folder.network("best"), weights_only=True)
    assert content["focalsr"]["step"] == best
    assert content["focalsr"]["metrics"]["HeldOut"]["psnr"] == [scores[best], best]


def test_the_writer_is_there_before_memory_can_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is started in a full memory may never say that it has begun, and the run would wait for ever."""
    monkeypatch.chdir(workplace(tmp_path / "work place"))
    chosen = options()
    saver = Saver(CheckpointFolder(tmp_path), chosen, World())
    monkeypatch.setattr("threading.Thread.start", lambda _: pytest.fail("a thread is started"))
    saver.save(state_of(chosen))
    saver.close()
    assert CheckpointFolder(tmp_path).steps() == [0]
