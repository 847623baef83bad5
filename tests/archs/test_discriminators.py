"""What every discriminator keeps to, the recorded runs of the published ones, and what their names and sizes mean."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archs import (
    DISCRIMINATORS,
    NETWORKS,
    build_discriminator,
    build_network,
    discriminator_class,
    identify,
    identify_discriminator,
)
from archs.contract import Discriminator, SRNetwork
from archs.layers.spectral import held
from archs.limits import LARGEST, argument_problems
from tests.golden import Case, assert_close, assert_state, cases, seeded
from utils.errors import InputError
from utils.typed import fields_of

SMALL: Mapping[str, Mapping[str, Any]] = {
    "UNetDiscriminatorSN": {"num_in_ch": 3, "num_feat": 4},
    "VGGStyleDiscriminator": {"num_in_ch": 3, "num_feat": 2, "input_size": 128},
}
SIZES = {"UNetDiscriminatorSN": (16, 24), "VGGStyleDiscriminator": (128, 128)}
"""Height and width of images for the small ones."""


@pytest.fixture(params=DISCRIMINATORS)
def discriminator(request: pytest.FixtureRequest) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_discriminator({"type": request.param, **SMALL[request.param]})


def image(discriminator: nn.Module, seed: int = 1) -> Tensor:
    """[2, 3, H, W]."""
    size = SIZES[type(discriminator).__name__]
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def buffers(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.named_buffers()}


def test_every_discriminator_is_tested() -> None:
    assert SMALL.keys() == SIZES.keys() == DISCRIMINATORS.keys()


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_arguments_are_documented_and_bounded(name: str) -> None:
    fields = fields_of(discriminator_class(name))
    assert [field.name for field in fields.values() if not field.help] == []
    assert [key for key, field in fields.items() if field.annotation is int and key not in LARGEST] == []
    defaults = {key: field.default for key, field in fields.items() if not field.required}
    assert list(argument_problems(defaults)) == []


def test_it_says_what_a_training_asks(discriminator: nn.Module) -> None:
    assert isinstance(discriminator, Discriminator)
    assert not isinstance(discriminator, SRNetwork)
    assert discriminator.channels == 3
    assert discriminator.check_size(*SIZES[type(discriminator).__name__]) is None
    assert discriminator.check_size(4, 4) is not None


def test_sizes_that_do_not_fit_are_refused_by_the_pass_too(discriminator: nn.Module) -> None:
    with pytest.raises(InputError, match=r"height and width must be .*, got 4 x 8"):
        discriminator(torch.zeros(1, 3, 4, 8))


def test_the_pass_is_pure_but_for_buffers(discriminator: nn.Module) -> None:
    x = image(discriminator)
    before = x.clone()
    state = buffers(discriminator)
    logits = discriminator.train()(x)
    assert logits.shape[0] == 2
    assert torch.equal(x, before)
    assert all(not torch.equal(value, state[name]) for name, value in discriminator.named_buffers())
    state = buffers(discriminator)
    once, twice = discriminator.eval()(x), discriminator(x)
    assert torch.equal(once, twice)
    assert all(torch.equal(value, state[name]) for name, value in discriminator.named_buffers())


def test_frozen_and_without_gradients_buffers_advance_alike(discriminator: nn.Module) -> None:
    x = image(discriminator)
    frozen, silent = copy.deepcopy(discriminator).requires_grad_(False), copy.deepcopy(discriminator)
    discriminator(x)
    frozen(x)
    with torch.no_grad():
        silent(x)
    expected = buffers(discriminator)
    for other in (frozen, silent):
        assert all(torch.equal(value, expected[name]) for name, value in other.named_buffers())


def test_held_passes_leave_buffers_alone(discriminator: nn.Module) -> None:
    x = image(discriminator)
    other = copy.deepcopy(discriminator)
    logits = discriminator(x)
    state = buffers(discriminator)
    with held(discriminator):
        again = discriminator(x)
        with held(discriminator):
            discriminator(x)
        discriminator(x)
    assert torch.allclose(again, logits, atol=1e-6)
    assert all(torch.equal(value, state[name]) for name, value in discriminator.named_buffers())
    with pytest.raises(RuntimeError), held(discriminator):  # what goes wrong inside ends it too
        raise RuntimeError
    assert torch.equal(discriminator(x), (other(x), other(x))[1])
    state = buffers(other)
    assert all(torch.equal(value, state[name]) for name, value in discriminator.named_buffers())


def test_gradients_reach_every_parameter_and_the_image(discriminator: nn.Module) -> None:
    for mode in (True, False):
        x = image(discriminator).requires_grad_()
        discriminator.train(mode).zero_grad()
        discriminator(x).square().mean().backward()
        assert not [n for n, p in discriminator.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert x.grad is not None
        assert x.grad.abs().max() > 0


def test_two_passes_before_one_backward_pass(discriminator: nn.Module) -> None:
    """The gradient is the sum of those of the passes alone, although buffers have moved between."""
    real, fake = image(discriminator, 2), image(discriminator, 3)
    other = copy.deepcopy(discriminator)
    (discriminator(real).mean() - discriminator(fake).square().mean()).backward()
    other(real).mean().backward()
    (-other(fake).square().mean()).backward()
    for found, expected in zip(discriminator.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad)


def test_autocast_and_half_precision(discriminator: nn.Module) -> None:
    x = image(discriminator)
    other, half = copy.deepcopy(discriminator), copy.deepcopy(discriminator).to(torch.bfloat16)
    full = discriminator(x)
    with torch.autocast("cpu", torch.bfloat16):
        logits = other(x)
    for name, value in discriminator.named_buffers():
        if name.endswith(("weight_u", "weight_v")):  # not computed in the low precision
            assert torch.equal(other.get_buffer(name), value)
    for low in (logits, half(x.bfloat16())):
        assert low.dtype is torch.bfloat16
        assert (low - full).abs().max() < 0.1 * full.abs().max()
        low.float().mean().backward()


def test_channels_last_gives_the_same(discriminator: nn.Module) -> None:
    x, other = image(discriminator), copy.deepcopy(discriminator)
    other.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    logits = other(x.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(logits, discriminator(x))
    logits.mean().backward()


def test_compiles_as_one_graph(discriminator: nn.Module) -> None:
    torch.compiler.reset()
    x, other = image(discriminator), copy.deepcopy(discriminator)
    compiled: Any = torch.compile(other, fullgraph=True, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(x), discriminator(x))
    compiled(x).mean().backward()
    state = buffers(other)
    with held(compiled):
        compiled(x)
    assert all(torch.equal(value, state[name]) for name, value in other.named_buffers())


def test_nothing_is_left_on_another_device(discriminator: nn.Module) -> None:
    assert discriminator.to("meta")(image(discriminator).to("meta")).device.type == "meta"


def test_save_load_and_recognise(discriminator: nn.Module) -> None:
    x = image(discriminator)
    discriminator(x)
    buffer = io.BytesIO()
    torch.save(discriminator.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    found = identify_discriminator(state)
    assert found == {"type": type(discriminator).__name__, **SMALL[type(discriminator).__name__]}
    assert identify(state) is None
    other = build_discriminator(found)
    other.load_state_dict(state)
    assert torch.equal(other(x), discriminator(x))


def test_other_weights_are_no_discriminator_s() -> None:
    assert identify_discriminator({}) is None
    assert identify_discriminator(build_network({"type": "PlainUSR_ultra", "scale": 2}).state_dict()) is None


@pytest.mark.parametrize(
    ("opt", "parts"),
    [
        ({}, ["network_d", "type", "UNetDiscriminatorSN"]),
        ({"type": "UNetDiscriminator", "num_in_ch": 3}, ["unknown discriminator type", 'mean "UNetDiscriminatorSN"']),
        ({"type": "Judge"}, ["known: UNetDiscriminatorSN, VGGStyleDiscriminator"]),
        ({"type": "HAT"}, ['"HAT"; it is a network for super-resolution, for network_g']),
        ({"type": "UNetDiscriminatorSN"}, ["network_d (UNetDiscriminatorSN)", "num_in_ch"]),
        ({"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feats": 4}, ["num_feats", 'did you mean "num_feat"']),
        ({"type": "UNetDiscriminatorSN", "num_in_ch": 0}, ["num_in_ch: expected at least 1, got 0"]),
        ({"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 10**9}, ["num_feat: expected at most 8192"]),
        ({"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 3000}, ["network_d", "parameters take", "many"]),
        ({"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 8, "input_size": 192}, ["input_size", "192"]),
    ],
)
def test_bad_options_name_the_mistake(opt: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build_discriminator(opt)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_a_discriminator_is_no_network_for_network_g(name: str) -> None:
    assert name not in NETWORKS
    with pytest.raises(InputError, match=f'"{name}"; it is a discriminator, for network_d'):
        build_network({"type": name})


def test_without_skips_the_u_net_takes_any_size_from_8() -> None:
    unet: Any = build_discriminator({"type": "UNetDiscriminatorSN", **SMALL["UNetDiscriminatorSN"]})
    free: Any = build_discriminator({
        "type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 2, "skip_connection": False,
    })  # fmt: skip
    assert "multiples of 8" in unet.check_size(16, 20)
    assert free.check_size(9, 20) is None
    assert "at least 8" in free.check_size(16, 7)
    assert free(torch.zeros(1, 3, 9, 20)).shape == (1, 1, 8, 16)


RECORDED = [case for mode in ("train", "eval") for case in cases("gan", mode, known=DISCRIMINATORS)]


def seeded_discriminator(case: Case) -> nn.Module:
    """As recorded: float64, all values from their names; 20 passes before an eval case with spectral norms."""
    network = seeded().fill(build_discriminator({"type": case.info["arch"], **case.info["config"]}).double())
    spectral = [(name, b) for name, b in network.named_buffers() if name.endswith(("weight_u", "weight_v"))]
    for name, buffer in spectral:
        vector = torch.from_numpy(seeded().seeded_array(name, tuple(buffer.shape)))
        buffer.copy_(vector / vector.norm())
    if spectral and case.info["mode"] == "eval":
        with torch.no_grad():
            for _ in range(20):
                network.train()(case.x)
    network.train(case.info["mode"] == "train")
    assert isinstance(network, nn.Module)
    return network


def probes(network: nn.Module) -> dict[str, float]:
    """Products of the buffers with arrays that follow from their names."""
    arrays = {name: seeded().seeded_array(f"probe/{name}", tuple(b.shape)) for name, b in network.named_buffers()}
    return {name: float((buffer * torch.as_tensor(arrays[name])).sum()) for name, buffer in network.named_buffers()}


@pytest.mark.parametrize("case", RECORDED)
def test_recorded_run(case: Case) -> None:
    info, network = case.info, seeded_discriminator(case)
    x = case.x.requires_grad_()
    output = network(x)
    if "buffers_after" in info:
        assert probes(network) == pytest.approx(info["buffers_after"], rel=1e-9)
    assert_close(output.detach(), case.arrays["output"], info["rtol"])
    make = seeded().seeded_input if "seeded_input" in info["loss_type"] else seeded().seeded_array
    loss = F.l1_loss(output, torch.from_numpy(make(info["target_name"], tuple(info["target_shape"]))))
    loss.backward()
    assert loss.item() == pytest.approx(info["loss"], rel=1e-9)
    norms = {name: p.grad.norm().item() for name, p in network.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(info["grad_norm"], rel=1e-9)
    assert x.grad is not None
    assert x.grad.norm().item() == pytest.approx(info["input_grad_norm"], rel=1e-9)
    if "input_grad" in case.arrays:
        assert_close(x.grad, case.arrays["input_grad"], info["rtol"])
    with torch.no_grad():
        if "output_second" in case.arrays:
            assert_close(network(case.x), case.arrays["output_second"], info["rtol"])
        if "output_eval" in case.arrays:
            assert_close(network.eval()(case.x), case.arrays["output_eval"], info["rtol"])


@pytest.mark.parametrize("case", cases("gan", None, known=DISCRIMINATORS))
def test_state_dict_contract(case: Case) -> None:
    assert_state(case, build_discriminator({"type": case.info["arch"], **case.info["config"]}))
