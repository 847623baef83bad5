"""Recipes run: chained, killed and resumed to the same weights, begun anew; what does not fit is reported first."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from config import read
from models.training.objectives import AdversarialObjective, PixelObjective
from models.weights.files import read_checkpoint
from tests.runs import adversarial, run_here, run_line, torchrun, workplace
from utils.lock import exclusive

SCRIPT = "scripts/run_recipe.py"
RECIPE = """\
name: tiny
stages:
  first:
    opt: train.yml
    options: {name: first, train: {total_iter: 4}}
  second:
    opt: train.yml
    start_from: first
    options: {name: second, train: {total_iter: 6}, val: {val_freq: 3}, logger: {save_checkpoint_freq: 2}}
"""
RESCALED = """\
name: rescaled
stages:
  x2: {opt: train.yml, options: {name: x2, train: {total_iter: 2}}}
  x4: {opt: train.yml, start_from: x2, options: {name: x4, scale: 4, network_g: {scale: 4}, train: {total_iter: 2}}}
"""

TWO_PLAYERS = """\
name: two players
stages:
  mse: {opt: train.yml, options: {name: mse, train: {total_iter: 3}, val: ~}}
  gan: {opt: gan.yml, start_from: mse, options: {name: gan, train: {total_iter: 4}, val: ~}}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures, an option file and a recipe."""
    monkeypatch.chdir(workplace(tmp_path))
    Path("recipe.yml").write_text(RECIPE)
    return tmp_path


def weights(name: str, file: str = "net_g_latest.pth") -> dict[str, Any]:
    content = read_checkpoint(Path("experiments") / name / "models" / file)
    return {f"{key}.{name}": value for key in ("params", "params_ema") for name, value in content[key].items()}


def assert_equal(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_a_recipe_is_run_once(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(SCRIPT, "recipe.yml") == 0
    printed = capsys.readouterr().err
    row = re.search(r"first +PlainUSR_ultra x2 +Photos +4 +scratch +first +to do", printed)
    assert row is not None
    assert row.start() < printed.index("recipe tiny: stage first")
    assert "stage second from first: " in printed
    stored = read_checkpoint(Path("experiments/second/models/net_g_latest.pth"))["focalsr"]
    assert stored["options"]["path"]["pretrain_network_g"] == "experiments/first/models/net_g_latest.pth"
    assert stored["step"] == 6
    before = Path("experiments/second/models/net_g_latest.pth").stat().st_mtime_ns
    assert run_here(SCRIPT, "recipe.yml") == 0
    assert capsys.readouterr().err.count("  done") == 2
    assert Path("experiments/second/models/net_g_latest.pth").stat().st_mtime_ns == before
    assert not list(Path("experiments").glob("*archived*"))


def test_a_stopped_recipe_says_how_it_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = PixelObjective.step

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(PixelObjective, "step", interrupted)
    assert run_here(SCRIPT, "recipe.yml") == 130
    printed = capsys.readouterr().err
    assert "1.state is saved: continue with the same command\n" in printed
    assert "--auto_resume" not in printed
    with pytest.raises(SystemExit):  # which a recipe does not have
        run_here(SCRIPT, "recipe.yml", "--auto_resume")


@pytest.mark.parametrize("killed_after", [2, 6, 9])
def test_a_killed_recipe_ends_with_the_same_weights(
    place: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    """Killed in the first stage, in the second, and again."""
    assert run_here(SCRIPT, "recipe.yml") == 0
    expected = weights("first"), weights("second")
    Path("experiments").rename("undisturbed")
    done = 0

    step = PixelObjective.step

    def dying(*arguments: Any) -> Any:
        nonlocal done
        if done == killed_after:
            raise KeyboardInterrupt
        done += 1
        return step(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PixelObjective, "step", dying)
        assert run_here(SCRIPT, "recipe.yml") == 130
    assert run_here(SCRIPT, "recipe.yml") == 0
    assert_equal(weights("first"), expected[0])
    assert_equal(weights("second"), expected[1])


def test_a_discriminator_joins_in_a_later_stage(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed when the second stage begins, and in it; then the last weights of its discriminator are lost."""
    Path("gan.yml").write_text(adversarial(Path("train.yml").read_text()))
    Path("recipe.yml").write_text(TWO_PLAYERS)
    assert run_here(SCRIPT, "recipe.yml") == 0
    last = Path("experiments/gan/models/net_d_latest.pth")
    expected = weights("mse"), weights("gan"), read_checkpoint(last)["params"]
    Path("experiments").rename("undisturbed")
    step = AdversarialObjective.step
    for killed_in in (1, 3):

        def dying(objective: Any, state: Any, batch: Any, killed_in: int = killed_in) -> Any:
            if state.step + 1 == killed_in:
                raise KeyboardInterrupt
            return step(objective, state, batch)

        with monkeypatch.context() as patched:
            patched.setattr(AdversarialObjective, "step", dying)
            assert run_here(SCRIPT, "recipe.yml") == 130
    for lose in (lambda: None, last.unlink, lambda: last.write_bytes(last.read_bytes()[:-100])):
        lose()
        assert run_here(SCRIPT, "recipe.yml") == 0
        found = weights("mse"), weights("gan"), read_checkpoint(last)["params"]
        for one, two in zip(found, expected, strict=True):
            assert_equal(one, two)


def test_a_stage_begins_anew(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(SCRIPT, "recipe.yml") == 0
    assert run_here(SCRIPT, "recipe.yml", "--restart", "second", "--force_yml", "train:optim_g:lr=1e-3") == 0
    assert len(list(Path("experiments").glob("second_archived_*"))) == 1
    assert not list(Path("experiments").glob("first_archived_*"))
    assert run_here(SCRIPT, "recipe.yml", "--restart", "third") == 2
    assert 'has no stage "third"' in capsys.readouterr().err


def test_torchrun_s_next_start_does_not_begin_a_stage_anew_again(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("recipe.yml").write_text(RECIPE.partition("  second:")[0])
    assert run_here(SCRIPT, "recipe.yml") == 0
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert run_here(SCRIPT, "recipe.yml", "--restart", "first") == 0
    assert "begins anew" not in capsys.readouterr().err
    assert [path.name for path in Path("experiments").iterdir()] == ["first"]


def test_the_damaged_last_weights_of_a_stage_are_written_again(place: Path) -> None:
    assert run_here(SCRIPT, "recipe.yml") == 0
    before = weights("first")
    latest = Path("experiments/first/models/net_g_latest.pth")
    latest.write_bytes(latest.read_bytes()[:-100])
    assert run_here(SCRIPT, "recipe.yml") == 0
    assert_equal(weights("first"), before)
    logs = [path.read_text() for path in Path("experiments/first").glob("train_first_*.log")]
    assert any("skipped: " in log and "net_g_latest.pth" in log and "resumed from" in log for log in logs)


def test_a_recipe_whose_states_are_all_damaged_stops(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(SCRIPT, "recipe.yml") == 0
    for path in (*Path("experiments/first").glob("models/*"), *Path("experiments/first").glob("training_states/*")):
        path.write_bytes(path.read_bytes()[:-100])
    assert run_here(SCRIPT, "recipe.yml") == 2
    assert "no training state there can be used" in (said := capsys.readouterr().err)
    assert "--restart STAGE" in said
    assert run_here(SCRIPT, "recipe.yml", "--restart", "first") == 0


def test_a_stage_that_is_being_trained_is_not_begun_anew(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("first", "second"):
        (place / f"experiments/{stage}/models").mkdir(parents=True)
    with exclusive(place / "experiments/second", "trains"):
        assert run_here(SCRIPT, "recipe.yml", "--restart", "first") == 2
    assert "experiments/second: another process trains here" in capsys.readouterr().err
    assert sorted(path.name for path in (place / "experiments").iterdir()) == ["first", "second"]


def test_another_training_under_the_name_is_not_taken_for_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", "name=second", "train:total_iter=2") == 0
    assert run_here(SCRIPT, "recipe.yml") == 2
    printed = capsys.readouterr().err
    assert "experiments/second holds another training, whose path.pretrain_network_g is None" in printed
    assert "--restart second" in printed
    assert not Path("experiments/first").exists()


def test_what_will_not_fit_is_told_before_the_first_stage(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("rescaled.yml").write_text(RESCALED)
    edits = ("--force_yml", "datasets:train:gt_size=32")
    assert run_here(SCRIPT, "rescaled.yml", *edits) == 2
    assert "stage x4: the weights of x2 will not fit its network: 2 other shape: tail.0" in capsys.readouterr().err
    assert not Path("experiments").exists()
    assert run_here(SCRIPT, "rescaled.yml", *edits, "path:strict_load_g=false") == 0
    assert "stage x4 from x2: " in capsys.readouterr().err
    x2, x4 = weights("x2"), weights("x4")
    assert x4["params.tail.0.weight"].shape != x2["params.tail.0.weight"].shape


def test_a_check_writes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(SCRIPT, "recipe.yml", "--check") == 0
    printed = capsys.readouterr().err
    assert printed.count("the check is passed") == 2
    assert not Path("experiments").exists()
    assert run_here(SCRIPT, "recipe.yml", "--only", "first") == 0
    assert not Path("experiments/second").exists()


def test_the_copy_of_a_file_with_a_base_stands_alone(place: Path) -> None:
    Path("based.yml").write_text("base: train.yml\nname: based\ntrain: {total_iter: 1}\n")
    assert run_here("train.py", "-opt", "based.yml") == 0
    kept = Path("experiments/based/based.yml")
    assert "# CMD:" in kept.read_text()
    found = read(kept, mode="train")
    assert (found.name, found.train.total_iter, found.files) == ("based", 1, (str(kept),))


@pytest.mark.slow
def test_under_torchrun(place: Path) -> None:
    launch = ("--nproc-per-node", "2", "--master-port", "29613")
    done = run_line(place, torchrun(SCRIPT, "recipe.yml", "--launcher", "pytorch", launch=launch))
    assert done.returncode == 0, done.stderr
    stored = read_checkpoint(Path("experiments/second/models/net_g_latest.pth"))["focalsr"]
    assert stored["step"] == 6
    assert done.stderr.count("recipe tiny is done") == 1
