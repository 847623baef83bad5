"""The devices that networks run on: which one is meant, and what it can do.

Everything else asks here and names no type of device, but for kernels that exist for one of them. A device that is not
CUDA is not the CPU for that: what a type of devices cannot do is left out or done another way, what nothing is known
of counts as not there. "cuda" stands for NVIDIA's GPUs and, in a PyTorch that is built for ROCm, for AMD's.
"""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed

from utils.errors import InputError
from utils.suggest import near_miss

CPU = torch.device("cpu")

TYPES = ("cuda", "xpu", "mps")
"""The types of accelerators that are known here; any other one that PyTorch finds can be named too."""

# Asked here, because the compiler of torch 2.6 breaks a graph at the question.
KNOW_AUTOCAST = frozenset(kind for kind in ("cpu", *TYPES, "hpu", "mtia") if torch.amp.is_autocast_available(kind))
"""The types of devices with which torch.autocast can be used at all, whether they are there or not."""

CHOICES = "auto|cpu|cuda[:N]|xpu[:N]|mps"
"""What ``--device`` takes, for usage messages."""

_OTHER_NAMES = {"gpu": "auto", "rocm": "cuda", "hip": "cuda", "amd": "cuda", "nvidia": "cuda", "metal": "mps"}
_ADAM, _UNSCALE = "aten::_fused_adam_", "aten::_amp_foreach_non_finite_check_and_unscale_"
# MPS has such kernels, but they move the weights whatever the flag says (PyTorch up to 2.13 at least).
_FUSED = ("cpu", "cuda", "xpu")
_EXACT = ("cpu", "cuda", "meta")
_COMPILED = ("cpu", "cuda", "xpu")
# The first that a PyTorch has is used: that of Windows has no nccl.
_BACKENDS: Mapping[str, tuple[str, ...]] = {"cpu": ("gloo",), "cuda": ("nccl", "gloo"), "xpu": ("xccl",)}


@dataclass(frozen=True)
class Present:
    """The accelerators that PyTorch can use here. They are of one type: a PyTorch is built for one.

    Attributes:
        type: of them; None where there are none.
        count: how many.
    """

    type: str | None = None
    count: int = 0

    def __str__(self) -> str:
        """All devices, for messages: "cpu and cuda:0 to cuda:3"."""
        last = "" if self.count < 2 else f" to {self.type}:{self.count - 1}"
        return "cpu" if self.type is None else f"cpu and {self.type}:0{last}"


def present() -> Present:
    """The accelerators that PyTorch can use now."""
    if not torch.accelerator.is_available():  # asked first: torch 2.6 raises where it is asked which one
        return Present()
    found = torch.accelerator.current_accelerator()
    if found is None:
        return Present()
    count = torch.accelerator.device_count()
    return Present(found.type, count) if count else Present()


def types_here() -> list[str]:
    """The types of devices of this machine: "cpu", and that of its accelerators."""
    kind = present().type
    return ["cpu"] if kind is None else ["cpu", kind]


def choose(
    asked: str = "auto",
    *,
    local_rank: int = 0,
    local_ranks: int = 1,
    there: Present | None = None,
    option: str = "--device",
) -> torch.device:
    """The device that a name means, for one of the ranks of this machine.

    Args:
        asked: "auto": an accelerator, or the CPU where there is none; "cpu"; a type of accelerators, whose devices the
            ranks share out; or one of them, as in "cuda:1".
        local_rank: of this process among those on this machine.
        local_ranks: number of these.
        there: what there is to choose from; None: what PyTorch sees.
        option: where the name comes from, for messages.

    Raises:
        InputError: there is no such device, or one is named for several ranks.
    """
    there = present() if there is None else there
    kind, index = _parsed(asked, there, option)
    if kind == "cpu" or (kind == "auto" and there.type is None):
        return CPU
    if kind not in ("auto", there.type):
        raise InputError(f"{option} {asked}: PyTorch {torch.__version__} sees no such device here; there is {there}")
    assert there.type is not None
    if index is None:
        return torch.device(there.type, local_rank % there.count)
    if index >= there.count:
        raise InputError(f"{option} {asked}: there is no device of that number; there is {there}")
    if local_ranks > 1:
        raise InputError(
            f"{option} {asked}: {local_ranks} processes run on this machine, and that is one device; leave out "
            f"the number, so that each takes its own: {option} {kind}"
        )
    return torch.device(there.type, index)


def check_name(asked: str, option: str = "--device") -> None:
    """Raise InputError where a text cannot be the name of a device, whether it is there or not."""
    _parsed(asked, present(), option)


def _parsed(asked: str, there: Present, option: str) -> tuple[str, int | None]:
    """Type and number of a name; the type may be "auto"."""
    match = re.fullmatch(r"(\w+?)(?::(\d{1,4}))?", asked)
    known = [kind for kind in ("auto", "cpu", there.type, *TYPES) if kind is not None]
    if match is not None and match[1] in known and not (match[1] in ("auto", "cpu") and match[2]):
        return match[1], None if match[2] is None else int(match[2])
    meant = _OTHER_NAMES.get(asked.partition(":")[0].lower())
    hint = near_miss(asked.partition(":")[0], known) if meant is None else f' (did you mean "{meant}"?)'
    numbers = "a number can follow, as in cuda:1"
    raise InputError(f'{option}: "{asked}" is none of {", ".join(dict.fromkeys(known))}{hint}; {numbers}')


def without_values(device: torch.device | str) -> bool:
    """Whether tensors of a device have shapes and no values, as those of PyTorch's meta device.

    A network computes nothing there: it is counted. So networks and operators go by their published formulas on such
    tensors, in the place of what gives the same in less time.
    """
    return (device if isinstance(device, str) else device.type) == "meta"


def use(device: torch.device) -> None:
    """Make an accelerator the one that PyTorch means where none is named."""
    if device.type != "cpu" and device.index is not None:
        accelerator: Any = torch.accelerator
        # PyTorch 2.6 has another name for it, which warns in later ones.
        name = "set_device_index" if hasattr(accelerator, "set_device_index") else "set_device_idx"
        getattr(accelerator, name)(device.index)


def synchronise(device: torch.device) -> None:
    """Wait until a device has done what it was given; where it always has, as the CPU, at once."""
    if hasattr(module_of(device.type), "synchronize") and device.type != "cpu":
        torch.accelerator.synchronize(device)


def streams(device: torch.device) -> Any:
    """PyTorch's module that has ``Stream``, ``stream`` and ``current_stream`` for a device with that ability."""
    assert abilities(device).streams
    return module_of(device.type)


def cards() -> list[str]:
    """The names of all accelerators."""
    there = present()
    return [abilities(f"{there.type}:{index}").name for index in range(there.count)]


def set_tf32(*, on: bool) -> None:
    """Whether GPUs may round float32 factors to 10 bits; torch does so for convolutions unless it is asked not to."""
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on


@dataclass(frozen=True)
class Abilities:
    """What a device can do, as far as anything here asks.

    Attributes:
        type: of the device.
        name: of the card or processor, for logs.
        in_main_memory: tensors lie in the memory of the process, which the system may end if it takes too much; others
            have an allocator that says when their memory is full.
        asynchronous: the host goes on while the device computes; asking for a value makes it wait.
        pinned: copies from page-locked memory are faster.
        streams: copies and computation can overlap.
        autocast: types of automatic mixed precision.
        native: types of half precision that it computes with; others, if they work at all, are converted.
        loss_scaling: gradients can be unscaled there, as float16 needs it in training.
        fused: torch's fused optimisers work there, and leave out a step where a flag says so.
        float64: it has such numbers.
        memory: it tells how much memory is free.
        peak: its allocator tells the most that was in use.
        generator: the state of its random numbers can be read and set.
        compiles: torch.compile makes kernels for it.
        backend: of torch.distributed, where gradients can be averaged on the device; else None.
    """

    type: str
    name: str
    in_main_memory: bool = False
    asynchronous: bool = True
    pinned: bool = False
    streams: bool = False
    autocast: frozenset[torch.dtype] = frozenset()
    native: frozenset[torch.dtype] = frozenset()
    loss_scaling: bool = False
    fused: bool = False
    float64: bool = False
    memory: bool = False
    peak: bool = False
    generator: bool = False
    compiles: bool = False
    backend: str | None = None


class Facts(NamedTuple):
    """What only the device itself can tell.

    Attributes:
        name: of the card or processor.
        autocast: types of automatic mixed precision.
        native: types of half precision in its arithmetic.
        float64: it has such numbers.
        operators: those of :data:`_ADAM` and :data:`_UNSCALE` that have a kernel for it.
        backends: of torch.distributed, that this PyTorch has.
    """

    name: str = "unknown"
    autocast: frozenset[torch.dtype] = frozenset()
    native: frozenset[torch.dtype] = frozenset()
    float64: bool = False
    operators: frozenset[str] = frozenset()
    backends: frozenset[str] = frozenset()


def abilities(device: torch.device | str) -> Abilities:
    """What a device can do."""
    device = torch.device(device)
    return _abilities(device.type, device.index)


@functools.lru_cache(maxsize=64)
def _abilities(kind: str, index: int | None) -> Abilities:
    device = torch.device(kind, index or 0)
    # What is not there is a tensor without values: of "meta", or a fake one.
    return abilities_from(kind, module_of(kind), _facts(device) if _is_there(device) else Facts(float64=True))


def _is_there(device: torch.device) -> bool:
    here = present()
    return device.type == "cpu" or (device.type == here.type and device.index < here.count)


def abilities_from(kind: str, module: object | None, facts: Facts) -> Abilities:
    """The abilities of a type of devices, from PyTorch's module for it (torch.xpu) and from what the device tells."""
    on_cpu = kind == "cpu"

    def has(*names: str) -> bool:
        return module is not None and all(hasattr(module, name) for name in names)

    streams = not on_cpu and has("Stream", "stream", "current_stream")
    backends = [backend for backend in _BACKENDS.get(kind, ()) if backend in facts.backends]
    return Abilities(
        type=kind,
        name=facts.name,
        in_main_memory=on_cpu,
        asynchronous=not on_cpu,
        pinned=streams and kind != "mps",  # which shares the main memory
        streams=streams,
        autocast=facts.autocast,
        native=facts.native,
        loss_scaling=_UNSCALE in facts.operators,
        fused=kind in _FUSED and _ADAM in facts.operators,
        float64=facts.float64,
        memory=has("mem_get_info", "memory_reserved", "memory_allocated")
        or has("recommended_max_memory", "driver_allocated_memory", "current_allocated_memory"),
        peak=has("memory_allocated", "max_memory_allocated", "reset_peak_memory_stats"),
        generator=not on_cpu and has("get_rng_state", "set_rng_state"),
        compiles=kind in _COMPILED,
        backend=backends[0] if backends else None,
    )


def exact_device(device: torch.device) -> torch.device:
    """Where float64 is computed for tensors of a device: there, or on the CPU, where it has no such numbers."""
    if device.type in _EXACT:  # a compiler cannot look into the question
        return device
    return device if abilities(device).float64 else CPU


def native_precisions(device: torch.device | str) -> frozenset[str]:
    """Which of "fp16" and "bf16" a device computes with; in others it would convert to and fro, and be slower.

    That a CPU has the arithmetic does not say that all of PyTorch's kernels use it.
    """
    names = {torch.float16: "fp16", torch.bfloat16: "bf16"}
    return frozenset(names[dtype] for dtype in abilities(device).native)


def module_of(kind: str) -> Any:
    """PyTorch's functions for a type of devices; None where there are none."""
    try:
        return torch.get_device_module(kind)
    except RuntimeError:  # of "meta", for instance
        return None


def _facts(device: torch.device) -> Facts:
    """Ask a device that is there."""
    kind, module = device.type, module_of(device.type)
    key = torch._C._dispatch_key_for_device(kind)
    found = [name for name in (_ADAM, _UNSCALE) if torch._C._dispatch_has_kernel_for_dispatch_key(name, key)]
    native = _native(device)
    named = hasattr(module, "get_device_name")
    return Facts(
        name=processor() if kind == "cpu" else module.get_device_name(device) if named else f"{kind} device",
        autocast=_autocast(kind, module, native),
        native=native,
        float64=_has_float64(device),
        operators=frozenset(found),
        backends=_backends(),
    )


def _autocast(kind: str, module: Any, native: frozenset[torch.dtype]) -> frozenset[torch.dtype]:
    if kind in ("cpu", "cuda", "xpu"):  # what they do not compute with is converted
        return frozenset({torch.float16, torch.bfloat16})
    if kind in TYPES:
        return native
    supported = getattr(module, "get_amp_supported_dtype", None)
    return frozenset(supported()) if supported is not None and torch.amp.is_autocast_available(kind) else frozenset()


def _native(device: torch.device) -> frozenset[torch.dtype]:
    half, brain = torch.float16, torch.bfloat16
    kind, module = device.type, module_of(device.type)
    if kind == "cpu":
        return frozenset(dtype for dtype, there in ((half, _cpu_has_fp16()), (brain, _cpu_has_bf16())) if there)
    if kind == "mps":
        newer = torch.backends.mps.is_macos_or_newer(14, 0)
        return frozenset({half, brain} if newer else {half})
    if kind == "cuda":
        capable = torch.version.hip is not None or module.get_device_capability(device)[0] >= 8
        return frozenset({half, brain} if capable else {half})
    if kind == "xpu":
        properties = module.get_device_properties(device)
        capable = bool(getattr(properties, "has_bfloat16_conversions", True))
        return frozenset({half, brain} if capable else {half})
    return frozenset()


def _cpu_has_bf16() -> bool:
    facts = _cpu_facts()
    if facts.get("architecture", "x86_64") in ("x86_64", "AMD64"):  # PyTorch's question there is whether it can emulate
        return bool(facts.get("avx512_bf16") or facts.get("amx_bf16"))
    return _onednn_has("bf16")


def _cpu_has_fp16() -> bool:
    facts = _cpu_facts()
    if facts.get("architecture", "x86_64") in ("x86_64", "AMD64"):
        return bool(facts.get("avx512_fp16") or facts.get("amx_fp16"))
    return _onednn_has("fp16")


def _onednn_has(precision: str) -> bool:
    question = getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported", None)
    return question is not None and bool(question())


@functools.cache
def _cpu_facts() -> Mapping[str, object]:
    """Names of instruction sets -> whether the CPU has them, as PyTorch says, or Linux where PyTorch does not say."""
    known: Any = getattr(torch.cpu, "get_capabilities", None)
    if known is not None:
        return dict(known())
    lines = _cpuinfo("flags")
    return dict.fromkeys(lines[0].split(), True) if lines else {"architecture": "other"}


def _cpuinfo(entry: str) -> list[str]:
    """The values of an entry of /proc/cpuinfo, one for each core; none where there is no such file."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(entry)]


def processor() -> str:
    """What the CPU is called."""
    names = _cpuinfo("model name")
    return names[0] if names else platform.processor() or platform.machine()


def _has_float64(device: torch.device) -> bool:
    if device.type == "cpu":
        return True
    try:  # no table: of Intel's cards some have it
        return float(torch.ones(2, dtype=torch.float64, device=device).sum()) == 2
    except (RuntimeError, TypeError):
        return False


def _backends() -> frozenset[str]:
    """Those of torch.distributed that this PyTorch has."""
    backends = torch.distributed
    if not backends.is_available():
        return frozenset()
    names = {name for known in _BACKENDS.values() for name in known}
    questions = {name: getattr(backends, f"is_{name}_available", None) for name in names}
    return frozenset(name for name, question in questions.items() if question is not None and question())
