"""The moving average of weights."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from archs import build_network
from config import read
from config.schema import TrainingOptions
from models.training.ema import decay_of, lag, make_ema, tensors_of, update_ema
from tests.runs import run_here, workplace


def test_ema_parameters_are_averaged_and_buffers_copied() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    ema = make_ema(network)
    before = {name: value.clone() for name, value in ema.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    network.forward(torch.rand(4, 3))  # moves the running statistics and the counter
    update_ema(tensors_of(ema), tensors_of(network), 0.9)
    for name, value in ema.named_parameters():
        torch.testing.assert_close(value, before[name] + 0.1)
    for (name, mine), theirs in zip(ema.named_buffers(), network.buffers(), strict=True):
        assert torch.equal(mine, theirs), name


def test_ema_weights_are_not_trained_and_share_no_memory() -> None:
    network = nn.Linear(2, 2)
    ema = make_ema(network)
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    assert next(ema.parameters()).data_ptr() != network.weight.data_ptr()
    assert network.weight.requires_grad


def test_what_an_evaluated_ema_network_caches_is_renewed_by_an_update() -> None:
    network = build_network({
        "type": "HAT", "upscale": 2, "window_size": 4, "embed_dim": 12, "depths": [2], "num_heads": [2],
        "squeeze_factor": 3,
    })  # fmt: skip
    ema = make_ema(network)
    x = torch.rand(1, 3, 8, 8)
    averages, values = tensors_of(ema), tensors_of(network)
    with torch.no_grad():
        ema(x)  # computes and keeps the dense position bias
        for parameter in network.parameters():
            parameter.add_(0.5)
        update_ema(averages, values, 0.5)
        torch.testing.assert_close(ema(x), copy.deepcopy(ema)(x))


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainingOptions:
    """Options of a short training, in a folder with its pictures; its decay is 0.9."""
    monkeypatch.chdir(workplace(tmp_path))
    return read(Path("train.yml"), mode="train").train


def test_the_decay_rises_to_its_value_where_that_is_asked_for(training: TrainingOptions) -> None:
    assert [decay_of(training, n) for n in (0, 5, 1000)] == [0.9, 0.9, 0.9]
    rising = dataclasses.replace(training, ema_warmup=True)
    assert [decay_of(rising, n) for n in (0, 5, 79, 80, 81, 1000)] == [0.1, 0.4, 80 / 89, 0.9, 0.9, 0.9]


def test_ema_weights_that_lag_behind_are_reported(training: TrainingOptions) -> None:
    slow = dataclasses.replace(training, ema_decay=0.999)
    message = lag(slow, 300)
    assert message is not None
    assert "74 % of the weights that the run began with (train.ema_decay 0.999, 300 iterations)" in message
    assert lag(slow, 5000) is None
    assert lag(dataclasses.replace(slow, ema_warmup=True), 300) is None
    assert lag(dataclasses.replace(slow, ema_decay=0.0), 300) is None


def test_a_training_with_rising_decay_resumes_to_the_bit(training: TrainingOptions) -> None:
    del training  # the folder is what counts
    edits = ("train:ema_decay=0.999", "val:val_freq=12")  # "val=null" comes later and wins

    def trained(name: str, iterations: int, *more: str) -> dict[str, dict[str, torch.Tensor]]:
        asked = ("--force_yml", *edits, f"name={name}", f"train:total_iter={iterations}", *more)
        assert run_here("train.py", "-opt", "train.yml", "--auto_resume", *asked) == 0
        content = torch.load(f"experiments/{name}/models/net_g_latest.pth", weights_only=True)
        return {key: content[key] for key in ("params", "params_ema")}

    fixed, whole = trained("fixed", 12), trained("whole", 12, "train:ema_warmup=true")
    trained("unseen", 12, "val=null")
    for name, hints in (("fixed", 1), ("unseen", 1), ("whole", 0)):
        [record] = Path(f"experiments/{name}").glob("train_*.log")
        assert record.read_text().count("the EMA weights still hold 99 %") == hints
    trained("parts", 4, "train:ema_warmup=true")
    parts = trained("parts", 12, "train:ema_warmup=true")
    for key in ("params", "params_ema"):
        assert all(torch.equal(value, parts[key][name]) for name, value in whole[key].items()), key
    distance = {
        name: sum(float((run["params_ema"][key] - value).norm()) for key, value in run["params"].items())
        for name, run in (("fixed", fixed), ("whole", whole))
    }
    assert distance["whole"] < 0.25 * distance["fixed"]
