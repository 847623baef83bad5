"""Everything on a type of devices that is neither CUDA nor the CPU, and has nothing but memory (tests/stand_in.cpp)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.images.files import read_image
from ops.kernel_cache import Unusable
from scripts.faults.settings import Setting, chosen, make_place
from tests import stand_in
from tests.runs import ROOT, environment, run_here, run_line, workplace
from tests.test_straight_line import assert_same_run, losses, scores, weights

pytestmark = pytest.mark.build

LARGER = ("--force_yml", "datasets:train:prefetch_mode=cuda", "datasets:train:pin_memory=true")


@pytest.fixture(scope="module")
def device() -> Path:
    try:
        return stand_in.library()
    except Unusable as reason:
        pytest.skip(str(reason))


def line(device: Path, program: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "tests/stand_in.py"), str(device), program, *arguments]


def on(device: Path, folder: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program where the stand-in is the accelerator; its output and exit code are the caller's to judge."""
    return run_line(folder, line(device, program, *arguments))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, device: Path) -> tuple[Path, Path]:
    """Two folders: of a training on the CPU and of the same one on the stand-in."""
    cpu, other = (workplace(tmp_path_factory.mktemp(name)) for name in ("on the cpu", "on the stand-in"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cpu)
        assert run_here("train.py", "-opt", "train.yml") == 0
    done = on(device, other, "train.py", "-opt", "train.yml", "--device", "auto", *LARGER)
    assert done.returncode == 0, done.stdout + done.stderr
    return cpu, other


def losses_of(folder: Path) -> list[dict[str, float]]:
    """All losses of every training record."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [record for record in records if record["kind"] == "train"]
    return [{name: value for name, value in record.items() if name.startswith("l_")} for record in kept]


def test_training_is_that_of_the_cpu(places: tuple[Path, Path]) -> None:
    cpu, other = (place / "experiments/tiny" for place in places)
    mine, theirs = (weights(place / "models/net_g_latest.pth") for place in (cpu, other))
    for key, value in mine.items():
        torch.testing.assert_close(theirs[key], value, rtol=1e-3, atol=1e-4, msg=f"{key} differs")
    assert dict(losses(other)) == pytest.approx(dict(losses(cpu)), rel=1e-4)
    for (step, one), (same, two) in zip(scores(other), scores(cpu), strict=True):
        assert step == same
        assert one == pytest.approx(two, rel=1e-4)
    [log] = other.glob("train_tiny_*.log")
    text = log.read_text()
    assert "prefetch_mode cuda needs a GPU that copies while it computes, but the device is standin:0" in text
    assert "GiB]" not in text  # nobody knows, and it is not the memory of the process
    assert "gpus standin device" in text


def test_a_stopped_training_goes_on_bit_by_bit(places: tuple[Path, Path], device: Path, tmp_path: Path) -> None:
    folder = workplace(tmp_path / "stopped")
    edits = (*LARGER, "train:total_iter=8")
    for arguments in (edits, LARGER):
        done = on(device, folder, "train.py", "-opt", "train.yml", "--device", "standin", "--auto_resume", *arguments)
        assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stdout + done.stderr
    assert_same_run(places[1] / "experiments/tiny", folder / "experiments/tiny")


def test_a_checkpoint_of_one_device_goes_on_on_another(places: tuple[Path, Path], device: Path, tmp_path: Path) -> None:
    state = str(places[1] / "experiments/tiny/training_states/8.state")
    edits = ("--force_yml", f"path:resume_state={state}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace(tmp_path / "cpu"))
        assert run_here("train.py", "-opt", "train.yml", *edits) == 0
    folder = workplace(tmp_path / "other")
    edits = ("--force_yml", f"path:resume_state={places[0] / 'experiments/tiny/training_states/8.state'}")
    done = on(device, folder, "train.py", "-opt", "train.yml", "--device", "auto", *edits)
    assert done.returncode == 0, done.stderr
    found = [weights(tmp_path / name / "experiments/tiny/models/net_g_12.pth") for name in ("cpu", "other")]
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-3, atol=1e-4)


def test_scores_are_those_of_the_cpu(places: tuple[Path, Path], device: Path) -> None:
    cpu, other = places
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cpu)
        assert run_here("test.py", "-opt", "test.yml") == 0
        weights_of_cpu = cpu / "experiments/tiny/models/net_g_latest.pth"
    done = on(
        device, other, "test.py", "-opt", "test.yml", "--device", "auto", "--force_yml",
        f"path:pretrain_network_g={weights_of_cpu}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads((place / "results/tiny_test/scores.json").read_text()) for place in places]
    means = [result["datasets"]["HeldOut"]["mean"] for result in results]
    assert means[1]["scores"] == pytest.approx(means[0]["scores"], rel=1e-6)
    assert means[1]["bicubic"] == pytest.approx(means[0]["bicubic"], rel=1e-9)
    assert results[1]["hardware"]["gpus"] == "standin device"
    assert results[1]["datasets"]["HeldOut"]["peak_memory"] == 0


def test_pictures_are_those_of_the_cpu(places: tuple[Path, Path], device: Path) -> None:
    cpu, _ = places
    arguments = ("-i", str(cpu / "held_out/HR"), "-w", str(cpu / "experiments/tiny/models/net_g_latest.pth"))
    done = on(device, cpu, "scripts/upscale.py", *arguments, "-o", "other")
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cpu)
        assert run_here("scripts/upscale.py", *arguments, "-o", "cpu", "--device", "cpu") == 0
    pictures = sorted((cpu / "cpu").iterdir())
    assert len(pictures) == 2
    for picture in pictures:
        one, two = (read_image(path).astype(int) for path in (picture, cpu / "other" / picture.name))
        assert np.abs(one - two).max() <= 1


def test_a_full_device_makes_smaller_tiles(places: tuple[Path, Path], device: Path, tmp_path: Path) -> None:
    """Its memory, of which it says nothing beforehand, is full; that of the process is not."""
    cpu, _ = places
    large = tmp_path / "large.png"
    cv2.imwrite(str(large), np.random.default_rng(0).integers(0, 255, (200, 180, 3), np.uint8))
    command = line(
        device, "scripts/upscale.py", "-i", str(large), "-o", "out", "-w",
        str(cpu / "experiments/tiny/models/net_g_latest.pth"),
    )  # fmt: skip
    done = subprocess.run(
        command, cwd=tmp_path, env={**environment(), stand_in.LIMIT: "4000000"}, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the memory does not suffice; going on with tiles of" in done.stderr


def test_the_largest_batch_is_what_its_memory_takes(places: tuple[Path, Path], device: Path, tmp_path: Path) -> None:
    folder = workplace(tmp_path / "batches")
    edits = ("--force_yml", "val=null", "datasets:train:gt_size=32")
    arguments = ("-opt", "train.yml", "--check", "--largest_batch", "--device", "auto", *edits)
    done = subprocess.run(
        line(device, "train.py", *arguments), cwd=folder, env={**environment(), stand_in.LIMIT: "6000000"},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "does not fit)" in done.stdout + done.stderr
    assert "memory so far: unknown" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("train:amp=bf16", "bf16: PyTorch has no mixed precision of that type on standin:0; choose train:amp=null"),
        ("train:amp=fp16", "train.amp: fp16: PyTorch has no mixed precision of that type on standin:0"),
        ("train:compile=true", "train.compile: torch.compile makes no kernels for standin:0"),
    ],
)
def test_what_it_cannot_do_is_refused(edit: str, said: str, device: Path, tmp_path: Path) -> None:
    folder = workplace(tmp_path / "refused")
    done = on(device, folder, "train.py", "-opt", "train.yml", "--device", "auto", "--force_yml", edit)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("setting", chosen(["GAN, degradation pool", "any scale, 2 workers", "HAT with dropout, EMA"]))
def test_other_trainings(setting: Setting, device: Path, tmp_path: Path) -> None:
    """With a discriminator and made degradations; points and workers; random numbers of the device."""
    cpu, other = tmp_path / "cpu", tmp_path / "other"
    edits = ("--force_yml", "train:total_iter=4", "val:val_freq=4")
    for folder in (cpu, other):
        folder.mkdir()
        make_place(folder, setting)
    done = on(device, other, "train.py", "-opt", "train.yml", "--device", "auto", *edits)
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cpu)
        assert run_here("train.py", "-opt", "train.yml", *edits) == 0
    found = [losses_of(folder / "experiments/tiny") for folder in (cpu, other)]
    assert len(found[0]) == 4
    for one, two in zip(*found, strict=True):
        assert two == pytest.approx(one, rel=1e-3)


def test_networks_seeds_and_metrics(device: Path, tmp_path: Path) -> None:
    done = on(device, tmp_path, "tests/stand_in_networks.py")
    assert done.returncode == 0, done.stdout + done.stderr
