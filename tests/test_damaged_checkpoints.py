"""600 damaged checkpoints with fixed seeds: each loads the same, gives way to the one before, or is refused."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from config.schema import TrainOptions
from models.distributed import World
from models.training import checkpoint
from models.training.checkpoint import CheckpointFolder
from models.training.state import TrainState
from models.weights.files import load_weights, read_checkpoint, write_safetensors
from tests.runs import workplace
from tests.states import Tiny, moved_state, options, save, state_of
from utils.errors import InputError
from utils.tensor_files import sums

Damage = Callable[[np.ndarray, np.random.Generator], np.ndarray]
VALUES: list[Any] = [
    None, True, -1, 0, 3, 2.5, float("nan"), 10**30, "", "g", b"\xff", [], [None], {}, {"g": None}, {3: 3},
    torch.ones(2), torch.zeros(0), torch.ones(3, dtype=torch.uint8), torch.full((2, 2), float("nan")),
]  # fmt: skip


def flips(content: np.ndarray, random: np.random.Generator) -> np.ndarray:
    for place in random.integers(0, len(content), int(2 ** random.integers(0, 11))):
        content[place] = random.integers(0, 256)
    return content


def one_bit(content: np.ndarray, random: np.random.Generator) -> np.ndarray:
    content[random.integers(0, len(content))] ^= 1 << random.integers(0, 8)
    return content


def at_the_end(content: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """In the directory of an archive, most likely."""
    content[-random.integers(1, 2000)] ^= 1 << random.integers(0, 8)
    return content


def cut(content: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return content[: random.integers(0, len(content))]


def longer(content: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.concatenate([content, random.integers(0, 256, int(random.integers(1, 5000)), np.uint8)])


def zeros(content: np.ndarray, random: np.random.Generator) -> np.ndarray:
    start = int(random.integers(0, len(content)))
    content[start : start + int(random.integers(1, 4096))] = 0
    return content


def swapped(content: np.ndarray, random: np.random.Generator) -> np.ndarray:
    size = int(random.choice([4, 64, 512]))
    one, two = (int(place) // size * size for place in random.integers(0, len(content) - size, 2))
    content[one : one + size], content[two : two + size] = (
        content[two : two + size].copy(), content[one : one + size].copy(),
    )  # fmt: skip
    return content


DAMAGES: list[Damage] = [flips, one_bit, at_the_end, cut, longer, zeros, swapped]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointFolder:
    """Checkpoints of iterations 4 and 8 in the folder of a run."""
    monkeypatch.chdir(workplace(tmp_path))
    found = CheckpointFolder(tmp_path / "experiments/tiny")
    for step in (4, 8):
        save(found, moved_state(options(), step), options())
    return found


def seen(state: TrainState) -> list[bytes | str]:
    """Everything that a resumed run goes on with."""
    player = state.generator
    assert player.ema is not None
    moments = [value for values in player.optimizer.state.values() for value in values.values()]
    tensors = [
        *player.network.state_dict().values(),
        *player.ema.state_dict().values(),
        *moments,
        torch.get_rng_state(),
    ]
    plain = (state.step, state.epoch, state.validated, state.skipped, state.best)
    groups = [{**group, "params": len(group["params"])} for group in player.optimizer.param_groups]
    return [*(value.numpy().tobytes() for value in tensors if isinstance(value, Tensor)), repr(plain), repr(groups)]


def resumed(folder: CheckpointFolder, chosen: TrainOptions) -> list[bytes | str]:
    """What a run goes on with when it is resumed now, and that it can go on."""
    torch.manual_seed(99)
    state = state_of(chosen, Tiny())
    found = checkpoint.find_resume(folder, chosen.path, World())
    assert found is not None
    checkpoint.take_over(state, found, chosen, World())
    found_now = seen(state)
    for parameter in state.generator.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.generator.optimizer.step()
    return found_now


def test_damaged_states_and_their_networks_resume_the_same_or_the_one_before(folder: CheckpointFolder) -> None:
    chosen = options()
    whole = resumed(folder, chosen)
    files = {path: np.fromfile(path, np.uint8) for path in (folder.state(8), folder.network(8))}
    folder.state(8).unlink()
    before = resumed(folder, chosen)
    assert before != whole
    found = []
    for number in range(200):
        random = np.random.default_rng(number)
        damaged = list(files)[number % 2]
        for path, content in files.items():
            damage = DAMAGES[number // 2 % len(DAMAGES)]
            (damage(content.copy(), random) if path == damaged else content).tofile(path)
        found.append(resumed(folder, chosen))
        assert found[-1] in (whole, before), number
    assert found.count(before) > 150


def test_odd_values_in_states_resume_the_same_or_the_one_before(folder: CheckpointFolder) -> None:
    content = read_checkpoint(folder.state(8))
    chosen, path = options(), folder.state(8)
    keys = list(every_key(content))
    decided = 0
    for number in range(150):
        random = np.random.default_rng(number)
        changed = copy.deepcopy(content)
        *outer, last = keys[int(random.integers(0, len(keys)))]
        value = VALUES[number % len(VALUES)]
        at: Any = changed
        for key in outer:
            at = at[key]
        at[last] = value
        buffer = io.BytesIO()
        torch.save(changed, buffer)
        path.write_bytes(b"".join(sums.sealed_archive(buffer.getbuffer())))
        try:
            step = resumed(folder, chosen)[-2]
        except checkpoint.NewerFormatError:
            assert last == "format_version"
            continue
        assert isinstance(step, str)
        assert step.startswith(("(8, ", "(4, ")), (number, outer, last, value)
        decided += step.startswith("(4, ")
    assert decided > 40


def every_key(value: Any, *outer: Any) -> Iterator[tuple[Any, ...]]:
    """The keys and positions of everything in nested mappings and lists; options of the run count a little only."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    for key, inner in items[: 3 if "options" in outer else None]:
        yield (*outer, key)
        yield from every_key(inner, *outer, key)


@pytest.mark.parametrize("kind", ["ours", "of torch", "safetensors of ours"])
def test_damaged_weights_load_the_same_or_not_at_all(tmp_path: Path, kind: str) -> None:
    source, target = Tiny(), Tiny()
    expected = {key: value.clone() for key, value in source.state_dict().items()}
    path = tmp_path / "net.pth"
    if kind == "safetensors of ours":
        write_safetensors(path, expected, {})
    else:
        buffer = io.BytesIO()
        torch.save({"params": expected}, buffer)
        path.write_bytes(b"".join(sums.sealed_archive(buffer.getbuffer())) if kind == "ours" else buffer.getvalue())
    content = np.fromfile(path, np.uint8)
    refused = 0
    for number in range(70):
        DAMAGES[number % len(DAMAGES)](content.copy(), np.random.default_rng(number)).tofile(path)
        try:
            load_weights(target, path, "params")
        except InputError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        assert all(torch.equal(value, target.state_dict()[key]) for key, value in expected.items()), number
    assert refused > 35


@pytest.mark.parametrize("kind", ["safetensors", "before PyTorch 1.6"])
def test_damage_to_files_without_checksums_ends_in_an_answer(tmp_path: Path, kind: str) -> None:
    """Nothing tells that their tensors are damaged; that they cannot be read is said all the same."""
    path = tmp_path / "net.pth"
    if kind == "safetensors":
        save_file(Tiny().state_dict(), path, {"network_g": "{}"})
    else:
        torch.save({"params": Tiny().state_dict()}, path, _use_new_zipfile_serialization=False)
    content = np.fromfile(path, np.uint8)
    refused = 0
    for number in range(20):
        DAMAGES[number % len(DAMAGES)](content.copy(), np.random.default_rng(number)).tofile(path)
        try:
            load_weights(Tiny(), path, "params")
        except InputError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 3
