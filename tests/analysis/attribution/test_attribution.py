"""Local attribution maps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.attribution import Attributed, BlurPath, Window, attribute
from analysis.attribution.objective import detail
from analysis.images import Crop, read_picture
from analysis.subjects import forward
from models.weights.recognise import network_from_weights
from tests.analysis.recorded import analysis_case
from tests.archs.test_contract import SMALL
from tests.models.export.networks import network_of
from utils.errors import InputError

RECORDED = {  # in float32 where float64 takes seconds
    "lam_plainusr_general_x2": torch.float64,
    "lam_plainusr_border_x2": torch.float64,
    "lam_esc_x4": torch.float32,
    "lam_hat_x4": torch.float32,
    "lam_pft_light_x2": torch.float32,
}
CROPS = {"comic": None, "zebra": Crop(160, 60, 256, 256), "barbara": Crop(440, 260, 256, 256)}


@pytest.mark.shared
@pytest.mark.parametrize("name", RECORDED)
def test_maps_are_the_recorded_ones(shared: Path, name: str) -> None:
    recorded, dtype = analysis_case(shared, name), RECORDED[name]
    allowed = recorded.info["tolerance"]
    start = "float32_" if dtype == torch.float32 else ""
    network = recorded.network().to(dtype).requires_grad_(False)
    found = attribute(network, recorded.x, [Window(**recorded.info["window"])])
    [item] = found.windows
    assert found.passes == 46  # the last four steps change nothing
    assert np.abs(item.map - recorded.arrays["map"].numpy()).max() < allowed[f"{start}map"]
    assert item.diffusion_index == pytest.approx(recorded.info["di"], abs=allowed[f"{start}di"])
    exact = 1e-6 if dtype == torch.float64 else 1e-3
    assert item.gini == pytest.approx(recorded.info["gini"], abs=exact)
    assert item.total == pytest.approx(recorded.info["attribution_total"], abs=exact)
    assert item.last == pytest.approx(recorded.info["objective_last"], abs=exact)
    assert item.undefined == 0
    if dtype == torch.float64:
        assert np.abs(item.signed - recorded.arrays["signed"].numpy()).max() < 1e-6
        assert np.abs(item.channels - recorded.arrays["channels"].numpy()).max() < 1e-5


@pytest.mark.published
@pytest.mark.shared
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CROPS)
def test_published_weights_give_the_recorded_maps(shared: Path, name: str, dtype: torch.dtype) -> None:
    recorded = analysis_case(shared, f"lam_real_{name}")
    info, start = recorded.info, "float32_" if dtype == torch.float32 else ""
    file = shared / "data" / info["image"]
    picture = read_picture(file, kind="hr", scale=4, crop=CROPS[name], rule="pillow", dtype=dtype)
    network = network_from_weights(shared / "weights" / info["checkpoint"]).to(dtype)
    [item] = attribute(network, picture.lr, [Window(**info["window"])]).windows
    assert np.abs(item.map - recorded.arrays["map"].numpy()).max() < info["tolerance"][f"{start}map"]
    expected = info["di_float32" if start else "di_float64"]
    assert item.diffusion_index == pytest.approx(expected, abs=info["tolerance"][f"{start}di"])


def image(*size: int) -> Tensor:
    return torch.rand(3, *size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


FAMILIES = ("HAT", "RGT", "ESC", "PFT", "PlainUSR_general_inference", "ESCLTE")


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_pass_through_the_padding_of_odd_sizes(name: str) -> None:
    network = network_of({"type": name, **SMALL[name]}).double().requires_grad_(False)
    lr, window, path = image(11, 13), Window(5, 3, 12), BlurPath(steps=1)
    [item] = attribute(network, lr, [window], path=path).windows
    # A single step is the derivative at the image in the direction of its change.
    change, width = path.step(lr, 0).change, 1e-5
    ends = [detail(forward(network, (lr + sign * width * change)[None]), window) for sign in (1, -1)]
    assert item.total == pytest.approx(float(ends[0] - ends[1]) / (2 * width), rel=1e-6)
    assert item.map.max() == 1


@pytest.mark.parametrize("name", ["HAT", "PFT"])
def test_batches_and_windows_change_nothing(name: str) -> None:
    network = network_of({"type": name, **SMALL[name]}).double().requires_grad_(False)
    lr, path, windows = image(9, 10), BlurPath(steps=3), [Window(4, 3, 12), Window(9, 12, 5)]
    done: list[int] = []
    together = attribute(network, lr, windows, path=path, batch=2, watch=done.append)
    assert sum(done) == 3
    for k, window in enumerate(windows):
        [alone] = attribute(network, lr, [window], path=path, batch=1).windows
        assert np.abs(alone.channels - together.windows[k].channels).max() < 1e-12 * np.abs(alone.channels).max()
        assert together.windows[k].window == window


def test_networks_are_in_evaluation_mode_and_go_back() -> None:
    settings: Mapping[str, Any] = {"type": "HAT", **SMALL["HAT"], "drop_path_rate": 0.5}
    network = network_of(settings).train()
    first, second = (attribute(network, image(8, 8), [Window(4, 4, 8)], path=BlurPath(2)) for _ in range(2))
    assert np.array_equal(first.windows[0].map, second.windows[0].map)
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())


class Nearest(nn.Module):
    """A network from elsewhere, whose output is flat in squares of 2 x 2."""

    scale = 2

    def forward(self, x: Tensor) -> Tensor:
        """[B, c, h, w] -> [B, c, 2h, 2w]."""
        return F.interpolate(x, scale_factor=2, mode="nearest")


def flat_map(flat: Any) -> Attributed:
    return attribute(Nearest(), image(6, 7), [Window(4, 4, 4)], path=BlurPath(2), flat=flat)


def test_undefined_gradients_count_as_zero_and_are_counted() -> None:
    [dropped], [kept] = flat_map("drop").windows, flat_map("zero").windows
    assert dropped.undefined == 2 * 3 * 4  # in both steps, the three colours of the four pixels under the window
    assert dropped.undefined_steps == 2
    assert kept.undefined == 0
    assert not dropped.map[2:4, 2:4].any()
    assert kept.map[2:4, 2:4].all()
    assert np.isfinite(dropped.map).all()


def test_the_sum_of_the_map_is_the_change_of_the_objective() -> None:
    network = network_of({"type": "PlainUSR_ultra_inference", **SMALL["PlainUSR_ultra_inference"]}).double()
    lr, window = image(12, 12), Window(6, 6, 10)
    coarse, fine = (attribute(network, lr, [window], path=BlurPath(steps)).windows[0] for steps in (10, 80))
    errors = [abs(item.total - (item.last - item.first)) for item in (coarse, fine)]
    assert errors[1] < errors[0] / 4
    assert fine.first == pytest.approx(coarse.first)


def test_what_cannot_be_attributed_is_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match="begins outside the SR image, which has 14 x 12 pixels"):
        attribute(Nearest(), image(6, 7), [Window(13, 4, 4)])
    broken = network_of({"type": "MSRResNet", **SMALL["MSRResNet"]})
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="its output holds values that are not finite"):
        attribute(broken, image(6, 7), [Window(4, 4, 4)])
