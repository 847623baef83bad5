"""BMP files written band by band: a large picture is nowhere copied as a whole.

Shapes: H W pixels, C channels.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_HEADS = 14 + 40  # bytes of the file's head and the picture's
_GREYS = 256
_BAND = 1 << 20  # bytes of pixels that are turned round at a time, about
_INCH = 0.0254  # metres


def write_bmp(file: BinaryIO, pixels: NDArray[np.uint8], dpi: tuple[float, float] | None = None) -> None:
    """Write a picture as a BMP file: 24 bits a pixel, or 8 with a palette of greys.

    Args:
        file: where to write.
        pixels: [H, W, 3] R G B or [H, W, 1] grey; the file's size has to fit into 32 bits.
        dpi: pixels per inch, across and down.
    """
    height, width, channels = pixels.shape
    greys = _GREYS if channels == 1 else 0
    row = -(-width * channels // 4) * 4  # bytes, a multiple of four
    start, size = _HEADS + 4 * greys, height * row
    file.write(struct.pack("<2sIII", b"BM", start + size, 0, start))
    across, down = (0, 0) if dpi is None else (round(value / _INCH) for value in dpi)
    file.write(struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8 * channels, 0, size, across, down, greys, 0))
    file.write((np.arange(greys) * 0x010101).astype("<u4").tobytes())
    step = max(1, _BAND // row)
    for bottom in range(height, 0, -step):  # rows go upwards
        rows = pixels[max(0, bottom - step) : bottom][::-1, :, ::-1]
        band = np.zeros((len(rows), row), np.uint8)
        band[:, : width * channels] = rows.reshape(len(rows), -1)
        file.write(band.data)
