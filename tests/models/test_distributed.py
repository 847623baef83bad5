"""One process among many: without any, everything is as if alone; launchers' variables."""

from __future__ import annotations

import os
import socket
import weakref

import pytest
import torch
from torch import nn

from config.schema import DistOptions
from models.distributed import World, _is_watched, first_slurm_node, world
from utils import devices
from utils.errors import InputError


def test_alone_all_calls_do_nothing() -> None:
    with world("none") as alone:
        assert alone == World(0, 1, 0)
        alone.barrier()
        assert alone.is_main
        assert alone.from_main(3) == 3
        assert alone.gather("x") == ["x"]
        assert not alone.any(False)
        assert alone.mean(torch.tensor(2.0)) == 2
        network = nn.Linear(1, 1)
        assert alone.wrap(network) is network


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[torch.device] = []
    monkeypatch.setattr(devices, "use", used.append)
    assert World().device(0) == World(asked="cpu").device(4) == devices.CPU
    monkeypatch.setattr(devices, "present", devices.Present)
    assert World().device("auto") == devices.CPU
    with pytest.raises(InputError, match="num_gpu: 2 asks for a GPU"):
        World().device(2)
    with pytest.raises(InputError, match=r"--device xpu: PyTorch .* sees no such device here; there is cpu"):
        World(asked="xpu").device(0)
    used.clear()
    monkeypatch.setattr(devices, "present", lambda: devices.Present("xpu", 2))
    assert World().device(0) == devices.CPU
    assert World().device("auto") == World().device(1) == torch.device("xpu:0")
    assert World(asked="xpu:1").device(0) == torch.device("xpu:1")
    assert World(3, 4, 3, 4).device(4) == World(3, 4, 1, 2, "auto").device(0) == torch.device("xpu:1")
    assert [device.index for device in used] == [None, 0, 0, 1, 1, 1]
    with pytest.raises(InputError, match=r"num_gpu: 2 needs one process per GPU: .*; or name one: --device auto"):
        World().device(2)
    with pytest.raises(InputError, match="2 processes run on this machine"):
        World(1, 4, 1, 2, "xpu:1").device(2)
    World(0, 4, 0, 1, "xpu:1").device(2)  # a single one on each of four machines


def test_several_ranks_cannot_train_where_gradients_cannot_be_averaged() -> None:
    with pytest.raises(InputError, match=r"several processes cannot train on meta: .* --device cpu"):
        World(0, 2).wrap(nn.Linear(1, 1, device="meta"))


@pytest.mark.parametrize(("launcher", "variable"), [("pytorch", "RANK"), ("slurm", "SLURM_PROCID")])
def test_a_launcher_without_its_environment(launcher: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match=variable), world(launcher):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu03", "gpu03"), ("gpu[03-07,9],cpu1", "gpu03"), ("a-b-1,a-b-2", "a-b-1"), ("n[12]", "n12")],
)
def test_slurm_s_lists(nodes: str, first: str) -> None:
    assert first_slurm_node(nodes) == first


def test_slurm_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    settings = {"PROCID": "0", "NTASKS": "1", "NODELIST": "localhost", "LOCALID": "0"}
    for name, value in settings.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "unset")  # so that what the launcher sets is taken back
    with socket.socket() as probe:  # a port that nobody else on this machine has
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    with world("slurm", DistOptions(port=port)) as ranks:
        assert os.environ["MASTER_PORT"] == str(port)
        assert (ranks.rank, ranks.size, ranks.local_rank) == (0, 1, 0)
        assert torch.distributed.get_backend() == devices.abilities(devices.choose()).backend
        group = weakref.ref(torch.distributed.group.WORLD)
    assert group() is not None  # models.distributed._groups holds it, or DistributedDataParallel would be the last


def test_only_launchers_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell of one who sets RANK by hand may end while the training goes on."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert not _is_watched("pytorch")
    assert _is_watched("slurm")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert _is_watched("pytorch")
