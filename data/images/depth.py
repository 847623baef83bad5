"""Levels of pictures whose white is neither 255 nor 65535: OpenCV hands out such values as they are stored."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PNM = re.compile(rb"P[2356]\s+(?:(?:#[^\n]*\n\s*)*\d+\s+){2}(?:#[^\n]*\n\s*)*(\d+)\s", re.DOTALL)
_PAM = re.compile(rb"P7\n(?:[^\n]*\n)*?MAXVAL (\d+)\n")
_HEAD = 65536  # bytes of a file in which its boxes are sought
_SIZ = b"\xff\x4f\xff\x51"  # of JPEG 2000: the first component's depth follows 38 bytes later


def white_level(data: bytes, kind: str) -> int | None:
    """The stored value that is white in a file of a kind of :mod:`data.images.kinds`; None: 255 or 65535."""
    head = data[:_HEAD]
    top = None
    if kind == "PNM" and (match := _PNM.match(head) or _PAM.match(head)):
        top = int(match[1])
    elif kind == "AVIF" and (place := head.find(b"av1C")) >= 0:
        flags = head[place + 6] if len(head) > place + 6 else 0
        top = 4095 if flags & 0x20 else 1023 if flags & 0x40 else 255
    elif kind == "JPEG 2000" and (place := head.find(_SIZ)) >= 0 and len(head) > place + 42:
        top = 2 ** ((head[place + 42] & 0x7F) + 1) - 1
    return top if top and top not in (255, 65535) and top < 65536 else None


def is_ycc(data: bytes) -> bool:
    """Whether a JPEG 2000 file holds sYCC, which OpenCV takes wrongly where it has more than 8 bits."""
    return b"colr\x01\0\0\0\0\0\x12" in data[:_HEAD]


def spread(values: NDArray[Any], top: int, *, eight: bool) -> NDArray[Any]:
    """Values in 0 .. ``top`` as 0 .. 255 of 8 bits, or 0 .. 65535 of 16, rounded to the nearest."""
    white, kind = (255, np.uint8) if eight else (65535, np.uint16)
    scaled: NDArray[Any] = ((np.minimum(values, top).astype(np.uint32) * white + top // 2) // top).astype(kind)
    return scaled
