"""Well-formed training states with odd values: refused as a whole, or passed over for the state before."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from archs import build_network
from models.distributed import World
from models.training import checkpoint
from models.training.checkpoint import CheckpointFolder, NewerFormatError
from models.training.state import TrainState
from models.weights.files import read_checkpoint, write_checkpoint
from tests.runs import run_here
from tests.states import Tiny, moved_state, options, save, state_of
from utils.errors import InputError

ODD: list[Any] = [None, -1, 2.5, "4", [], {}, [3], {"a": 3}, True, float("nan"), b"4", torch.ones(2), [[None]], 10**30]


@pytest.fixture
def folder(place: Path) -> CheckpointFolder:
    """Two checkpoints, of iterations 4 and 8, of a network of two convolutions."""
    found = CheckpointFolder(place / "experiments/tiny")
    for step in (4, 8):
        save(found, moved_state(options(), step), options())
    return found


@pytest.fixture
def run_folder(place: Path) -> CheckpointFolder:
    """The same of the network of the option file."""
    found = CheckpointFolder(place / "experiments/tiny")
    for step in (4, 8):
        save(found, moved_state(options(), step, build_network(options().network_g.as_mapping())), options())
    return found


def fingerprint(state: TrainState) -> str:
    """Everything that a state holds, for comparison."""
    player = state.generator
    assert player.ema is not None
    parts = [player.network.state_dict(), player.ema.state_dict(), player.optimizer.state_dict(), torch.get_rng_state()]
    return repr([*map(str, parts), state.step, state.epoch, state.validated, state.skipped, state.best])


def places(content: dict[str, Any]) -> list[tuple[str, ...]]:
    """Keys of a state, from the outside in, whose values a mutation may replace."""
    found: list[tuple[str, ...]] = [(key,) for key in ("iter", "epoch", "optimizers", "focalsr")]
    found += [("focalsr", key) for key in content["focalsr"]]
    found += [("focalsr", "options", key) for key in ("manual_seed", "train", "network_g")]
    found += [("focalsr", "players", "g"), ("focalsr", "scalers", "g"), ("focalsr", "best", "Set5")]
    return found


def put(content: dict[str, Any], keys: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy with another value under nested keys."""
    changed = copy.deepcopy(content)
    at = changed
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    return changed


def test_odd_values_fall_back_or_change_nothing(folder: CheckpointFolder, log: list[str]) -> None:
    whole = read_checkpoint(folder.state(8))
    chosen = options()
    back, kept = 0, 0
    for number, keys in enumerate(places(whole)):
        for value in ODD if keys == ("iter",) else ODD[number % 3 :: 3]:
            write_checkpoint(folder.state(8), put(whole, keys, value))
            state = state_of(chosen, Tiny())
            try:
                resume = checkpoint.find_resume(folder, chosen.path, World())
            except NewerFormatError:
                assert (keys[-1], value) == ("format_version", 10**30)
                continue
            assert resume is not None
            taken = checkpoint.take_over(state, resume, chosen, World())
            assert taken.step == state.step in (4, 8), (keys, value)
            back += taken.step == 4
            kept += taken.step == 8
    assert back > 60
    assert kept > 5  # versions, metrics, names of the options: nothing that decides


def change_moment(state: dict[str, Any], change: Callable[[Any], Any]) -> None:
    moments = state["optimizers"][0]["state"][0]
    moments["exp_avg"] = change(moments["exp_avg"])


CONTRADICTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "iteration of another file": lambda state: state.update(iter=4),
    "moments of another shape": lambda state: change_moment(state, lambda value: value[:1]),
    "moments that are complex": lambda state: change_moment(state, lambda value: value.to(torch.complex64)),
    "moments that are NaN": lambda state: change_moment(state, lambda value: value * float("nan")),
    "no moments": lambda state: state["optimizers"][0]["state"][0].clear(),
    "a parameter less": lambda state: state["optimizers"][0]["param_groups"][0]["params"].pop(),
    "a parameter twice": lambda state: state["optimizers"][0]["param_groups"][0]["params"].append(0),
    "a parameter of nowhere": lambda state: state["optimizers"][0]["state"].update({10**6: {}}),
    "no groups": lambda state: state["optimizers"][0]["param_groups"].clear(),
    "a second optimiser": lambda state: state["optimizers"].append(state["optimizers"][0]),
    "another optimiser": lambda state: state["focalsr"]["players"].update(g="SGD"),
    "a network that is not there": lambda state: state["focalsr"].update(players={"x": "Adam"}),
    "a network outside": lambda state: state["focalsr"].update(players={"../g": "Adam"}),
    "a generator cut off": lambda state: state["focalsr"].update(random=[{"torch": torch.zeros(9, dtype=torch.uint8)}]),
    "a generator of zeros": lambda state: state["focalsr"]["random"][0]["torch"].zero_(),
    "CUDA generators of two sizes": lambda state: state["focalsr"]["random"][0].update(
        cuda=[torch.zeros(16, dtype=torch.uint8), torch.zeros(8, dtype=torch.uint8)]
    ),
    "validated later": lambda state: state["focalsr"].update(validated=9),
    "figures of another iteration": lambda state: state["focalsr"].update(
        unlogged={"kind": "train", "step": 9, "lr": [0.1], "l_pix": 0.1}
    ),
    "figures that are none": lambda state: state["focalsr"].update(unlogged=[1]),
    "skipped more": lambda state: state["focalsr"].update(skipped=9),
    "a best value without its iteration": lambda state: state["focalsr"].update(best={"Set5": {"psnr": [30.0]}}),
    "a scaler of nothing": lambda state: state["focalsr"].update(scalers={"g": {"scale": 0.0}}),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_state_that_contradicts_itself_is_skipped(folder: CheckpointFolder, name: str, log: list[str]) -> None:
    content = read_checkpoint(folder.state(8))
    CONTRADICTIONS[name](content)
    write_checkpoint(folder.state(8), content)
    chosen = options()
    found = checkpoint.find_resume(folder, chosen.path, World())
    assert found is not None
    state = state_of(chosen, Tiny())
    assert checkpoint.take_over(state, found, chosen, World()).step == 4
    assert any("skipped: " in line and ("8.state" in line or "net_x_8" in line) for line in log)


@pytest.mark.parametrize("change", ["shape", "missing", "surplus", "NaN"])
def test_a_network_file_that_its_own_options_refute_is_skipped(
    folder: CheckpointFolder, change: str, log: list[str]
) -> None:
    content = read_checkpoint(folder.network(8))
    weights = content["params_ema"]  # read after the trained ones
    key = "conv.weight"
    if change == "shape":
        weights[key] = weights[key][:1]
    elif change == "missing":
        del weights[key]
    elif change == "surplus":
        weights["more"] = torch.ones(1)
    else:
        weights[key][0] = float("nan")
    write_checkpoint(folder.network(8), content)
    chosen = options()
    found = checkpoint.find_resume(folder, chosen.path, World())
    assert found is not None
    assert found.step == 8
    state = state_of(chosen, Tiny())
    before = fingerprint(state)
    with pytest.raises(InputError, match=r"net_g_8\.pth"):
        checkpoint.apply_resume(state, found, chosen, World())
    assert fingerprint(state) == before
    assert checkpoint.take_over(state, found, chosen, World()).step == 4


def test_a_later_damaged_state_does_not_push_out_the_newer_ones(folder: CheckpointFolder) -> None:
    folder.state(8).write_bytes(b"damaged")
    chosen = options("logger:keep_last=1")
    save(folder, moved_state(chosen, 6), chosen)
    assert folder.steps() == [8, 6]


def test_a_run_whose_states_are_all_damaged_says_so_and_begins_anew_only_when_asked(
    run_folder: CheckpointFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (4, 8):
        run_folder.state(step).write_bytes(b"damaged")
    begin = ("-opt", "train.yml", "--force_yml", "val=~", "train:total_iter=1")
    assert run_here("train.py", *begin, "--auto_resume") == 2
    told = capsys.readouterr().err
    assert "no training state there can be used (8.state, 4.state; the lines above say why)" in told
    assert "begin anew with --restart" in told
    assert [path.name for path in run_folder.root.parent.iterdir()] == ["tiny"]
    assert run_here("train.py", *begin, "--auto_resume", "--restart") == 0
    assert run_folder.steps() == [1]
    kept = [path for path in run_folder.root.parent.iterdir() if path != run_folder.root]
    assert [CheckpointFolder(path).steps() for path in kept] == [[8, 4]]


def test_a_run_that_is_restarted_by_its_launcher_goes_on(
    run_folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torchrun starts again has the same command line; --restart must not begin anew then."""
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert run_here("train.py", "-opt", "train.yml", "--restart", "--force_yml", "val=~", "train:total_iter=9") == 0
    assert run_folder.steps() == [9, 8, 4]


def test_restart_and_a_state_to_go_on_from_are_one_too_many(
    run_folder: CheckpointFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    state = f"path:resume_state={run_folder.state(8)}"
    assert run_here("train.py", "-opt", "train.yml", "--restart", "--force_yml", state) == 2
    assert "--restart begins anew, and path.resume_state says to go on" in capsys.readouterr().err


def test_a_folder_without_states_is_begun_anew(place: Path) -> None:
    (place / "experiments/tiny/training_states").mkdir(parents=True)
    begin = ("-opt", "train.yml", "--auto_resume", "--force_yml", "val=~", "train:total_iter=1")
    assert run_here("train.py", *begin) == 0


def test_what_was_skipped_is_in_the_log_file_too(run_folder: CheckpointFolder) -> None:
    run_folder.state(8).write_bytes(b"damaged")
    begin = ("-opt", "train.yml", "--auto_resume", "--force_yml", "val=~", "train:total_iter=5")
    assert run_here("train.py", *begin) == 0
    (log,) = run_folder.root.glob("train_*.log")
    text = log.read_text()
    assert text.count("8.state: ") == 1
    assert text.index("WARNING: skipped: ") < text.index("resumed from ")
