"""BMP files that are written in bands."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from data.images import bmp
from data.images.files import decode_image
from tests.data.pictures import levels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5])
def test_two_readers_find_what_was_written(channels: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bmp, "_BAND", 40)
    pixels = levels(7, width, channels, np.uint8)
    file = io.BytesIO()
    bmp.write_bmp(file, pixels, (300, 150))
    content = file.getvalue()
    assert int.from_bytes(content[2:6], "little") == len(content)
    assert np.array_equal(decode_image(content, "a.bmp", keep_grey=True), pixels)
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == ("L" if channels == 1 else "RGB")
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)
        assert np.allclose(image.info["dpi"], (300, 150), atol=0.02)


def test_a_large_picture_is_not_copied() -> None:
    class Nowhere(io.RawIOBase):
        def write(self, content: object) -> int:
            return 0

    pixels = np.zeros((4000, 4000, 3), np.uint8)  # 48 MB
    tracemalloc.start()
    try:
        bmp.write_bmp(Nowhere(), pixels)  # type: ignore[arg-type]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5e6
