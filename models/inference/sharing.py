"""What has to be upscaled, how much work each file is, and how it is shared out to runs that do not know each other.

Parts are decided from the sizes of the files alone, so that the runs with ``--part 1/8`` to ``--part 8/8`` take each
file once, whichever of them run at the same time, on which machines, and in which order.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.images.frames import look_at
from data.images.photo import picture_size
from data.images.photo_writer import pictures_held
from models.inference.ffmpeg import program
from models.inference.film import inspect_film
from models.inference.jobs import Job, would_find
from utils.errors import InputError

_PART = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)
_LEAST = 1.0  # thousand pixels: what opening and writing any file costs, and one whose size is not known


class Part(NamedTuple):
    """One of several parts of the work, counted from 1."""

    number: int
    parts: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run has to do, decided once, before anything is written.

    Attributes:
        jobs: what has to be upscaled, in this order.
        work: of each job, as :func:`work_of` says.
        kept: results that exist and are left as they are.
        foreign: lines about pictures of kinds that cannot be read.
        unread: their number.
    """

    jobs: tuple[Job, ...]
    work: tuple[float, ...]
    kept: tuple[Path, ...] = ()
    foreign: tuple[str, ...] = ()
    unread: int = 0

    def to_json(self) -> str:
        """As text, in which names that are no UTF-8 keep their bytes."""
        jobs = [[str(job.source), str(job.target)] for job in self.jobs]
        kept = [str(path) for path in self.kept]
        return json.dumps([jobs, self.work, kept, self.foreign, self.unread])

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """What :meth:`to_json` has written."""
        jobs, work, kept, foreign, unread = json.loads(text)
        named = tuple(Job(Path(source), Path(target)) for source, target in jobs)
        return cls(named, tuple(work), tuple(map(Path, kept)), tuple(foreign), unread)

    def largest_first(self) -> Plan:
        """The same with the most work at the beginning, so that no long job is left for the end."""
        order = sorted(range(len(self.jobs)), key=lambda i: -self.work[i])
        jobs, work = tuple(self.jobs[i] for i in order), tuple(self.work[i] for i in order)
        return dataclasses.replace(self, jobs=jobs, work=work)


def parse_part(text: str) -> Part:
    """What ``--part`` says.

    Raises:
        InputError: it is not one of so many parts.
    """
    match = _PART.fullmatch(text)
    part = Part(int(match[1]), int(match[2])) if match else None
    if part is None or not 1 <= part.number <= part.parts:
        raise InputError(f"--part must be i/n with i from 1 to n, such as 2/8 for the second of eight, got {text!r}")
    return part


def part_of(jobs: Sequence[Job], part: Part, inputs: Sequence[str]) -> list[Job]:
    """The jobs of one part, in their order.

    Args:
        jobs: all of them, also those whose results exist: a part is the same whatever is done already.
        part: which one.
        inputs: what the user named, files, folders and patterns.

    Raises:
        InputError: the inputs would find the results too, so that later parts would find more pictures than earlier
            ones; or there are films, and no ffprobe that tells their lengths.
    """
    found = next((job.target for job in jobs if any(would_find(text, job.target) for text in inputs)), None)
    if found is not None:
        raise InputError(
            f"{found} would be among the pictures that later parts find, whose --part would then be another one; "
            "choose another -o"
        )
    if any(job.is_video for job in jobs):
        program("ffprobe")
    work = [max(_LEAST, work_of(job)) for job in jobs]
    return [jobs[i] for i in sorted(shared_out(work, part.parts)[part.number - 1])]


def shared_out(work: Sequence[float], count: int) -> list[list[int]]:
    """Share out work: the largest item first, each to whoever has the least, the first of these.

    No two shares differ by more than the largest item. The same numbers are always shared out in the same way.

    Args:
        work: how much each item is; not negative.
        count: number of shares.

    Returns:
        The indices of the items of each share; some shares are empty where there are fewer items.
    """
    shares: list[list[int]] = [[] for _ in range(count)]
    loads = [(0.0, number) for number in range(count)]  # a heap
    for i in sorted(range(len(work)), key=lambda i: -work[i]):
        load, number = loads[0]
        shares[number].append(i)
        heapq.heapreplace(loads, (load + work[i], number))
    return shares


def work_of(job: Job, *, films: bool = True) -> float:
    """Thousands of input pixels that a job has, in all frames and pages; 0 where its file does not tell.

    Args:
        job: what is to be upscaled.
        films: False: nothing for a film, at which ffprobe would have to look.
    """
    if job.is_video:
        if not films:
            return 0.0
        try:
            film = inspect_film(job.source)
        except InputError:  # whoever upscales it will say so
            return 0.0
        return film.frames * film.height * film.width / 1000
    size = picture_size(job.source)
    if size is None:
        return 0.0
    return size[0] * size[1] / 1000 * pictures_held(job.target, *look_at(job.source))
