"""A training that cannot go on: its last whole iteration is saved, and the message says how to continue."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from models.training.run import Run
from models.training.state import TrainState
from utils.errors import InputError, RunError, StorageError, WorkerError
from utils.memory import FullMemoryError, memory_is_full


@contextlib.contextmanager
def state_kept(run: Run, state: TrainState) -> Iterator[None]:
    """Around the iterations: save the state where memory, a worker process, the data or the disk end them.

    What cannot be used before the first iteration is bad input, and stays so. Once the training runs, an image that
    has been damaged, or a folder that is gone, is something that has happened to it.

    Several ranks do not save: the others are in the middle of an iteration and would not join.

    Raises:
        FullMemoryError: the memory is full.
        WorkerError: a worker process died.
        RunError: something that could be used when the run began no longer can.
        StorageError: something could not be written.
    """
    first = state.step
    try:
        yield
    except (FullMemoryError, WorkerError, StorageError, InputError) as error:
        if isinstance(error, InputError) and state.step == first:
            raise
        failure = error
    else:
        return
    # Outside of the handler, which would hold on to what the interrupted work has in memory.
    if isinstance(failure, StorageError):
        run.saver.saved = -1  # perhaps it is the checkpoint of this iteration that could not be written
    kind = RunError if isinstance(failure, InputError) else type(failure)
    raise kind(f"{failure}. {_saved(run, state, failure)}") from failure


def _saved(run: Run, state: TrainState, failure: Exception) -> str:
    """Save the state if it is that of a whole iteration; one or two sentences on what the run goes on from."""
    if state.step == 0:
        return "Nothing is lost: no iteration was done"
    if run.world.size > 1:
        reason = ""
    elif state.moving:
        reason = f"Iteration {state.step + 1:,} had begun to change the weights, so that they are not saved. "
    else:
        try:
            run.saver.save(state)
            run.saver.wait()
        except StorageError as error:
            why = "" if isinstance(failure, StorageError) else f": {error}"
            reason = f"Iteration {state.step:,} could not be saved{why}. "
        except Exception as error:
            if not memory_is_full(error):
                raise
            reason = f"Iteration {state.step:,} is not saved, since there is no memory for that. "
        else:
            return f"The state of iteration {state.step:,} is saved; continue with {run.goes_on}"
    steps = run.saver.folder.steps()
    if not steps:
        return f"{reason}There is no checkpoint yet"
    return f"{reason}The last checkpoint is that of iteration {steps[0]:,}; continue with {run.goes_on}"
