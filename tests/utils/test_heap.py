"""Freed memory that a process keeps, in processes of their own: it is a setting of all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from utils import heap

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = """
import resource
from utils.heap import give_freed_memory_back, keep_freed_memory, return_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffer = bytearray(b"x") * (48 << 20)
    del buffer
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep = KEEP
kept = keep and keep_freed_memory()
faults()
again = faults()
give_freed_memory_back()
after = faults()
if keep:
    return_freed_memory()
faults()
print(int(bool(kept)), again, after, faults())
"""


def _counts(*, keep: bool) -> tuple[int, ...]:
    program = _PROGRAM.replace("KEEP", str(keep))
    out = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in out.split())


def test_a_block_is_taken_again_without_asking_the_system() -> None:
    if heap._glibc() is None:
        pytest.skip("no glibc")
    kept, again, after_giving_back, returned = _counts(keep=True)
    assert kept == 1
    usual = _counts(keep=False)[1]
    assert again < 100 < usual
    assert after_giving_back > 100
    assert returned > 100


def test_other_c_libraries_keep_what_they_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    assert not heap.keep_freed_memory()
    assert not heap.return_freed_memory()
    heap.give_freed_memory_back()
