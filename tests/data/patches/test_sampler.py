from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.patches.sampler import batch_stream, epoch_length, epoch_order, sample_stream, shares_of
from data.samples import SampleKey

IMAGES, RATIOS = st.integers(1, 30), st.integers(1, 5)


@given(images=IMAGES, ratio=RATIOS, seed=st.integers(0, 10**9), epoch=st.integers(0, 50))
def test_an_epoch_takes_each_image_ratio_times(images: int, ratio: int, seed: int, epoch: int) -> None:
    length = images * ratio
    keys = list(islice(sample_stream(images, ratio, seed, epoch * length), length))
    assert {key.epoch for key in keys} == {epoch}
    assert sorted(key.position for key in keys) == list(range(length))
    assert Counter(key.image for key in keys) == dict.fromkeys(range(images), ratio)


@given(
    images=IMAGES,
    ratio=st.sampled_from([1, 2.5, 3]),
    seed=st.integers(0, 99),
    batch=st.integers(1, 7),
    ranks=st.integers(1, 4),
    start=st.integers(0, 20),
    count=st.integers(0, 12),
)
def test_stream_is_the_same_wherever_it_begins(
    images: int, ratio: float, seed: int, batch: int, ranks: int, start: int, count: int
) -> None:
    for rank in range(ranks):

        def stream(first: int, place: int = rank) -> list[list[SampleKey]]:
            return list(
                batch_stream(images, ratio, seed, batch, start=first, stop=start + count, rank=place, world_size=ranks)
            )

        assert stream(start) == stream(0)[start:]


@given(images=IMAGES, batch=st.integers(1, 5), ranks=st.integers(1, 4), steps=st.integers(1, 10))
def test_ranks_share_the_stream_of_one(images: int, batch: int, ranks: int, steps: int) -> None:
    alone = [key for keys in batch_stream(images, 1, 3, batch * ranks, start=0, stop=steps) for key in keys]
    shares = [
        [
            key
            for keys in batch_stream(images, 1, 3, batch, start=0, stop=steps, rank=r, world_size=ranks)
            for key in keys
        ]
        for r in range(ranks)
    ]
    assert [key for together in zip(*shares, strict=True) for key in together] == alone


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in (0, 1, 2, 2**31, 2**40) for epoch in range(4)}
    assert len(orders) == 20


def test_few_images_fill_large_batches() -> None:
    (keys,) = batch_stream(3, 1, 0, 8, start=0, stop=1)
    assert len(keys) == 8
    assert [key.epoch for key in keys] == [0, 0, 0, 1, 1, 1, 2, 2]


def test_position_tells_repetitions_apart() -> None:
    keys = list(islice(sample_stream(2, 3, 0), 6))
    assert len(set(keys)) == 6
    assert all(key == SampleKey(0, key.position, key.position % 2) for key in keys)


def test_ratio_may_be_a_fraction() -> None:
    assert epoch_length(10, 2.5) == 25
    assert epoch_length(3, 1.5) == 5


@pytest.mark.shared
def test_recorded_orders(shared: Path) -> None:
    cases = json.loads((shared / "golden/formats/sampler.json").read_text())["cases"]
    assert cases
    for case in cases:
        # BasicSR fills an epoch up to a multiple of the ranks; the order within is the same permutation.
        total = case["len"] * case["world_size"]
        order = epoch_order(total, seed=0, epoch=case["epoch"])[case["rank"] :: case["world_size"]]
        assert np.array_equal(order % case["dataset_size"], case["indices"])


@pytest.mark.shared
def test_a_run_with_seed_zero_sees_the_recorded_samples(shared: Path) -> None:
    for case in json.loads((shared / "golden/formats/sampler.json").read_text())["cases"]:
        n, q, ranks = case["dataset_size"], case["ratio"], case["world_size"]
        if case["len"] * ranks != n * q:
            continue
        start = case["epoch"] * case["len"]
        batches = batch_stream(n, q, 0, 1, start=start, stop=start + case["len"], rank=case["rank"], world_size=ranks)
        assert [keys[0].image for keys in batches] == case["indices"]


@given(
    counts=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    weights=st.lists(st.sampled_from([0.3, 1, 2, 2.5]), min_size=4),
    ratio=st.sampled_from([1, 2]), seed=st.integers(0, 99),
)  # fmt: skip
def test_weights_say_how_often_images_are_seen(
    counts: list[int], weights: list[float], ratio: float, seed: int
) -> None:
    weights = weights[: len(counts)]
    shares = shares_of(counts, weights, ratio)
    length = epoch_length(sum(counts), ratio, shares)
    epochs = 12
    keys = list(islice(sample_stream(sum(counts), ratio, seed, shares=shares), epochs * length))
    assert [key.epoch for key in keys] == [epoch for epoch in range(epochs) for _ in range(length)]
    seen = Counter(key.image for key in keys)
    first = 0
    for count, share in zip(counts, shares, strict=True):
        times = [seen[image] for image in range(first, first + count)]
        assert sum(times) == epochs * share.samples
        assert max(times) - min(times) <= 1
        first += count


def test_whole_weights_take_each_image_in_each_epoch() -> None:
    shares = shares_of([3, 2], [2.0, 1.0], 1)
    for epoch in range(3):
        keys = islice(sample_stream(5, 1, 4, epoch * 8, shares=shares), 8)
        assert Counter(key.image for key in keys) == {0: 2, 1: 2, 2: 2, 3: 1, 4: 1}
