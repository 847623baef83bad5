"""Checkpoints: BasicSR's forms in and out, safe loading, clear refusals."""

from __future__ import annotations

import dataclasses
import errno
import json
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from archs import build_network
from config import read
from config.schema import PathOptions, TrainOptions
from config.values import Pretrained
from models.distributed import World
from models.training import checkpoint
from models.training.checkpoint import CheckpointFolder
from models.training.state import TrainState
from models.weights.files import load_pretrained, load_pretrained_ema, load_weights
from tests.runs import run_here, workplace
from tests.states import Tiny, save, state_of
from utils.errors import InputError, StorageError

ULTRA = {"type": "PlainUSR_ultra", "n_feat": 8, "im_feat": [8, 4], "scale": 2}


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainOptions:
    """A training file's options, in a folder with its pictures."""
    monkeypatch.chdir(workplace(tmp_path))
    return read(Path("train.yml"), mode="train")


def trained_state(options: TrainOptions) -> TrainState:
    """A state whose optimiser has moments."""
    state = state_of(options)
    state.generator.network(torch.rand(1, 3, 8, 8)).sum().backward()
    state.generator.optimizer.step()
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
    resume = checkpoint.find_resume(folder, PathOptions(), World())
    assert resume is not None
    assert resume.step == 8


def test_a_training_state_comes_back_whole(options: TrainOptions) -> None:
    folder = CheckpointFolder(Path("experiments/tiny"))
    state = trained_state(options)
    state.record("HeldOut", "psnr", 30.0, "higher")
    state.validated, state.skipped, state.epoch = 2, 1, 3
    save(folder, state, options)
    expected = torch.rand(3)
    resume = checkpoint.find_resume(folder, options.path, World())
    assert resume is not None
    assert resume.seed == options.manual_seed
    fresh = state_of(options)
    checkpoint.apply_resume(fresh, resume, options, World())
    assert torch.equal(torch.rand(3), expected)
    assert (fresh.step, fresh.validated, fresh.skipped, fresh.epoch, fresh.best) == (4, 2, 1, 3, state.best)
    pairs = [(state.generator.network, fresh.generator.network), (state.generator.ema, fresh.generator.ema)]
    for mine, theirs in pairs:
        assert mine is not None
        assert theirs is not None
        assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in mine.state_dict().items())
    assert str(state.generator.optimizer.state_dict()) == str(fresh.generator.optimizer.state_dict())


def test_basicsr_finds_what_it_expects_in_our_checkpoints(options: TrainOptions) -> None:
    folder = CheckpointFolder(Path("experiments/tiny"))
    save(folder, trained_state(options), options)
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
        save(folder, state, options)
    folder.state(12).write_bytes(b"half")
    folder.network(8).unlink()
    resume = checkpoint.find_resume(folder, options.path, World())
    assert resume is not None
    assert resume.step == 4
    assert "12.state" in caplog.text


class Linked(World):
    """One of two ranks, each a thread."""

    meeting = threading.Barrier(2, timeout=60)
    values: ClassVar[list[Any]] = [None, None]

    def gather(self, value: Any) -> list[Any]:
        """Their values."""
        self.values[self.rank] = value
        self.meeting.wait()
        found = list(self.values)
        self.meeting.wait()
        return found

    def from_main(self, value: Any) -> Any:
        """That of rank 0."""
        return self.gather(value)[0]


@pytest.mark.parametrize("blind", [0, 1])
@pytest.mark.parametrize("where", ["read_resume", "_check_optimizer"])
def test_ranks_go_on_from_the_newest_state_that_all_of_them_can_use(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, blind: int, where: str
) -> None:
    """One rank alone sees damage: of a network file system, or because a file vanishes in between."""
    folder, state = CheckpointFolder(Path("experiments/tiny").absolute()), trained_state(options)
    for state.step in (4, 8):
        save(folder, state, options)
    real = getattr(checkpoint, where)

    def failing(*arguments: Any) -> Any:
        newest = any("8.state" in str(getattr(argument, "path", argument)) for argument in arguments)
        if newest and threading.current_thread().name == f"rank {blind}":
            raise checkpoint.DamagedStateError("8.state: only this rank sees it")
        return real(*arguments)

    monkeypatch.setattr(checkpoint, where, failing)
    taken: dict[int, int] = {}

    def resume(rank: int) -> None:
        world, fresh = Linked(rank, 2, rank), state_of(options)
        found = checkpoint.find_resume(folder, options.path, world)
        assert found is not None
        taken[rank] = checkpoint.take_over(fresh, found, options, world).step

    ranks = [threading.Thread(target=resume, args=(rank,), name=f"rank {rank}") for rank in range(2)]
    with caplog.at_level("WARNING", "focalsr"):
        for rank in ranks:
            rank.start()
        for rank in ranks:
            rank.join()
    assert taken == {0: 4, 1: 4}
    assert caplog.text.count("skipped: 8.state: only this rank sees it") == 1


def test_states_of_another_future_are_set_aside(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    command = ("train.py", "-opt", "train.yml", "--force_yml", "val=null")
    assert run_here(*command) == 0
    folder = CheckpointFolder(Path("experiments/tiny"))
    assert folder.steps() == [12, 8, 4]
    other = ("path:resume_state=experiments/tiny/training_states/4.state", "train:optim_g:lr=1e-3")
    assert run_here(*command, *other, "train:total_iter=6") == 0
    assert folder.steps() == [6, 4]  # else --auto_resume would go on from 12, of the run before
    assert len(list(folder.states.glob("*.state_archived_*"))) == 2
    folder.state(6).write_bytes(b"half")
    assert run_here(*command, "train:total_iter=6", "--auto_resume") == 0
    assert folder.steps() == [6, 4]
    assert len(list(folder.states.glob("6.state_archived_*"))) == 1


def test_a_full_disk_keeps_the_previous_checkpoint(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(Path("experiments/tiny"))
    state = trained_state(options)
    save(folder, state, options)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    state.step = 8
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StorageError, match="disk is full"):
            save(folder, state, options)
    assert folder.steps() == [4]
    assert checkpoint.find_resume(folder, options.path, World()) is not None
    assert not list(folder.root.rglob("*.part"))


def test_another_network_or_optimiser_is_refused(options: TrainOptions) -> None:
    folder = CheckpointFolder(Path("experiments/tiny"))
    save(folder, trained_state(options), options)
    resume = checkpoint.read_resume(folder.state(4), options.path)
    other = state_of(options, build_network({**ULTRA, "n_feat": 16}))
    with pytest.raises(InputError, match=r"net_g_4\.pth: belongs to another network"):
        checkpoint.apply_resume(other, resume, options, World())
    ignoring = dataclasses.replace(options.path, ignore_resume_networks=("network_g",))
    resume = checkpoint.read_resume(folder.state(4), ignoring)
    assert resume.networks == {}


def test_ema_weights_start_from_those_of_the_pretrained_file(options: TrainOptions) -> None:
    source, average = build_network(ULTRA), build_network(ULTRA)
    torch.save({"params": source.state_dict(), "params_ema": average.state_dict()}, "both.pth")
    start = Pretrained(Path("both.pth"), "params", strict=True, resize_tables=False)
    network = build_network(ULTRA)
    load_pretrained(network, start)
    state = state_of(options, network)
    assert state.generator.ema is not None
    load_pretrained_ema(state.generator.ema, start)
    assert torch.equal(state.generator.network.state_dict()["head.weight"], source.state_dict()["head.weight"])
    assert torch.equal(state.generator.ema.state_dict()["head.weight"], average.state_dict()["head.weight"])
    assert load_pretrained(network, dataclasses.replace(start, key=None)).entry == "params_ema"
    assert torch.equal(network.state_dict()["head.weight"], average.state_dict()["head.weight"])


def test_after_a_partial_load_network_and_ema_agree(options: TrainOptions) -> None:
    torch.save({"params": build_network({**ULTRA, "scale": 4}).state_dict()}, "x4.pth")
    start = Pretrained(Path("x4.pth"), "params", strict=False, resize_tables=False)
    network = build_network(ULTRA)
    load_pretrained(network, start)
    state = state_of(options, network)
    assert state.generator.ema is not None
    load_pretrained_ema(state.generator.ema, start)
    assert all(
        torch.equal(value, state.generator.ema.state_dict()[key])
        for key, value in state.generator.network.state_dict().items()
    )


def test_a_state_without_a_format_number_resumes(options: TrainOptions) -> None:
    """Checkpoints had no number, no players and one scaler before there was more than one kind of training."""
    options = dataclasses.replace(options, train=dataclasses.replace(options.train, amp="fp16"))
    folder = CheckpointFolder(Path("experiments/tiny"))
    state = trained_state(options)
    assert state.generator.scaler is not None
    state.generator.scaler.scale(torch.ones(1))  # which makes its tensors
    state.generator.scaler.update(4096.0)
    save(folder, state, options)
    content = torch.load(folder.state(4), weights_only=True)
    ours = content["focalsr"]
    ours["scaler"] = ours.pop("scalers")["g"]
    del ours["format_version"], ours["players"]
    torch.save(content, folder.state(4))
    resume = checkpoint.find_resume(folder, options.path, World())
    assert resume is not None
    fresh = state_of(options)
    checkpoint.apply_resume(fresh, resume, options, World())
    assert fresh.step == 4
    assert fresh.generator.scaler is not None
    assert fresh.generator.scaler.state_dict()["scale"] == 4096.0
    assert str(fresh.generator.optimizer.state_dict()) == str(state.generator.optimizer.state_dict())


def test_a_state_of_a_later_format_stops_the_run_before_anything_is_moved(
    options: TrainOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = CheckpointFolder(Path("experiments/tiny"))
    save(folder, trained_state(options), options)
    content = torch.load(folder.state(4), weights_only=True)
    content["focalsr"]["format_version"] = 99
    torch.save(content, folder.state(4))
    assert run_here("train.py", "-opt", "train.yml", "--auto_resume") == 2
    assert "has checkpoint format 99, this version reads up to 2" in capsys.readouterr().err
    assert [path.name for path in Path("experiments").iterdir()] == ["tiny"]


def test_a_resumed_run_does_not_need_the_file_that_it_began_with(
    options: TrainOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"params": build_network(options.network_g.as_mapping()).state_dict()}, "start.pth")
    begin = ("-opt", "train.yml", "--force_yml", "path:pretrain_network_g=start.pth")
    assert run_here("train.py", *begin, "train:total_iter=4", "val=~") == 0
    Path("start.pth").unlink()
    assert run_here("train.py", *begin, "train:total_iter=8", "val=~", "--auto_resume") == 0
    assert "the resumed run goes on with train.total_iter: 8 (was 4)" in capsys.readouterr().err
    ignoring = "path:ignore_resume_networks=[network_g]"
    assert run_here("train.py", *begin, "train:total_iter=12", ignoring, "val=~", "--auto_resume") == 2
    assert "start.pth: there is no such file" in capsys.readouterr().err


def test_a_resumed_run_follows_the_optimiser_arguments_of_the_option_file(
    options: TrainOptions, log: list[str]
) -> None:
    folder = CheckpointFolder(Path("experiments/tiny"))
    save(folder, trained_state(options), options)
    overrides = ("betas=[0.8,0.95]", "weight_decay=0.1", "lr=1e-3", "eps=1e-7")
    changed = read(Path("train.yml"), [f"train:optim_g:{edit}" for edit in overrides], mode="train")
    resume = checkpoint.read_resume(folder.state(4), changed.path)
    state = state_of(changed)
    checkpoint.apply_resume(state, resume, changed, World())
    (group,) = state.generator.optimizer.param_groups
    assert (group["betas"], group["weight_decay"], group["initial_lr"], group["eps"]) == ((0.8, 0.95), 0.1, 1e-3, 1e-7)
    assert len(state.generator.optimizer.state) == len(group["params"])
    assert any("train.optim_g.betas: [0.8, 0.95] (was [0.9, 0.99])" in line for line in log)


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        (("train:optim_g={type: AdamW, lr: 1e-3}",), "it was saved by Adam, and the option file asks for AdamW"),
        (("train:optim_g:amsgrad=true",), "it has no max_exp_avg_sq, which Adam needs with these arguments"),
        (
            ("train:decay_norms_and_biases=false", "train:optim_g:weight_decay=0.1"),
            "it has 1 parameter groups, not 2; train.decay_norms_and_biases decides",
        ),
    ],
    ids=["another class", "missing moments", "other groups"],
)
def test_a_resumed_run_refuses_an_optimiser_that_cannot_go_on(
    options: TrainOptions, edits: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(CheckpointFolder(Path("experiments/tiny")), trained_state(options), options)
    assert run_here("train.py", "-opt", "train.yml", "--auto_resume", "--force_yml", *edits) == 2
    assert reason in capsys.readouterr().err
    assert [path.name for path in Path("experiments").iterdir()] == ["tiny"]


def test_a_resumed_run_follows_the_loss_of_the_option_file(options: TrainOptions) -> None:
    begin = ("-opt", "train.yml", "--force_yml", "val=~")
    assert run_here("train.py", *begin, "train:total_iter=4") == 0
    assert run_here("train.py", *begin, "train:total_iter=5", "train:pixel_opt:loss_weight=1e-6", "--auto_resume") == 0
    records = [json.loads(line) for line in Path("experiments/tiny/metrics.jsonl").read_text().splitlines()]
    assert [record["l_pix"] > 1e-5 for record in records] == [True] * 4 + [False]
