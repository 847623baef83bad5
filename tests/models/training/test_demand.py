"""Trainings that cannot fit into the memory are refused before they begin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.training import demand
from models.training.demand import check_activations, check_demand
from models.training.run import training_set
from tests.models.training.objectives.test_any_scale import options as any_scale
from tests.runs import adversarial, run_here, workplace
from tests.states import options, state_of
from utils.errors import InputError
from utils.log import configure_logging

GIB = 2**30


@pytest.fixture(autouse=True)
def one_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workplace, and a GiB that is free."""
    monkeypatch.chdir(workplace(tmp_path / "work place"))
    monkeypatch.setattr(demand, "obtainable_memory", lambda: GIB)


def refusal(*edits: str) -> str:
    edited = options(*edits)
    with pytest.raises(InputError) as caught:
        check_demand(edited, torch.device("cpu"), training_set(edited))
    return str(caught.value)


def test_ordinary_trainings_pass() -> None:
    for edits in ((), ("datasets:train:batch_size_per_gpu=64", "datasets:train:num_worker_per_gpu=16")):
        check_demand(options(*edits), torch.device("cpu"), training_set(options(*edits)))
        check_activations(state_of(options(*edits)), options(*edits))


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        (
            ["datasets:train:batch_size_per_gpu=1000000", "datasets:train:gt_size=48"],
            "a batch (batch_size_per_gpu 1,000,000, patches of 48 x",
        ),
        (["datasets:train:gt_size=60000"], "a batch (batch_size_per_gpu 2, patches of 60000 x 60000 pixels): "),
        (
            [f"datasets:train:{key}" for key in ("prefetch_mode=cpu", "num_prefetch_queue=10000")]
            + ["train:total_iter=10000000", "datasets:train:batch_size_per_gpu=1000"],
            "10,000 batches ahead (batch_size_per_gpu 1,000, num_worker_per_gpu 0, num_prefetch_queue 10,000): ",
        ),
        (["datasets:train:dataset_enlarge_ratio=6e7"], "the order of 180,000,000 samples of an epoch: 1.3"),
        (
            ["datasets:train:type=RealESRGANDataset", "datasets:train:crop_size=24", "queue_size=1000000"],
            "the pool (queue_size 1,000,000): ",
        ),
    ],
)  # fmt: skip
def test_numbers_that_cannot_fit_are_named(edits: list[str], said: str) -> None:
    message = refusal(*edits)
    assert message.startswith("the memory cannot hold this training, which needs at least ")
    assert ", and there are 1.0 GiB: " in message
    assert said in message


def test_images_that_are_to_be_kept_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert training_set(options()).kept_bytes == 3 * 48 * (40 + 44 + 48)
    assert training_set(options("datasets:train:io_backend={type: disk}")).kept_bytes == 0
    monkeypatch.setattr(demand, "obtainable_memory", lambda: 3 * 48 * (40 + 44 + 48))
    assert "the images of Photos (io_backend memory): 0.0 GiB" in refusal()


def test_each_rank_of_this_machine_takes_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    edits = ("datasets:train:batch_size_per_gpu=100000", "datasets:train:dataset_enlarge_ratio=1000")
    check_demand(options(*edits), torch.device("cpu"), training_set(options(*edits)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert "a batch" in refusal(*edits)


def test_a_batch_of_thousands_of_epochs_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    edited = options("datasets:train:batch_size_per_gpu=100000")
    check_demand(edited, torch.device("cpu"), training_set(edited))
    said = "Photos: batch_size_per_gpu 100,000 shows each of the 6 samples of an epoch 16,666 times in one batch"
    assert said in capsys.readouterr().err


def test_what_does_not_grow_with_the_batch_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are cast to bfloat16 are kept for the gradient, too, but once for all samples."""
    wide = options("train:amp=bf16", "datasets:train:batch_size_per_gpu=256", "datasets:train:gt_size=4",
                   "network_g:n_feat=64", "network_g:im_feat=[64,64]")  # fmt: skip
    state = state_of(wide)
    sample = demand._sample_of(wide)
    assert sample is not None
    kept = [demand._kept(state.generator.network, demand._blank(sample, count, 3), wide) for count in (1, 2, 256)]
    assert kept[2] == kept[0] + 255 * (kept[1] - kept[0])
    assert kept[2] < 256 * kept[0] / 2
    monkeypatch.setattr(demand, "obtainable_memory", lambda: kept[2])
    check_activations(state, wide)
    monkeypatch.setattr(demand, "obtainable_memory", lambda: kept[2] - 1)
    with pytest.raises(InputError, match="256 patches of 4 x 4 pixels"):
        check_activations(state, wide)


def test_activations_that_cannot_fit_are_found_on_one_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    small = options("datasets:train:batch_size_per_gpu=4096", "datasets:train:dataset_enlarge_ratio=10")
    state = state_of(small)
    monkeypatch.setattr(demand, "obtainable_memory", lambda: GIB // 8)
    before = {name: value.clone() for name, value in state.generator.network.state_dict().items()}
    random = torch.get_rng_state()
    with pytest.raises(
        InputError, match=r"what PlainUSR_ultra keeps for the gradient of 4,096 patches of 24 x 24 pixels"
    ):
        check_activations(state, small)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in state.generator.network.state_dict().items())
    assert all(parameter.grad is None for parameter in state.generator.network.parameters())
    assert state.generator.network.training
    # In micro-batches they do.
    check_activations(state, options("datasets:train:batch_size_per_gpu=4096", "train:accumulate=512"))


def test_activations_of_the_discriminator_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    text = adversarial(Path("train.yml").read_text())
    Path("train.yml").write_text(text)
    many = options("datasets:train:batch_size_per_gpu=1024", "model_type=ESRGANModel")
    state = state_of(many)
    before = {name: value.clone() for name, value in state.players["d"].network.state_dict().items()}
    total = 0
    sample = demand._sample_of(many)
    assert sample is not None
    assert (sample.low, sample.of_output.low) == (12, 24)
    for name, seen in (("g", sample), ("d", sample.of_output)):
        one, two = (demand._kept(state.players[name].network, demand._blank(seen, n, 3), many) for n in (1, 2))
        total += one + 1023 * (two - one)
    monkeypatch.setattr(demand, "obtainable_memory", lambda: total)
    check_activations(state, many)
    monkeypatch.setattr(demand, "obtainable_memory", lambda: total - 1)
    with pytest.raises(InputError, match="what UNetDiscriminatorSN keeps for the gradient of 1,024 patches") as refused:
        check_activations(state, many)
    assert "train.accumulate" not in str(refused.value)  # which relativistic losses do not take
    after = state.players["d"].network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_batches_of_points_are_foreseen_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = any_scale(Path(), "datasets:train:batch_size_per_gpu=2000", "datasets:train:num_worker_per_gpu=1")
    state, sample = state_of(many), demand._sample_of(many)
    assert sample is not None
    assert (sample.low, sample.high, sample.prepared) == (8, 48, 3 * 64 + 7 * 48)
    one, two = (demand._kept(state.generator.network, demand._blank(sample, n, 3), many) for n in (1, 2))
    total = one + 1999 * (two - one)
    monkeypatch.setattr(demand, "obtainable_memory", lambda: total)
    check_activations(state, many)
    check_demand(many, torch.device("cpu"), training_set(many))
    monkeypatch.setattr(demand, "obtainable_memory", lambda: total - 1)
    message = r"ESCLTE keeps for the gradient of 2,000 patches of 8 x 8 low-resolution pixels \(lq_size\) and 48 points"
    with pytest.raises(InputError, match=message):
        check_activations(state, many)
    monkeypatch.setattr(demand, "obtainable_memory", lambda: 2000 * 3 * 4 * (64 + 48) - 1)
    with pytest.raises(InputError, match=r"a batch \(batch_size_per_gpu 2,000, patches of 8 x 8 low-resolution pixels"):
        check_demand(many, torch.device("cpu"), training_set(many))


@pytest.mark.parametrize("check", [(), ("--check",)])
def test_the_commands_say_so_in_seconds_and_leave_an_earlier_run_alone(
    check: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = Path("experiments/tiny/mine.txt")
    earlier.parent.mkdir(parents=True)
    earlier.write_text("kept")
    reads: list[Path] = []
    monkeypatch.setattr("data.images.sources.FileImage.read", reads.append)
    edits = ("datasets:train:batch_size_per_gpu=1000000", "datasets:train:gt_size=48")
    assert run_here("train.py", "-opt", "train.yml", "--force_yml", *edits, *check) == 2
    assert "a batch (batch_size_per_gpu 1,000,000" in capsys.readouterr().err
    assert earlier.exists()
    assert not reads
