"""Perceptual and style loss in small networks: what is compared, gradients, misuse; recorded ones: test_recorded.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from losses import FeatureDistance, PerceptualLossOptions
from losses.vgg import VGGFeatures, shapes_of, smallest_side
from utils.errors import InputError
from utils.typed import Report, read

CPU = torch.device("cpu")
Build = Callable[..., FeatureDistance]


def random_weights(kind: Any, last: int) -> dict[str, Tensor]:
    """Tensors for layers up to ``features.LAST``."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(shape, generator=generator).sub(0.4).div(max(shape.numel() // shape[0], 1) ** 0.5)
        if not name.endswith("running_var")
        else 0.5 + torch.rand(shape, generator=generator)
        for name, shape in shapes_of(kind).items()
        if int(name.split(".")[1]) <= last
    }


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Builds losses of a file with the first four convolutions of VGG-19."""
    torch.save(random_weights("vgg19", 7), tmp_path / "vgg.pth")

    def built(**options: Any) -> FeatureDistance:
        options = {"layer_weights": {"conv1_2": 1}, "vgg_weights": tmp_path / "vgg.pth", **options}
        return PerceptualLossOptions(**options).build(CPU)

    return built


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 8, 6, generator=generator), torch.rand(2, 3, 8, 6, generator=generator)


def test_features_are_those_of_torchs_layers() -> None:
    weights = random_weights("vgg11_bn", 4)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.BatchNorm2d(64), torch.nn.ReLU(), torch.nn.MaxPool2d(2, 2),
        torch.nn.Conv2d(64, 128, 3, padding=1),
    ).eval()  # fmt: skip
    layers.load_state_dict({name.removeprefix("features."): value for name, value in weights.items()}, strict=False)
    image = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    names = ["conv1_1", "bn1_1", "relu1_1", "pool1", "conv2_1"]
    found = VGGFeatures("vgg11_bn", names, weights)(image)
    for name, layer in zip(names, layers, strict=True):
        image = layer(image)
        torch.testing.assert_close(found[name], image)


def test_a_conv_is_taken_before_its_relu_which_changes_nothing_in_place() -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = VGGFeatures("vgg19", ["conv1_1", "relu1_1", "conv1_2"], random_weights("vgg19", 2))(image)
    assert float(found["conv1_1"].min()) < 0
    torch.testing.assert_close(found["relu1_1"], F.relu(found["conv1_1"]))
    assert found.keys() == {"conv1_1", "relu1_1", "conv1_2"}


def test_the_network_ends_after_the_deepest_layer(build: Build) -> None:
    assert build().features.layers[-1] == "conv1_2"
    assert build(layer_weights={"relu2_1": 1, "conv1_1": 1, "conv5_4": 0}).features.layers[-1] == "relu2_1"


def test_only_the_output_gets_a_gradient(build: Build, pair: tuple[Tensor, Tensor]) -> None:
    prediction, target = (image.requires_grad_() for image in pair)
    distance = build(style_weight=1.0)
    terms = distance.terms(prediction, target)
    assert list(terms) == ["percep", "style"]
    sum(terms.values(), torch.zeros(())).backward()
    assert prediction.grad is not None
    assert target.grad is None
    assert not any(value.requires_grad for tensors in distance.features.weights.values() for value in tensors.values())


def test_terms_without_a_weight_are_left_out(build: Build, pair: tuple[Tensor, Tensor]) -> None:
    assert build(style_weight=-1.0).terms(*pair).keys() == {"percep"}
    assert build(perceptual_weight=0, style_weight=2.0).terms(*pair).keys() == {"style"}


def test_images_from_minus_one_to_one_are_those_of_zero_to_one(build: Build, pair: tuple[Tensor, Tensor]) -> None:
    moved = build(range_norm=True).terms(2 * pair[0] - 1, 2 * pair[1] - 1)
    torch.testing.assert_close(moved, build().terms(*pair))


def test_outputs_beyond_the_range_are_not_clamped(build: Build, pair: tuple[Tensor, Tensor]) -> None:
    prediction = (pair[0] + 2).requires_grad_()
    build().terms(prediction, pair[1])["percep"].backward()
    assert prediction.grad is not None
    assert bool(prediction.grad.any(dim=1).all())


@pytest.mark.parametrize("criterion", ["l1", "l2", "fro"])
def test_equal_images_have_no_loss_and_no_gradient(build: Build, pair: tuple[Tensor, Tensor], criterion: str) -> None:
    prediction = pair[0].clone().requires_grad_()
    for value in build(criterion=criterion, style_weight=1.0).terms(prediction, pair[0]).values():
        [gradient] = torch.autograd.grad(value, prediction, retain_graph=True)
        assert value.item() == 0
        assert not gradient.any()


@pytest.mark.parametrize("criterion", ["l1", "l2", "fro"])
def test_only_the_norm_is_no_mean_over_images(build: Build, pair: tuple[Tensor, Tensor], criterion: str) -> None:
    distance = build(criterion=criterion, style_weight=1.0)
    whole = distance.terms(*pair)
    parts = [distance.terms(pair[0][k : k + 1], pair[1][k : k + 1]) for k in range(2)]
    for name, value in whole.items():
        mean = (parts[0][name] + parts[1][name]) / 2
        assert bool(torch.isclose(mean, value, rtol=1e-5)) is distance.options.mean_over_images


def test_precision_is_float32_at_least_and_that_of_the_images(build: Build, pair: tuple[Tensor, Tensor]) -> None:
    distance = build(style_weight=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        half = distance.terms(pair[0].half(), pair[1])
    single = distance.terms(pair[0].half().float(), pair[1])
    double = distance.terms(pair[0].half().double(), pair[1])
    for name, value in single.items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], value, rtol=1e-6, atol=0)
        assert double[name].dtype == torch.float64
        torch.testing.assert_close(value.double(), double[name], rtol=1e-5, atol=0)


def test_images_that_do_not_fit_are_refused(build: Build) -> None:
    distance = build(layer_weights={"conv2_2": 1})
    with pytest.raises(InputError, match="compares R G B images, but these have 1 channels"):
        distance.terms(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
    with pytest.raises(InputError, match=r"patches of 1 x 8 pixels are too small.*\(conv2_2\); at least 2 x 2"):
        distance.terms(torch.zeros(1, 3, 1, 8), torch.zeros(1, 3, 1, 8))
    with pytest.raises(ValueError, match="differ in shape"):
        distance.terms(torch.zeros(1, 3, 8, 8), torch.zeros(2, 3, 8, 8))
    assert [smallest_side("vgg19", [name]) for name in ("conv1_2", "pool1", "conv5_4", "pool5")] == [1, 2, 16, 32]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_weights": {"conv5_5": 1}}, 'vgg19 has no layer "conv5_5"; it has conv5_1 to conv5_4'),
        ({"layer_weights": {"conv4_4": 1}, "vgg_type": "vgg16"}, 'vgg16 has no layer "conv4_4"; it has conv4_1 to'),
        ({"layer_weights": {"conv2_2": 1}, "vgg_type": "vgg11"}, 'vgg11 has no layer "conv2_2"; it has conv2_1$'),
        ({"layer_weights": {"cnv5_4": 1}}, r'vgg19 has no layer "cnv5_4" \(did you mean "conv5_4"\?\)'),
        ({"layer_weights": {"bn5_4": 1}}, 'vgg19 has no layer "bn5_4"; layers are called conv1_2'),
        ({"layer_weights": {"conv5_4": 1}, "vgg_type": "vgg12"}, "vgg_type: expected one of vgg11, .*, got"),
        ({"layer_weights": {"conv5_4": -1}}, "layer_weights.conv5_4: expected a number from 0 to 1,000,000, got -1"),
        ({"layer_weights": {"conv5_4": 0}}, "no layer has a factor above 0"),
        ({"layer_weights": {}}, "no layer has a factor above 0"),
        ({"layer_weights": ["conv5_4"]}, "expected a mapping"),
        ({}, 'the key "layer_weights" is missing'),
        ({"layer_weights": {"conv5_4": 1}, "perceptual_weight": 0}, "neither is above 0"),
        ({"layer_weights": {"conv5_4": 1}, "criterion": "l3"}, "criterion: expected one of l1, l2, fro"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options: dict[str, Any], message: str) -> None:
    report = Report()
    read(options, PerceptualLossOptions, report)
    with pytest.raises(InputError, match=message):
        report.raise_problems("train.perceptual_opt")


def test_bn_networks_have_norms_between_convolution_and_relu() -> None:
    assert PerceptualLossOptions(layer_weights={"bn5_4": 1}, vgg_type="vgg19_bn").layers == ["bn5_4"]
