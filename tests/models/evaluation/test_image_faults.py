"""Images of a test set that cannot be used are named; everything else is scored and written."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import Tensor

from archs import build_network
from data.images.files import write_image
from models.evaluation import evaluate, pictures
from models.inference.upscale import upscale
from tests.runs import picture, run_here, workplace
from utils.files import storage_error

NETWORK = {"type": "PlainUSR_ultra", "n_feat": 8, "im_feat": [8, 4], "scale": 2}
SETS = [
    f"datasets:test_{number}={{name: {name}, type: PairedImageDataset, dataroot_gt: {folder}/HR, "
    "io_backend: {type: disk}}"
    for number, name, folder in ((2, "Odd", "odd"), (3, "After", "held_out"))
]


@pytest.fixture(autouse=True)
def sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, and three sets, of which the second has two sound images."""
    monkeypatch.chdir(workplace(tmp_path / "work place"))
    torch.manual_seed(0)
    weights = Path("experiments/tiny/models/net_g_latest.pth")
    weights.parent.mkdir(parents=True)
    torch.save({"params": build_network(NETWORK).state_dict()}, weights)
    Path("odd/HR").mkdir(parents=True)
    for name, width in (("a", 48), ("z", 40)):
        cv2.imwrite(f"odd/HR/{name}.png", picture(3, 40, width))


def scored(*edits: str) -> tuple[int, dict[str, Any]]:
    """Test: the exit code, and ``scores.json`` by data set."""
    code = run_here("test.py", "-opt", "test.yml", "--force_yml", *SETS, *edits)
    return code, json.loads(Path("results/tiny_test/scores.json").read_text(), parse_constant=pytest.fail)["datasets"]


def tiny() -> str:
    cv2.imwrite("odd/HR/m.png", picture(3, 4, 4))
    return "odd/HR/m.png: an image of 4 x 4 pixels (width x height) is too small to be measured"


def damaged() -> str:
    whole = Path("odd/HR/a.png").read_bytes()
    Path("odd/HR/m.png").write_bytes(whole[:-300])
    return "odd/HR/m.png: the image cannot be read: it is cut short"


def unmatched() -> str:
    shutil.copy("odd/HR/a.png", "odd/HR/m.png")
    Path("odd/LR").mkdir()
    for name, (height, width) in {"a": (20, 24), "z": (20, 20), "m": (9, 9)}.items():
        cv2.imwrite(f"odd/LR/{name}.png", picture(3, height, width))
    return "odd/LR/m.png: the low-resolution image is 9 x 9"


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("fault", [tiny, damaged, unmatched])
def test_an_image_that_cannot_be_used_costs_no_other_score(
    fault: Any, batch_size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    said = fault()
    lower = ["datasets:test_2:dataroot_lq=odd/LR"] if fault is unmatched else []
    code, found = scored(*lower, f"val:batch_size={batch_size}")
    printed = capsys.readouterr().err
    assert code == 1
    assert f"1 of 3 images of Odd have no score (m): {said}" in printed
    assert "NaN or infinity" not in printed
    assert "Traceback" not in printed
    for name in ("HeldOut", "After"):
        assert found[name]["mean"]["scores"]["psnr"] > 0
    assert found["HeldOut"]["mean"] == found["After"]["mean"]
    rows = {row["name"]: row for row in found["Odd"]["images"]}
    assert list(rows) == ["a", "m", "z"]
    assert said in rows["m"]["fault"]
    assert rows["m"]["scores"] == rows["m"]["bicubic"] == {"psnr": None, "ssim": None}
    assert min(rows[name]["scores"]["psnr"] for name in "az") > 0
    assert found["Odd"]["mean"]["scores"] == {"psnr": None, "ssim": None}
    pictures_of = {path.name for path in Path("results/tiny_test/visualization/Odd").iterdir()}
    assert pictures_of == {f"{name}_tiny_test.png" for name in ("amz" if fault is tiny else "az")}


def test_an_image_that_is_too_large_for_the_memory_is_named_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cv2.imwrite("odd/HR/m.png", picture(3, 60, 60))

    def small_memory(network: Any, lq: Tensor, **keywords: Any) -> Tensor:
        if len(lq) > 1 or lq.shape[-1] == 30:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
            )
        return upscale(network, lq, **keywords)

    monkeypatch.setattr(evaluate, "upscale", small_memory)
    code, found = scored("val:batch_size=2")
    printed = capsys.readouterr().err
    assert code == 1
    assert "the memory is full: the image m of Odd (DefaultCPUAllocator: can't allocate memory)" in printed
    assert "What helps: tiles (tile: {tile_size: 256}" in printed
    assert [row["scores"]["psnr"] is None for row in found["Odd"]["images"]] == [False, True, False]
    assert found["After"]["mean"]["scores"]["psnr"] > 0


def test_what_ends_the_test_costs_no_score_of_the_sets_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full_disk(path: Path, pixels: Any) -> None:
        if "Odd" in path.parts:
            raise storage_error(path, OSError(errno.ENOSPC, "No space left on device"))
        write_image(path, pixels)

    monkeypatch.setattr(pictures, "write_image", full_disk)
    code, found = scored()
    assert code == 1
    printed = capsys.readouterr().err
    assert "Odd/a_tiny_test.png could not be written; free some space" in printed
    assert "scores of a test that was ended early (2 of " in printed
    assert json.loads(next(Path("results").glob("*/scores.json")).read_text())["complete"] is False
    assert list(found) == ["HeldOut", "Odd"]  # what was measured of the second set is written too


def test_a_validation_image_that_was_damaged_is_reported_and_the_training_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.training.objectives import PixelObjective

    iterate = PixelObjective.step

    def damaging(objective: PixelObjective, state: Any, batch: Any) -> Any:
        path = Path("held_out/HR/held_out_1.png")
        if state.step == 5:
            path.write_bytes(path.read_bytes()[:-200])
        return iterate(objective, state, batch)

    monkeypatch.setattr(PixelObjective, "step", damaging)
    assert run_here("train.py", "-opt", "train.yml") == 0
    printed = capsys.readouterr().err
    assert "iteration 8: 1 of 2 images of HeldOut have no score (held_out_1): held_out/HR/held_out_1.png: " in printed
    lines = Path("experiments/tiny/metrics.jsonl").read_text().splitlines()
    scores = [record["scores"]["psnr"] for record in map(json.loads, lines) if record["kind"] == "val"]
    assert [score is None for score in scores] == [False, True, True]
