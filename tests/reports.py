"""Reports of made-up runs, for tests of the page that shows them."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from PIL import Image

from analysis.report.model import (
    Analysis,
    Crop,
    Curve,
    Difference,
    ImageScores,
    Metric,
    Panel,
    Picture,
    Published,
    Report,
    Run,
    ScoredSet,
    Series,
)

_SIDE = 96  # pixels of an HR picture


def example_report(images: int = 3, points: int = 40, networks: int = 2) -> Report:
    """A report of two training runs and ``networks`` tests on one set; one loss is not finite, one image has no score.

    Args:
        images: of the set.
        points: of each curve; of more than 30, "l_pix" counts as thinned.
        networks: that were tested.
    """
    tests = [f"network_{number}" for number in range(1, networks + 1)]
    runs = (
        *(_run(f"train_{name}", "train", rate) for name, rate in (("first", "0.0002"), ("second", "0.0001"))),
        *(_run(name, "test", None) for name in tests),
    )
    pictures = tuple(_picture(f"image_{number:03d}", tests, seed=number) for number in range(images))
    return Report(
        title="train_first", made="2026-01-02 03:04:05",
        command="python scripts/report.py experiments/train_first -o report",
        runs=runs,
        differences=(Difference("train.optim_g.lr", ("0.0002", "0.0001", *[None] * networks)),),
        curves=tuple(_curves(points)),
        sets=(_scores(tests, pictures),),
        pictures=pictures,
        analyses=(Analysis("lam", "Local attribution map", "DI 12.3 (network_1)\nDI 4.5 (network_2)", _src(7, 40)),),
    )  # fmt: skip


def _run(name: str, kind: str, rate: str | None) -> Run:
    options = {"name": name, "scale": "4", **({} if rate is None else {"train.optim_g.lr": rate})}
    versions, hardware = {"python": "3.11.7", "torch": "2.13.0"}, {"cpu": "8 cores of a CPU", "gpu": "none"}
    if kind == "train":
        notes = ("metrics.jsonl: 1 damaged line is left out: line 7",)
        return Run(
            name, f"experiments/{name}", "train", options, versions, hardware,
            "python train.py -opt options/train.yml", 1000, 2000, notes,
        )  # fmt: skip
    return Run(name, f"results/{name}", "test", options, versions, hardware, None, None, None)


def _curves(points: int) -> list[Curve]:
    steps = tuple(range(10, 10 * points + 1, 10))
    thinned = points > 30
    losses, rates, scores = [], [], []
    for run in range(2):
        values = tuple(0.1 / (1 + 0.1 * place) + 0.01 * run for place in range(points))
        band = tuple(value * 0.9 for value in values), tuple(value * 1.2 for value in values)
        broken = tuple(math.nan if place == points // 2 and run == 0 else value for place, value in enumerate(values))
        losses.append(Series(run, steps, broken, *(band if thinned else (None, None))))
        rates.append(Series(run, steps, tuple(2e-4 / (run + 1) for _ in steps)))
        scores.append(Series(run, steps[::10], tuple(28 + 0.1 * step**0.5 + run for step in steps[::10])))
    speeds = tuple(30.0 for _ in steps)
    return [
        Curve("l_pix", "loss", True, tuple(losses)),
        Curve("lr", "rate", False, tuple(rates)),
        Curve("Set5: psnr", "score", False, tuple(scores)),
        Curve("images/s", "speed", False, (Series(0, steps, speeds),)),
        Curve("grad_norm", "other", True, (Series(0, steps, tuple(1.0 for _ in steps)),)),
    ]


def _scores(tests: list[str], pictures: tuple[Picture, ...]) -> ScoredSet:
    methods = ("bicubic", *tests)
    images = []
    for index, picture in enumerate(pictures):
        scores = {
            method: {"psnr": 28.0 + place + (index * 7) % 5, "ssim": 0.8 + 0.01 * place}
            for place, method in enumerate(methods)
        }
        fault = {}
        if index == 1:
            scores[methods[-1]] = {"psnr": math.nan, "ssim": math.nan}
            fault = {methods[-1]: "the output is not finite"}
        images.append(ImageScores(picture.image, (_SIDE, _SIDE), scores, index, fault))
    mean = {method: {"psnr": 28.5 + place, "ssim": 0.81 + 0.01 * place} for place, method in enumerate(methods)}
    return ScoredSet(
        "Set5", 4, (Metric("psnr", "higher", 2), Metric("ssim", "higher", 4)), methods, tuple(images), mean,
        Published("PFT", "a paper", {"psnr": 33.15, "ssim": 0.9065}),
    )  # fmt: skip


def _picture(name: str, tests: list[str], seed: int) -> Picture:
    crop = (24, 32, 32, 32)
    panels, crops = [], []
    for place, label in enumerate(["LR", "bicubic", *tests, "HR"]):
        scores = {} if label in ("LR", "HR") else {"psnr": 28.0 + place, "ssim": 0.8}
        panels.append(Panel(label, _src(seed, _SIDE, 8 * place), None, _SIDE, _SIDE, scores))
        crops.append(Crop(label, _src(seed, 32, 8 * place)))
    return Picture("Set5", name, tuple(panels), crop, tuple(crops))


def _src(seed: int, side: int, brighter: int = 0) -> str:
    """A small picture as a data URI: a gradient of colours, which differs with the seed."""
    rows, columns = np.mgrid[:side, :side] * 200 // side
    pixels = np.stack([rows, columns, np.full_like(rows, 37 * seed % 200)], axis=-1) + brighter
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
