"""A run of two players through the commands: stopped and resumed, checked, refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data.loader import Batch
from models.training import batch_limit
from models.training.objectives import AdversarialObjective
from models.training.state import TrainState
from models.training.step import StepResult
from tests.runs import adversarial, run_here

LONGER = ("train:total_iter=6", "train:net_d_iters=2", "val=~", "logger:use_tb_logger=false")


@pytest.fixture(autouse=True)
def gan(place: Path) -> Path:
    """A folder whose training file has a discriminator."""
    (place / "train.yml").write_text(adversarial((place / "train.yml").read_text()))
    return place


def content(run: str, player: str, step: int | str) -> Any:
    return torch.load(f"experiments/{run}/models/net_{player}_{step}.pth", weights_only=True)


def weights(run: str, step: int | str = "latest") -> dict[str, Tensor]:
    found = {
        f"{key} {name}": value
        for key in ("params", "params_ema")
        for name, value in content(run, "g", step)[key].items()
    }
    return {**found, **{f"d {name}": value for name, value in content(run, "d", step)["params"].items()}}


def records(run: str) -> list[dict[str, Any]]:
    lines = Path(f"experiments/{run}/metrics.jsonl").read_text().splitlines()
    timed = ("images_per_second", "data_share", "memory")
    return [{key: value for key, value in json.loads(line).items() if key not in timed} for line in lines]


def test_a_run_that_goes_on_ends_with_the_same_bits(gan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", "name=whole", *LONGER) == 0
    log = capsys.readouterr().err
    assert "losses of the discriminator: l_d_real, l_d_fake (GANLoss vanilla; real images: gt)" in log
    assert "the discriminator is trained in every iteration, the generator in one of 2 iterations\n" in log
    parts = ("name=parts", *LONGER[1:], "logger:keep_last=1")
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", *parts, "train:total_iter=3") == 0
    assert run_here("train.py", "-opt", "train.yml", "--auto_resume", "--force_yml", *parts, "train:total_iter=6") == 0
    whole, resumed = weights("whole"), weights("parts")
    assert whole.keys() == resumed.keys()
    assert [key for key, value in whole.items() if not torch.equal(value, resumed[key])] == []
    assert any(key.endswith("weight_u") for key in whole)
    assert records("whole") == records("parts")
    assert [("l_g_pix" in record, "lr_d" in record, record["grad_norm"] is None) for record in records("whole")] == [
        (False, True, True), (True, True, False),
    ] * 3  # fmt: skip
    names = {path.name for path in Path("experiments/parts/models").iterdir()}
    assert names == {"net_g_latest.pth", "net_d_latest.pth", "net_g_6.pth", "net_d_6.pth"}


def test_a_training_of_one_network_is_no_state_of_two(gan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edits = ("val=~", "train:total_iter=1")
    single = ("model_type=SRModel", "network_d=~", "train:gan_opt=~", *edits)
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", *single) == 0
    capsys.readouterr()
    assert run_here("train.py", "-opt", "train.yml", "--auto_resume", "--force_yml", *edits) == 2
    assert "holds the training of g, and this option file trains g, d; begin a new run from" in capsys.readouterr().err


def test_a_discriminator_that_is_left_out_of_resuming_begins_anew(
    gan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = ("-opt", "train.yml", "--force_yml", "val=~")
    assert run_here("train.py", *begin, "train:total_iter=2") == 0
    capsys.readouterr()
    other = ("network_d:num_feat=6", "train:optim_d={type: SGD, lr: 1e-3}", "path:ignore_resume_networks=[network_d]")
    assert run_here("train.py", *begin, "train:total_iter=3", *other, "--auto_resume") == 0
    printed = capsys.readouterr().err
    assert "network_d: its weights are not taken from" in printed
    assert "its optimiser begins anew" in printed
    assert "the resumed run goes on with network_d.num_feat: 6 (was 4)" in printed
    assert len(content("tiny", "d", 3)["params"]["conv0.weight"]) == 6
    assert len(content("tiny", "g", 3)["params"]) > 0
    assert run_here("train.py", *begin, "train:total_iter=4", "network_d:num_feat=8", "--auto_resume") == 2
    assert "belongs to another network than network_d" in capsys.readouterr().err


def test_checking_shows_the_plan_of_both_players(gan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edits = ("train:net_d_init_iters=2", "train:net_d_iters=2", "train:losses=[{type: FFTLoss}]")
    assert run_here("train.py", "-opt", "train.yml", "--check", "--force_yml", *edits) == 0
    printed = capsys.readouterr().err
    for line in (
        "discriminator UNetDiscriminatorSN: 17,",
        "optimisers: Adam (lr 0.002) for network_g, Adam (lr 0.001) for network_d",
        "losses of the generator: l_g_pix (L1Loss, weight 1, gt), l_g_fft (FFTLoss, weight 1, gt), l_g_gan (GANLoss",
        "one iteration: l_d_real ", "gradient norm of network_d ", " multiply-adds per patch by the discriminator",
    ):  # fmt: skip
        assert line in printed, line
    assert not Path("experiments").exists()


def test_all_that_an_iteration_may_do_is_measured(gan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    step = AdversarialObjective.step

    def noted(objective: AdversarialObjective, state: TrainState, batch: Batch) -> StepResult:
        result = step(objective, state, batch)
        done.append(result.step)
        return result

    monkeypatch.setattr(AdversarialObjective, "step", noted)
    monkeypatch.setattr(batch_limit, "MOST", 2)
    edits = ("train:net_d_iters=2", "train:net_d_init_iters=3", "train:mesa_opt={type: L1Loss, start_ratio: 0.5}")
    assert run_here("train.py", "-opt", "train.yml", "--check", "--largest_batch", "--force_yml", *edits) == 0
    # The first, as a run would; four from the one on in which the generator is trained on all losses; a trial of that.
    assert done == [1, 6, 7, 8, 9, 6]


def test_advice_is_logged_beside_the_figures_that_it_is_about(
    gan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[int, float]] = []

    def advice(_: AdversarialObjective, step: int, losses: Mapping[str, float]) -> str | None:
        asked.append((step, losses["l_d_real"]))
        return "the discriminator wins" if step == 4 else None

    monkeypatch.setattr(AdversarialObjective, "advice", advice)
    edits = ("val=~", "train:total_iter=4", "logger:print_freq=2")
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", *edits) == 0
    assert asked == [(record["step"], record["l_d_real"]) for record in records("tiny")]
    assert capsys.readouterr().err.count("WARNING: the discriminator wins") == 1
