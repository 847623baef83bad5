"""upscale: shapes, padding, tiles, self-ensemble, modes, gradients, misuse."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from archs import build_network
from archs.layers.size import SizeRule
from models.inference.tiling import (
    PFT_TILES,
    EqualTiles,
    GrownTiles,
    OverlappingTiles,
    Span,
    Tiling,
    largest_tiles,
    tile_spans,
)
from models.inference.upscale import upscale, upscale_in_parts
from models.inference.views import pad_to_rule
from utils.errors import InputError


class ConvNet(nn.Module):
    """Convolutions, then pixel shuffle; optionally one mean over windows, whose grid starts at the input's corner."""

    def __init__(self, scale: int = 2, depth: int = 2, window: int = 1, rule: SizeRule | None = None) -> None:
        super().__init__()
        widths = [3, *[4] * (depth - 1), 3 * scale**2]
        self.convs = nn.ModuleList(nn.Conv2d(m, n, 3, padding=1) for m, n in pairwise(widths))
        self.window = window
        self.scale = scale
        self.receptive_radius = depth + window - 1
        if rule is not None:
            self.size_rule = rule
        self.seen: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, 3, s*h, s*w]."""
        self.seen.append((x.shape[-2], x.shape[-1]))
        mean = F.avg_pool2d(x, self.window)
        assert mean.shape[-1] * self.window == x.shape[-1]
        x = x + mean.repeat_interleave(self.window, -1).repeat_interleave(self.window, -2)
        for conv in self.convs:
            x = torch.tanh(conv(x))
        return F.pixel_shuffle(x, self.scale)


class SeesAll(ConvNet):
    """Every pixel of the result depends on every pixel of the input, and so on what exactly a tile reads."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x.mean((1, 2, 3), keepdim=True)


def make(seed: int = 0, **arguments: object) -> ConvNet:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ConvNet(**arguments).double()  # type: ignore[arg-type]


def image(h: int, w: int, batch: int | None = None, seed: int = 1) -> Tensor:
    shape = (3, h, w) if batch is None else (batch, 3, h, w)
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_a_batch_is_upscaled_as_its_images_are(scale: int) -> None:
    network = make(scale=scale)
    batch = image(5, 7, batch=3)
    result = upscale(network, batch)
    assert result.shape == (3, 3, 5 * scale, 7 * scale)
    torch.testing.assert_close(result[1], upscale(network, batch[1]))
    torch.testing.assert_close(result, network(batch))


def published_pft_cutting(network: nn.Module, lq: Tensor, scale: int) -> Tensor:
    """The images [B, 3, h, w] as PFT's authors test them, step by step.

    Each side is cut into side // 256 + 1 parts. Where that does not divide it, it is reflected, without its edge pixel,
    until it does. Every part is upscaled with a tenth of itself around, where there is something around, of which the
    result keeps nothing.
    """
    h, w = lq.shape[-2:]
    rows, columns = h // 256 + 1, w // 256 + 1
    below, beside = -h % rows, -w % columns
    whole = F.pad(lq, (0, beside, 0, below), "reflect")
    height, width = whole.shape[-2] // rows, whole.shape[-1] // columns
    result = lq.new_zeros(*lq.shape[:-2], whole.shape[-2] * scale, whole.shape[-1] * scale)
    for i in range(rows):
        for j in range(columns):
            above = height // 10 if i > 0 else 0
            under = height // 10 if i < rows - 1 else 0
            before = width // 10 if j > 0 else 0
            after = width // 10 if j < columns - 1 else 0
            band = whole[..., i * height - above : (i + 1) * height + under, :]
            output = network(band[..., j * width - before : (j + 1) * width + after])
            kept = output[..., above * scale :, before * scale :][..., : height * scale, : width * scale]
            top, left = i * height * scale, j * width * scale
            result[..., top : top + height * scale, left : left + width * scale] = kept
    return result[..., : h * scale, : w * scale]


class TestPadding:
    @pytest.mark.parametrize("mode", ["reflect", "replicate"])
    def test_padding_is_that_of_torch(self, mode: str) -> None:
        x = image(6, 7, batch=2)
        padded = pad_to_rule(x, SizeRule(multiple=5, mode=mode))  # type: ignore[arg-type]
        torch.testing.assert_close(padded, F.pad(x, (0, 3, 0, 4), mode=mode))

    @given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9), st.integers(1, 20))
    def test_padding_reaches_the_smallest_size_that_the_rule_allows(
        self, h: int, w: int, multiple: int, minimum: int
    ) -> None:
        rule = SizeRule(multiple=multiple, minimum=minimum)
        x = image(h, w)
        padded = pad_to_rule(x, rule)
        for wanted, given_size in zip(padded.shape[1:], (h, w), strict=True):
            assert wanted % multiple == 0
            assert max(given_size, minimum) <= wanted < max(given_size, minimum) + multiple
        assert (padded[:, :h, :w] == x).all()

    def test_reflection_may_be_longer_than_the_image(self) -> None:
        x = torch.arange(3.0).expand(3, 1, 3)
        padded = pad_to_rule(x, SizeRule(minimum=9))
        assert padded[0, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1, 0]
        assert padded.shape == (3, 9, 9)

    def test_network_sees_the_size_it_wants(self) -> None:
        network = make(window=4, rule=SizeRule(multiple=4, minimum=8))
        assert upscale(network, image(5, 9)).shape == (3, 10, 18)
        assert network.seen == [(8, 12)]
        expected = network(F.pad(image(5, 9)[None], (0, 3, 0, 3), mode="reflect"))[0, :, :10, :18]
        torch.testing.assert_close(upscale(network, image(5, 9)), expected)


class TestTiles:
    @given(st.integers(1, 200), st.integers(0, 12), st.integers(1, 8), st.integers(0, 20))
    def test_tile_spans_cover_an_axis_once_with_their_overlap(
        self, length: int, overlap: int, alignment: int, extra: int
    ) -> None:
        tile = -(-(overlap + alignment + extra) // alignment) * alignment
        spans = tile_spans(length, tile, overlap, alignment)
        assert [span.keep_start for span in spans] == [0, *(span.keep_stop for span in spans[:-1])]
        assert (spans[0].start, spans[-1].stop, spans[-1].keep_stop) == (0, length, length)
        for span in spans:
            assert span.start % alignment == 0
            assert min(length, tile - alignment + 1) <= span.stop - span.start <= tile
            assert span.start == 0 or span.keep_start - span.start >= overlap // 2
            assert span.stop == length or span.stop - span.keep_stop >= overlap // 2
        for left, right in pairwise(spans):
            assert left.stop - right.start >= overlap

    @given(
        h=st.integers(1, 30), w=st.integers(1, 30), scale=st.integers(1, 3), depth=st.integers(1, 3),
        window=st.integers(1, 4), tile_multiple=st.sampled_from([1, 2, 3]), extra=st.integers(0, 9),
    )  # fmt: skip
    def test_tiles_equal_the_whole_image_where_the_overlap_covers_the_receptive_field(
        self, h: int, w: int, scale: int, depth: int, window: int, tile_multiple: int, extra: int
    ) -> None:
        rule = SizeRule(multiple=window, tile_multiple=tile_multiple)
        network = make(scale=scale, depth=depth, window=window, rule=rule)
        overlap = 2 * network.receptive_radius
        tile = overlap + 3 * window * tile_multiple + extra
        whole, tiled = (upscale(network, image(h, w, batch=2), tile=side, overlap=overlap) for side in (None, tile))
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)
        assert all(max(size) <= tile for size in network.seen[1:])

    @given(st.integers(1, 700), st.integers(1, 300), st.integers(0, 40), st.integers(1, 16))
    def test_published_tilings_cover_everything_once(self, length: int, side: int, around: int, alignment: int) -> None:
        tilings: tuple[Tiling, ...] = (GrownTiles(side, around), EqualTiles(side, around))
        for tiling in tilings:
            spans, end = tiling.spans(length, alignment), tiling.extended(length)
            assert [span.keep_start for span in spans] == [0, *(span.keep_stop for span in spans[:-1])]
            assert length <= spans[-1].keep_stop == end
            for span in spans:
                assert span.start == max(0, span.start) <= span.keep_start < span.keep_stop <= span.stop <= end
                assert span.start == 0 or span.keep_start - span.start >= around
                assert span.stop == end or span.stop - span.keep_stop >= around

    def test_the_published_number_of_equal_tiles(self) -> None:
        assert [len(EqualTiles().spans(length, 1)) for length in (199, 200, 399, 400)] == [1, 2, 2, 3]

    @pytest.mark.parametrize("tiling", [GrownTiles(9, 8), EqualTiles(12, 8)])
    def test_published_tilings_equal_the_whole_image_where_the_network_sees_no_further(self, tiling: Tiling) -> None:
        network = make(scale=2, depth=2, window=1, rule=SizeRule())
        whole, tiled = (upscale(network, image(31, 26, batch=2), tiling=kind) for kind in (None, tiling))
        inner = (..., slice(0, -16), slice(0, -16))  # equal tiles see a mirror instead of nothing behind the end
        torch.testing.assert_close(tiled[inner], whole[inner], rtol=0, atol=1e-12)

    def test_pft_tiles_begin_at_256_pixels(self) -> None:
        assert [len(PFT_TILES.spans(length, 1)) for length in (255, 256, 511, 512)] == [1, 2, 2, 3]
        assert [PFT_TILES.extended(length) for length in (255, 256, 257, 512, 513)] == [255, 256, 258, 513, 513]
        # 257 pixels become 258: two parts of 129, and 12 pixels around them.
        assert PFT_TILES.spans(257, 32) == [Span(0, 141, 0, 129), Span(117, 258, 129, 258)]

    @pytest.mark.parametrize("size", [(255, 40), (256, 255), (257, 30), (40, 511), (300, 514)])
    @pytest.mark.parametrize("scale", [2, 3])
    def test_pft_tiles_equal_the_published_cutting(self, size: tuple[int, int], scale: int) -> None:
        network = SeesAll(scale=scale).double()
        lq = image(*size, batch=2)
        with torch.no_grad():
            expected = published_pft_cutting(network, lq, scale)
        parts, network.seen = network.seen, []
        found = upscale(network, lq, tiling=PFT_TILES)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert network.seen == parts
        assert torch.equal(found, upscale(network, lq)) == (len(parts) == 1) == (max(size) < 256)

    def test_pft_itself_in_its_tiles_equals_the_published_cutting(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = build_network({
                "type": "PFT", "upscale": 2, "embed_dim": 8, "depths": [2], "num_heads": 2, "num_topk": [16, 4],
                "window_size": 4, "upsampler": "pixelshuffledirect",
            })  # fmt: skip
        network = network.double().eval()
        lq = image(257, 18, batch=1)
        with torch.no_grad():
            expected = published_pft_cutting(network, lq, 2)
        torch.testing.assert_close(upscale(network, lq, tiling=PFT_TILES), expected, rtol=0, atol=1e-12)

    def test_tiles_of_plainusr_equal_the_whole_image(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = build_network({"type": "PlainUSR_ultra_inference", "n_feat": 8, "im_feat": [8, 4], "scale": 2})
        radius = network.receptive_radius
        assert isinstance(radius, int)
        lq = image(60, 47)
        whole, tiled = (upscale(network.double(), lq, tile=tile, overlap=2 * radius) for tile in (None, 30))
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-12)

    def test_tiles_start_on_the_grid_of_the_network(self) -> None:
        network = make(rule=SizeRule(tile_multiple=6))
        upscale(network, image(100, 40), tile=40, overlap=8)
        rows, columns = ({size[axis] for size in network.seen} for axis in (0, 1))
        assert (rows, columns) == ({36, 34}, {36, 34})  # 100 = 66 + 34, 40 = 6 + 34: starts at multiples of 6

    def test_a_tile_as_large_as_the_image_is_the_whole_image(self) -> None:
        network = make()
        upscale(network, image(20, 30), tile=32, overlap=4)
        assert network.seen == [(20, 30)]

    @pytest.mark.parametrize(
        ("tile", "overlap", "rule", "least"),
        [(32, 32, SizeRule(), 33), (0, 0, SizeRule(), 1), (37, 32, SizeRule(tile_multiple=6), 42),
         (24, 4, SizeRule(multiple=8, minimum=24), 32)],
    )  # fmt: skip
    def test_tiles_smaller_than_the_overlap_allows_are_refused(
        self, tile: int, overlap: int, rule: SizeRule, least: int
    ) -> None:
        network = make(rule=rule)
        with pytest.raises(InputError, match=f"tiles of {tile} pixels are too small .* at least {least},"):
            upscale(network, image(60, 50), tile=tile, overlap=overlap)
        assert upscale(network, image(least + 7, 9), tile=least, overlap=overlap).shape == (3, 2 * least + 14, 18)

    def test_a_negative_overlap_is_refused(self) -> None:
        with pytest.raises(InputError, match="0 or more, got -1"):
            upscale(make(), image(9, 9), tile=8, overlap=-1)


class TestSelfEnsemble:
    def test_self_ensemble_is_the_mean_over_the_eight_symmetries(self) -> None:
        network = make()
        lq = image(5, 8, batch=1)
        views = [lq, lq.flip(-1), lq.flip(-2), lq.flip(-1, -2)]
        outputs = [network(view) for view in views]
        outputs += [network(view.transpose(-1, -2)).transpose(-1, -2) for view in views]
        back = [(), (-1,), (-2,), (-1, -2)] * 2
        expected = sum(output.flip(dims) for output, dims in zip(outputs, back, strict=True)) / 8
        torch.testing.assert_close(upscale(network, lq, self_ensemble=True), expected)

    def test_self_ensemble_turns_with_its_input(self) -> None:
        network = make()
        lq = image(6, 9)
        result = upscale(network, lq, self_ensemble=True)
        turned = upscale(network, torch.rot90(lq, 1, (-2, -1)), self_ensemble=True)
        torch.testing.assert_close(turned, torch.rot90(result, 1, (-2, -1)))

    def test_self_ensemble_in_tiles_equals_that_of_the_whole_image(self) -> None:
        network = make(window=2, rule=SizeRule(multiple=2))
        lq = image(19, 33)
        whole = upscale(network, lq, self_ensemble=True)
        torch.testing.assert_close(upscale(network, lq, tile=14, overlap=6, self_ensemble=True), whole)


class TestParts:
    """What upscale_in_parts hands over, and in which order."""

    @given(
        h=st.integers(1, 40), w=st.integers(1, 40), batch=st.integers(1, 2), self_ensemble=st.booleans(),
        tiling=st.sampled_from([None, OverlappingTiles(12, 4), GrownTiles(9, 4), EqualTiles(9, 4)]),
    )  # fmt: skip
    def test_parts_make_the_result_to_the_last_bit(
        self, h: int, w: int, batch: int, self_ensemble: bool, tiling: Tiling | None
    ) -> None:
        network = make(rule=SizeRule(multiple=2)).float()
        lq = image(h, w, batch=batch).float()
        result = torch.full((batch, 3, 2 * h, 2 * w), torch.nan)
        shares: list[float] = []

        def put(top: int, left: int, part: Tensor) -> None:
            place = result[..., top : top + part.shape[-2], left : left + part.shape[-1]]
            assert place.isnan().all()
            place.copy_(part)

        upscale_in_parts(put, network, lq, tiling, self_ensemble, watch=shares.append)
        assert torch.equal(result, upscale(network, lq, tiling=tiling, self_ensemble=self_ensemble))
        assert sum(shares) == pytest.approx(1)

    @pytest.mark.parametrize("h", [23, 57, 88])
    def test_self_ensemble_in_tiles_adds_the_views_in_their_order(self, h: int) -> None:
        """To the last bit what eight whole images add up to, each upscaled in tiles."""
        network = make().float()
        lq = image(h, 41).float()
        total = torch.zeros(3, 2 * h, 82)
        for flip in (False, True):
            for turns in range(4):
                view = torch.rot90(lq.flip(-1) if flip else lq, turns, (-2, -1))
                output = torch.rot90(upscale(network, view, tile=16, overlap=4), -turns, (-2, -1))
                total = total + (output.flip(-1) if flip else output)
        assert torch.equal(upscale(network, lq, tile=16, overlap=4, self_ensemble=True), total / 8)

    def test_self_ensemble_hands_over_bands_before_the_end_is_reached(self) -> None:
        shares: list[float] = []
        tops: list[tuple[int, float]] = []
        upscale_in_parts(
            lambda top, left, part: tops.append((top, sum(shares))),
            make(), image(200, 20), OverlappingTiles(16, 4), self_ensemble=True, watch=shares.append,
        )  # fmt: skip
        assert [top for top, _ in tops] == sorted(top for top, _ in tops)
        for top, done in tops:  # of a band, and of at most three that are unfinished
            assert done * 400 <= top + 4 * 32


class TestModeAndGradients:
    def test_every_module_is_in_its_mode_again_after_upscaling(self) -> None:
        network = nn.Sequential(make(), nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
        network.scale = 2  # type: ignore[assignment]
        network[1].eval()
        before = [module.training for module in network.modules()]
        result = upscale(network, image(8, 8))
        torch.testing.assert_close(result, upscale(network, image(8, 8)))
        assert [module.training for module in network.modules()] == before

    def test_every_module_is_in_its_mode_again_after_a_failure(self) -> None:
        network = make().train()
        network.convs.append(nn.Conv2d(12, 48, 1).double())
        with pytest.raises(
            ValueError, match=r"ConvNet made \[1, 12, 16, 16\] of an input \[1, 3, 8, 8\]; with scale 2"
        ):
            upscale(network, image(8, 8))
        assert network.training

    def test_gradients_are_recorded_only_for_an_input_that_requires_them(self) -> None:
        network = make(rule=SizeRule(multiple=4))
        assert not upscale(network, image(6, 6)).requires_grad
        lq = image(14, 13).requires_grad_()
        gradients = []
        for tile in (None, 8):
            result = upscale(network, lq, tile=tile, overlap=4)
            gradients.append(torch.autograd.grad(result[:, 3:9, 5].sum(), lq)[0])
        assert gradients[0].abs().sum() > 0
        torch.testing.assert_close(*gradients)
        with torch.no_grad():
            assert not upscale(network, lq).requires_grad

    def test_upscaling_does_not_change_its_input(self) -> None:
        lq = image(9, 9)
        copy = lq.clone()
        upscale(make(rule=SizeRule(multiple=4)), lq, tile=8, overlap=4, self_ensemble=True)
        assert (lq == copy).all()


class TestMisuse:
    @pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3), (1, 4, 4), (2, 4, 8, 8), (1, 1, 3, 8, 8)])
    def test_inputs_that_are_no_images_are_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r"expected an image \[3, h, w\] or a batch"):
            upscale(make(), torch.zeros(shape))

    def test_empty_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match="nothing to upscale"):
            upscale(make(), torch.zeros(3, 0, 4))

    def test_images_of_bytes_are_refused(self) -> None:
        with pytest.raises(ValueError, match="divided by 255"):
            upscale(make(), torch.zeros(3, 4, 4, dtype=torch.uint8))

    def test_a_network_without_scale_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no number `scale`"):
            upscale(nn.Conv2d(3, 3, 1), torch.zeros(3, 4, 4))


class TestLargest:
    """Images that are larger than a network takes."""

    @pytest.mark.parametrize("ensemble", [False, True])
    @pytest.mark.parametrize(("h", "w"), [(12, 20), (13, 20), (40, 19), (31, 57), (20, 12)])
    def test_they_are_cut_into_tiles_that_it_takes(self, h: int, w: int, ensemble: bool) -> None:
        cut, whole = make(rule=SizeRule(largest=(12, 20), tile_multiple=2)), make()
        expected = upscale(whole, image(h, w, 2), self_ensemble=ensemble)
        assert torch.allclose(upscale(cut, image(h, w, 2), overlap=4, self_ensemble=ensemble), expected)
        assert all(height <= 12 and width <= 20 for height, width in cut.seen)
        assert len(cut.seen) == 1 or (h, w) != (12, 20) or ensemble

    def test_the_overlap_is_half_a_tile_at_most(self) -> None:
        tiles = largest_tiles(100, 12, 32, SizeRule())
        assert (tiles.side, tiles.overlap) == (12, 6)
        tiles = largest_tiles(100, 12, 32, SizeRule(tile_multiple=10))
        assert (tiles.side, tiles.overlap) == (12, 2)

    def test_where_tiles_find_no_room_it_is_said(self) -> None:
        network = make(rule=SizeRule(largest=(12, 12), tile_multiple=16))
        assert upscale(network, image(12, 12)).shape[-1] == 24
        with pytest.raises(InputError, match="the network takes at most 12 of 13 pixels, and tiles for it"):
            upscale(network, image(13, 12))

    def test_larger_tiles_are_refused(self) -> None:
        network = make(rule=SizeRule(largest=(12, 20)))
        with pytest.raises(InputError, match=r"tiles of 16 pixels are larger than this network takes, 20 x 12"):
            upscale(network, image(30, 30), tile=16, overlap=4)
