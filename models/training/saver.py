"""Checkpoints written behind the training's back: it goes on while a copy of its state is on the way to the disk."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from config.schema import LoggerOptions, TrainOptions
from models.distributed import World
from models.training import checkpoint
from models.training.checkpoint import CheckpointFolder, Snapshot
from models.training.state import TrainState
from models.weights.files import write_checkpoint
from utils.seed import random_state


class Saver:
    """One writer for a run, one checkpoint at a time; what failed is raised at the next call.

    Args:
        folder: where the checkpoints go.
        options: of the run; its ``logger`` section says what is kept.
        world: each rank adds its random generators; rank 0 writes.
    """

    def __init__(self, folder: CheckpointFolder, options: TrainOptions, world: World) -> None:
        self.folder = folder
        self.options = options
        self.world = world
        self.saved = -1
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if world.is_main else None
        self._pending: Future[None] | None = None
        if self._pool is not None:
            # Started now: in a full memory a thread may fail before it says that it has begun, which is waited for.
            self._pool.submit(int).result()

    def save(self, state: TrainState) -> None:
        """Copy the state and write it; waits only for the checkpoint before. Called by every rank.

        Raises:
            StorageError: writing the checkpoint before failed; the files on the disk are whole.
        """
        if state.step == self.saved:
            return
        randoms = self.world.gather(random_state())
        self.saved = state.step
        if self._pool is not None:
            self.wait()
            snapshot = checkpoint.snapshot(state, self.options, randoms)
            self._pending = self._pool.submit(_write, self.folder, snapshot, self.options.logger)

    def save_best(self, state: TrainState) -> None:
        """Write the generator as ``net_g_best.pth``. Called by every rank."""
        if self._pool is not None:
            self.wait()
            content = checkpoint.network_content(state, "g", self.options)
            self._pending = self._pool.submit(write_checkpoint, self.folder.network("best"), content)

    def save_latest(self, state: TrainState) -> Path | None:
        """Write the networks as ``latest``, at once; returns where the generator is. Called by every rank."""
        if self._pool is None:
            return None
        self.wait()
        for name in reversed(state.players):  # the generator, by which a recipe knows that a stage is done, last
            write_checkpoint(self.folder.network("latest", name), checkpoint.network_content(state, name, self.options))
        return self.folder.network("latest")

    def wait(self) -> None:
        """Return when everything is on the disk.

        Raises:
            StorageError: writing failed.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait and let the writer go.

        Raises:
            StorageError: writing failed.
        """
        try:
            self.wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown()


def _write(folder: CheckpointFolder, snapshot: Snapshot, options: LoggerOptions) -> None:
    checkpoint.write(folder, snapshot, safetensors=options.save_safetensors)
    if options.keep_last is not None:
        checkpoint.prune(folder, options.keep_last, options.keep_every, snapshot.step)
