"""The largest batch: the search, what a GPU's allocator says, what is foreseen on the CPU, the command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.loader import Batch
from models.training import batch_limit
from models.training.batch_limit import DeviceTrial, HostTrial, repeated, search
from tests.runs import run_here, workplace
from utils.errors import InputError


@given(st.integers(0, 300), st.integers(1, 64))
def test_the_search_for_the_largest_batch_ends_beside_the_limit(limit: int, start: int) -> None:
    tried: list[int] = []

    def fits(count: int) -> bool:
        tried.append(count)
        return count <= limit

    low, high = search(fits, start, 200)
    assert len(tried) == len(set(tried)) <= 16
    if limit >= 200:
        assert (low, high) == (200, None)
    else:
        assert high is not None
        assert low <= limit < high
        assert high - low <= max(1, low // 16)
        assert low in tried or low == 0


def test_a_larger_batch_repeats_the_samples_of_a_smaller_one() -> None:
    lq, gt = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 8, 8)
    batch = repeated(Batch.of_pair(lq, gt.to(memory_format=torch.channels_last), ("a", "b"), 3), 5)
    assert torch.equal(batch.lq, lq[[0, 1, 0, 1, 0]])
    assert torch.equal(batch.gt, gt[[0, 1, 0, 1, 0]])
    assert (batch.names, batch.epoch) == (("a", "b", "a", "b", "a"), 3)
    assert batch.gt.is_contiguous()
    last = lq.to(memory_format=torch.channels_last)
    assert repeated(Batch.of_pair(last, gt, ("a", "b"), 0), 3).gt.is_contiguous(memory_format=torch.channels_last)


def test_a_full_gpu_means_does_not_fit_and_other_errors_are_raised() -> None:
    def step(count: int) -> None:
        if count > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if count == 3:
            raise RuntimeError("shapes cannot be multiplied")

    trial = DeviceTrial(torch.device("cpu"), step)
    assert search(trial.fits, 2, 100) == (5, 6)
    with pytest.raises(RuntimeError, match="shapes"):
        trial.fits(3)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> tuple[HostTrial, list[int]]:
    """A process of 1000 bytes on a machine with 1000 more, where a sample takes 50 and a batch 100."""
    tried: list[int] = []
    monkeypatch.setattr(batch_limit, "reset_peak_memory", lambda: None)
    monkeypatch.setattr(batch_limit, "peak_memory", lambda: 1000 + (100 + 50 * tried[-1] if tried else 0))
    monkeypatch.setattr(batch_limit, "available_memory", lambda: 1000)
    return HostTrial.create(tried.append), tried


def test_what_does_not_fit_into_main_memory_is_foreseen(host: tuple[HostTrial, list[int]]) -> None:
    trial, tried = host
    assert trial.limit == 1900
    assert search(trial.fits, 4, 100) == (16, 17)
    assert tried == [4, 8, 16]  # none that would have been too much
    assert trial.foreseen(20) == pytest.approx(1000 + 100 + 50 * 20)


def test_a_first_batch_that_is_too_large_is_taken_back(host: tuple[HostTrial, list[int]]) -> None:
    trial, tried = host
    assert search(trial.fits, 30, 100)[0] == 16
    assert tried[0] == 30
    assert max(tried[1:]) == 16


def test_main_memory_that_is_full_unforeseen_means_does_not_fit(host: tuple[HostTrial, list[int]]) -> None:
    trial, _ = host

    def full(count: int) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    trial.step = full
    assert not trial.fits(1)


def test_a_system_that_hides_its_free_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_limit, "available_memory", lambda: None)
    with pytest.raises(InputError, match="does not tell how much memory is free"):
        HostTrial.create(lambda count: None)


def test_the_check_logs_the_largest_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace(tmp_path))
    monkeypatch.setattr(batch_limit, "MOST", 3)
    assert run_here("train.py", "-opt", "train.yml", "--check", "--largest_batch") == 0
    printed = capsys.readouterr().err
    assert "batch 2 fits" in printed
    assert "largest batch in this memory: batch_size_per_gpu 3 (larger ones were not tried)" in printed
    monkeypatch.setattr(batch_limit, "available_memory", lambda: -(2**40))
    assert run_here("train.py", "-opt", "train.yml", "--check", "--largest_batch") == 2
    assert "not even one sample fits" in capsys.readouterr().err


@pytest.mark.parametrize("others", [(), ("--check", "--launcher", "pytorch")])
def test_the_largest_batch_is_asked_for_with_the_check_alone(
    others: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run_here("train.py", "-opt", "train.yml", "--largest_batch", *others)
    assert left.value.code == 2
    assert "--largest_batch belongs to --check" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_largest_allocation_of_a_gpu_is_found() -> None:
    device = torch.device("cuda")
    unit = torch.cuda.mem_get_info(device)[0] // 10

    def fill(count: int) -> None:
        torch.zeros(count * unit, dtype=torch.uint8, device=device)

    trial = DeviceTrial(device, fill)
    assert 8 <= search(trial.fits, 1, 20)[0] <= 10
