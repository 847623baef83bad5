"""A report with every part filled, for tests of the page: drawn scores, curves and pictures."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from numpy.typing import NDArray
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
from metrics import calculate_psnr, calculate_ssim

Pixels = NDArray[np.uint8]
NAMES = ("PlainUSR-T wide", "PlainUSR-T")
METRICS = (Metric("psnr", "higher", 2), Metric("ssim", "higher", 4))
HOSTILE = "</script><img src=x onerror=alert(1)>&amp;\"'`<!--\u2028"


def uri(pixels: Pixels, kind: str = "png") -> str:
    """The picture as a data URI."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def photograph(index: int, side: int) -> Pixels:
    """[side, side, 3]: bars, rings and noise, another one for each index."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [
        np.sin(rng.uniform(10, 60) * (x * math.cos(a) + y * math.sin(a)) + rng.uniform(0, 6))
        for a in rng.uniform(0, 3, 3)
    ]
    rings = np.sin(rng.uniform(200, 500) * ((x - rng.random()) ** 2 + (y - rng.random()) ** 2))
    picture = np.stack([0.5 + 0.2 * wave + 0.25 * rings for wave in waves], -1) + rng.normal(0, 0.02, (side, side, 3))
    return np.asarray(picture.clip(0, 1) * 255, np.uint8)


def methods_of(hr: Pixels, scale: int = 4) -> dict[str, Pixels]:
    """LR, bicubic, two results between bicubic and HR, and HR."""
    side = hr.shape[0]
    lr = Image.fromarray(hr).resize((side // scale, side // scale), Image.Resampling.BICUBIC)
    bicubic = np.asarray(lr.resize((side, side), Image.Resampling.BICUBIC))

    def between(share: float) -> Pixels:
        return np.rint(share * bicubic.astype(float) + (1 - share) * hr).astype(np.uint8)

    return {"LR": np.asarray(lr), "bicubic": bicubic, NAMES[0]: between(0.55), NAMES[1]: between(0.7), "HR": hr}


def scores_of(found: dict[str, Pixels]) -> dict[str, dict[str, float]]:
    """Method -> metric -> value, on Y."""
    return {
        label: {
            "psnr": calculate_psnr(sr, found["HR"], 4, test_y_channel=True),
            "ssim": calculate_ssim(sr, found["HR"], 4, test_y_channel=True),
        }
        for label, sr in found.items()
        if label not in ("LR", "HR")
    }


def picture_of(set_name: str, name: str, found: dict[str, Pixels], kind: str = "png") -> Picture:
    """The picture with its part at 24, 16 of 32 x 32."""
    height, width = found["HR"].shape[:2]
    scores = scores_of(found)
    panels = tuple(
        Panel(label, uri(pixels, kind), None, width, height, scores.get(label, {})) for label, pixels in found.items()
    )
    parts = {label: p[4:12, 6:14] if label == "LR" else p[16:48, 24:56] for label, p in found.items()}
    crops = tuple(Crop(label, uri(np.ascontiguousarray(part))) for label, part in parts.items())
    return Picture(set_name, name, panels, (24, 16, 32, 32), crops)


def curve(title: str, group: str, points: int, log: bool, thinned: bool = False, last: int = 300_000) -> Curve:
    """A curve of both runs that falls, or rises where it shows scores."""
    series = []
    for run in range(2):
        rng = np.random.default_rng(run)
        steps = np.linspace(last / points, last, points).astype(int)
        falling = 0.03 * np.exp(-steps / (0.2 * last)) + 0.012 + 0.001 * run
        values = 32 - 90 * falling if group == "score" else falling * (1 + 0.05 * rng.normal(size=points))
        low, high = (tuple((values * k).tolist()) for k in (0.8, 1.3)) if thinned else (None, None)
        series.append(Series(run, tuple(steps.tolist()), tuple(values.tolist()), low, high))
    return Curve(title, group, log, tuple(series))  # type: ignore[arg-type]


def run(index: int, **options: str) -> Run:
    """One of the two runs."""
    shared = {f"datasets.train.key_{i}": str(i) for i in range(20)}
    own = {"network_g.type": "PlainUSR", "network_g.n_feat": str(48 - 16 * index), "train.optim_g.lr": "0.0005"}
    return Run(
        name=NAMES[index],
        folder=f"experiments/{NAMES[index]}",
        kind="train",
        options={**shared, **own, **options},
        versions={"torch": "2.13.0", "python": "3.11.7"},
        hardware={"cpu": "an example, 2 cores", "threads": "2"},
        command=f"python train.py -opt 'options/demo/{NAMES[index]}.yml'",
        iteration=300_000 - 100_000 * index,
        total_iter=300_000,
    )


def example(images: int = 3, side: int = 96, points: int = 400, kind: str = "png") -> Report:
    """The report; the second image of the first set has no score."""
    pictures: list[Picture] = []
    sets: list[ScoredSet] = []
    for name, number in (("Set5", images), ("Urban100", images)):
        rows = []
        for place in range(number):
            found = methods_of(photograph(len(pictures), side))
            scores = scores_of(found)
            fault = {}
            if name == "Set5" and place == 1:
                scores[NAMES[1]] = {"psnr": math.nan, "ssim": math.nan}
                fault = {NAMES[1]: "the output has NaN"}
            rows.append(ImageScores(f"img_{place + 1:03d}", (side, side), scores, len(pictures), fault))
            pictures.append(picture_of(name, rows[-1].name, found, kind))
        methods = ("bicubic", *NAMES)
        mean = {
            m: {k.name: float(np.nanmean([row.scores[m][k.name] for row in rows])) for k in METRICS} for m in methods
        }
        published = Published("PlainUSR-T", "table 3 of the paper", {"psnr": 31.2, "ssim": 0.8786})
        sets.append(ScoredSet(name, 4, METRICS, methods, tuple(rows), mean, published if name == "Set5" else None))
    curves = (
        curve("Set5: psnr", "score", 60, False),
        curve("l_pix", "loss", points, True, thinned=True),
        curve("lr", "rate", points, False),
        curve("images/s", "speed", points, False, thinned=True),
    )
    return Report(
        title="PlainUSR-T, two widths",
        made="2026-11-27 21:00:00",
        command="python scripts/report.py experiments/wide experiments/narrow -o report",
        runs=(run(0), run(1, **{"train.ema_decay": "0.999"})),
        differences=(Difference("network_g.n_feat", ("48", "32")), Difference("train.ema_decay", (None, "0.999"))),
        curves=curves,
        sets=tuple(sets),
        pictures=tuple(pictures),
        analyses=(Analysis("lam", "LAM of img_001", "DI 12.34\nof both networks", uri(photograph(99, 64))),),
    )
