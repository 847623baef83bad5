"""Chunks of PNG files, and animated PNG files as the specification has them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.images.files import decode_image, encode_image
from data.images.png import (
    Chunk,
    chunks,
    comment_of,
    dpi_chunk,
    read_notes,
    still,
    text_chunk,
    text_of,
    write_animation,
    xmp_chunk,
)
from data.images.png_stream import write_png
from tests.data.pictures import BLOCKS

PNG = encode_image(".png", BLOCKS)


def written(*added: Chunk) -> bytes:
    file = io.BytesIO()
    write_png(file, [BLOCKS], b"".join(chunk.packed() for chunk in added))
    return file.getvalue()


def test_chunks_are_added_behind_the_head() -> None:
    text = text_chunk("Title", "Zürich")
    data = written(dpi_chunk((300, 150)), text)
    assert [chunk.kind for chunk in chunks(data)] == [
        b"IHDR", b"pHYs", b"iTXt", *(chunk.kind for chunk in chunks(PNG) if chunk.kind != b"IHDR")
    ]  # fmt: skip
    notes = read_notes(data)
    assert notes.dpi == pytest.approx((300, 150), abs=0.02)
    assert notes.texts == (text,)
    assert (text.keyword, text_of(text)) == ("Title", "Zürich".encode())


def test_texts_of_all_three_kinds_are_read() -> None:
    plain = Chunk(b"tEXt", b"Comment\0Z\xfcrich")
    packed = Chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"Z\xfcrich"))
    international = Chunk(b"iTXt", b"Comment\0\1\0de\0Kommentar\0" + zlib.compress("Zürich".encode()))
    for chunk in (plain, packed, international):
        assert comment_of([text_chunk("Title", "x"), chunk]) == "Zürich".encode()
    for damaged in (
        Chunk(b"zTXt", b"Comment\0\0rubbish"),
        Chunk(b"iTXt", b"Comment\0\1\0\0\0rubbish"),
        Chunk(b"iTXt", b"Comment\0"),
    ):
        assert comment_of([damaged]) is None
    assert comment_of([]) is None


def test_xmp_is_no_text() -> None:
    notes = read_notes(written(xmp_chunk(b"<x/>")))
    assert (notes.xmp, notes.texts) == (b"<x/>", ())


def test_a_resolution_without_a_unit_is_none() -> None:
    assert read_notes(written(Chunk(b"pHYs", struct.pack(">IIB", 1, 2, 0)))).dpi is None


def test_an_animation_follows_the_specification() -> None:
    file = io.BytesIO()
    frames = [
        memoryview(encode_image(".png", BLOCKS[:, ::step].copy().repeat(step, axis=1)[:, :48])) for step in (1, 2)
    ]
    write_animation(file, frames, [40.0, 100_000.0], 3, [text_chunk("Title", "x")])
    parts = list(chunks(file.getvalue()))
    kinds = [chunk.kind for chunk in parts]
    assert kinds[:4] == [b"IHDR", b"acTL", b"iTXt", b"fcTL"]
    assert kinds[-1] == b"IEND"
    assert kinds.index(b"IDAT") < kinds.index(b"fdAT")
    assert parts[1].content == struct.pack(">II", 2, 3)
    first, second = (chunk.content for chunk in parts if chunk.kind == b"fcTL")
    assert struct.unpack(">IIIIIHHBB", first) == (0, 48, 64, 0, 0, 40, 1000, 0, 0)
    assert struct.unpack(">IIIIIHHBB", second) == (1, 48, 64, 0, 0, 1000, 10, 0, 0)  # longer than 16 bits of 1 ms


def test_frames_of_another_size_are_refused() -> None:
    frames = [memoryview(PNG), memoryview(encode_image(".png", BLOCKS[:8]))]
    with pytest.raises(ValueError, match="have one size"):
        write_animation(io.BytesIO(), frames, [1, 1], 0, [])


def test_an_animation_is_left_out_of_a_file(tmp_path: Path) -> None:
    images = [Image.fromarray(BLOCKS), Image.fromarray(255 - BLOCKS)]
    images[0].save(tmp_path / "a.png", save_all=True, append_images=images[1:])
    data = (tmp_path / "a.png").read_bytes()
    assert [chunk.kind for chunk in chunks(still(data))] == [b"IHDR", b"IDAT", b"IEND"]
    assert np.array_equal(decode_image(still(data), "a.png"), BLOCKS)
    assert still(PNG) is PNG


def test_a_text_that_unpacks_to_far_more_than_a_text_has_is_not_unpacked() -> None:
    pack = zlib.compressobj(9)
    bomb = b"".join(pack.compress(bytes(1 << 20)) for _ in range(64)) + pack.flush()
    assert len(bomb) < 1 << 21
    for chunk in (
        Chunk(b"zTXt", b"Comment\0\0" + bomb),
        Chunk(b"iTXt", b"Comment\0\1\0\0\0" + bomb),
        Chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"cut short")[:-4]),
    ):
        assert text_of(chunk) is None
    notes = read_notes(written(Chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb)))
    assert notes.xmp is None
