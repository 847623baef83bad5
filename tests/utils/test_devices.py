"""Which device is meant, and what each can do: decided by tables that are asked here about devices that are not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from utils import devices
from utils.device_memory import device_memory, peak_device_memory, release_kept_memory, reset_peak_device_memory
from utils.devices import CPU, Abilities, Facts, Present, abilities, abilities_from, choose, native_precisions
from utils.errors import InputError

FOUR, ONE_XPU, MAC, NOTHING = Present("cuda", 4), Present("xpu", 1), Present("mps", 1), Present()
HALF, BRAIN = torch.float16, torch.bfloat16
BOTH = frozenset({HALF, BRAIN})
OPERATORS = frozenset({devices._ADAM, devices._UNSCALE})
H100 = Facts("NVIDIA H100", BOTH, BOTH, float64=True, operators=OPERATORS, backends=frozenset({"gloo", "nccl"}))
MI300 = H100._replace(name="AMD Instinct MI300X")  # ROCm's PyTorch calls RCCL nccl
ARC = Facts("Intel Arc A770", BOTH, BOTH, float64=False, operators=OPERATORS, backends=frozenset({"gloo", "xccl"}))
M2 = Facts("mps device", BOTH, BOTH, float64=False, operators=OPERATORS, backends=frozenset({"gloo"}))


@pytest.mark.parametrize(
    ("asked", "there", "rank", "device"),
    [
        ("auto", NOTHING, 0, "cpu"),
        ("auto", NOTHING, 3, "cpu"),
        ("auto", FOUR, 0, "cuda:0"),
        ("auto", FOUR, 3, "cuda:3"),
        ("auto", FOUR, 5, "cuda:1"),  # more ranks than devices share them
        ("auto", ONE_XPU, 0, "xpu:0"),
        ("auto", MAC, 0, "mps:0"),
        ("cpu", FOUR, 2, "cpu"),
        ("cuda", FOUR, 2, "cuda:2"),
        ("cuda:3", FOUR, 0, "cuda:3"),
        ("xpu:0", ONE_XPU, 0, "xpu:0"),
        ("mps", MAC, 0, "mps:0"),
        ("meta:1", Present("meta", 2), 0, "meta:1"),  # whatever else PyTorch finds
    ],
)
def test_a_name_means_a_device(asked: str, there: Present, rank: int, device: str) -> None:
    assert choose(asked, local_rank=rank, there=there) == torch.device(device)


@pytest.mark.parametrize(
    ("asked", "there", "ranks", "said"),
    [
        ("cuda", NOTHING, 1, r"--device cuda: PyTorch .* sees no such device here; there is cpu$"),
        ("cuda", ONE_XPU, 1, r"sees no such device here; there is cpu and xpu:0$"),
        ("mps", FOUR, 1, r"there is cpu and cuda:0 to cuda:3$"),
        ("cuda:4", FOUR, 1, r"--device cuda:4: there is no device of that number; there is cpu and cuda:0 to cuda:3"),
        ("cuda:1", FOUR, 2, r"2 processes run on this machine.* each takes its own: --device cuda$"),
        ("rocm", FOUR, 1, r'"rocm" is none of auto, cpu, cuda, xpu, mps \(did you mean "cuda"\?\)'),
        ("gpu", FOUR, 1, r'did you mean "auto"'),
        ("cdua", FOUR, 1, r'did you mean "cuda"'),
        ("auto:1", FOUR, 1, r'"auto:1" is none of'),
        ("cpu:1", FOUR, 1, r'"cpu:1" is none of'),
        ("cuda:-1", FOUR, 1, r'"cuda:-1" is none of'),
        ("", FOUR, 1, r'"" is none of'),
    ],
)
def test_a_name_that_means_none_is_an_error(asked: str, there: Present, ranks: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        choose(asked, local_ranks=ranks, there=there)


def test_what_is_there_is_asked_of_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    there: dict[str, object] = {"current": torch.device("xpu"), "available": True, "count": 2}

    def current() -> object:
        if not there["available"]:
            raise RuntimeError("Cannot access accelerator device when none is available.")  # as torch 2.6
        return there["current"]

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there["available"])
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: there["count"])
    assert devices.present() == Present("xpu", 2)
    assert choose() == torch.device("xpu", 0)
    there["count"] = 0  # a build for accelerators, with none in sight
    assert devices.present() == NOTHING
    there.update(count=2, available=False)
    assert devices.present() == NOTHING
    there.update(available=True, current=None)
    assert choose() == CPU


def test_the_current_device_is_set_in_every_version(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(set_device_idx=seen.append))  # PyTorch 2.6
    devices.use(torch.device("cuda", 3))
    monkeypatch.setattr(torch, "accelerator", SimpleNamespace(set_device_index=seen.append, set_device_idx=None))
    devices.use(torch.device("cuda", 1))
    devices.use(CPU)
    assert seen == [3, 1]


def test_what_the_cpu_can_do() -> None:
    own = abilities(CPU)
    assert (own.in_main_memory, own.asynchronous, own.float64, own.fused, own.loss_scaling) == (
        True,
        False,
        *3 * (True,),
    )
    assert (own.pinned, own.streams, own.memory, own.peak, own.generator) == 5 * (False,)
    assert own.autocast == BOTH
    assert own.backend == "gloo"
    assert own.name
    assert abilities("cpu") is own


@pytest.mark.parametrize(("kind", "facts"), [("cuda", H100), ("cuda", MI300), ("xpu", ARC)])
def test_what_gpus_can_do(kind: str, facts: Facts) -> None:
    """By the names that PyTorch's own modules have, which are there without the hardware."""
    own = abilities_from(kind, devices.module_of(kind), facts)
    assert (own.pinned, own.streams, own.memory, own.peak, own.generator, own.fused) == 6 * (True,)
    assert (own.asynchronous, own.in_main_memory, own.compiles, own.loss_scaling) == (True, False, True, True)
    assert own.float64 == facts.float64
    assert own.backend == {"cuda": "nccl", "xpu": "xccl"}[kind]


def test_what_mps_can_do() -> None:
    own = abilities_from("mps", devices.module_of("mps"), M2)
    assert own == Abilities(
        "mps", "mps device", autocast=BOTH, native=BOTH, loss_scaling=True, memory=True, generator=True
    )  # its fused optimisers move the weights whatever the flag says


def test_a_device_without_a_module_can_do_nothing() -> None:
    assert abilities_from("vendor", None, Facts("v")) == Abilities("vendor", "v")


def test_what_an_older_pytorch_lacks_is_not_there() -> None:
    older = SimpleNamespace(memory_allocated=None, get_rng_state=None, set_rng_state=None)
    own = abilities_from("xpu", older, ARC._replace(operators=frozenset(), backends=frozenset({"gloo"})))
    assert (own.memory, own.peak, own.streams, own.pinned, own.fused, own.loss_scaling) == 6 * (False,)
    assert own.backend is None
    assert own.generator


def test_tensors_without_values_keep_float64() -> None:
    assert abilities("meta").float64
    assert not abilities("meta").fused


def test_a_device_beyond_those_that_are_there_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    monkeypatch.setattr(devices, "present", lambda: ONE_XPU)

    def facts(device: torch.device) -> Facts:
        asked.append(device)
        return ARC

    monkeypatch.setattr(devices, "_facts", facts)
    devices._abilities.cache_clear()
    try:
        assert abilities("xpu:0").native == ARC.native
        assert not abilities("xpu:1").native
        assert not abilities("cuda:0").native
    finally:
        devices._abilities.cache_clear()
    assert asked == [torch.device("xpu:0")]


def test_native_half_precision_of_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    facts: dict[str, object] = {}
    monkeypatch.setattr(devices, "_cpu_facts", lambda: facts)
    monkeypatch.setattr(devices, "_onednn_has", lambda precision: precision == "bf16")

    def found(**sets: object) -> frozenset[str]:
        facts.clear()
        facts.update(sets)
        devices._abilities.cache_clear()
        return native_precisions("cpu")

    assert found(architecture="x86_64", avx512_f=True) == frozenset()  # oneDNN would say that it has bf16 there
    assert found(architecture="x86_64", avx512_bf16=True) == {"bf16"}
    assert found(architecture="x86_64", amx_bf16=True, avx512_fp16=True) == {"bf16", "fp16"}
    assert found(avx2=True) == frozenset()  # as /proc/cpuinfo has it: without an architecture
    assert found(architecture="aarch64") == {"bf16"}
    devices._abilities.cache_clear()


def test_memory_is_told_by_gpus_and_by_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {
        "cuda": SimpleNamespace(
            mem_get_info=lambda device: (5, 10), memory_reserved=lambda device: 3, memory_allocated=lambda device: 1
        ),
        "mps": SimpleNamespace(
            recommended_max_memory=lambda: 9, driver_allocated_memory=lambda: 4, current_allocated_memory=lambda: 2
        ),
    }
    for module in ("utils.devices.module_of", "utils.device_memory.module_of"):
        monkeypatch.setattr(module, modules.get)
    devices._abilities.cache_clear()
    assert device_memory(torch.device("cuda", 0)) == (7, 10)
    assert device_memory(torch.device("mps", 0)) == (7, 9)
    assert device_memory(CPU) is None
    devices._abilities.cache_clear()


def test_memory_of_the_cpu_is_left_alone() -> None:
    reset_peak_device_memory(CPU)
    release_kept_memory(CPU)
    devices.synchronise(CPU)
    assert peak_device_memory(CPU) == 0
