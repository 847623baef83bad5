"""How many blocks, groups or layers there are, read off the numbers in the keys of a state dict."""

from __future__ import annotations

import re
from collections.abc import Iterable


def count_numbered(keys: Iterable[str], pattern: str) -> int:
    r"""One more than the largest number that a key has at the group of the pattern; numbers start from 0.

    Args:
        keys: of a state dict.
        pattern: regular expression for the beginning of a key, such as ``layers\.(\d+)\.``.
    """
    found = [int(match[1]) for match in (re.match(pattern, key) for key in keys) if match]
    return max(found, default=-1) + 1
