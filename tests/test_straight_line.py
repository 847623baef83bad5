"""From an option file to a trained and tested network: train, kill, resume, compare bit for bit; bad input."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from models.training.meter import Meter
from tests.runs import TRAIN_FILE, command, environment, picture, run, run_here, run_line, start, torchrun, workplace
from utils.errors import WorkerError


def weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, flat."""
    content = torch.load(path, weights_only=True)
    return {f"{part}.{key}": value for part in ("params", "params_ema") for key, value in content[part].items()}


def losses(folder: Path) -> list[tuple[int, float]]:
    """Iteration and loss of every training record."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["l_pix"]) for record in records if record["kind"] == "train"]


def scores(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """Iteration and means of every validation record."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["scores"]) for record in records if record["kind"] == "val"]


def assert_same_run(one: Path, two: Path, last: int = 12) -> None:
    """Two experiment folders hold the same weights, averages, optimiser and logs."""
    mine, theirs = (weights(folder / "models/net_g_latest.pth") for folder in (one, two))
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        assert torch.equal(value, theirs[key]), key
    assert losses(one) == losses(two)
    assert scores(one) == scores(two)
    states = [torch.load(folder / f"training_states/{last}.state", weights_only=True) for folder in (one, two)]
    for moments in zip(*(state["optimizers"][0]["state"].values() for state in states), strict=True):
        assert all(torch.equal(moments[0][key], moments[1][key]) for key in moments[0])
    assert states[0]["focalsr"]["best"] == states[1]["focalsr"]["best"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace where a run of twelve iterations went through undisturbed."""
    folder = workplace(tmp_path_factory.mktemp("straight line"))
    done = run_line(folder, command("train.py", "-opt", "train.yml"), new=True)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_leaves_what_it_promises(trained: Path) -> None:
    root = trained / "experiments/tiny"
    assert sorted(path.name for path in (root / "models").iterdir()) == [
        "net_g_12.pth",
        "net_g_4.pth",
        "net_g_8.pth",
        "net_g_best.pth",
        "net_g_latest.pth",
    ]
    assert sorted(path.name for path in (root / "training_states").iterdir()) == ["12.state", "4.state", "8.state"]
    assert [step for step, _ in losses(root)] == list(range(1, 13))
    assert [step for step, _ in scores(root)] == [4, 8, 12]
    [log] = root.glob("train_tiny_*.log")
    text = log.read_text()
    assert "[tiny][epoch:  0, iter:       1, lr:(2.000e-03,)] [eta: " in text
    assert "Validation HeldOut" in text
    assert (root / "train.yml").read_text().startswith("# GENERATE TIME: ")
    assert (root / "train.yml").read_text().endswith(TRAIN_FILE)
    metadata = torch.load(root / "models/net_g_4.pth", weights_only=True)["focalsr"]
    assert metadata["options"]["network_g"]["n_feat"] == 8
    assert metadata["versions"]["torch"] == torch.__version__


def test_a_killed_run_resumes_bit_for_bit(trained: Path, tmp_path: Path) -> None:
    folder = workplace(tmp_path)
    process = start(command("train.py", "-opt", "train.yml"), folder, environment(), stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        if "iter:       6" in line:
            process.kill()
            break
    process.wait(60)
    process.stderr.close()
    assert not (folder / "experiments/tiny/models/net_g_latest.pth").exists()
    resumed = run(folder, "train.py", "-opt", "train.yml", "--auto_resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from" in resumed.stderr
    assert_same_run(trained / "experiments/tiny", folder / "experiments/tiny")
    assert not list((folder / "experiments").glob("*archived*"))


def test_a_signal_saves_the_state_and_the_resumed_run_ends_the_same(trained: Path, tmp_path: Path) -> None:
    folder = workplace(tmp_path)
    process = start(command("train.py", "-opt", "train.yml"), folder, environment(), stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        if "iter:       2" in line:
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stderr.read()
    assert process.wait(60) == 143
    assert "continue with --auto_resume" in rest
    assert "Traceback" not in rest
    process.stderr.close()
    resumed = run(folder, "train.py", "-opt", "train.yml", "--auto_resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(trained / "experiments/tiny", folder / "experiments/tiny")


def test_the_number_of_workers_does_not_change_the_weights(trained: Path, tmp_path: Path) -> None:
    folder = workplace(tmp_path)
    done = run(folder, "train.py", "-opt", "train.yml", "--force_yml", "datasets:train:num_worker_per_gpu=2")
    assert done.returncode == 0, done.stderr
    mine, theirs = (weights(place / "experiments/tiny/models/net_g_latest.pth") for place in (folder, trained))
    assert all(torch.equal(value, theirs[key]) for key, value in mine.items())


def test_a_test_run_scores_and_saves_every_image(trained: Path) -> None:
    done = run(trained, "test.py", "-opt", "test.yml", "--per_image")
    assert done.returncode == 0, done.stderr
    result = json.loads((trained / "results/tiny_test/scores.json").read_text())
    held_out = result["datasets"]["HeldOut"]
    assert [row["name"] for row in held_out["images"]] == ["held_out_0", "held_out_1"]
    for metric in ("psnr", "ssim"):
        mean = np.mean([row["scores"][metric] for row in held_out["images"]])
        assert held_out["mean"]["scores"][metric] == pytest.approx(mean)
    _, validated = scores(trained / "experiments/tiny")[-1]
    assert held_out["mean"]["scores"]["psnr"] == pytest.approx(validated["psnr"], abs=1e-3)
    assert set(held_out["mean"]["bicubic"]) == {"psnr", "ssim"}
    saved = sorted(path.name for path in (trained / "results/tiny_test/visualization/HeldOut").iterdir())
    assert saved == ["held_out_0_tiny_test.png", "held_out_1_tiny_test.png"]
    assert "mean of 2" in done.stderr
    assert re.search(r"HeldOut +2 +\d+\.\d{4}( +\d+\.\d{4}){3} +\d\.\d{3} s +\d+ MB", done.stderr)


def test_a_second_run_of_a_name_keeps_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    for _ in range(2):
        assert run_here("train.py", "-opt", "train.yml", "--force_yml", "train:total_iter=1") == 0
    names = sorted(path.name for path in (tmp_path / "experiments").iterdir())
    assert len(names) == 2
    assert names[1].startswith("tiny_archived_20")


def test_the_untrained_network_is_validated_first_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    heap = []
    monkeypatch.setattr("models.training.loop.keep_freed_memory", lambda: heap.append("kept"))
    monkeypatch.setattr("models.training.loop.give_freed_memory_back", lambda: heap.append("given back"))
    changes = ("train:total_iter=1", "val:val_first=true", "val:batch_size=2")
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", *changes) == 0
    assert [step for step, _ in scores(tmp_path / "experiments/tiny")] == [0, 1]
    assert heap == ["kept", *["given back"] * 4]  # before and after each validation


def test_keys_without_effect_are_reported_once_in_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    (tmp_path / "train.yml").write_text(f"is_train: true\ndist: false\n{TRAIN_FILE}")
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", "train:total_iter=1", "val=null") == 0
    assert capsys.readouterr().err.count("train.yml:1: is_train, dist: has no effect here: BasicSR sets it itself") == 1


def test_a_dead_worker_is_reported_with_how_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))

    alive, asked = Meter.next_of, []

    def dead(meter: Meter, batches: Any) -> Any:
        asked.append(meter)
        if len(asked) == 3:
            raise WorkerError("a process that prepares batches ended unexpectedly")
        return alive(meter, batches)

    monkeypatch.setattr(Meter, "next_of", dead)
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", "val=null") == 1
    told = "ended unexpectedly. The state of iteration 2 is saved; continue with --auto_resume\n"
    assert told in capsys.readouterr().err


def test_bad_input_leaves_an_earlier_run_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", "train:total_iter=1") == 0
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", "datasets:val:dataroot_gt=absent") == 2
    assert [path.name for path in (tmp_path / "experiments").iterdir()] == ["tiny"]
    assert (tmp_path / "experiments/tiny/models/net_g_1.pth").exists()


def test_check_builds_everything_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    assert run_here("train.py", "-opt", "train.yml", "--check") == 0
    printed = capsys.readouterr().err
    assert "one batch: lq [2, 3, 12, 12], gt [2, 3, 24, 24]" in printed
    lines = printed.splitlines()
    for line in (lines[0], lines[-1]):
        assert line.endswith("the check is passed; nothing was written")
    assert len(lines) < 12
    assert "amsgrad" not in printed
    assert sorted(tmp_path.rglob("*")) == before
    assert run_here("train.py", "-opt", "train.yml", "--check", "--verbose") == 0
    assert "amsgrad: false" in capsys.readouterr().err


def test_check_says_first_and_last_that_it_failed_and_names_each_fault_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    assert run_here("train.py", "-opt", "train.yml", "--check", "--force_yml", "datasets:train:gt_size=64") == 2
    lines = capsys.readouterr().err.splitlines()
    for line in (lines[0], lines[-1]):
        assert line.endswith("the check has failed; nothing was written")
    assert lines[1].endswith("3 images cannot be used:")
    assert lines[2].startswith(
        "  3 images: the image is 40 x 48 (height x width), smaller than the patches (gt_size 64)"
    )
    assert len(lines) == 4


@pytest.mark.parametrize("program", ["train.py", "test.py"])
def test_check_gives_its_verdict_on_mistakes_in_the_option_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], program: str
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    typed = (program, "-opt", f"{program.removesuffix('.py')}.yml", "--force_yml", "val:savee_img=1")
    assert run_here(*typed, "--check") == 2
    first, *between, last = capsys.readouterr().err.splitlines()
    assert first == "error: the check has failed; nothing was written"
    assert last == "the check has failed; nothing was written"
    assert "savee_img" in "".join(between)
    assert run_here(*typed) == 2
    assert "the check has failed" not in capsys.readouterr().err


def test_check_lists_the_images_that_training_would_leave_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    (tmp_path / "photos/HR/broken.png").write_bytes(b"no picture")
    assert run_here("train.py", "-opt", "train.yml", "--check") == 2
    assert "broken.png" in capsys.readouterr().err
    assert run_here("train.py", "-opt", "train.yml", "--check", "--force_yml", "datasets:train:on_error=skip") == 0
    assert "broken.png" in capsys.readouterr().err


def spoil_network(folder: Path) -> str:
    """A misspelt network."""
    (folder / "train.yml").write_text(TRAIN_FILE.replace("PlainUSR_ultra", "PlainUSR_ulta"))
    return r'train.yml:\d+.*PlainUSR_ulta.*did you mean "PlainUSR_ultra"'


def spoil_key(folder: Path) -> str:
    """A misspelt key and a value of the wrong type, both reported."""
    text = TRAIN_FILE.replace("total_iter: 12", "total_itr: 12").replace("gt_size: 24", "gt_size: many")
    (folder / "train.yml").write_text(text)
    return r'(?s)gt_size.*many.*total_itr.*did you mean "total_iter"'


def spoil_folder(folder: Path) -> str:
    """A folder that is not there."""
    (folder / "train.yml").write_text(TRAIN_FILE.replace("photos/HR", "photos/LR"))
    return r"photos/LR"


def spoil_image(folder: Path) -> str:
    """A truncated image."""
    path = folder / "photos/HR/photos_1.png"
    path.write_bytes(path.read_bytes()[:900])
    return r"photos_1\.png"


def spoil_patch(folder: Path) -> str:
    """A patch larger than an image."""
    (folder / "train.yml").write_text(TRAIN_FILE.replace("gt_size: 24", "gt_size: 44"))
    return r"photos_0\.png"


def spoil_root(folder: Path) -> str:
    """An experiment folder that cannot be made."""
    (folder / "experiments").write_text("a file in the way")
    return r"path\.experiments_root: .*experiments is a file, not a folder; choose another"


def spoil_pretrained(folder: Path) -> str:
    """Weights of another network."""
    torch.save({"params": {"conv.weight": torch.zeros(3)}}, folder / "other.pth")
    (folder / "train.yml").write_text(TRAIN_FILE.replace("path: {}", "path: {pretrain_network_g: other.pth}"))
    return r"other\.pth: does not fit"


def spoil_lr(folder: Path) -> str:
    """LR images of another size than HR / scale."""
    (folder / "photos/LR").mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"photos/LR/photos_{i}.png"), picture(i, 19, 24))
    text = TRAIN_FILE.replace("dataroot_gt: photos/HR", "dataroot_gt: photos/HR\n    dataroot_lq: photos/LR")
    (folder / "train.yml").write_text(text)
    return r"photos_0\.png.*19"


@pytest.mark.parametrize(
    "spoil",
    [spoil_network, spoil_key, spoil_folder, spoil_image, spoil_patch, spoil_root, spoil_pretrained, spoil_lr],
    ids=lambda function: function.__name__,
)
def test_bad_input_is_one_message_and_exit_code_2(
    spoil: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = spoil(workplace(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run_here("train.py", "-opt", "train.yml") == 2
    printed = capsys.readouterr().err
    assert re.search(expected, printed), printed
    assert "Traceback" not in printed


def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "pwned"),)

    workplace(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"params": Attack()}))
    monkeypatch.chdir(tmp_path)
    assert run_here("test.py", "-opt", "test.yml", "--force_yml", "path:pretrain_network_g=evil.pth") == 2
    assert "refused" in capsys.readouterr().err
    assert not (tmp_path / "pwned").exists()


def test_a_loss_that_is_not_finite_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", "train:optim_g:lr=1000") == 1
    printed = capsys.readouterr().err
    assert "the loss is not finite in iteration" in printed
    assert "photos_" in printed
    assert "Traceback" not in printed


def test_a_full_disk_stops_the_run_and_spares_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    synchronise, written = os.fsync, tmp_path / "experiments/tiny/training_states/4.state"

    def full(descriptor: int) -> None:
        if written.exists() and not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOSPC, "No space left on device")
        synchronise(descriptor)

    monkeypatch.setattr("os.fsync", full)
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", "val=~") == 1
    printed = capsys.readouterr().err
    assert "the disk is full" in printed
    assert "Traceback" not in printed
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert torch.load(written, weights_only=True)["iter"] == 4
    assert [path.name for path in written.parent.iterdir()] == ["4.state"]
    assert run_here("train.py", "-opt", "train.yml", "--auto_resume", "--force_yml", "val=~") == 0


def test_missing_weights_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    assert run_here("test.py", "-opt", "test.yml", "--check") == 2
    assert "net_g_latest.pth: there is no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_two_ranks_train_as_one_with_the_double_batch(tmp_path: Path) -> None:
    one, two = workplace(tmp_path / "one"), workplace(tmp_path / "two")
    done = run(one, "train.py", "-opt", "train.yml", "--force_yml", "datasets:train:batch_size_per_gpu=4")
    assert done.returncode == 0, done.stderr
    launched = run_line(two, torchrun("train.py", "-opt", "train.yml", "--launcher", "pytorch"))
    assert launched.returncode == 0, launched.stderr
    mine, theirs = (weights(place / "experiments/tiny/models/net_g_latest.pth") for place in (one, two))
    for key, value in mine.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-4, atol=1e-6)
    assert [step for step, _ in scores(two / "experiments/tiny")] == [4, 8, 12]
    pairs = zip(scores(one / "experiments/tiny"), scores(two / "experiments/tiny"), strict=True)
    assert all(a[1]["psnr"] == pytest.approx(b[1]["psnr"], abs=1e-3) for a, b in pairs)
