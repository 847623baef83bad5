"""Scores that the authors of the networks publish, as printed, with where they stand.

PSNR in dB and SSIM, both on Y, without as many pixels at each border as the scale, unless the head of a table says that
they are of unrounded values (``calculate_psnr_any_scale``); a dash where nothing is printed.
Nothing here was measured by this project: its own figures are in docs/reproducing.md, under "Measured (ours)".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

SETS = ("Set5", "Set14", "B100", "Urban100", "Manga109")


@dataclass(frozen=True)
class Score:
    """What is printed for one set.

    Attributes:
        psnr: dB.
        ssim: None where only PSNR is printed.
    """

    psnr: float
    ssim: float | None = None


@dataclass(frozen=True)
class Table:
    """One published table.

    Attributes:
        source: where it stands.
        note: what to know about it, or nothing.
        rows: (variant, scale) -> set -> score.
        unrounded: PSNR is that of networks for any scale.
    """

    source: str
    note: str
    rows: Mapping[tuple[str, int], Mapping[str, Score]]
    unrounded: bool = False


# Lines: variant, scale, then Set5, Set14, B100, Urban100, Manga109.
_TEXT = """\
# Comparison figure in the repository of PFT (PFT-SR) | trained on DF2K, without ImageNet
HAT | x2 | 38.63/0.9630 34.86/0.9274 32.62/0.9053 34.45/0.9466 40.26/0.9809
HAT | x3 | 35.07/0.9329 31.08/0.8555 29.54/0.8167 30.23/0.8896 35.53/0.9552
HAT | x4 | 33.04/0.9056 29.23/0.7973 28.00/0.7517 27.97/0.8368 32.48/0.9292
# README of HAT's repository (XPixelGroup/HAT) | trained on DF2K, without ImageNet
HAT-S | x4 | 32.92 29.15 27.97 27.87 32.35
# Bar chart in HAT's repository (XPixelGroup/HAT) | pre-trained on ImageNet
HAT-ImageNet | x2 | - - - 34.81 40.71
HAT-ImageNet | x3 | - - - 30.70 35.84
HAT-ImageNet | x4 | - - - 28.37 32.87
HAT-L-ImageNet | x2 | - - - 35.09 40.90
HAT-L-ImageNet | x3 | - - - 30.92 36.02
HAT-L-ImageNet | x4 | - - - 28.60 33.09
# Table in RGT's repository (paper: arXiv 2303.06373) | RGT+ is the mean over flips and rotations (val: self_ensemble)
RGT-S | x2 | 38.56/0.9627 34.77/0.9270 32.59/0.9050 34.32/0.9457 40.18/0.9805
RGT | x2 | 38.59/0.9628 34.83/0.9272 32.62/0.9050 34.47/0.9467 40.34/0.9808
RGT+ | x2 | 38.62/0.9629 34.88/0.9275 32.64/0.9053 34.63/0.9474 40.45/0.9810
RGT-S | x3 | 35.11/0.9328 31.05/0.8548 29.53/0.8164 30.18/0.8884 35.39/0.9548
RGT | x3 | 35.15/0.9329 31.13/0.8550 29.55/0.8165 30.28/0.8899 35.55/0.9553
RGT+ | x3 | 35.18/0.9331 31.16/0.8558 29.57/0.8170 30.40/0.8914 35.69/0.9559
RGT-S | x4 | 32.98/0.9047 29.18/0.7966 27.98/0.7509 27.89/0.8347 32.38/0.9281
RGT | x4 | 33.12/0.9060 29.23/0.7972 28.00/0.7513 27.98/0.8369 32.50/0.9291
RGT+ | x4 | 33.16/0.9066 29.28/0.7979 28.03/0.7520 28.09/0.8388 32.68/0.9303
# Tables of the PFT paper (arXiv 2503.20337) | PFT on DF2K, PFT-light on DIV2K; large images in tiles (val.pft_chop)
PFT | x2 | 38.68/0.9635 35.00/0.9280 32.67/0.9058 34.90/0.9490 40.49/0.9815
PFT | x3 | 35.15/0.9333 31.16/0.8561 29.58/0.8178 30.56/0.8931 35.67/0.9560
PFT | x4 | 33.15/0.9065 29.29/0.7978 28.02/0.7527 28.20/0.8412 32.63/0.9306
PFT-light | x2 | 38.36/0.9620 34.20/0.9233 32.43/0.9030 33.67/0.9411 39.55/0.9792
PFT-light | x3 | 34.82/0.9305 30.75/0.8493 29.33/0.8116 29.46/0.8763 34.61/0.9509
PFT-light | x4 | 32.63/0.9002 28.97/0.7899 27.78/0.7442 27.20/0.8171 31.51/0.9204
# Tables of the SwinIR paper (arXiv 2108.10257) and its repository | SwinIR on DF2K; SwinIR-DIV2K and -light on DIV2K
SwinIR-light | x2 | 38.14/0.9611 33.86/0.9206 32.31/0.9012 32.76/0.9340 39.12/0.9783
SwinIR-DIV2K | x2 | 38.35/0.9620 34.14/0.9227 32.44/0.9030 33.40/0.9393 39.60/0.9792
SwinIR | x2 | 38.42/0.9623 34.46/0.9250 32.53/0.9041 33.81/0.9427 39.92/0.9797
SwinIR-light | x3 | 34.62/0.9289 30.54/0.8463 29.20/0.8082 28.66/0.8624 33.98/0.9478
SwinIR-DIV2K | x3 | 34.89/0.9312 30.77/0.8503 29.37/0.8124 29.29/0.8744 34.74/0.9518
SwinIR | x3 | 34.97/0.9318 30.93/0.8534 29.46/0.8145 29.75/0.8826 35.12/0.9537
SwinIR-light | x4 | 32.44/0.8976 28.77/0.7858 27.69/0.7406 26.47/0.7980 30.92/0.9151
SwinIR-DIV2K | x4 | 32.72/0.9021 28.94/0.7914 27.83/0.7459 27.07/0.8164 31.67/0.9226
SwinIR | x4 | 32.92/0.9044 29.09/0.7950 27.92/0.7489 27.45/0.8254 32.03/0.9260
# README of ATD's repository (paper: arXiv 2401.08209) | ATD on DF2K, ATD-light on DIV2K; PFT's paper quotes others
ATD | x2 | 38.61/0.9629 34.92/0.9275 32.64/0.9054 34.73/0.9476 40.35/0.9810
ATD | x3 | 35.15/0.9331 31.15/0.8556 29.58/0.8175 30.52/0.8924 35.64/0.9558
ATD | x4 | 33.14/0.9061 29.25/0.7976 28.02/0.7524 28.22/0.8414 32.65/0.9308
ATD-light | x2 | 38.29/0.9616 34.10/0.9217 32.39/0.9023 33.27/0.9375 39.52/0.9789
ATD-light | x3 | 34.74/0.9300 30.68/0.8485 29.32/0.8109 29.17/0.8709 34.60/0.9506
ATD-light | x4 | 32.63/0.8998 28.89/0.7886 27.79/0.7440 26.97/0.8107 31.48/0.9198
# README of HiT-SR's repository (paper: arXiv 2407.05878) | on DIV2K, HiT-SRF-DF2K on DF2K
HiT-SIR | x2 | 38.22/0.9613 33.91/0.9213 32.35/0.9019 33.02/0.9365 39.38/0.9782
HiT-SNG | x2 | 38.21/0.9612 34.00/0.9217 32.35/0.9020 33.01/0.9360 39.32/0.9782
HiT-SRF | x2 | 38.26/0.9615 34.01/0.9214 32.37/0.9023 33.13/0.9372 39.47/0.9787
HiT-SRF-DF2K | x2 | 38.30/0.9615 34.06/0.9217 32.41/0.9027 33.30/0.9387 39.67/0.9793
HiT-SIR | x3 | 34.72/0.9298 30.62/0.8474 29.27/0.8101 28.93/0.8673 34.40/0.9496
HiT-SNG | x3 | 34.74/0.9297 30.62/0.8474 29.26/0.8100 28.91/0.8671 34.38/0.9495
HiT-SRF | x3 | 34.75/0.9300 30.61/0.8475 29.29/0.8106 28.99/0.8687 34.53/0.9502
HiT-SRF-DF2K | x3 | 34.79/0.9301 30.68/0.8486 29.33/0.8113 29.16/0.8717 34.71/0.9510
HiT-SIR | x4 | 32.51/0.8991 28.84/0.7873 27.73/0.7424 26.71/0.8045 31.23/0.9176
HiT-SNG | x4 | 32.55/0.8991 28.83/0.7873 27.74/0.7426 26.75/0.8053 31.24/0.9176
HiT-SRF | x4 | 32.55/0.8999 28.87/0.7880 27.75/0.7432 26.80/0.8069 31.26/0.9171
HiT-SRF-DF2K | x4 | 32.63/0.8993 28.96/0.7899 27.78/0.7442 27.00/0.8119 31.55/0.9203
# Table 2 of the ESC paper (arXiv 2503.06671) | DIV2K; two SSIM of ESC-FP are misprints
ESC-FP | x2 | 38.27/0.9617 34.09/0.9219 32.37/0.9022 33.22/0.9375 39.40/0.9784
ESC-light | x2 | 38.24/0.9615 33.98/0.9211 32.35/0.9020 33.05/0.9363 39.33/0.9786
ESC | x2 | 38.35/0.9619 34.11/0.9223 32.41/0.9027 33.46/0.9395 39.54/0.9790
ESC-FP | x3 | 34.72/0.9300 30.67/0.8483 29.30/0.8107 29.12/0.8706 34.56/0.8706
ESC-light | x3 | 34.61/0.9295 30.52/0.8475 29.26/0.8102 28.93/0.8679 34.33/0.9495
ESC | x3 | 34.84/0.9308 30.74/0.8493 29.34/0.8118 29.28/0.8739 34.66/0.9512
ESC-FP | x4 | 32.56/0.8897 28.87/0.7889 27.75/0.7435 26.90/0.8098 31.40/0.9192
ESC-light | x4 | 32.52/0.8995 28.87/0.7878 27.72/0.7423 26.76/0.8058 31.26/0.9173
ESC | x4 | 32.68/0.9011 28.93/0.7902 27.80/0.7447 27.07/0.8144 31.54/0.9207
# Table 4 of the ESC paper (arXiv 2503.06671) | trained on DIV2K, Flickr2K, LSDIR and DiverSeg-IP
ATD-light-DFLIP | x2 | 38.29/0.9616 34.30/0.9230 32.43/0.9027 33.62/0.9401 39.60/0.9791
ATD-light-DFLIP | x3 | 34.71/0.9300 30.77/0.8493 29.33/0.8116 29.42/0.8743 34.61/0.9509
ATD-light-DFLIP | x4 | 32.52/0.8995 28.93/0.7896 27.79/0.7443 27.18/0.8150 31.47/0.9208
ESC-DFLIP | x2 | 38.34/0.9618 34.42/0.9235 32.50/0.9036 33.86/0.9424 39.73/0.9795
ESC-DFLIP | x3 | 34.85/0.9312 30.97/0.8511 29.41/0.8135 29.70/0.8799 34.94/0.9525
ESC-DFLIP | x4 | 32.79/0.9025 29.06/0.7927 27.85/0.7466 27.45/0.8229 31.87/0.9239
# Table 6 of the ESC paper (arXiv 2503.06671) | of unrounded values, grey differences, as calculate_psnr_any_scale
ESC+LTE | x2 | 38.29 34.05 32.38 33.30 -
ESC+LTE | x3 | 34.79 30.69 29.32 29.21 -
ESC+LTE | x4 | 32.72 28.94 27.77 27.04 -
ESC+LTE | x6 | 29.18 26.70 26.00 24.44 -
ESC+LTE | x8 | 27.24 25.24 24.96 23.03 -
"""


@cache
def tables() -> tuple[Table, ...]:
    """All tables, in the order of the networks."""
    result = []
    for part in _TEXT.split("# ")[1:]:
        head, *lines = part.splitlines()
        source, _, note = head.partition(" | ")
        rows = {}
        for line in lines:
            variant, scale, cells = line.split(" | ")
            rows[variant, int(scale[1:])] = {
                name: _score(cell) for name, cell in zip(SETS, cells.split(), strict=True) if cell != "-"
            }
        result.append(Table(source, note, rows, unrounded="unrounded" in note))
    return tuple(result)


def variants() -> tuple[str, ...]:
    """The names that ``published`` in a test file may have."""
    return tuple(dict.fromkeys(variant for table in tables() for variant, _ in table.rows))


def scores_of(variant: str, scale: float) -> tuple[Table, Mapping[str, Score]] | None:
    """The table of a variant at a scale, and its scores by set; None where nothing is published."""
    return next(
        ((table, table.rows[variant, int(scale)]) for table in tables() if (variant, scale) in table.rows),
        None,
    )


def markdown() -> str:
    """All tables as Markdown, each under its source."""
    parts = []
    for table in tables():
        lines = [f"**{table.source}** ({table.note}):", "", f"| variant | scale | {' | '.join(SETS)} |"]
        lines.append("| --- " * (2 + len(SETS)) + "|")
        for (variant, scale), scores in table.rows.items():
            cells = [_cell(scores.get(name)) for name in SETS]
            lines.append(f"| {variant} | x{scale} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _score(cell: str) -> Score:
    psnr, _, ssim = cell.partition("/")
    return Score(float(psnr), float(ssim) if ssim else None)


def _cell(score: Score | None) -> str:
    if score is None:
        return ""
    return f"{score.psnr:.2f}" if score.ssim is None else f"{score.psnr:.2f} / {score.ssim:.4f}"
