"""CKA and cosine of features."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from analysis import similarity as module
from analysis.similarity import HSICMean, gram, pixel_similarity, similarity
from archs import build_network
from tests.analysis.recorded import analysis_case, seeded_array
from tests.archs.test_contract import SMALL
from utils.errors import InputError


def written_out(x: Tensor, y: Tensor) -> float:
    """HSIC as it stands in the paper, sum by sum."""
    n = len(x)
    k, m = ((z @ z.t()).fill_diagonal_(0) for z in (x.flatten(1), y.flatten(1)))
    one = torch.ones(n, dtype=x.dtype)
    total = (k @ m).trace() + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    total = total - 2 / (n - 2) * (one @ k @ m @ one)
    return float(total) / (n * (n - 3))


def cka_of(layers: list[Tensor]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    mean = HSICMean()
    mean.add_grams(torch.stack([gram(layer) for layer in layers]))
    return mean.cka()


@pytest.mark.shared
def test_recorded_pairs(shared: Path) -> None:
    case = analysis_case(shared, "cka_pairs")
    name, n, layers = "analysis/cka/pairs", 12, []
    base = seeded_array(f"{name}/base", (n, 40))
    for i, shape in enumerate(case.info["shapes"]):
        d = math.prod(shape[1:])
        mix, noise = seeded_array(f"{name}/mix{i}", (40, d)) / 40**0.5, seeded_array(f"{name}/noise{i}", (n, d))
        layers.append((base @ mix + 0.3 * (i + 1) * noise + 0.5 * i).view(*shape))
    by_grams, by_features = HSICMean(), HSICMean()
    by_grams.add_grams(torch.stack([gram(layer) for layer in layers]))
    by_features.add_features([layer.flatten(1) for layer in layers])
    for mean in (by_grams, by_features):
        assert np.abs(mean.cka() - case.arrays["cka"].numpy()).max() < case.info["tolerance"]
        assert np.allclose(mean.hsic, case.arrays["hsic"].numpy(), rtol=1e-10, atol=1e-10)
    assert (by_grams.cka()[3, :3] < 0).all()  # it may be negative, and stays so


@pytest.mark.shared
def test_recorded_layers_of_esc_with_pixels_as_samples(shared: Path) -> None:
    recorded, built = analysis_case(shared, "similarity_esc"), analysis_case(shared, "attention_esc")
    found = pixel_similarity([built.network().eval()], [recorded.info["modules"]], [[built.x]])
    tolerance = recorded.info["tolerance"]["from_network"]
    assert np.abs(found.similarity.cka - recorded.arrays["cka"].numpy()).max() < tolerance
    assert np.abs(found.cosine - recorded.arrays["cosine"].numpy()).max() < tolerance
    assert found.similarity.samples == 13 * 18
    assert found.similarity.rows.values == (32,) * 6


def test_hsic_is_averaged_over_batches_and_divided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    batches = [[torch.randn(n, *shape).double() for shape in ((3, 4, 5), (7,))] for n in (6, 9)]
    monkeypatch.setattr(module, "_CHUNK", 50)  # Gram matrices in pieces of few values
    mean = HSICMean()
    for x, y in batches:
        mean.add_grams(torch.stack([gram(x), gram(y)]))
    xy, xx, yy = (np.mean([written_out(b[i], b[j]) for b in batches]) for i, j in ((0, 1), (0, 0), (1, 1)))
    assert mean.cka()[0, 1] == pytest.approx(xy / np.sqrt(xx * yy), rel=1e-10)
    single = [cka_of(batch)[0, 1] for batch in batches]
    assert abs(mean.cka()[0, 1] - np.mean(single)) > 1e-4  # another number


def test_cka_does_not_see_rotations_scales_and_constants() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(9, 6).double(), torch.randn(9, 6).double()
    rotation = torch.linalg.qr(torch.randn(6, 6).double()).Q
    found = cka_of([x, 3 * x @ rotation + 5, y])
    assert found[0, 1] == pytest.approx(1, abs=1e-12)
    assert found[1, 2] == pytest.approx(found[0, 2], abs=1e-12)


def test_what_is_not_defined_is_not_zero() -> None:
    torch.manual_seed(0)
    found = cka_of([torch.randn(6, 5), torch.ones(6, 3)])
    assert found[0, 0] == pytest.approx(1)
    assert np.isnan(found[1]).all()
    assert np.isnan(found[0, 1])
    with pytest.raises(InputError, match="CKA needs at least 4 samples in a batch, better 8 or more; got 3"):
        cka_of([torch.randn(3, 5)])


def test_blocks_of_one_network_of_two_and_of_two_checkpoints() -> None:
    torch.manual_seed(0)
    one, other = (
        build_network({"type": name, **SMALL[name]}).eval().requires_grad_(False)
        for name in ("MSRResNet", "PlainUSR_ultra_inference")
    )
    checkpoint = build_network({"type": "MSRResNet", **SMALL["MSRResNet"]}).eval().requires_grad_(False)
    images = [torch.rand(6, 3, 10, 12), torch.rand(5, 3, 10, 12)]
    bodies, blocks = ["body.0", "body.1"], ["block1", "blockm", "block2"]
    own = similarity([one], [bodies], [images])
    assert own.cka.shape == (2, 2)
    assert own.cka == pytest.approx(own.cka.T)
    assert own.cka.diagonal() == pytest.approx(1)
    assert (own.samples, own.batches, own.rows.values) == (6, 2, (cast("Any", one).conv_first.out_channels * 120,) * 2)
    across = similarity([one, other], [bodies, blocks], [images, images])
    assert across.cka.shape == (2, 3)
    assert across.columns.names == ("block1", "blockm", "block2")
    same = similarity([one, one], [bodies, bodies], [images, images])
    assert same.cka == pytest.approx(own.cka, abs=1e-12)
    changed = similarity([one, checkpoint], [bodies, bodies], [images, images])
    assert 0 < changed.cka[0, 0] < 0.9999
    with pytest.raises(InputError, match="at least 4 samples"):
        similarity([one], [bodies], [[images[0][:3]]])


def test_cosine_of_maps_of_different_widths_is_not_defined() -> None:
    torch.manual_seed(0)
    network = build_network({"type": "PlainUSR_ultra_inference", **SMALL["PlainUSR_ultra_inference"]}).eval()
    found = pixel_similarity([network], [["block1", "blockm", "block2"]], [[torch.rand(1, 3, 8, 9)] * 2])
    assert np.isnan(found.cosine[0, 1])
    assert found.cosine.diagonal() == pytest.approx(1)
    assert -1 <= found.cosine[0, 2] < 1
    assert found.similarity.batches == 2
    with pytest.raises(InputError, match="maps of one size; these have 72 to 288 pixels"):
        pixel_similarity([network], [["block1", "tail"]], [[torch.rand(1, 3, 8, 9)]])
