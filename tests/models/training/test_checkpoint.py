"""Checkpoints: BasicSR's forms in and out, safe loading, clear refusals."""

from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from archs import build_network
from config import read
from config.schema import PathOptions, TrainOptions
from models.distributed import World
from models.training import checkpoint
from models.training.checkpoint import CheckpointFolder
from models.training.state import TrainState
from models.weights.files import load_pretrained, load_pretrained_ema, load_weights
from tests.runs import workplace
from utils.errors import InputError, StorageError

ULTRA = {"type": "PlainUSR_ultra", "n_feat": 8, "im_feat": [8, 4], "scale": 2}


class Tiny(nn.Module):
    """The two-convolution network of the recorded experiment."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))
        self.conv = nn.Conv2d(3, 4, 3, 1, 1)
        self.up = nn.Conv2d(4, 12, 3, 1, 1)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainOptions:
    """A training file's options, in a folder with its pictures."""
    monkeypatch.chdir(workplace(tmp_path))
    return read(Path("train.yml"), mode="train")


def trained_state(options: TrainOptions) -> TrainState:
    """A state whose optimiser has moments."""
    state = TrainState.create(build_network(options.network_g.as_mapping()), options, torch.device("cpu"))
    state.network(torch.rand(1, 3, 8, 8)).sum().backward()
    state.optimizer.step()
    state.step = 4
    return state


@pytest.mark.shared
def test_basicsr_s_experiment_opens(shared: Path) -> None:
    folder = CheckpointFolder(shared / "golden/formats/tiny_experiment")
    content = json.loads((folder.root / "content.json").read_text())
    for key in ("params", "params_ema"):
        network = Tiny()
        assert not load_weights(network, folder.network(8), key=key)
        for name, facts in content["net_g_8.pth"][key].items():
            assert network.state_dict()[name].double().sum().item() == pytest.approx(facts["sum"], rel=1e-6)
    assert not load_weights(Tiny(), folder.network("latest"))
    assert folder.steps() == [8]
    resume = checkpoint.find_resume(folder, PathOptions())
    assert resume is not None
    assert resume.step == 8


def test_a_state_comes_back_whole(options: TrainOptions) -> None:
    folder = CheckpointFolder(Path("experiments/tiny"))
    state = trained_state(options)
    state.record("HeldOut", "psnr", 30.0, "higher")
    state.validated, state.skipped, state.epoch = 2, 1, 3
    checkpoint.save(folder, state, options, World())
    expected = torch.rand(3)
    resume = checkpoint.find_resume(folder, options.path)
    assert resume is not None
    assert resume.seed == options.manual_seed
    fresh = TrainState.create(build_network(options.network_g.as_mapping()), options, torch.device("cpu"))
    checkpoint.apply_resume(fresh, resume, options, World())
    assert torch.equal(torch.rand(3), expected)
    assert (fresh.step, fresh.validated, fresh.skipped, fresh.epoch, fresh.best) == (4, 2, 1, 3, state.best)
    pairs = [(state.network, fresh.network), (state.ema, fresh.ema)]
    for mine, theirs in pairs:
        assert mine is not None
        assert theirs is not None
        assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in mine.state_dict().items())
    assert str(state.optimizer.state_dict()) == str(fresh.optimizer.state_dict())


def test_basicsr_s_own_readers_find_what_they_expect(options: TrainOptions) -> None:
    folder = CheckpointFolder(Path("experiments/tiny"))
    checkpoint.save(folder, trained_state(options), options, World())
    network = torch.load(folder.network(4), weights_only=True)
    assert set(network) >= {"params", "params_ema"}
    state = torch.load(folder.state(4), weights_only=True)
    assert (state["epoch"], state["iter"]) == (0, 4)
    assert set(state["optimizers"][0]) == {"state", "param_groups"}
    assert state["schedulers"][0]["last_epoch"] == 3


def test_a_damaged_newest_state_falls_back(options: TrainOptions, caplog: pytest.LogCaptureFixture) -> None:
    folder = CheckpointFolder(Path("experiments/tiny"))
    state = trained_state(options)
    for step in (4, 8, 12):
        state.step = step
        checkpoint.save(folder, state, options, World())
    folder.state(12).write_bytes(b"half")
    folder.network(8).unlink()
    resume = checkpoint.find_resume(folder, options.path)
    assert resume is not None
    assert resume.step == 4
    assert "12.state" in caplog.text


def test_a_full_disk_keeps_the_previous_checkpoint(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(Path("experiments/tiny"))
    state = trained_state(options)
    checkpoint.save(folder, state, options, World())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    state.step = 8
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StorageError, match="disk is full"):
            checkpoint.save(folder, state, options, World())
    assert folder.steps() == [4]
    assert checkpoint.find_resume(folder, options.path) is not None
    assert not list(folder.root.rglob("*.part"))


def test_another_network_or_optimiser_is_refused(options: TrainOptions) -> None:
    folder = CheckpointFolder(Path("experiments/tiny"))
    checkpoint.save(folder, trained_state(options), options, World())
    resume = checkpoint.read_resume(folder.state(4), options.path)
    other = TrainState.create(build_network({**ULTRA, "n_feat": 16}), options, torch.device("cpu"))
    with pytest.raises(InputError, match=r"net_g_4\.pth: belongs to another network"):
        checkpoint.apply_resume(other, resume, options, World())
    ignoring = dataclasses.replace(options.path, ignore_resume_networks=("network_g",))
    resume = checkpoint.read_resume(folder.state(4), ignoring)
    assert resume.network is None


def test_an_average_starts_from_the_file_s_average(options: TrainOptions) -> None:
    source, average = build_network(ULTRA), build_network(ULTRA)
    torch.save({"params": source.state_dict(), "params_ema": average.state_dict()}, "both.pth")
    path = dataclasses.replace(options.path, pretrain_network_g=Path("both.pth"))
    network = build_network(ULTRA)
    load_pretrained(network, path)
    state = TrainState.create(network, options, torch.device("cpu"))
    assert state.ema is not None
    load_pretrained_ema(state.ema, path)
    assert torch.equal(state.network.state_dict()["head.weight"], source.state_dict()["head.weight"])
    assert torch.equal(state.ema.state_dict()["head.weight"], average.state_dict()["head.weight"])


def test_after_a_partial_load_network_and_average_agree(options: TrainOptions) -> None:
    torch.save({"params": build_network({**ULTRA, "scale": 4}).state_dict()}, "x4.pth")
    path = dataclasses.replace(options.path, pretrain_network_g=Path("x4.pth"), strict_load_g=False)
    network = build_network(ULTRA)
    load_pretrained(network, path)
    state = TrainState.create(network, options, torch.device("cpu"))
    assert state.ema is not None
    load_pretrained_ema(state.ema, path)
    assert all(torch.equal(value, state.ema.state_dict()[key]) for key, value in state.network.state_dict().items())
