"""Folders of runs, written by hand: what train.py and test.py leave, without training anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data import write_image
from scripts.faults.workplace import TRAIN_FILE, picture
from tests.runs import TEST_FILE

FACTS = "# python: 3.11.7\n# torch: 2.13.0\n# cpu: Some CPU\n# gpus: none\n"


def headed(command: str) -> str:
    """The head of the copy of an option file."""
    return f"# GENERATE TIME: Fri Nov 27 12:00:00 2026\n# CMD:\n# {command}\n\n"


def write_images(folder: Path, count: int = 2) -> None:
    """HR pictures in ``held_out/HR`` of different sizes."""
    for number in range(count):
        write_image(folder / f"held_out/HR/held_out_{number}.png", picture(number, 80 + 16 * number, 96))


def of_training(folder: Path, name: str = "tiny", rate: str = "2e-3", steps: int = 12) -> Path:
    """A training run that has validated and saved pictures at iterations 8 and 12."""
    root = folder / "experiments" / name
    root.mkdir(parents=True)
    text = TRAIN_FILE.replace("name: tiny", f"name: {name}").replace("lr: 2e-3", f"lr: {rate}")
    (root / "options_as_read.yml").write_text(FACTS + text)
    (root / "train.yml").write_text(headed(f"train.py -opt 'a file.yml' --force_yml name={name}") + text)
    lines: list[dict[str, object]] = [
        {"kind": "train", "step": step, "lr": [2e-3], "l_pix": 1 / step, "grad_norm": 1.0}
        for step in range(1, steps + 1)
    ]
    lines.append({"kind": "val", "step": steps, "dataset": "HeldOut", "scores": {"psnr": 25.0, "ssim": 0.7}})
    (root / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    images = [scores(f"held_out_{number}", 25.0 + number) for number in range(2)]
    (root / "validation.json").write_text(json.dumps({"step": steps, "datasets": {"HeldOut": of_set(images)}}))
    for number in range(2):
        for step in (8, steps):
            path = root / f"visualization/HeldOut/held_out_{number}/held_out_{number}_{step}.png"
            write_image(path, blurred(number, 5))
    return root


def of_test(folder: Path, name: str = "tiny_test", psnr: float = 27.0, edit: Mapping[str, str] | None = None) -> Path:
    """A test whose outputs are blurred HR pictures."""
    root = folder / "results" / name
    root.mkdir(parents=True)
    text = TEST_FILE.replace("name: tiny_test", f"name: {name}")
    for old, new in (edit or {}).items():
        text = text.replace(old, new)
    (root / "options_as_read.yml").write_text(FACTS + text)
    (root / "test.yml").write_text(headed("test.py -opt test.yml") + text)
    images = [scores(f"held_out_{number}", psnr + number, bicubic=24.0 - number) for number in range(2)]
    content = {
        "name": name, "complete": True, "weights": "net_g.pth", "weights_entry": "params_ema", "way": "whole images",
        "datasets": {"HeldOut": of_set(images)}, "versions": {"torch": "2.13.0"}, "hardware": {"cpu": "Some CPU"},
    }  # fmt: skip
    (root / "scores.json").write_text(json.dumps(content))
    for number in range(2):
        write_image(root / f"visualization/HeldOut/held_out_{number}_{name}.png", blurred(number, 3))
    return root


def scores(name: str, psnr: float | None, bicubic: float | None = None) -> dict[str, object]:
    """An image of ``scores.json``."""
    base = {} if bicubic is None else {"psnr": bicubic, "ssim": 0.6}
    return {"name": name, "size": [80, 96], "scores": {"psnr": psnr, "ssim": 0.7}, "bicubic": base, "seconds": 0.1}


def of_set(images: list[dict[str, object]]) -> dict[str, object]:
    """A data set of ``scores.json``."""
    base = images[0]["bicubic"]
    return {"mean": {"scores": {"psnr": 27.5, "ssim": 0.7}, "bicubic": base}, "images": images}


def blurred(number: int, side: int) -> NDArray[np.uint8]:
    """An output for HR picture ``number``, the worse the larger ``side`` is."""
    return np.asarray(cv2.blur(picture(number, 80 + 16 * number, 96), (side, side)), np.uint8)
