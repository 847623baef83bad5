"""The heap of the C library, in which tensors of the CPU lie: what is freed is kept for later, or given back.

glibc returns large blocks to the system as soon as they are freed, and every page of the next one is asked for, and
zeroed, anew. A training frees and takes the same blocks in every step.
"""

from __future__ import annotations

import ctypes
import functools

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of malloc.h
_LARGEST = 2**30  # bytes; larger blocks are rare, and returned as before
_LARGEST_OF_HEAP = 2**25  # bytes; larger blocks have pages of their own, by default


def keep_freed_memory() -> bool:
    """Keep what is freed from here on in this process, for what is allocated next; whether the C library can.

    The process stays as large as it has been at its most, and somewhat larger where blocks of other sizes do not fit
    the gaps, until :func:`give_freed_memory_back`.
    """
    library = _glibc()
    if library is None:
        return False
    # Older versions accept no threshold above 32 MB; there, no block at all gets pages of its own.
    if not library.mallopt(_MMAP_THRESHOLD, _LARGEST) and not library.mallopt(_MMAP_MAX, 0):
        return False
    return bool(library.mallopt(_TRIM_THRESHOLD, -1))


def return_freed_memory() -> bool:
    """The end of :func:`keep_freed_memory`: what is freed goes back as it does in processes that never called it.

    That is how glibc has set itself once blocks of 32 MB were freed; whether the C library can.
    """
    library = _glibc()
    if library is None or not library.mallopt(_MMAP_THRESHOLD, _LARGEST_OF_HEAP):
        return False
    library.mallopt(_MMAP_MAX, 65536)
    library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_OF_HEAP)
    library.malloc_trim(0)
    return True


def give_freed_memory_back() -> None:
    """Let the system have what was freed and kept, as far as the C library can."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it has the functions of glibc."""
    try:
        library = ctypes.CDLL(None)
        library.mallopt, library.malloc_trim  # noqa: B018  they are looked up here
    except (AttributeError, OSError, TypeError):  # no such function, no such way to ask
        return None
    return library
