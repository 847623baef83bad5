"""Where pixels look: rows of attention maps and what is said of them, beside recorded values and plain formulas."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import archs
from analysis.attention import LookedAt, Row, look
from analysis.attention.drawing import opacity, painted_red
from analysis.attention.parts import ELEMENTS, parts
from analysis.attention.statistics import Sums
from analysis.subjects import forward
from archs.contract import image_axis
from archs.layers.places import unpadded, window_places
from archs.observation import SeenAttention, attention_seen_by
from archs.pft import bands
from ops import AttentionCall
from ops.registry import ENVIRONMENT
from ops.window.arguments import WindowArguments
from tests.golden import Case, seeded
from tests.pages import DOCS, text_of
from utils.errors import InputError

RECORDED = ("hat", "esc", "pft", "rgt")
SMALL: dict[str, dict[str, Any]] = {
    "HAT": {"type": "HAT", "upscale": 2, "window_size": 4, "compress_ratio": 3, "squeeze_factor": 6, "depths": [2],
            "embed_dim": 12, "num_heads": [2], "mlp_ratio": 1},
    "ESC": {"type": "ESC", "dim": 16, "pdim": 4, "kernel_size": 5, "n_blocks": 1, "conv_blocks": 1, "window_size": 4,
            "num_heads": 2, "exp_ratio": 1.5, "upscaling_factor": 2},
    "PFT": {"type": "PFT", "upscale": 2, "embed_dim": 12, "depths": [2, 2], "num_heads": 2, "num_topk": [16, 16, 5, 5],
            "window_size": 4, "mlp_ratio": 1.0, "upsampler": "pixelshuffledirect"},
    "ESCRealM": {"type": "ESCRealM", "dim": 16, "pdim": 4, "kernel_size": 5, "n_blocks": 1, "conv_blocks": 1,
                 "window_size": 4, "num_heads": 2, "upscaling_factor": 2, "upsampler": "pixelshuffledirect"},
    "RGT": {"type": "RGT", "upscale": 2, "embed_dim": 32, "depth": [3], "num_heads": [2], "mlp_ratio": 1,
            "split_size": [4, 8]},
}  # fmt: skip


def case_of(name: str) -> Case:
    shared = os.environ.get("FOCALSR_SHARED")
    if not shared:
        pytest.skip("FOCALSR_SHARED does not name the folder of the reference data")
    path = Path(shared) / "golden" / "analysis" / f"{name}.json"
    return Case(path, json.loads(path.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def recorded() -> dict[str, tuple[Case, LookedAt]]:
    """Each recorded case, and what we see there."""
    found = {}
    for name in RECORDED:
        case = case_of(f"attention_{name}")
        wanted = [(row, column) for row, column in {tuple(entry["pixel"]) for entry in case.info["cases"]}]
        found[name] = (case, look(case.network().eval(), case.x, wanted, compare=name == "esc"))
    return found


def pixels(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def small(kind: str) -> nn.Module:
    torch.manual_seed(0)
    network = archs.build_network(SMALL[kind]).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():  # biases and gates that start at zero shall count
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return network.requires_grad_(False)


def layer_of(name: str, entry: dict[str, Any], found: LookedAt) -> int:
    if "module" in entry:
        module = entry["module"].removesuffix(".attn.softmax").removesuffix(".softmax")
        return next(layer.number for layer in found.layers if layer.name == module)
    return 2 * entry["rg_layer"] + 1 if name == "rgt" else int(entry.get("layer", entry.get("block", 0)))


def folded(weights: np.ndarray, entry: dict[str, Any], size: list[int], mirror: str) -> tuple[np.ndarray, np.ndarray]:
    """A recorded row [h, keys] as the image [h, H, W] and what is lost, key by key as the specification says.

    Its window is one of 8 x 8, or the 12 x 12 around it.
    """
    heads, keys = weights.shape
    side = math.isqrt(keys)
    padded = [-(-length // 8) * 8 for length in size]
    corner = [entry["window"] // (padded[1] // 8) * 8, entry["window"] % (padded[1] // 8) * 8]
    image, lost = np.zeros((heads, *size)), np.zeros(heads)
    for key in range(keys):
        at = [corner[0] + key // side - (side - 8) // 2, corner[1] + key % side - (side - 8) // 2]
        if any(not 0 <= place < length for place, length in zip(at, padded, strict=True)):
            lost += weights[:, key]
            continue
        place = [(x + entry.get("shift", 0)) % length for x, length in zip(at, padded, strict=True)]
        place = [
            x if x < length else (2 * length - 1 - x if mirror == "edge" else 2 * length - 2 - x)
            for x, length in zip(place, size, strict=True)
        ]
        image[:, place[0], place[1]] += weights[:, key]
    return image, lost


@pytest.mark.shared
@pytest.mark.parametrize("name", ["hat", "esc", "pft"])
def test_rows_are_the_recorded_ones(name: str, recorded: dict[str, tuple[Case, LookedAt]]) -> None:
    case, found = recorded[name]
    for entry in case.info["cases"]:
        row = found.row(layer_of(name, entry, found), (entry["pixel"][0], entry["pixel"][1]))
        expected, lost = folded(
            case.arrays[entry["key"]].numpy(), entry, case.info["input_shape"][2:], "edge" if name == "pft" else "none"
        )
        assert np.abs(row.weights - expected).max() < case.info["tolerance"]
        assert np.abs(row.lost - lost).max() < case.info["tolerance"]
        top, left, bottom, right = row.box
        inside = row.weights[:, top:bottom, left:right].sum((1, 2))
        assert np.allclose(inside + row.lost, entry.get("sum", 1.0), atol=1e-9)
    if name == "hat":
        assert max(row.lost.max() for row in found.rows) > 0.05  # of keys above the image's first rows


@pytest.mark.shared
def test_representatives_are_the_recorded_ones(recorded: dict[str, tuple[Case, LookedAt]]) -> None:
    case, found = recorded["rgt"]
    for entry in case.info["cases"]:
        row = found.row(layer_of("rgt", entry, found), (entry["pixel"][0], entry["pixel"][1]))
        assert (row.keys, row.cell, row.box) == (6, 16, (0, 0, 32, 48))
        by_square = row.weights.reshape(2, 2, 16, 3, 16).sum((2, 4)).reshape(2, 6)
        assert np.abs(by_square - case.arrays[entry["key"]].numpy()).max() < case.info["tolerance"]
    for number in range(2):
        found_of = found.layers[2 * number + 1].representatives
        assert found_of is not None
        assert (found_of.grid, found_of.cell) == ((2, 3), 16)
        assert np.abs(found_of.mean - case.arrays[f"rg{number}_mean"].numpy()).max() < case.info["tolerance"]
        assert found_of.weights is not None
        weights = found_of.weights[:, 5, 7]
        assert np.allclose(weights, case.arrays[f"rg{number}_p5_7"].mean(0))
    assert found_of is not None
    p = case.arrays["rg1_p30_41"].numpy()
    assert found_of.entropy[:, 30, 41] == pytest.approx(-(p * np.log(p)).sum(-1) / math.log(6))


@pytest.mark.shared
def test_mean_distances_are_the_recorded_ones(recorded: dict[str, tuple[Case, LookedAt]]) -> None:
    expected = case_of("mad_hat").info
    by_module = {f"{layer.name}.attn.softmax": layer for layer in recorded["hat"][1].layers}
    for module, distances in expected["per_head"].items():
        assert np.abs(by_module[module].per_head("distance") - distances).max() < expected["tolerance"]
        assert by_module[module].mean("distance") == pytest.approx(expected["mean_distance"][module], abs=1e-9)


def sums_of(weights: Tensor, side: int, size: int) -> Sums:
    """Of attention that has these weights [W, h, N, N]."""
    nothing = torch.zeros(*weights.shape[:3], 1).double()
    call = AttentionCall(WindowArguments(nothing, nothing, nothing, None, None, 1.0))
    object.__setattr__(call, "weights", lambda windows, queries: weights[windows, :, queries])
    axis = unpadded(size, weights.device)
    places = window_places(axis, axis, (side, side))
    sums = Sums(places, weights.shape[1])
    sums.add(SeenAttention(0, 0, places, 0, call))
    return sums


@pytest.mark.shared
def test_mean_distances_of_given_weights_are_the_recorded_ones() -> None:
    info = case_of("mad").info
    attention = torch.from_numpy(2 * seeded().seeded_array("analysis/mad/attention", (2, 3, 1, 2, 4, 16, 16))).softmax(
        -1
    )
    for layer, by_image in enumerate(info["mean_distance_layer_image"]):
        for image, expected in enumerate(by_image):
            weights = attention[image, layer, 0].transpose(0, 1)  # [windows, heads, 16, 16]
            assert sums_of(weights, 4, 8).means().distance.mean() == pytest.approx(expected, abs=info["tolerance"])
    for side, expected in info["uniform_attention"].items():
        count = int(side) ** 2
        means = sums_of(torch.full((1, 1, count, count), 1 / count).double(), int(side), int(side)).means()
        assert means.distance[0] == pytest.approx(expected, abs=1e-12)
        assert means.uniform == pytest.approx(expected, abs=1e-12)
        assert means.entropy[0] == pytest.approx(math.log(count))


@pytest.mark.shared
def test_similarity_is_the_recorded_one(recorded: dict[str, tuple[Case, LookedAt]]) -> None:
    expected, found = case_of("similarity_esc").info, recorded["esc"][1]
    tolerance = expected["tolerance"]["from_network"]
    assert found.similarity is not None
    assert np.abs(found.similarity.cosine - expected["attention_map_cosine"]).max() < tolerance
    assert np.abs(found.similarity.jensen_shannon - expected["attention_map_jensen_shannon"]).max() < tolerance
    entropy = [layer.mean("entropy") for layer in found.layers]
    assert entropy == pytest.approx(expected["attention_entropy"], abs=tolerance)


@pytest.mark.parametrize("kind", SMALL)
def test_looking_changes_no_result_and_no_backend_what_is_seen(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = small(kind), pixels(1, 3, 17, 22)
    outputs: list[Tensor] = []

    def kept(network: nn.Module, x: Tensor) -> Tensor:
        outputs.append(forward(network, x))
        return outputs[-1]

    plain = kept(network, x)
    seen = []
    for environment in ("auto", "reference"):
        monkeypatch.setenv(ENVIRONMENT, environment)
        seen.append(look(network, x, [(16, 20), (0, 5)], compare=True, run=kept))
    assert torch.allclose(outputs[1], plain, rtol=0, atol=1e-12)
    # Where nobody looks, one is folded, one normalises in its products, and one cuts no windows.
    if kind not in ("RGT", "PFT", "HAT"):
        assert torch.equal(outputs[1], plain)
    monkeypatch.delenv(ENVIRONMENT)
    assert torch.equal(kept(network, x), plain)
    ours, reference = seen
    for a, b in zip(ours.rows, reference.rows, strict=True):
        assert np.allclose(a.weights, b.weights, atol=1e-12)
        total = a.weights.sum((1, 2)) + a.lost
        assert (total < 1 + 1e-12).all()
        assert kind == "PFT" or np.allclose(total, 1)
    for first, second in zip(ours.layers, reference.layers, strict=True):
        assert np.allclose(first.per_head("distance"), second.per_head("distance"), atol=1e-9)
    assert len(ours.rows) == 2 * len(ours.layers)


def test_padding_is_told_as_the_networks_do_it() -> None:
    device = torch.device("cpu")
    edge_twice = image_axis(small("PFT"), 6, device)
    assert edge_twice[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 5, 4]
    by_the_caller = image_axis(small("HAT"), 6, device)
    assert by_the_caller[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 4, 3]
    assert image_axis(small("ESC"), 6, device)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]  # it pads in its attention alone
    assert image_axis(small("ESCRealM"), 5, device).tolist() == [[0, 1], [2, 3], [4, 3]]


def test_places_of_an_unshuffled_image_are_squares_of_pixels() -> None:
    network, x = small("ESCRealM"), pixels(1, 3, 17, 22)
    found = look(network, x, [(16, 21)])
    [row] = found.rows
    # Places of 2 x 2: 9 x 11 in windows of 4 x 4, filled by mirror images; the last row of the image has one copy.
    assert (row.cell, row.grid, row.box) == (2, None, (10, 16, 17, 22))
    assert np.allclose(row.weights.sum((1, 2)), 1)
    square = row.weights[:, 10:12, 16:18]
    assert np.allclose(square, square[:, :1, :1])
    assert found.layers[0].uniform == pytest.approx(2 * 2.008014969380088)
    assert found.layers[0].per_head("distance") == pytest.approx([2 * 2.008] * 2, rel=0.2)


def test_what_lies_beyond_the_image_is_lost_or_a_copy() -> None:
    """RGT fills windows with zeros, OCAB surrounds the image with them; others fill with what is there."""
    x = pixels(1, 3, 17, 22)
    for kind, losing in (("HAT", {2}), ("ESC", set()), ("PFT", set()), ("RGT", {0, 2})):
        layers = look(small(kind), x).layers
        assert {layer.number for layer in layers if layer.mean("lost") > 0} == losing


@pytest.mark.parametrize("kind", ["HAT", "RGT"])
def test_few_weights_at_a_time_add_up_to_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = small(kind), pixels(1, 3, 17, 22)
    whole = look(network, x, compare=True)
    monkeypatch.setattr("analysis.attention.parts.ELEMENTS", 150)  # less than the rows of one window
    by_part = look(network, x, compare=True)
    for one, other in zip(whole.layers, by_part.layers, strict=True):
        for name in ("distance", "entropy", "lost"):
            assert np.allclose(one.per_head(name), other.per_head(name), rtol=1e-12)
        assert one.uniform == pytest.approx(other.uniform)
        if one.representatives is not None:
            assert other.representatives is not None
            assert np.allclose(one.representatives.mean, other.representatives.mean)
            assert np.allclose(one.representatives.entropy, other.representatives.entropy)
            assert one.representatives.weights is not None
            assert other.representatives.weights is not None
            assert np.allclose(one.representatives.weights, other.representatives.weights)
    assert whole.similarity is not None
    assert by_part.similarity is not None
    assert np.allclose(whole.similarity.cosine, by_part.similarity.cosine, equal_nan=True)


def test_parts_of_a_call_at_720p_are_few_weights() -> None:
    q = torch.empty(240, 6, 256, 30, device="meta")
    k = torch.empty(240, 6, 576, 30, device="meta")
    call = AttentionCall(WindowArguments(q, k, k, None, None, 1.0))
    rows = 0
    for windows, queries in parts(call):
        count = (windows.stop - windows.start) * (queries.stop - queries.start)
        assert count * 6 * 576 <= ELEMENTS
        rows += count
    assert rows == 240 * 256


def test_bands_of_a_large_image_are_seen_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = small("PFT"), pixels(1, 3, 17, 22)
    whole = look(network, x, [(16, 20)], compare=True)
    monkeypatch.setattr(bands, "BAND_PIXELS", 64)
    in_bands = look(network, x, [(16, 20)], compare=True)
    for a, b in zip(whole.rows, in_bands.rows, strict=True):
        assert np.allclose(a.weights, b.weights, atol=1e-12)
        assert a.box == b.box
    for one, other in zip(whole.layers, in_bands.layers, strict=True):
        assert np.allclose(one.per_head("distance"), other.per_head("distance"))
    assert whole.similarity is not None
    assert in_bands.similarity is not None
    assert np.allclose(whole.similarity.jensen_shannon, in_bands.similarity.jensen_shannon, equal_nan=True)


def test_chains_and_layers_are_chosen() -> None:
    network, x = small("PFT"), pixels(1, 3, 9, 9)
    found = look(network, x, chains=[2], statistics=False)
    assert [(layer.number, layer.chain, layer.means) for layer in found.layers] == [(1, 2, None), (3, 2, None)]
    assert [layer.number for layer in look(network, x, layers=[3, 0]).layers] == [0, 3]
    hat = look(small("HAT"), x)
    assert [layer.chain for layer in hat.layers] == [1, 2, 3]
    with pytest.raises(InputError, match=r"no chain 3; .* 2 chain"):
        look(network, x, chains=[3])
    with pytest.raises(InputError, match="PFT has no attention layer 4; expected numbers from 0 to 3"):
        look(network, x, layers=[4])
    with pytest.raises(InputError, match=r"pixel 9,0 .* 9 rows and 9 columns"):
        look(network, x, [(9, 0)])


def test_networks_without_rows_get_a_sentence() -> None:
    network = archs.build_network({"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2})
    with pytest.raises(InputError, match=r"MSRResNet has no attention between pixels .*`analyse.py maps`"):
        look(network, torch.zeros(1, 3, 8, 8))


def test_places_that_are_not_the_modules_are_found_out() -> None:
    network = small("ESC")
    module = network.get_submodule("blocks.0.attn")
    module.attention_places = lambda x: (window_places(unpadded(8, x.device), unpadded(8, x.device), (4, 4)),)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="attention_places does not fit its attention"):
        look(network, pixels(1, 3, 12, 12))


def test_modules_are_as_before_after_an_error() -> None:
    network = small("ESC")

    def fail(seen: SeenAttention) -> None:
        raise RuntimeError("in the observer")

    with pytest.raises(RuntimeError, match="in the observer"), attention_seen_by(network, fail):
        network(torch.zeros(1, 3, 8, 8).double())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    network(torch.zeros(1, 3, 8, 8).double())


def test_red_is_opaque_from_ten_times_the_uniform_weight_on() -> None:
    weights = np.array([[[0.0, 0.005], [0.01, 0.5]]])
    row = Row(0, (0, 0), weights, np.zeros(1), 1000, 1, None, (0, 0, 2, 2))
    assert opacity(row).tolist() == [[0, 0.5], [1, 1]]
    white = np.full((2, 2, 3), 255, np.uint8)
    drawn = painted_red(white, opacity(row))
    assert drawn[..., 0].min() == 255
    assert drawn[..., 1].tolist() == drawn[..., 2].tolist() == [[255, 128], [0, 0]]  # 127 / 255 opaque
    # Squares that represent the image: 16 pixels share a weight, four times that of six alike is opaque.
    squares = np.full((1, 4, 4), 1 / 6 / 16)
    assert np.allclose(opacity(Row(0, (0, 0), squares, np.zeros(1), 6, 4, (1, 1), (0, 0, 4, 4))), 0.25)


def test_example_of_the_page_on_blocks_runs() -> None:
    page = text_of(DOCS / "modules.md").partition("## Looking at attention")[2]
    [code] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    exec(compile(code, "modules.md", "exec"), {})
