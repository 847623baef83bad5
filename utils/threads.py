"""Threads beside the one that computes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch


def without_threads_of_its_own(pool: ThreadPoolExecutor) -> None:
    """Keep the one thread of a pool from starting OpenMP threads.

    With more of them than cores, those of the main thread sleep at the end of each parallel loop instead of waiting
    awake, and a small network is slower. The number is the thread's own, and that which later threads begin with: the
    second call puts that back.
    """
    count = torch.get_num_threads()
    pool.submit(torch.set_num_threads, 1).result()
    torch.set_num_threads(count)
