"""Damage to what a run has left, done between two runs: by broken disks, by other programs, by killed runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from models.training.checkpoint import CheckpointFolder

KINDS = (
    "bytes flipped", "file cut off", "zeros in a file", "network file deleted", "garbage in metrics.jsonl",
    "unfinished files left",
)  # fmt: skip
_GARBAGE = (
    b"\xff\xfe\x00garbage\n", b"{}\n", b'{"kind": "train"}\n', b'{"kind": "train", "step": null, "l_pix": 1.0}\n',
    b"[1, 2]\n", b'{"kind": "train", "st', b"\n", b"null\n",
)  # fmt: skip


@dataclass(frozen=True)
class Damage:
    """What was done.

    Attributes:
        kind: one of :data:`KINDS`.
        path: the file.
        step: whose checkpoint may not be readable any more; None: no checkpoint is concerned.
    """

    kind: str
    path: Path
    step: int | None


def damage(random: np.random.Generator, root: Path, sound: list[int], players: Sequence[str]) -> Damage | None:
    """Damage something of a run; None where nothing can be spared.

    Args:
        random: decides what, and how.
        root: ``experiments/NAME``.
        sound: iterations whose states are whole, newest first; the newest is the one that may be damaged.
        players: the networks that are trained.
    """
    kind = KINDS[int(random.integers(len(KINDS)))]
    folder = CheckpointFolder(root)
    if kind == "garbage in metrics.jsonl":
        path = root / "metrics.jsonl"
        if not path.exists():
            return None
        lines = path.read_bytes().splitlines(keepends=True)
        garbage = _GARBAGE[int(random.integers(len(_GARBAGE)))]
        # A piece of a line is what a kill leaves at the end; before another one, it would cost that one too.
        place = int(random.integers(len(lines) + 1)) if garbage.endswith(b"\n") else len(lines)
        lines.insert(place, garbage)
        path.write_bytes(b"".join(lines))
        return Damage(kind, path, None)
    if len(sound) < 2:  # one is always left to go on from
        return None
    step = sound[0]
    network = folder.network(step, players[int(random.integers(len(players)))])
    path = network if random.random() < 0.5 else folder.state(step)
    if kind == "unfinished files left":
        # By a process that is gone: no id is as large.
        path = path.with_name(f".{path.name}.{(1 << 22) + int(random.integers(1000))}.part")
        path.write_bytes(random.bytes(int(random.integers(5000))))
        return Damage(kind, path, None)
    if kind == "network file deleted":
        network.unlink()
        return Damage(kind, network, step)
    _spoil(random, kind, path)
    return Damage(kind, path, step)


def _spoil(random: np.random.Generator, kind: str, path: Path) -> None:
    content = bytearray(path.read_bytes())
    size = len(content)
    if kind == "file cut off":
        del content[int(random.integers(size)) :]
    elif kind == "zeros in a file":
        begin = int(random.integers(size))
        end = min(size, begin + int(10 ** random.uniform(1, 4)))
        content[begin:end] = bytes(end - begin)
    else:
        for place in random.integers(size, size=int(2 ** random.uniform(0, 10))):
            content[place] ^= int(random.integers(1, 256))
    path.write_bytes(content)
