"""What papers print about cost, as printed, with where it stands, at which size and by which rule.

Nothing here was measured by this project. Figures of two tables are never comparable without a look at size and rule:
one network has different figures in two papers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

from config.published import scores_of
from utils.scale import unscaled_length

Rule = Literal["fvcore", "own", "unknown"]
RULES: Mapping[str, str] = {
    "fvcore": "multiply-adds by fvcore's rules", "own": "multiply-adds by the authors' counter",
    "unknown": "multiply-adds, rule not stated",
}  # fmt: skip


@dataclass(frozen=True)
class Printed:
    """What a paper prints of a network at a scale; None where it prints nothing.

    Attributes:
        network: its printed name.
        scale: s.
        parameters: in millions.
        multiply_adds: in G (10^9); what the paper calls FLOPs.
        latency: ms.
        memory: MB.
        psnr: dB on Urban100, in the same table; of networks that are here, config/published.py has it.
    """

    network: str
    scale: int
    parameters: float | None = None
    multiply_adds: float | None = None
    latency: float | None = None
    memory: float | None = None
    psnr: float | None = None


@dataclass(frozen=True)
class Paper:
    """A table of a paper or of its repository.

    Attributes:
        source: where it stands.
        side: "in" or "out": which image has ``size``.
        size: (height, width).
        rule: by which multiply-adds are counted.
        note: what to know about it.
        rows: what is printed.
    """

    source: str
    side: Literal["in", "out"]
    size: tuple[int, int]
    rule: Rule
    note: str
    rows: tuple[Printed, ...]

    def lr_size(self, scale: int) -> tuple[int, int]:
        """(h, w) of the input; at x3 the 1280 pixels of a row leave 426."""
        return lr_size(self.size, scale) if self.side == "out" else self.size

    @property
    def at(self) -> str:
        """The size in words."""
        return f"{self.size[1]}x{self.size[0]} {self.side}put"

    def row(self, network: str, scale: float) -> Printed | None:
        """What is printed of a network at a scale."""
        return next((row for row in self.rows if row.network == network and row.scale == scale), None)


def lr_size(output: tuple[int, int], scale: float) -> tuple[int, int]:
    """(h, w) of the largest input whose output is no larger than this (height, width)."""
    height, width = output
    return unscaled_length(height, scale), unscaled_length(width, scale)


# Heads: source | in or out, WIDTHxHEIGHT | rule | note.
# Lines: network | scale | parameters in M | multiply-adds in G | latency in ms | memory in MB | PSNR on Urban100.
_TEXT = """\
# HAT, README of its repository (XPixelGroup/HAT) | in 64x64 | fvcore | HAT-S equals fvcore's rules, HAT does not
HAT-S | x4 | 9.6 | 54.9 | - | - | -
HAT | x4 | 20.8 | 102.4 | - | - | -
# PFT, comparison figure in its repository (PFT-SR), about HAT | out 1280x720 | unknown | quoted by PFT's authors
HAT | x2 | 20.6 | 5810 | - | - | -
HAT | x3 | 20.8 | 2580 | - | - | -
HAT | x4 | 20.8 | 1450 | - | - | -
# RGT, README of its repository (arXiv 2303.06373) | out 512x512 | fvcore | called FLOPs there
RGT-S | x4 | 10.20 | 193.08 | - | - | -
RGT | x4 | 13.37 | 251.07 | - | - | -
# PFT, tables of the paper (arXiv 2503.20337) | out 1280x720 | own | PFT x3 and x4 are those of the x2 network
PFT | x2 | 19.6 | 5030 | - | - | -
PFT | x3 | 19.8 | 2230 | - | - | -
PFT | x4 | 19.8 | 1260 | - | - | -
PFT-light | x2 | 0.776 | 278.3 | - | - | -
PFT-light | x3 | 0.783 | 123.5 | - | - | -
PFT-light | x4 | 0.792 | 69.6 | - | - | -
# SwinIR, text of the paper (arXiv 2108.10257) and its repository | in 256x256 | unknown | of the body, without the head
SwinIR | x4 | 11.9 | 788.6 | - | - | -
# SwinIR, Table 2 of the paper | out 1024x720 | unknown | printed for 1280x720; without bias tables
SwinIR-light | x2 | 0.878 | 195.6 | - | - | -
SwinIR-light | x3 | 0.886 | 87.2 | - | - | -
SwinIR-light | x4 | 0.897 | 49.6 | - | - | -
# ATD, tables of the PFT paper (arXiv 2503.20337) | out 1280x720 | unknown | by its authors' counter; quoted
ATD | x2 | 20.1 | 6070 | - | - | -
ATD | x3 | 20.3 | 2690 | - | - | -
ATD | x4 | 20.3 | 1520 | - | - | -
ATD-light | x2 | 0.753 | 348.6 | - | - | -
ATD-light | x3 | 0.760 | 154.7 | - | - | -
ATD-light | x4 | 0.769 | 87.1 | - | - | -
# HiT-SR, README of its repository (arXiv 2407.05878) | out 1280x720 | fvcore | without what the position networks cost
HiT-SRF | x2 | 0.847 | 226.5 | - | - | -
HiT-SRF | x3 | 0.855 | 101.6 | - | - | -
HiT-SRF | x4 | 0.866 | 58.0 | - | - | -
HiT-SIR | x2 | 0.772 | 209.9 | - | - | -
HiT-SIR | x3 | 0.780 | 94.2 | - | - | -
HiT-SIR | x4 | 0.792 | 53.8 | - | - | -
HiT-SNG | x2 | 1.013 | 213.9 | - | - | -
HiT-SNG | x3 | 1.021 | 99.5 | - | - | -
HiT-SNG | x4 | 1.032 | 57.7 | - | - | -
# ESC, Table 2 of the paper (arXiv 2503.06671) | out 1280x720 | fvcore | the card behind latencies is not stated
ESC | x2 | 0.947 | 592.0 | 120.9 | 831 | -
ESC | x3 | 0.955 | 267.6 | 41.4 | 385 | -
ESC | x4 | 0.968 | 149.2 | 21.9 | 215 | -
ESC-light | x2 | 0.603 | 359.4 | 73.2 | 830 | -
ESC-light | x3 | 0.612 | 162.8 | 25.2 | 384 | -
ESC-light | x4 | 0.624 | 91.0 | 13.3 | 213 | -
ESC-FP | x2 | 0.524 | 239.8 | 94.3 | 627 | -
ESC-FP | x3 | 0.530 | 110.0 | 34.8 | 291 | -
ESC-FP | x4 | 0.539 | 60.8 | 21.7 | 158 | -
SwinIR-light | x4 | 0.930 | 63.6 | 222.9 | 351 | 26.47
ELAN-light | x4 | 0.640 | 54.1 | 18.0 | 241 | 26.54
OmniSR | x4 | 0.792 | 50.9 | 22.5 | 273 | 26.64
SRFormer-light | x4 | 0.873 | 62.8 | 287.2 | 329 | 26.67
ATD-light | x4 | 0.769 | 100.1 | 189.7 | 753 | 26.97
HiT-SRF | x4 | 0.866 | 58.0 | 82.1 | 1331 | 26.80
ASID-D8 | x4 | 0.748 | 49.6 | 61.8 | 265 | 26.89
MambaIR-light | x4 | 0.924 | 84.6 | 55.8 | 438 | 26.52
MambaIRv2-light | x4 | 0.790 | 75.6 | 153.4 | 748 | 26.82
RDN | x4 | 22.271 | 1309.2 | 66.0 | 791 | 26.61
RCAN | x4 | 15.592 | 917.6 | 52.2 | 540 | 26.82
SwinIR-light | x2 | - | - | 1409.8 | - | -
ELAN-light | x2 | - | - | 94.5 | - | -
OmniSR | x2 | - | - | 120.3 | - | -
SRFormer-light | x2 | - | - | 1456.3 | - | -
ATD-light | x2 | - | - | 733.5 | - | -
HiT-SRF | x2 | - | - | 268.1 | - | -
ASID-D8 | x2 | - | - | 131.2 | - | -
MambaIR-light | x2 | - | - | 277.1 | - | -
MambaIRv2-light | x2 | - | - | 580.4 | - | -
RDN | x2 | - | - | 279.3 | - | -
RCAN | x2 | - | - | 299.3 | - | -
"""

PSNR_SET = "Urban100"
"""The set of the column of PSNR."""
ESC = "ESC, Table 2"
"""How the source of the table begins that has latency, memory and PSNR together."""


@cache
def papers() -> tuple[Paper, ...]:
    """All tables."""
    return tuple(_paper(part) for part in _TEXT.split("# ")[1:])


def printed_of(network: str, scale: float) -> list[tuple[Paper, Printed]]:
    """What is printed of a network at a scale, with the table."""
    return [(paper, row) for paper in papers() if (row := paper.row(network, scale)) is not None]


class PrintedScore(NamedTuple):
    """A PSNR in dB, and where it stands."""

    source: str
    psnr: float


def printed_psnr(network: str, scale: float) -> PrintedScore | None:
    """PSNR on Urban100 of one of the networks that are here; None where nothing is printed."""
    found = scores_of(network, scale)
    if found is None or PSNR_SET not in found[1]:
        return None
    return PrintedScore(found[0].source, found[1][PSNR_SET].psnr)


def psnr_of(row: Printed) -> float | None:
    """PSNR on Urban100 of a row of the table that has latency."""
    if row.psnr is not None:
        return row.psnr
    known = printed_psnr(row.network, row.scale)
    return None if known is None else known.psnr


def table_with_latency() -> Paper:
    """The table that has latency, memory and PSNR of many networks: ESC's."""
    return next(paper for paper in papers() if paper.source.startswith(ESC))


def _paper(text: str) -> Paper:
    head, *lines = text.splitlines()
    source, at, rule, note = head.split(" | ")
    side, _, size = at.partition(" ")
    width, _, height = size.partition("x")
    assert side in ("in", "out")
    assert rule in RULES
    rows = tuple(_row(line.split(" | ")) for line in lines)
    return Paper(source, side, (int(height), int(width)), rule, note, rows)  # type: ignore[arg-type]  # asserted


def _row(cells: list[str]) -> Printed:
    network, scale, *numbers = cells
    return Printed(network, int(scale[1:]), *(None if cell == "-" else float(cell) for cell in numbers))
