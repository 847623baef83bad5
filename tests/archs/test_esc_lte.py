"""ESC for any scale: the decoder LTE, query by query and in bands; its files."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import archs.esc.lte
from archs.contract import at_scale
from models.inference.upscale import upscale
from models.weights.files import load_weights
from tests.archs.esc_networks import LTE, SMALL, built, free_program, pixels, randomised
from utils.errors import InputError


def test_bands_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = randomised(built(LTE)).double().eval(), pixels(2, 3, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        whole = network(x, (17, 25))
        monkeypatch.setattr(archs.esc.lte, "BAND", 60)
        assert torch.allclose(network(x, (17, 25)), whole, rtol=1e-12)


@pytest.mark.parametrize(("scale", "size"), [(1, (6, 7)), (2.5, (15, 18)), (3.7, (22, 26)), (7, (42, 49))])
def test_any_scale(scale: float, size: tuple[int, int]) -> None:
    network, x = randomised(built(LTE, upscaling_factor=scale)), pixels(2, 3, 6, 7)
    y = upscale(network, x)
    assert y.shape == (2, 3, *size)
    assert torch.allclose(upscale(network, x[1]), y[1], atol=1e-5)
    assert torch.equal(network.eval()(x, size), network(x))


def decoded(network: Any, x: Tensor, size: tuple[int, int], weigh: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The decoder query by query, as published but for the weights of the four corners.

    ``weigh`` takes the distances of the corners along each axis, [4, Y, X], in the order (-,-) (-,+) (+,-) (+,+).
    """
    normal = 2 * x - 1
    features = network.encoder(normal).movedim(-1, 1)
    (H, W), (Y, X) = x.shape[-2:], size
    larger = max(Y / H / 4, 1)
    centre_y, centre_x = ((2 * torch.arange(n, dtype=torch.float64) + 1) / n - 1 for n in size)
    query = torch.stack(torch.meshgrid(centre_y, centre_x, indexing="ij"), -1)[None]  # [1, Y, X, 2] (y, x)
    colours, along_y, along_x = [], [], []
    for down, right in itertools.product((-1, 1), (-1, 1)):
        shift = torch.tensor([down / H, right / W], dtype=torch.float64)
        moved = (query + shift + 1e-6).clamp(-1 + 1e-6, 1 - 1e-6)
        nearest = functools.partial(F.grid_sample, grid=moved.flip(-1), mode="nearest", align_corners=False)
        rows, columns = torch.meshgrid(*((2 * torch.arange(n).double() + 1) / n - 1 for n in (H, W)), indexing="ij")
        found = nearest(torch.stack([rows, columns])[None])[0]
        offset_y, offset_x = (query[0, ..., 0] - found[0]) * H, (query[0, ..., 1] - found[1]) * W
        q = nearest(network.freq(features))[0]
        cell = torch.tensor([2 * H / Y * larger, 2 * W / X * larger], dtype=torch.float64)
        z = math.pi * (q[0::2] * offset_y + q[1::2] * offset_x + network.phase(cell)[:, None, None])
        t = torch.cat([z.cos(), z.sin()]) * nearest(network.coef(features))[0]
        colours.append(network.imnet(t.movedim(0, -1)).movedim(-1, 0))
        along_y.append(offset_y.abs())
        along_x.append(offset_x.abs())
    weights = weigh(torch.stack(along_y), torch.stack(along_x))
    image = (weights[:, None] * torch.stack(colours)).sum(0)
    result: Tensor = (image + F.interpolate(normal, size=size, mode="bilinear")[0]) / 2 + 0.5
    return result


def by_areas(down: Tensor, right: Tensor) -> Tensor:
    """The published weights: the area towards the opposite corner, over the sum of the four."""
    areas = down * right + 1e-9
    return areas.flip(0) / areas.sum(0)


def by_axes(down: Tensor, right: Tensor) -> Tensor:
    """Linear along each axis; half each where both neighbours are one pixel, and so equally far."""
    distances = [along.clamp(min=1e-9) for along in (down, right)]
    parts = [along.flip(0) / (along + along.flip(0)) for along in distances]
    return parts[0] * parts[1]


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5, 7])
def test_the_nearer_neighbour_weighs_more_on_the_last_centre_lines_of_odd_scales(scale: int) -> None:
    network = randomised(built(LTE, upscaling_factor=scale)).double().eval()
    x = pixels(1, 3, 5, 6, dtype=torch.float64)
    size = (5 * scale, 6 * scale)
    with torch.no_grad():
        y = network(x)[0]
        expected, published = (decoded(network, x, size, weigh) for weigh in (by_axes, by_areas))
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    row, column = scale * (5 - 1) + scale // 2, scale * (6 - 1) + scale // 2
    elsewhere = torch.ones(size, dtype=torch.bool)
    if scale % 2:
        elsewhere[row], elsewhere[:, column] = False, False
        if scale > 1:  # there, published weights are half each
            assert (y - published)[:, row].abs().max() > 1e-4
            assert (y - published)[:, :, column].abs().max() > 1e-4
    torch.testing.assert_close(y[:, elsewhere], published[:, elsewhere], rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("length", "count"), [(1, 1), (5, 15), (5, 18), (64, 256), (270, 999), (1080, 3240), (960, 8000)]
)
def test_neighbours_in_whole_numbers_are_those_of_positions(length: int, count: int) -> None:
    centres = (2 * torch.arange(count, dtype=torch.float64) + 1) / count - 1
    expected = archs.esc.lte._neighbours(centres, length)
    found = archs.esc.lte._neighbours_of_grid(count, length, torch.float64, centres.device)
    for axis, other in zip(found, expected, strict=True):
        assert torch.equal(axis.pixel, other.pixel)
        torch.testing.assert_close(axis.offset, other.offset, rtol=0, atol=1e-11)
        torch.testing.assert_close(axis.weight, other.weight, rtol=0, atol=1e-11)


SHAPES = ((1, 3, 1, 1), (3, 3, 2, 2), (1, 3, 4, 9), (3, 3, 17, 12))


def test_export_with_batch_and_sides_free() -> None:
    network, scale = randomised(built(LTE, n_blocks=1, conv_blocks=1)).eval(), 2.5
    program = free_program(network, scale).module()
    for shape in SHAPES:
        x = pixels(*shape)
        with torch.no_grad():
            torch.testing.assert_close(program(x), upscale(at_scale(network, scale), x), rtol=0, atol=1e-5)


def test_a_network_at_another_scale_shares_its_weights() -> None:
    network, x = randomised(built(LTE, upscaling_factor=4)).eval(), pixels(1, 3, 6, 7)
    other: Any = at_scale(network, 2.5)
    assert (network.scale, other.scale) == (4, 2.5)
    assert other.coef.weight is network.coef.weight
    assert torch.equal(other(x), network(x, (15, 18)))
    assert at_scale(network, 4) is network
    with pytest.raises(ValueError, match="ESC is a network for x2, not for x3"):
        at_scale(built(SMALL), 3)


@pytest.mark.parametrize("key", ["upscaling_factor", "scale_max"])
def test_scales_begin_at_one(key: str) -> None:
    with pytest.raises(InputError, match=f"{key} must be a number of at least 1, got 0.5"):
        built(LTE, **{key: 0.5})


def test_the_size_of_a_pixel_ends_at_the_largest_trained_scale() -> None:
    x = pixels(1, 3, 6, 7)
    small, large = (randomised(built(LTE, scale_max=scale)).eval() for scale in (4, 8))
    assert torch.equal(small(x, (24, 28)), large(x, (24, 28)))
    assert not torch.allclose(small(x, (48, 56)), large(x, (48, 56)))


def test_whole_images_only_at_real_scales() -> None:
    with pytest.raises(InputError, match=r"upscaled by 2\.5 as a whole"):
        upscale(built(LTE, upscaling_factor=2.5), pixels(1, 3, 40, 40), tile=16, overlap=4)


def test_files_of_the_arbitrary_scale_form_load(tmp_path: Path) -> None:
    source = randomised(built(LTE))
    content = {"model": {"name": "lte", "args": {}, "sd": source.state_dict()}, "optimizer": {}, "epoch": 3}
    torch.save(content, tmp_path / "lte.pth")
    network = built(LTE)
    assert not load_weights(network, tmp_path / "lte.pth")
    assert torch.equal(network.coef.weight, source.coef.weight)


def grid(B: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """All pixels of an image of this size as queries, in float64: coordinates [B, Y X, 2], cells [B, 2]."""
    axes = [(2 * torch.arange(n).double() + 1) / n - 1 for n in size]
    coord = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
    return coord.expand(B, -1, 2), torch.tensor([[2 / n for n in size]] * B, dtype=torch.float64)


@pytest.mark.parametrize("size", [(6, 7), (15, 18), (18, 21), (42, 49)])
def test_points_are_those_of_the_grid(size: tuple[int, int]) -> None:
    network, x = randomised(built(LTE)).double(), pixels(2, 3, 6, 7, dtype=torch.float64)
    with torch.no_grad():
        points = network(x, queries=grid(2, size))
        assert points.shape == (2, 3, size[0] * size[1], 1)
        torch.testing.assert_close(points.view(2, 3, *size), network(x, size), rtol=0, atol=1e-12)


def test_points_of_a_compiled_decoder() -> None:
    network, x = randomised(built(LTE)), pixels(2, 3, 6, 7)
    features, queries = network.encoder(x).detach(), grid(2, (9, 10))
    compiler: Any = torch.compile
    compiled = compiler(network.at_points, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(features, x, *queries), network.at_points(features, x, *queries))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_points_in_lower_precision(kind: torch.dtype) -> None:
    """Positions stay exact: float32 coordinates, and features of half precision, change colours by rounding only."""
    network, x = randomised(built(LTE)), pixels(2, 3, 6, 7)
    coord, cell = grid(2, (20, 25))
    with torch.no_grad():
        expected = network.double()(x.double(), queries=(coord, cell))
        found = network.to(kind)(x.to(kind), queries=(coord.float(), cell.float()))
    assert found.dtype == kind
    assert (found - expected).abs().max() < (1e-5 if kind == torch.float32 else 0.05)
