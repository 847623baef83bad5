"""Where the authors of the networks publish their weights; ``docs/reproducing.md`` has the table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PAGE = 'docs/reproducing.md, "Published weights"'


@dataclass(frozen=True)
class Source:
    """One family of published weight files.

    Attributes:
        networks: what they are.
        beginnings: how the names of the files begin, in small letters.
        address: the authors' repository, whose README links the weights.
        where: where in it.
        folders: of ``experiments/pretrained_models``, where the option files expect them; empty: it itself.
    """

    networks: str
    beginnings: tuple[str, ...]
    address: str
    where: str
    folders: tuple[str, ...] = ()


SOURCES = (
    Source(
        "HAT, HAT-S, HAT-L, Real-HAT", ("hat", "real_hat"), "https://github.com/XPixelGroup/HAT", "README, How To Test"
    ),
    Source("RGT, RGT-S", ("rgt",), "https://github.com/zhengchen1999/RGT", "README, Models", ("RGT", "RGT-S")),
    Source(
        "ESC, ESC-light, -FP, -XL, -DFLIP, -Real, ESC+LTE", ("esc",), "https://github.com/dslisleedh/ESC",
        "release 1.0.0",
    ),
    Source(
        "PFT, PFT-light", ("001_pft", "002_pft", "003_pft", "101_pft", "102_pft", "103_pft"),
        "https://github.com/LabShuHangGU/PFT-SR", "README, Pretrained Models",  # CVL-UESTC/PFT-SR is the same
    ),
    Source(
        "PlainUSR-U, -T, -S, -M, base, -L", ("plainusr",), "https://github.com/icandle/PlainUSR",
        "folder `2024_PlainUSR_ACCV/pretrained_model`",
    ),
    Source(
        "ATD, ATD-light",
        ("000_atd", "001_atd", "002_atd", "003_atd", "101_atd", "102_atd", "103_atd"),
        "https://github.com/LabShuHangGU/Adaptive-Token-Dictionary", "README",
    ),
    Source("HiT-SRF, -SIR, -SNG", ("hit-",), "https://github.com/XiangZ-0/HiT-SR", "README"),
    Source("ATD-light on DFLIP", ("atd_light_dflip",), "https://github.com/dslisleedh/ESC", "release 1.0.0"),
    Source(
        "SwinIR, SwinIR-light, for photographs too", ("001_classicalsr", "002_lightweightsr", "003_realsr"),
        "https://github.com/JingyunLiang/SwinIR", "releases",
    ),
    Source("RRDBNet of Real-ESRGAN", ("realesrgan",), "https://github.com/xinntao/Real-ESRGAN", "releases"),
    Source(
        "RRDBNet of ESRGAN, MSRResNet", ("esrgan", "rrdbnet", "msrresnet"), "https://github.com/XPixelGroup/BasicSR",
        "docs/ModelZoo.md",
    ),
)  # fmt: skip


def source_of(path: Path) -> Source | None:
    """Who publishes a weight file of this name; None where it is nobody's."""
    name = path.name.lower()
    return next((source for source in SOURCES if name.startswith(source.beginnings)), None)


def where_to_get(path: Path) -> str | None:
    """Where a weight file of this name or place is found; None for a file of the user's own."""
    source = source_of(path)
    if source is not None:
        return f"its authors publish it at {source.address}: {PAGE}"
    return f"where published weights are found: {PAGE}" if "pretrained_models" in path.parts else None


def missing_weights(path: Path) -> str:
    """The message about a weight file that is not there, with where to get it if it is a published one."""
    if path.is_dir():
        return f"{path}: is a folder, not a weight file"
    if path.exists():
        return f"{path}: is a pipe or a device, not a weight file"
    hint = where_to_get(path)
    if hint is None and not path.is_absolute():
        hint = f"relative paths start at {Path.cwd()}"
    return f"{path}: there is no such file" + (f" ({hint})" if hint else "")


def markdown() -> str:
    """The table of the page."""
    lines = ["| networks | published at | below `experiments/pretrained_models/` |", "| --- | --- | --- |"]
    for source in SOURCES:
        repository = source.address.removeprefix("https://github.com/")
        folders = ", ".join(f"`{name}/`" for name in source.folders)
        lines.append(f"| {source.networks} | [{repository}]({source.address}), {source.where} | {folders} |")
    return "\n".join(lines) + "\n"
