"""PNG files written in bands are read by others, pixel for pixel; memory and size stay small."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from data.images import png_stream
from data.images.integrity import damage
from data.images.png_stream import packed_chunk, write_png

Y, X = np.mgrid[:96, :128]
# Waves with a little noise, as photographs have it.
SMOOTH = np.stack([127 + 90 * np.sin(X / 9), 127 + 90 * np.cos(Y / 7), 127 + 90 * np.sin((X + Y) / 11)], axis=2)
SMOOTH = (SMOOTH + np.random.default_rng(0).normal(0, 2, SMOOTH.shape)).astype(np.uint8)


def encoded(*planes: NDArray[Any], added: bytes = b"", compression: int | None = None) -> bytes:
    file = io.BytesIO()
    write_png(file, planes, added, compression)
    return file.getvalue()


def decoded(png: bytes) -> NDArray[Any]:
    """[H, W, C] in R G B by OpenCV."""
    pixels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return pixels if pixels.shape[2] == 1 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4]), st.sampled_from([np.uint8, np.uint16]),
    st.sampled_from([None, 0, 1, 9]), st.integers(1, 500),
)  # fmt: skip
def test_every_picture_is_read_as_it_was_written(
    h: int, w: int, channels: int, kind: Any, compression: int | None, band: int
) -> None:
    top = int(np.iinfo(kind).max)
    rng = np.random.default_rng(h * w)
    pixels = np.where(rng.random((h, w, 1)) < 0.5, rng.integers(0, top + 1, (h, w, channels)), top).astype(kind)
    planes = [pixels] if channels < 4 else [pixels[..., :3], pixels[..., 3:]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(png_stream, "_BAND", band)
        patch.setattr(png_stream, "_PART", band)
        png = encoded(*planes, compression=compression)
    assert damage(png) is None
    assert np.array_equal(decoded(png), pixels)


def test_grey_with_opacity_has_two_channels() -> None:
    grey, alpha = np.arange(24, dtype=np.uint8).reshape(4, 6, 1), np.full((4, 6, 1), 9, np.uint8)
    with Image.open(io.BytesIO(encoded(grey, alpha))) as image:
        assert image.mode == "LA"
        assert np.array_equal(np.asarray(image), np.concatenate([grey, alpha], axis=2))


def test_added_chunks_stand_behind_the_head() -> None:
    png = encoded(SMOOTH, added=packed_chunk(b"tEXt", b"Comment\0hello"))
    assert png[33:45] == struct.pack(">I", 13) + b"tEXtComm"
    with Image.open(io.BytesIO(png)) as image:
        image.load()
        assert image.info["Comment"] == "hello"
    assert packed_chunk(b"IEND", b"")[-4:] == struct.pack(">I", zlib.crc32(b"IEND"))


def test_files_of_photographs_are_smaller_than_those_of_opencv() -> None:
    assert len(encoded(SMOOTH)) < len(cv2.imencode(".png", SMOOTH[..., ::-1])[1])
    assert len(encoded(SMOOTH, compression=9)) < 0.7 * len(encoded(SMOOTH, compression=0))


def test_a_large_picture_is_written_in_little_memory() -> None:
    pixels = np.broadcast_to(np.uint8(7), (4000, 4000, 3))  # 48 MB, if it were stored
    file = io.BytesIO()
    tracemalloc.start()
    write_png(file, [pixels])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6
    assert len(file.getvalue()) < 1e6
