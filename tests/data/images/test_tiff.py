"""Pages of TIFF files, classic and big, of both byte orders."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import pytest
import tifffile

from data.images.photo import decode_photo
from data.images.tiff import as_first, find_pages, is_tiff
from tests.data.pictures import levels

PAGES = [levels(6 + number, 5, 3, np.uint16, number) for number in range(3)]


def pages_file(order: Literal["<", ">"], big: bool) -> bytes:
    file = io.BytesIO()
    with tifffile.TiffWriter(file, bigtiff=big, byteorder=order) as writer:
        for page in PAGES:
            writer.write(page, photometric="rgb", metadata=None)
            writer.write(page[::2, ::2], photometric="rgb", metadata=None, subfiletype=1)
    return file.getvalue()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_every_page_can_be_made_the_first(order: Literal["<", ">"], big: bool) -> None:
    data = pages_file(order, big)
    assert is_tiff(data)
    found = find_pages(data)
    assert (len(found.places), found.others) == (3, 3)
    for place, page in zip(found.places, PAGES, strict=True):
        assert np.array_equal(decode_photo(as_first(data, place), "a.tif").pixels, page)


def test_damaged_files_have_the_pages_in_front_of_the_damage() -> None:
    data = pages_file("<", False)
    place = find_pages(data).places[1]
    assert len(find_pages(data[: place + 1]).places) <= 1
    assert find_pages(data[:6]).places == ()
    circle = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        end = file.pages[5].offset + 2 + 12 * len(file.pages[5].tags)  # type: ignore[union-attr]
    circle[end : end + 4] = data[4:8]  # behind the last page comes the first
    assert len(find_pages(bytes(circle)).places) == 3
