"""What a figure is, and the tables that figures are lines of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from scripts.benchmarks.gpu.timing import Protocol
from scripts.benchmarks.limits import Cost
from scripts.benchmarks.measure import Work
from scripts.benchmarks.needs import Need

PAPER = Protocol(warm_ups=100, calls=100, seconds=3.0)  # of ESC; a GPU on which that takes longer makes fewer calls
IMAGE = Protocol(warm_ups=3, calls=10, seconds=2.0)
STEP = Protocol(warm_ups=2, calls=10, seconds=3.0)
OPERATOR = Protocol(warm_ups=2, calls=10, seconds=0.6, window=0.005)
LOOP = Protocol(warm_ups=2, calls=10, seconds=4.0, wall=True)
Rounded = Literal["none", "convolutions", "all"]  # "convolutions" is what PyTorch does unless told otherwise
PLAIN, AUTO = "references", "auto"  # ways of doing a work


class Table(NamedTuple):
    """A table of the page.

    Attributes:
        title: its heading.
        text: what the reader must know.
    """

    title: str
    text: str


class Published(NamedTuple):
    """What a paper prints for the same work.

    Attributes:
        ms: time on the paper's GPU.
        mb: memory, as the paper writes it; None where it writes none.
    """

    ms: float
    mb: float | None = None


@dataclass(frozen=True)
class Figure:
    """One line of a table.

    Attributes:
        key: names it, ``TABLE/WORK/WAY``.
        table: of TABLES.
        work: shapes, for the line.
        way: of doing the work; the first line of a work is what the others are compared with.
        prepare: makes the work.
        protocol: how it is measured.
        cost: what the work needs at least; None where that has no meaning.
        published: what a paper prints.
        needs: what the device must be able to do.
        tf32: which float32 factors may be rounded to 10 bits.
    """

    key: str
    table: str
    work: str
    way: str
    prepare: Callable[[], Work]
    protocol: Protocol
    cost: Cost | None = None
    published: Published | None = None
    needs: tuple[Need, ...] = ()
    tf32: Rounded = "none"


TABLES = {
    "pft_step": Table(
        "PFT: training steps",
        "The published step of one GPU: L1, backward, Adam. References: the published formulas with PyTorch's gather.",
    ),
    "pft_image": Table("PFT: images", "Inference at sizes that other repositories print."),
    "esc": Table(
        "ESC: 1280 x 720 pixels",
        "The paper's protocol: float32, one image, 100 calls to warm up, median of 100 calls between CUDA events, "
        "fewer where they take long. What the paper prints was measured on its authors' GPU, presumably with PyTorch's "
        "defaults, under which convolutions round their factors (TF32).",
    ),
    "windows": Table(
        "HAT and RGT: x4, 320 x 180",
        "References: attention maps materialised in float32. TF32 rounds the factors of products; bf16 is the whole "
        "network in bfloat16.",
    ),
    "plainusr": Table("PlainUSR: x4, 320 x 180", "The folded networks, as they are deployed."),
    "step": Table(
        "Training steps",
        "Batches and patches of the option files: L1, backward, Adam. bf16 is `train.amp: bf16`; compiled is "
        "`train.compile`.",
    ),
    "operators": Table(
        "Operators",
        "The sizes of one GPU's share of the published training steps. The share of the limit is the least time that "
        "the bandwidth or the arithmetic that was measured here allows, as a part of the median; work that fits into "
        "the caches can exceed the first.",
    ),
    "loop": Table(
        "Training loop, data and validation",
        "By the host's clock. 20 iterations of train.py beside the bare minimum; how fast patches come from a pack (a "
        "training that takes longer for a step does not wait for them); validation beside its network alone.",
    ),
    "compiled": Table("Compiled networks: x4, 320 x 180", "`torch.compile` of the whole network, in bfloat16."),
}
