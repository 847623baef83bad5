"""Is the memory full? Answered for whatever library found it out, and said in one sentence."""

from __future__ import annotations

import contextlib
import errno
import re
import traceback
from collections.abc import Callable, Iterator

# What PyTorch, oneDNN, CUDA's libraries and Python say in exceptions that have no class of their own for it.
_FULL = re.compile(
    r"""can't\ allocate\ memory | not\ enough\ memory              # the allocator of the CPU, on Linux and on Windows
    | out\ of\ memory | _STATUS_ALLOC_FAILED                    # CUDA, cuBLAS, cuDNN
    | could\ not\ (create|execute)\ a\ (primitive|memory)(\ object)?\s*$  # oneDNN, which gives no reason
    | Cannot\ allocate\ memory | bad_alloc                         # mmap, the loader of libraries; C++
    | can't\ start\ new\ thread                                    # there is no room for its stack
    """,
    re.VERBOSE,
)
_OPENCV_FULL = -4  # cv2.Error.StsNoMem
_LONGEST_REASON = 160


class FullMemoryError(MemoryError):
    """The memory is full; the message says where, and what would help.

    The commands print the message without a traceback and leave with exit code 1.
    """


def memory_is_full(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, of a device or of the host."""
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError | ImportError):
        return _FULL.search(str(error)) is not None
    return type(error).__module__ == "cv2" and getattr(error, "code", None) == _OPENCV_FULL


def reason_of(error: BaseException) -> str:
    """What an exception says, as the end of a sentence: its first line, cut short."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    text = re.sub(r"^\[enforce fail at [^\]]*\] (\S+ == \S+ )?", "", text).rstrip(".")
    return text if len(text) <= _LONGEST_REASON else text[: _LONGEST_REASON - 3] + "..."


@contextlib.contextmanager
def memory_for(what: str, helps: str | Callable[[], str]) -> Iterator[None]:
    """Around work that takes memory: where that is full, an error that says for what, and what would help.

    What the interrupted work has held is let go, so that there is room for what comes next, such as saving.

    Args:
        what: such as "iteration 7", or "validating Set5".
        helps: what the user may do; a function where it is not known beforehand.

    Raises:
        FullMemoryError: the memory is full.
    """
    try:
        yield
    except FullMemoryError:
        raise
    except Exception as error:
        if not memory_is_full(error):
            raise
        traceback.clear_frames(error.__traceback__)
        advice = helps if isinstance(helps, str) else helps()
        raise FullMemoryError(f"the memory is full: {what} ({reason_of(error)}). What helps: {advice}") from error
