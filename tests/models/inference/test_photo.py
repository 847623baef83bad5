"""Upscaler and upscale_photo: tiles by memory, halving, depth, grey, transparency; how far tiles are from the whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import archs
from archs.layers.size import SizeRule
from data.images.files import read_image, to_tensor, to_uint8
from data.images.photo import Photo
from data.images.photo_writer import write_photo
from metrics import calculate_psnr
from models.inference.photo import Upscaler, upscale_photo
from models.inference.upscale import upscale
from models.precision.network import in_precision
from models.weights.recognise import network_from_weights
from utils.env import peak_memory, reset_peak_memory
from utils.errors import InputError


class Net(nn.Module):
    """Two 3 x 3 convolutions, scale 2; refuses inputs of more than ``most`` pixels as a full memory does."""

    def __init__(self, channels: int = 3, scale: float = 2, most: int = 10**9, error: type[Exception] | None = None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(channels, 8, 3, padding=1)
            self.last = nn.Conv2d(8, channels * 4, 3, padding=1)
        self.channels, self.scale, self.most, self.error = channels, scale, most, error or torch.OutOfMemoryError
        self.size_rule = SizeRule(tile_multiple=4)
        self.seen: list[tuple[int, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, 2h, 2w]."""
        self.seen.append((x.shape[-2], x.shape[-1]))
        if x.shape[-2] * x.shape[-1] > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return F.pixel_shuffle(self.last(torch.tanh(self.first(x))), 2) * 0.2 + 0.5


class Nearest(nn.Module):
    """Repeats pixels; scale 4."""

    scale = 4

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, 3, h, w] -> [B, 3, 4h, 4w]."""
        return F.interpolate(x, scale_factor=4)


def resident_memory() -> int:
    """Bytes that this process holds now; 0 where they are not known."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")), 0)


def image(h: int, w: int, channels: int = 3) -> Tensor:
    return torch.rand(channels, h, w, generator=torch.Generator().manual_seed(1))


class TestTiles:
    @pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
    def test_tiles_are_halved_when_the_memory_runs_out(self, error: type[Exception], log: list[str]) -> None:
        network = Net(most=60 * 60, error=error)
        upscaler = Upscaler(network, tile=None, overlap=8)
        shares: list[float] = []
        result = upscaler(image(150, 110), shares.append)
        torch.testing.assert_close(result, upscale(Net(), image(150, 110)), atol=1e-6, rtol=0)
        assert upscaler.limit == 37  # 150, 75, 37
        assert sum(shares) == pytest.approx(1)  # what a failed attempt had done is taken back
        assert [line for line in log if "going on with tiles of 37" in line]
        network.seen.clear()
        upscaler(image(150, 110))
        assert max(max(size) for size in network.seen) <= 37  # not tried again
        assert network.seen.count((30, 20)) == 0
        small = image(30, 20)
        upscaler(small)
        assert network.seen[-1] == (30, 20)

    def test_errors_that_are_not_about_memory_are_raised(self) -> None:
        class Broken(Net):
            def forward(self, x: Tensor) -> Tensor:
                raise RuntimeError("a fault")

        with pytest.raises(RuntimeError, match="a fault"):
            Upscaler(Broken(), tile=None)(image(8, 8))

    def test_a_memory_too_small_for_the_smallest_tiles_is_reported(self) -> None:
        with pytest.raises(InputError, match="not even for tiles of 12 x 12 pixels; close other programs"):
            Upscaler(Net(most=10), tile=None, overlap=8)(image(40, 40))
        with pytest.raises(InputError, match="cannot be cut into tiles"):
            Upscaler(Net(most=10, scale=2.0), overlap=8)(image(40, 40))

    @pytest.mark.parametrize(("budget", "whole"), [(400_000, False), (10**9, True), (None, True)])
    def test_tiles_are_as_large_as_the_free_memory_allows(
        self, monkeypatch: pytest.MonkeyPatch, budget: int | None, whole: bool
    ) -> None:
        monkeypatch.setattr("models.inference.photo.free_memory", lambda device, reserved: budget)
        network = Net()
        upscaler = Upscaler(network, overlap=8)
        result = upscaler(image(160, 120))
        torch.testing.assert_close(result, upscale(Net(), image(160, 120)), atol=1e-6, rtol=0)
        assert ((160, 120) in network.seen) == whole
        if not whole:
            tiles = [size for size in network.seen if size not in ((48, 48), (96, 96))]
            # 8 channels of features and 12 before the shuffle, of 4 bytes, and what stands beside them
            assert 400_000 / 200 < max(h * w for h, w in tiles) < 400_000 / 80

    def test_tiles_no_larger_than_their_overlap_are_refused(self) -> None:
        with pytest.raises(InputError, match="tiles of 8 pixels are too small"):
            Upscaler(Net(), tile=8, overlap=8)

    def test_outputs_that_overflow_in_half_precision_are_reported(self) -> None:
        network = Net()
        network.last.weight.data *= 4e5
        with torch.no_grad():
            assert Upscaler(network)(image(8, 8)).isfinite().all()
            cause = (
                r"not finite \(NaN or infinity\), in float16, first in the layer last \(convolution\); float16 ends at"
            )
            with pytest.raises(InputError, match=cause):
                Upscaler(in_precision(network, "fp16"), tile=12, overlap=4)(image(30, 8))
            network.last.weight.data[0] = torch.nan
            with pytest.raises(InputError, match="are its weights sound"):
                Upscaler(network)(image(8, 8))

    def test_half_precision_is_close_to_float32(self) -> None:
        result = Upscaler(Net().half(), tile=24, overlap=8)(image(40, 30))
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, upscale(Net(), image(40, 30)), atol=2e-3, rtol=0)


class TestPhotos:
    @pytest.mark.parametrize("kind", [np.uint8, np.uint16])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("network_channels", [1, 3])
    def test_channels_and_depth_of_a_photo_are_kept(self, kind: Any, channels: int, network_channels: int) -> None:
        top = np.iinfo(kind).max
        pixels = np.random.default_rng(0).integers(0, top + 1, (9, 7, channels), dtype=kind)
        network = Net(network_channels)
        result = upscale_photo(Photo(pixels, profile=b"p", exif=b"e"), Upscaler(network)).pixels
        assert (result.shape, result.dtype) == ((18, 14, channels), kind)
        lq = torch.from_numpy(pixels.astype(np.float32) / top).permute(2, 0, 1)
        if network_channels == channels:
            expected = upscale(network, lq)
        elif channels == 1:
            expected = upscale(network, lq.expand(3, -1, -1)).mean(0, keepdim=True)
        else:
            expected = torch.cat([upscale(network, lq[i : i + 1]) for i in range(3)])
        difference = np.abs(result.astype(float) - (expected.clamp(0, 1) * top).permute(1, 2, 0).numpy())
        assert difference.max() <= 0.51 + top * 1e-6

    def test_transparency_is_upscaled_as_a_grey_picture(self) -> None:
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
        alpha = rng.integers(0, 256, (9, 7, 1), dtype=np.uint8)
        network = Net()
        shares: list[float] = []
        result = upscale_photo(Photo(pixels, alpha, b"p", b"e"), Upscaler(network), shares.append)
        assert (result.profile, result.exif) == (b"p", b"e")
        assert result.alpha is not None
        expected = upscale(network, to_tensor(alpha).expand(3, -1, -1)).mean(0, keepdim=True)
        assert np.abs(result.alpha.astype(int) - to_uint8(expected).astype(int)).max() <= 1
        assert sum(shares) == pytest.approx(1)
        network.seen.clear()
        for level in (0, 255):
            constant = upscale_photo(Photo(pixels, np.full((9, 7, 1), level, np.uint8)), Upscaler(network)).alpha
            assert constant is not None
            assert (constant == level).all()
            assert constant.shape == (18, 14, 1)
        assert len(network.seen) == 2  # the colours alone


class TestMemory:
    """Results are rounded tile by tile; the whole is nowhere held in floats."""

    @pytest.mark.parametrize("kind", [np.uint8, np.uint16])
    @pytest.mark.parametrize(("channels", "network_channels"), [(1, 1), (1, 3), (3, 1), (3, 3)])
    @pytest.mark.parametrize("tile", [None, 24])
    @pytest.mark.parametrize("self_ensemble", [False, True])
    def test_levels_are_the_rounded_floats_to_the_last_bit(
        self, kind: Any, channels: int, network_channels: int, tile: int | None, self_ensemble: bool
    ) -> None:
        top = np.iinfo(kind).max
        pixels = np.random.default_rng(0).integers(0, top + 1, (61, 39, channels), dtype=kind)
        upscaler = Upscaler(Net(network_channels), tile, overlap=8, self_ensemble=self_ensemble)
        lq = torch.from_numpy(pixels.astype(np.float32) / np.float32(top)).permute(2, 0, 1)
        if channels == network_channels:
            result = upscaler(lq)
        elif channels == 1:
            result = upscaler(lq.expand(3, -1, -1)).mean(0, keepdim=True)
        else:
            result = upscaler(lq[:, None])[:, 0]
        expected = result.clamp(0, 1).mul(top).round().permute(1, 2, 0).numpy()
        assert np.array_equal(upscale_photo(Photo(pixels), upscaler).pixels, expected)

    @pytest.mark.parametrize(
        ("kind", "alpha", "self_ensemble"),
        [(np.uint8, False, False), (np.uint16, True, False), (np.uint8, False, True)],
    )
    def test_a_large_picture_takes_two_and_a_half_times_its_result_at_most(
        self, tmp_path: Path, kind: Any, alpha: bool, self_ensemble: bool
    ) -> None:
        """From the first tile to the PNG file; held in floats, it took fourteen times as much."""
        pixels = np.broadcast_to(np.arange(2000).astype(kind)[:, None, None], (2000, 500, 3))
        photo = Photo(pixels, pixels[..., :1] if alpha else None)
        upscaler = Upscaler(Nearest(), tile=96, overlap=8, self_ensemble=self_ensemble)
        upscale_photo(Photo(pixels[:200]), upscaler)  # what is taken once does not count
        reset_peak_memory()
        before = resident_memory()
        result = upscale_photo(photo, upscaler)
        write_photo(tmp_path / "a.png", result)
        size = result.pixels.nbytes + (0 if result.alpha is None else result.alpha.nbytes)
        if before:  # the system tells
            assert peak_memory() - before < 2.5 * size

    @pytest.mark.parametrize("self_ensemble", [False, True])
    def test_tiles_by_free_memory_leave_room_for_the_result(
        self, monkeypatch: pytest.MonkeyPatch, self_ensemble: bool
    ) -> None:
        reserved: list[int] = []

        def free(device: torch.device, taken: int) -> int:
            reserved.append(taken)
            return 10**9

        monkeypatch.setattr("models.inference.photo.free_memory", free)
        alpha = np.random.default_rng(0).integers(0, 256, (120, 130, 1), dtype=np.uint8)
        upscale_photo(Photo(np.zeros((120, 130, 3), np.uint8), alpha), Upscaler(Net(), self_ensemble=self_ensemble))
        assert reserved == [240 * 260 * 4, 240 * 260]  # the transparency comes last

    def test_a_result_that_does_not_fit_is_refused_before_the_network_runs(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("models.inference.photo.available_memory", lambda: 5 << 30)
        network = Net()
        black = np.broadcast_to(np.uint8(0), (30_000, 30_000, 3))
        expected = r"the result has 60,000 x 60,000 pixels, which take 13.4 GiB of memory, and 5.0 GiB are free; close"
        with pytest.raises(InputError, match=expected):
            upscale_photo(Photo(black, black[..., :1]), Upscaler(network))
        assert network.seen == []

    def test_a_refusal_of_the_system_is_reported_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("models.inference.photo.available_memory", lambda: None)
        network = Net()
        with pytest.raises(InputError, match=r"which take [\d,.]+ GiB of memory; close other programs"):
            upscale_photo(Photo(np.broadcast_to(np.uint8(0), (2**23, 2**23, 3))), Upscaler(network))
        assert network.seen == []


NETWORKS: list[dict[str, object]] = [
    {"type": "PlainUSR_general"},
    {"type": "HAT", "window_size": 8, "depths": [2], "num_heads": [2], "embed_dim": 60, "upscale": 2},
    {"type": "RGT", "depth": [2], "num_heads": [2], "embed_dim": 48, "split_size": [8, 8], "upscale": 2},
    {"type": "ESC", "dim": 16, "pdim": 8, "kernel_size": 13, "n_blocks": 1, "conv_blocks": 1, "window_size": 8,
     "num_heads": 2, "upscaling_factor": 2},
    {"type": "PFT", "upscale": 2, "embed_dim": 24, "depths": [2], "num_heads": 2, "num_topk": [64, 32],
     "window_size": 8, "convffn_kernel_size": 5, "img_range": 1.0, "mlp_ratio": 2, "upsampler": "pixelshuffledirect"},
]  # fmt: skip


@pytest.mark.parametrize("configuration", NETWORKS, ids=lambda item: str(item["type"]))
def test_networks_in_half_precision_stay_within_one_level_of_255(configuration: dict[str, object]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = archs.build_network(configuration)
    whole = Upscaler(network)(image(26, 34))
    half = Upscaler(network.half())(image(26, 34))
    assert (half - whole).abs().max() * 255 < (whole.max() - whole.min())  # one level of 255


@pytest.mark.shared
def test_tiles_of_published_weights_keep_the_bound_of_the_documentation(shared: Path) -> None:
    """The bound of docs/upscaling.md, on the image and the network where it is hardest to keep."""
    folder = shared / "data/Set14/x4"
    lq, gt = to_tensor(read_image(folder / "LR/img_014.png")), read_image(folder / "HR/img_014.png")
    network = network_from_weights(shared / "weights/PlainUSR_Rep_x4.pth")
    assert getattr(network, "receptive_radius", None) is None
    whole, tiled = upscale(network, lq), Upscaler(network, tile=96)(lq)
    difference = (whole.clamp(0, 1) - tiled.clamp(0, 1)).double()
    assert -10 * difference.square().mean().log10() > 49
    assert difference.abs().mean() * 255 < 0.4
    scores = [calculate_psnr(to_uint8(item), gt, 4, test_y_channel=True) for item in (whole, tiled)]
    assert abs(scores[0] - scores[1]) < 0.05
    exact = network_from_weights(shared / "weights/PlainUSRU_Rep_x4.pth")
    torch.testing.assert_close(Upscaler(exact, tile=96)(lq), upscale(exact, lq), atol=1e-5, rtol=0)
