"""Distributed training: calls that several ranks need, and that do nothing in a single process.

``torchrun`` (``--launcher pytorch``) and SLURM (``--launcher slurm``) set the ranks; DistributedDataParallel averages
gradients, over what the device has for it: nccl of CUDA and ROCm, xccl of XPU, gloo of the CPU.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from utils import devices
from utils.errors import InputError, StorageError, WorkerError
from utils.signals import ending_with_parent

if TYPE_CHECKING:
    from config.schema import DistOptions

Launcher = Literal["none", "pytorch", "slurm"]
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The rank of this process, and the number of all.

    Attributes:
        rank: 0 .. size - 1; only rank 0 writes.
        size: number of processes.
        local_rank: rank on this machine; picks the device.
        local_size: number of processes on this machine.
        asked: the device that the command line names; None: ``num_gpu`` decides.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    asked: str | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    def from_main(self, value: T) -> T:
        """The value that rank 0 has, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    @contextmanager
    def on_main(self, entered: AbstractContextManager[object]) -> Iterator[None]:
        """A context that rank 0 alone enters; what keeps it from entering is raised on every rank."""
        with ExitStack() as stack:
            refusal: Exception | None = None
            if self.is_main:
                try:
                    stack.enter_context(entered)
                except (InputError, StorageError) as error:
                    refusal = error
            refusal = self.from_main(refusal)
            if refusal is not None:
                raise refusal
            yield

    def together(self, action: Callable[[], T]) -> T:
        """What an action returns, on each rank its own; what keeps one of them from it is raised on every rank."""
        if self.size == 1:
            return action()
        found, refusal = [], None
        try:
            found.append(action())
        except (InputError, StorageError) as error:
            refusal = error
        for raised in self.gather(refusal):
            if raised is not None:
                raise raised
        return found[0]

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, on every rank, in the order of ranks."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value)
        return box

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return any(self.gather(flag))

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Mean over the ranks."""
        if self.size == 1:
            return value
        value = value.clone()
        dist.all_reduce(value)
        return value / self.size

    def means(self, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Mean over the ranks of each of several numbers, exchanged at once; of the widest of their types."""
        if self.size == 1:
            return dict(values)
        kind = functools.reduce(torch.promote_types, (value.dtype for value in values.values()))
        found = self.mean(torch.stack([value.to(kind) for value in values.values()]))
        return dict(zip(values, found.unbind(), strict=True))

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network as its training step calls it: inside DistributedDataParallel where there are several ranks.

        In each pass all ranks take over the buffers of rank 0: of batch norms, whose running statistics would else
        differ from rank to rank. Vectors of spectral norms follow from the weights, and are the same everywhere.

        Raises:
            InputError: PyTorch cannot average gradients on the network's device.
        """
        if self.size == 1:
            return network
        device = next(network.parameters()).device
        if devices.abilities(device).backend is None:
            raise InputError(
                f"several processes cannot train on {device.type}: this PyTorch ({torch.__version__}) cannot average "
                "gradients there; use a single process, or --device cpu"
            )
        return nn.parallel.DistributedDataParallel(network)

    def device(self, num_gpu: int | Literal["auto"]) -> torch.device:
        """The device for this rank, which is PyTorch's current one from then on.

        Where the command line names one, that is it; else an accelerator, unless ``num_gpu`` is 0 or there is none.

        Raises:
            InputError: what is asked for is not there.
        """
        device = self._chosen(num_gpu)
        devices.use(device)
        return device

    def _chosen(self, num_gpu: int | Literal["auto"]) -> torch.device:
        if self.asked is not None:
            return devices.choose(self.asked, local_rank=self.local_rank, local_ranks=self.local_size)
        if num_gpu == 0:
            return devices.CPU
        device = devices.choose(local_rank=self.local_rank)
        if num_gpu == "auto":
            return device
        if device == devices.CPU:
            raise InputError(f"num_gpu: {num_gpu} asks for a GPU, but PyTorch sees none; use 0 or auto")
        if self.size == 1 and num_gpu > 1:
            raise InputError(
                f"num_gpu: {num_gpu} needs one process per GPU: torchrun --nproc-per-node {num_gpu} {_program()} ... "
                "--launcher pytorch; or name one: --device auto"
            )
        return device


def _program() -> str:
    """The program that runs, as it was typed, for messages."""
    return sys.argv[0] if Path(sys.argv[0]).suffix == ".py" else "train.py"


_groups: list[object] = []
"""Every group that was connected, until the process ends.

Else the last to hold it would be DistributedDataParallel, which waits for the end of gloo's threads without letting go
of Python's global lock. A thread that needs the lock, to release the tensors of the last exchange, never ends then.
"""


@contextmanager
def world(
    launcher: Launcher,
    options: DistOptions | None = None,
    num_gpu: int | Literal["auto"] = "auto",
    device: str | None = None,
) -> Iterator[World]:
    """The ranks of this run: connects them on entry and disconnects them on exit.

    A rank whose launcher (torchrun, srun) is gone is asked to stop, as by SIGTERM, and ended after some seconds.

    Args:
        launcher: what started them and set their environment variables.
        options: backend and port, where they differ from the defaults.
        num_gpu: 0: the ranks are going to compute on the CPU.
        device: what the command line says about it, instead; None: nothing.

    Raises:
        InputError: the launcher's environment variables are missing, or the device is not there.
    """
    if launcher == "none":
        yield World(asked=device)
        return
    if launcher == "slurm":
        _export_slurm(options.port if options else 29500)
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except KeyError as error:
        raise InputError(
            f"--launcher {launcher}: the environment variable {error.args[0]} is not set; "
            f"start with `torchrun --nproc-per-node N {_program()} ... --launcher pytorch`"
        ) from error
    local = int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", size))
    ranks = World(rank, size, *local, device)
    # Where gradients cannot be averaged, ranks can still share out images.
    own = devices.abilities(ranks.device(num_gpu)).backend or "gloo"
    backend = (options.backend if options else None) or own
    try:
        with ending_with_parent("the launcher") if _is_watched(launcher) else nullcontext():
            dist.init_process_group(backend, store=_restarted_store(), rank=rank, world_size=size)
            _groups.append(dist.group.WORLD)
            atexit.register(_groups.clear)
            try:
                if rank == 0 and restarts() == 0:
                    mark_begun("")
                yield ranks
            finally:
                dist.destroy_process_group()
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        raise WorkerError(
            f"rank {rank} has lost the connection to another rank, whose own message says why; "
            "torchrun --max-restarts N starts all of them again, from the last checkpoint"
        ) from error


_LOST = re.compile(r"gloo.*(Connection|connect|Read error|Timed out)|[NX]CCL.*(remote|connection|timeout)", re.DOTALL)
"""What torch says when another process is gone."""


def _is_watched(launcher: Launcher) -> bool:
    """Whether the parent of this rank is what launched it, and not the shell of one who sets RANK himself.

    That shell may end at once (``nohup``, ``&``), and the training is to go on.
    """
    return launcher == "slurm" or "TORCHELASTIC_RUN_ID" in os.environ


def restarts() -> int:
    """How often torchrun has started all ranks again, because one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def mark_begun(what: str) -> None:
    """Let later starts of these ranks by torchrun know that they have begun with something; rank 0 alone calls it."""
    store = launcher_store() if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0 else None
    if store is not None:
        store.set(f"focalsr/begun/{what}", "yes")


def has_begun(what: str) -> bool:
    """Whether an earlier start of these ranks by torchrun has begun with something; True where that is not known."""
    if restarts() == 0:
        return False
    store = launcher_store()
    # A launcher may have a new store for each start, which knows nothing of the first one.
    return store is None or not store.check(["focalsr/begun/"]) or bool(store.check([f"focalsr/begun/{what}"]))


def launcher_store() -> Any:
    """What torchrun keeps for its ranks as long as it lives; None where they have another meeting point."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    return dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)  # type: ignore[attr-defined]


def _restarted_store() -> Any:
    """Where ranks that torchrun has started again find each other; None for the way that torch takes by itself.

    Their store still holds the addresses of the ranks before, and gloo would connect to those.
    """
    attempt = restarts()
    server = launcher_store() if attempt > 0 else None
    return None if server is None else dist.PrefixStore(f"focalsr/attempt_{attempt}", server)  # type: ignore[attr-defined]


def _export_slurm(port: int) -> None:
    """Translate SLURM's variables into those that torch.distributed reads."""
    try:
        os.environ["RANK"] = os.environ["SLURM_PROCID"]
        os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
        nodes = os.environ["SLURM_NODELIST"]
    except KeyError as error:
        raise InputError(f"--launcher slurm: {error.args[0]} is not set; start inside srun") from error
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
    os.environ.setdefault("MASTER_ADDR", first_slurm_node(nodes))
    os.environ.setdefault("MASTER_PORT", str(port))


def first_slurm_node(nodes: str) -> str:
    """The first host of a SLURM list: ``gpu[03-07,9],cpu1`` -> ``gpu03``."""
    match = re.match(r"([^,\[]+)(?:\[(\w+))?", nodes)
    if not match:
        raise InputError(f'--launcher slurm: SLURM_NODELIST "{nodes}" names no host')
    return match[1] + (match[2] or "")
