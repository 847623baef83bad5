"""Weights are found inside whatever trainers write around a state dict and in front of its names."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict, deque
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from uuid import UUID

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from archs import build_network
from models.weights.files import load_weights, read_checkpoint
from models.weights.recognise import configuration, network_from_weights
from tests.states import Tiny
from utils.errors import InputError

ULTRA = {"type": "PlainUSR_ultra", "n_feat": 8, "im_feat": [8, 4], "scale": 2}
FILE = Path("net.pth")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own for each test."""
    monkeypatch.chdir(tmp_path)


def weights(seed: int = 0) -> dict[str, Tensor]:
    """A state dict of the network, other for each seed."""
    torch.manual_seed(seed)
    return build_network(ULTRA).state_dict()


def named(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The state dict with something in front of its names."""
    return {prefix + name: value for name, value in state.items()}


def read_seed(key: str | None = None) -> int:
    """The seed of the weights that are read from the file."""
    network = build_network(ULTRA)
    assert not load_weights(network, FILE, key)
    head = network.state_dict()["head.weight"]
    return next(seed for seed in range(4) if torch.equal(head, weights(seed)["head.weight"]))


PREFIXES = (
    *("module.", "model.", "net_g.", "generator.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."),
    *("model.net_g.", "network.generator.module.", "a.b.c."),
)
CONTAINERS = (
    *("params", "params_ema", "state_dict", "model", "model_state_dict", "net", "netG", "generator", "weights", "ema"),
    *("whatever",),
)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_all_names_share_is_taken_away(prefix: str) -> None:
    torch.save(named(weights(), prefix), FILE)
    assert read_seed() == read_seed("params_ema") == 0
    assert configuration(FILE)["type"] == "PlainUSR_ultra"
    save_file(named(weights(), prefix), "net.safetensors")
    assert configuration(Path("net.safetensors")) == configuration(FILE)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_every_container_is_opened(container: str, prefix: str) -> None:
    others: dict[str, Any] = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}}
    torch.save({container: named(weights(), prefix), **others}, FILE)
    assert read_seed() == 0
    assert network_from_weights(FILE).scale == 2


def test_containers_within_containers(log: list[str]) -> None:
    torch.save({"checkpoint": {"model": {"name": "usr", "sd": weights()}}}, FILE)
    report = load_weights(build_network(ULTRA), FILE, None)
    assert report.entry == "checkpoint.model.sd"
    assert read_seed("checkpoint.model") == read_seed("model") == read_seed("sd") == 0
    assert set(log) == {'weights: net.pth: entry "checkpoint.model.sd" was read'}


def test_wrappers_in_the_middle_of_names() -> None:
    inner = {name.replace("body.", "body._orig_mod."): value for name, value in weights().items()}
    torch.save({"model": inner}, FILE)
    assert read_seed() == 0


@pytest.mark.parametrize("beside", ["loss.", "discriminator.", "perceptual.vgg.", "ema.decay_"])
def test_of_several_prefixes_the_network_s_is_taken(beside: str) -> None:
    another = {f"{beside}features.{i}.weight": torch.zeros(2) for i in range(40)}
    torch.save({"state_dict": {**another, **named(weights(), "model.")}, "hyper_parameters": {"lr": 1e-4}}, FILE)
    report = load_weights(build_network(ULTRA), FILE, None)
    assert report.entry == "state_dict.model"
    assert configuration(FILE)["scale"] == 2


@pytest.mark.parametrize(
    ("entries", "read", "others"),
    [
        (("params", "params_ema"), 1, ("params",)),
        (("model", "ema_model"), 1, ("model",)),
        (("state_dict", "state_dict_ema"), 1, ("state_dict",)),
        (("model", "modelEMA"), 1, ("model",)),
        (("model", "ema-0"), 1, ("model",)),
        (("model", "schema"), 0, ("schema",)),
        (("params", "teacher"), 0, ("teacher",)),
        (("teacher", "net_g"), 1, ("teacher",)),
        (("generator", "netG"), 1, ("generator",)),
    ],
)
def test_of_several_entries_the_ema_is_read_else_the_usual_one(
    entries: tuple[str, ...], read: int, others: tuple[str, ...], log: list[str]
) -> None:
    torch.save({name: weights(seed) for seed, name in enumerate(entries)}, FILE)
    assert read_seed() == read
    assert load_weights(build_network(ULTRA), FILE, None).others == others
    [found] = {line for line in log if line.startswith("weights: ")}
    assert found == f'weights: net.pth: entry "{entries[read]}" was read (there is also "{others[0]}")'
    for seed, name in enumerate(entries):
        assert read_seed(name) == seed


def test_an_entry_of_basicsr_gives_way_and_the_log_says_so(log: list[str]) -> None:
    torch.save({"params": weights()}, FILE)
    assert read_seed("params_ema") == 0
    torch.save({"params_ema": weights()}, FILE)
    assert read_seed("params") == 0
    torch.save({"net_ema": weights(1), "net": weights()}, FILE)
    assert (read_seed("params"), read_seed("params_ema"), read_seed()) == (0, 1, 1)
    assert log[0] == 'weights: net.pth: no entry "params_ema", entry "params" was read'
    assert log[1] == 'weights: net.pth: no entry "params", entry "params_ema" was read'


def test_what_trainers_keep_beside_weights_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("EasyDict", (dict,), {"__module__": "easydict"})  # a dictionary with attributes
    monkeypatch.setitem(sys.modules, "easydict", SimpleNamespace(EasyDict=kind))
    nested = kind(lr=1e-4)
    nested.lr = 1e-4
    beside = {
        "args": argparse.Namespace(lr=1e-4, out=Path("runs")),
        "config": nested,
        "losses": defaultdict(list, {"pixel": [0.1]}),
        "started": datetime(2024, 1, 2, tzinfo=timezone.utc),
        "torch": torch.__version__,
        "last": deque([1.0, 2.0], maxlen=5),
        "id": UUID(int=1),
        "folder": Path("a") / "b",
    }
    torch.save({**beside, "model": weights(1), "optimizer": {}}, FILE)
    assert read_seed() == 1
    assert configuration(FILE)["type"] == ULTRA["type"]
    content = read_checkpoint(FILE)
    assert content["folder"] == "a/b"
    assert content["torch"] == str(torch.__version__)
    assert content["last"] == [1.0, 2.0]
    assert content["losses"] == {"pixel": [0.1]}
    assert content["config"] == {"lr": 1e-4}


def test_entries_may_be_dictionaries_of_other_kinds() -> None:
    torch.save(defaultdict(dict, {"params": weights(1)}), FILE)
    assert read_seed() == 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("container", ["", "params"])
def test_numpy_arrays_are_weights_too(container: str, order: Literal["<", ">"]) -> None:
    arrays = {name: value.numpy() for name, value in weights(2).items()}
    arrays = {name: value.astype(value.dtype.newbyteorder(order)) for name, value in arrays.items()}
    torch.save({container: arrays} if container else arrays, FILE)
    assert read_seed() == 2


def test_sparse_tensors_are_weights_too() -> None:
    sparse = {name: value.to_sparse() if value.dim() == 1 else value for name, value in weights(2).items()}
    torch.save({"params": sparse}, FILE)
    assert read_seed() == 2


def test_a_long_list_of_entries_is_cut() -> None:
    torch.save({f"layer{i}.weight": torch.ones(2) for i in range(300)}, FILE)
    with pytest.raises(
        InputError, match=r"its entries: layer0\.weight, .*layer7\.weight, \.\.\.; choose one"
    ) as caught:
        load_weights(build_network(ULTRA), FILE, "nothere")
    assert len(str(caught.value)) < 400


def test_what_is_not_clear_names_the_entries_and_how_to_choose() -> None:
    torch.save({"student": weights(), "teacher": weights(1)}, FILE)
    choose = r'"student", "teacher"; choose one by --key, or in an option file by "path: param_key_g"'
    for read in (lambda: load_weights(build_network(ULTRA), FILE, None), lambda: configuration(FILE)):
        with pytest.raises(InputError, match=rf"net\.pth: holds several networks that fit, {choose}"):
            read()
    assert (read_seed("student"), read_seed("teacher")) == (0, 1)
    for read in (lambda: load_weights(build_network(ULTRA), FILE, "pupil"), lambda: configuration(FILE, key="pupil")):
        with pytest.raises(InputError, match=rf'net\.pth: has no entry "pupil"; entries that fit: {choose}'):
            read()
    torch.save({"first": {"a": torch.ones(1)}, "second": {"a": torch.ones(1)}}, FILE)
    with pytest.raises(InputError, match=r"Its entries: first, second .*--key.*param_key_g"):
        configuration(FILE)


def test_a_network_that_is_not_known_by_its_names_is_found_by_its_own() -> None:
    source, target = Tiny(), Tiny()
    torch.save({"G": named(source.state_dict(), "module."), "D": {"conv.weight": torch.zeros(1)}}, FILE)
    assert load_weights(target, FILE, None).entry == "G.module"
    assert torch.equal(source.conv.weight, target.conv.weight)


def test_a_part_of_a_network_is_not_taken_for_the_network() -> None:
    class Outer(nn.Module):
        """Its part has names of its own kind."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.up, self.inner = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 12, 3), Tiny()

    torch.save({"model": Outer().state_dict()}, FILE)
    assert load_weights(Outer(), FILE, None).entry == "model"


def test_bookkeeping_is_named_and_left_out(log: list[str]) -> None:
    surplus = {
        "total_ops": torch.zeros(1),
        "block1.total_params": torch.zeros(1),
        "head.num_batches_tracked": torch.ones(()),
    }
    torch.save({"params": {**weights(), **surplus}}, FILE)
    report = load_weights(build_network(ULTRA), FILE)
    assert not report
    assert report.bookkeeping == tuple(surplus)
    assert any("3 bookkeeping keys left out: total_ops, block1.total_params, head.num_batches" in line for line in log)
    assert configuration(FILE)["n_feat"] == 8
    for key, value in (("extra.weight", torch.zeros(1)), ("total_ops", torch.zeros(3))):
        torch.save({"params": {**weights(), key: value}}, FILE)
        with pytest.raises(InputError, match=rf"1 not in the network: {key}"):
            load_weights(build_network(ULTRA), FILE)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(value: float) -> None:
    state = weights()
    state["tail.0.bias"][1] = value
    torch.save({"params": state}, FILE)
    message = r'net\.pth: 1 of \d+ tensors under "params" hold NaN or inf: tail\.0\.bias \(1 of 12 values\)'
    with pytest.raises(InputError, match=message):
        load_weights(build_network(ULTRA), FILE)
    with pytest.raises(InputError, match=message):
        network_from_weights(FILE)


@pytest.mark.shared
def test_a_published_file_in_every_container(shared: Path) -> None:
    state = read_checkpoint(shared / "weights/PlainUSRU_Rep_x4.pth")
    expected = network_from_weights(shared / "weights/PlainUSRU_Rep_x4.pth").state_dict()
    for content in (
        {"state_dict": state, "epoch": 3},
        {"state_dict": named(state, "model."), "hyper_parameters": {"lr": 1e-4}},
        {"params": {**state, "total_ops": torch.zeros(1)}},
    ):
        torch.save(content, FILE)
        found = network_from_weights(FILE).state_dict()
        assert all(torch.equal(value, found[name]) for name, value in expected.items())
