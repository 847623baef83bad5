"""Views: flips, rotations, padding and tiles as lists of positions, against whole images that are turned and padded."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from archs.layers.size import SizeRule
from models.inference.tiling import EqualTiles, GrownTiles, OverlappingTiles, Tiling
from models.inference.views import View, pad_to_rule

Cut = Tiling | tuple[Tiling, Tiling] | None
OBLONG = (OverlappingTiles(7, 2), OverlappingTiles(12, 5))
TILINGS: list[Cut] = [None, OverlappingTiles(12, 4), GrownTiles(8, 3), EqualTiles(9, 4), OBLONG]


@given(
    st.integers(1, 30), st.integers(1, 30), st.booleans(), st.integers(0, 3),
    st.sampled_from([SizeRule(), SizeRule(4), SizeRule(2, 20), SizeRule(4, mode="replicate")]),
    st.sampled_from(TILINGS),
)  # fmt: skip
def test_a_tile_shows_what_is_cut_from_the_image_turned_and_padded(
    h: int, w: int, flip: bool, turns: int, rule: SizeRule, tiling: Cut
) -> None:
    image = torch.arange(1, h * w + 1).reshape(1, 1, h, w)
    turned = torch.rot90(image.flip(-1) if flip else image, turns, (-2, -1))
    padded = pad_to_rule(turned, rule)
    view = View(image, flip, turns, rule, tiling)
    seen = torch.zeros_like(image)
    bottom = 0
    for band in view.bands():
        assert band.top == bottom
        bottom = band.bottom
        for tile in band.tiles:
            patch = view.patch(tile)
            inner = padded[..., tile.row.start : tile.row.stop, tile.column.start : tile.column.stop]
            # What lies beyond the padded image is its mirror image.
            assert torch.equal(patch[..., : inner.shape[-2], : inner.shape[-1]], inner)
            assert patch.shape[-2:] == (tile.row.stop - tile.row.start, tile.column.stop - tile.column.start)
            kept = view.turned_back(
                patch[
                    ...,
                    tile.row.keep_start - tile.row.start : tile.row.keep_stop - tile.row.start,
                    tile.column.keep_start - tile.column.start : tile.column.keep_stop - tile.column.start,
                ]
            )
            assert kept.shape[-2] == band.bottom - band.top
            assert tiling is not OBLONG or (patch.shape[-2] <= 7 and patch.shape[-1] <= 12)
            seen[..., band.top : band.bottom, tile.left : tile.left + kept.shape[-1]] += kept
    assert bottom == h
    assert torch.equal(seen, image)
    assert view.tiles == sum(len(band.tiles) for band in view.bands())


@pytest.mark.parametrize("turns", [0, 1])
def test_tiles_of_images_as_they_are_are_no_copies(turns: int) -> None:
    image = torch.rand(1, 3, 20, 30)
    view = View(image, turns == 1, turns, SizeRule(), OverlappingTiles(12, 4))
    patch = view.patch(view.bands()[0].tiles[0])
    assert patch.untyped_storage().data_ptr() == image.untyped_storage().data_ptr()
