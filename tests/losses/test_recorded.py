"""Losses of published code: values and gradients as recorded."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from losses import ADVERSARIAL, LOSSES, FeatureDistance, L1Loss, PerceptualLossOptions, artefact_map, vgg_weights
from losses.pixel import PixelLoss
from losses.variation import TotalVariation
from losses.vgg import VGGFeatures, VGGKind, layer_names
from tests.golden import assert_close, seeded, seeded_input
from tests.vgg import seeded_vgg
from utils.typed import Report, read

CPU = torch.device("cpu")
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

pytestmark = pytest.mark.shared


def recorded(name: str, shared: Path) -> dict[str, Any]:
    """The record of a group of losses."""
    content: dict[str, Any] = json.loads((shared / "golden" / "gan" / f"{name}.json").read_text())
    return content


def options_of(case: dict[str, Any], table: Any) -> Any:
    """The options of a case, read as those of an option file are."""
    report = Report()
    options = read(case["options"], table[case["type"]], report)
    assert not report.problems
    return options


def gradient_norm(loss: Tensor, x: Tensor) -> float:
    """The norm of the gradient of ``x``."""
    [gradient] = torch.autograd.grad(loss, x)
    return float(gradient.norm())


def test_pixel_losses(shared: Path) -> None:
    record = recorded("losses_pixel", shared)
    shape, prefix = record["input_shape"], record["input_prefix"]
    target = seeded_input(f"{prefix}/target", shape)
    weights = {
        None: None,
        "weight": seeded_input(f"{prefix}/weight", [shape[0], 1, *shape[2:]]),
        "weight3": seeded_input(f"{prefix}/weight3", shape),
    }
    assert {case["type"] for case in record["cases"]} == {"L1Loss", "MSELoss", "CharbonnierLoss", "WeightedTVLoss"}
    for case in record["cases"]:
        prediction = seeded_input(f"{prefix}/prediction", shape).requires_grad_()
        loss = options_of(case, LOSSES).build(CPU)
        assert isinstance(loss, PixelLoss | TotalVariation)
        value = loss(prediction, target, weights[case["element_weight"]])
        assert value.item() == pytest.approx(case["value"], rel=record["rtol"]), case
        assert gradient_norm(value, prediction) == pytest.approx(case["grad_norm"], rel=record["rtol"]), case


def test_adversarial_losses(shared: Path) -> None:
    record = recorded("losses_gan", shared)
    assert len({case["options"]["gan_type"] for case in record["cases"]}) == 5
    for case in record["cases"]:
        logits = torch.from_numpy(seeded().seeded_array("gan/losses/logits", tuple(record["shape"]), 2.0))
        logits.requires_grad_()
        loss = options_of(case, ADVERSARIAL).build(CPU)
        value = loss(logits, case["target_is_real"], is_disc=case["is_disc"])
        assert value.item() == pytest.approx(case["value"], rel=record["rtol"]), case
        assert gradient_norm(value, logits) == pytest.approx(case["grad_norm"], rel=record["rtol"]), case


def test_artefact_loss(shared: Path) -> None:
    record = recorded("losses_ldl", shared)
    gt, output, ema = (seeded_input(f"gan/ldl/{name}", record["shape"]) for name in ("gt", "output", "ema"))
    prediction = (0.5 * gt + 0.5 * output).requires_grad_()
    for detach, norm in ((False, record["grad_norm"]), (True, record["grad_norm_if_map_detached"])):
        found = artefact_map(prediction, gt, 0.6 * gt + 0.4 * ema, detach=detach)
        loss = L1Loss().build(CPU)(found * prediction, found * gt)
        assert loss.item() == pytest.approx(record["value"], rel=1e-9)
        assert gradient_norm(loss, prediction) == pytest.approx(norm, rel=1e-9)
        assert found.mean().item() == pytest.approx(record["map_mean"], rel=1e-9)
        assert (found == 0).double().mean().item() == pytest.approx(record["map_share_of_zeros"])
    with np.load(shared / "golden" / "gan" / "losses_ldl.npz") as content:
        assert_close(found.detach(), torch.from_numpy(content["artifact_map"]).double(), record["rtol"])


@pytest.fixture(scope="module")
def weights() -> Callable[[VGGKind], dict[str, Tensor]]:
    """The recorded cases' weights, kept for the tests of this file."""
    return functools.lru_cache(seeded_vgg)


@pytest.fixture
def distance_of(
    weights: Callable[[VGGKind], dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> Callable[[PerceptualLossOptions], FeatureDistance]:
    """Builds perceptual losses with those weights, without a file of 80 MB for each; features are computed once."""
    monkeypatch.setattr(vgg_weights, "find", lambda kind, given: Path(kind))
    monkeypatch.setattr(vgg_weights, "read", lambda path, kind, layers, device: weights(kind))
    known: dict[Any, dict[str, Tensor]] = {}

    def build(options: PerceptualLossOptions) -> FeatureDistance:
        distance = FeatureDistance(options, CPU)
        features, key = distance.features, (options.vgg_type, options.use_input_norm)

        def remembered(images: Tensor) -> dict[str, Tensor]:
            place = (*key, images.requires_grad)
            return known[place] if place in known else known.setdefault(place, features(images))

        monkeypatch.setattr(distance, "features", remembered)
        return distance

    return build


def test_perceptual_losses(shared: Path, distance_of: Callable[[PerceptualLossOptions], FeatureDistance]) -> None:
    record = recorded("losses_perceptual", shared)
    target = seeded_input(f"{record['input_prefix']}/target", record["input_shape"])
    prediction = seeded_input(f"{record['input_prefix']}/prediction", record["input_shape"]).requires_grad_()
    seen = set()
    for case in record["cases"]:
        options = options_of(case, {"PerceptualLoss": PerceptualLossOptions})
        terms = distance_of(options).terms(prediction, target)
        assert {f"l_{name}" for name in terms} == {name for name in ("l_percep", "l_style") if case[name] is not None}
        for name, value in terms.items():
            assert value.item() == pytest.approx(case[f"l_{name}"], rel=1e-9), case
            # Half a second each in the deep network, so not all: one of each term, the norm, the shallow ones.
            if options.smallest < 16 or (name, options.criterion) in {("style", "l1"), ("percep", "fro")}:
                seen.add((name, options.criterion))
                [gradient] = torch.autograd.grad(value, prediction, retain_graph=True)
                assert gradient.norm().item() == pytest.approx(case[f"{name}_grad_norm"], rel=1e-9), case
    assert seen == {("style", "l1"), ("percep", "fro"), ("percep", "l2")}


def test_single_features(shared: Path, weights: Callable[[VGGKind], dict[str, Tensor]]) -> None:
    record = recorded("losses_perceptual", shared)
    assert [[name, number] for number, name in enumerate(layer_names("vgg19"))] == record["layers_of_vgg19"]
    expected = record["features_of_prediction"]
    mean, deviation = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (MEAN, DEVIATION))
    image = (seeded_input(f"{record['input_prefix']}/prediction", record["input_shape"]) - mean) / deviation
    with torch.no_grad():
        found = VGGFeatures("vgg19", list(expected), weights("vgg19"))(image)
    assert found.keys() == expected.keys()
    for name, facts in expected.items():
        assert list(found[name].shape) == facts["shape"]
        assert found[name].mean().item() == pytest.approx(facts["mean"], rel=1e-9), name
        assert found[name].norm().item() == pytest.approx(facts["norm"], rel=1e-9), name
        assert found[name].min().item() == pytest.approx(facts["smallest"], rel=1e-9), name
