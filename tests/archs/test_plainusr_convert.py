"""State dicts of PlainUSR, from one form to the other, and what a checkpoint tells about its network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archs import build_network
from archs.plainusr import PlainUSR, configuration_from_state, fold_state, lift_state
from tests.golden import Case, assert_close, cases
from utils.errors import InputError

CONFIGURATIONS: list[dict[str, Any]] = [
    {"type": "PlainUSR_ultra", "n_feat": 9, "im_feat": [8, 5], "scale": 3},
    {"type": "PlainUSR_general", "n_feat": 10, "im_feat": [8, 6, 6], "attn_feat": 3, "scale": 2},
    {"type": "PlainUSR_large", "n_feat": 8, "im_feat": [8, 5, 3], "attn_feat": 2, "scale": 4},
]
PUBLISHED = [f"PlainUSR{variant}_Rep_x{scale}.pth" for variant in ("U", "T", "S", "M", "", "L") for scale in (2, 4)]


@pytest.fixture(params=CONFIGURATIONS, ids=["ultra", "general", "large"])
def configuration(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = request.param
    return found


def built(configuration: dict[str, Any], state: dict[str, Tensor] | None = None) -> PlainUSR:
    network = build_network(configuration).double()
    assert isinstance(network, PlainUSR)
    if state is not None:
        network.load_state_dict(state)
    return network


def inference(configuration: dict[str, Any]) -> dict[str, Any]:
    return {**configuration, "type": configuration["type"] + "_inference"}


def picture() -> Tensor:
    return torch.rand(1, 3, 15, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_fold_state_fits_the_folded_network(configuration: dict[str, Any]) -> None:
    network = built(configuration)
    state = network.state_dict()
    folded = fold_state(state)
    assert list(folded) == list(built(inference(configuration)).state_dict())
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in folded.values())
    assert {tensor.data_ptr() for tensor in folded.values()}.isdisjoint(tensor.data_ptr() for tensor in state.values())
    x = picture()
    with torch.no_grad():
        assert_close(built(inference(configuration), folded)(x), network(x), 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_fold_state_keeps_the_dtype_and_rounds_once(configuration: dict[str, Any], dtype: torch.dtype) -> None:
    state = {key: tensor.to(dtype) for key, tensor in built(configuration).state_dict().items()}
    exact = fold_state({key: tensor.double() for key, tensor in state.items()})
    folded = fold_state(state)
    assert all(tensor.dtype is dtype for tensor in folded.values())
    assert all(torch.equal(folded[key], exact[key].to(dtype)) for key in exact)


def test_fold_state_takes_parameters_and_strided_tensors(configuration: dict[str, Any]) -> None:
    network = built(configuration)
    plain = fold_state(network.state_dict())
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    strided = fold_state(dict(network.named_parameters()))
    for key, tensor in plain.items():
        assert torch.allclose(strided[key], tensor, atol=1e-14)
        assert strided[key].is_contiguous()
        assert not strided[key].requires_grad


def test_states_are_converted_on_their_own_device(configuration: dict[str, Any]) -> None:
    state = {key: tensor.to("meta") for key, tensor in built(configuration).state_dict().items()}
    folded = fold_state(state)
    assert {tensor.device.type for tensor in [*folded.values(), *lift_state(folded).values()]} == {"meta"}


def test_pruning_touches_the_kernels_of_the_blocks_only(configuration: dict[str, Any]) -> None:
    state = built(configuration).state_dict()
    whole, pruned = fold_state(state), fold_state(state, prune_below=0.05)
    for key, tensor in whole.items():
        kernel = key.count("body") == 1 and key.endswith(".weight")  # an attention has a body of its own
        expected = tensor.masked_fill(tensor.abs() < 0.05, 0) if kernel else tensor
        assert torch.equal(pruned[key], expected)
        assert not kernel or not torch.equal(pruned[key], tensor)


def test_lift_state_has_the_function_of_the_folded_one(configuration: dict[str, Any]) -> None:
    folded = built(inference(configuration))
    lifted = lift_state(folded.state_dict(), seed=1)
    network = built(configuration, lifted)
    x = picture()
    with torch.no_grad():
        assert_close(network(x), folded(x), 1e-12)
    back = fold_state(lifted)
    for key, tensor in folded.state_dict().items():
        assert_close(back[key], tensor, 1e-12)


def test_lifted_weights_learn_from_the_first_step(configuration: dict[str, Any]) -> None:
    network = built(configuration, lift_state(built(inference(configuration)).state_dict(), seed=1))
    network(picture()).square().mean().backward()
    for name, parameter in network.named_parameters():
        if name.endswith("reduce_conv.weight"):
            assert parameter.grad is not None
            assert parameter.grad.abs().amin() > 0  # the silent half too


def test_lift_state_draws_from_the_seed_of_its_arguments(configuration: dict[str, Any]) -> None:
    state = built(inference(configuration)).state_dict()
    before = torch.get_rng_state()
    one, same, other = (lift_state(state, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    key = "block1.body.0.fea_conv.weight"
    assert torch.equal(one[key], same[key])
    assert not torch.equal(one[key], other[key])
    published = lift_state(state, se_init="published")
    assert published["block1.body.0.se.tensor"].flatten().tolist() == pytest.approx([0.1] * 16)


def test_configuration_from_state(configuration: dict[str, Any]) -> None:
    for wanted in (configuration, inference(configuration)):
        assert configuration_from_state(built(wanted).state_dict()) == wanted


def test_wrong_states_are_refused(configuration: dict[str, Any]) -> None:
    state = built(configuration).state_dict()
    folded = fold_state(state)
    key = "block1.body.2.fea_conv.bias"
    lacking = {name: tensor for name, tensor in state.items() if name != key}
    mistakes: list[tuple[Callable[[], object], str]] = [
        (lambda: fold_state(folded), "folded form already"),
        (lambda: lift_state(state), "train form already"),
        (lambda: fold_state(lacking), f"the key {key} is missing"),
        (lambda: fold_state({**state, "extra": torch.zeros(1)}), "the key extra is unknown"),
        (lambda: fold_state({**state, key: torch.zeros(3)}), r"block1.body.2.fea_conv.bias has the shape \[3\]"),
        (lambda: lift_state({**folded, "head.bias": torch.zeros(3)}), r"head.bias has the shape \[3\]"),
        (lambda: configuration_from_state({"conv_first.weight": torch.zeros(3)}), "not a PlainUSR"),
        (lambda: configuration_from_state({**state, "tail.0.weight": torch.zeros(15, 11, 3, 3)}), "15 rows"),
    ]
    for act, message in mistakes:
        with pytest.raises(InputError, match=message):
            act()


@pytest.mark.shared
@pytest.mark.parametrize("file", PUBLISHED)
def test_published_weights_load_strictly(file: str, shared: Path) -> None:
    state = torch.load(shared / "weights" / file, weights_only=True)
    variant, scale = file.removeprefix("PlainUSR").removesuffix(".pth").split("_Rep_")
    name = f"PlainUSR{'-' if variant else ''}{variant}_{scale}_folded.state.json"
    contract = json.loads((shared / "golden" / "plainusr" / name).read_text(encoding="utf-8"))
    found = configuration_from_state(state)
    expected = {"type": contract["arch"], **contract["config"]}
    if "ultra" in contract["arch"]:
        del expected["attn_feat"]  # leaves no trace
    assert found == expected
    network = build_network(found)
    network.load_state_dict(state, strict=True)
    assert sum(parameter.numel() for parameter in network.parameters()) == contract["params"]
    assert all(parameter.is_contiguous() for parameter in network.parameters())


@pytest.mark.shared
def test_published_weights_lift_exactly(shared: Path) -> None:
    state = torch.load(shared / "weights" / "PlainUSRS_Rep_x4.pth", weights_only=True)
    state = {key: tensor.double() for key, tensor in state.items()}
    found = configuration_from_state(state)
    lifted = built({**found, "type": found["type"].removesuffix("_inference")}, lift_state(state, seed=0))
    with torch.no_grad():
        assert_close(lifted(picture()), built(found, state)(picture()), 1e-13)


@pytest.mark.parametrize("case", cases("plainusr", None))
def test_configuration_of_every_contract(case: Case) -> None:
    state = {key: torch.empty(shape, device="meta") for key, shape, _ in case.info["state"]}
    found = configuration_from_state(state)
    expected = {"type": case.info["arch"], **case.info["config"]}
    assert found == {key: value for key, value in expected.items() if key in found}
