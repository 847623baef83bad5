"""From a file to options: values, defaults, what is filled in, and every kind of mistake."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import config
from config.checks import Mode
from config.optimizers import Adam
from config.schedulers import MultiStepLR
from config.schema import LoggerOptions
from losses import L1Loss
from metrics import PSNR
from tests.config.files import TEST, TRAIN, line_of, mistakes, write
from utils import devices
from utils.errors import InputError


def test_a_training_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = config.read(write(tmp_path, TRAIN), mode="train")
    assert (found.name, found.model_type, found.scale, found.manual_seed) == ("exp", "SRModel", 2, 3)
    assert found.num_gpu == devices.present().count
    assert found.network_g.as_mapping() == {"type": "PlainUSR_ultra", "scale": 2}
    assert found.path.pretrain_network_g == Path("/home/me/w.pth")
    assert found.path.resume_state is None
    assert found.path.param_key_g is None
    assert found.train.total_iter == 5000
    assert found.train.ema_decay == 0
    assert found.train.optim_g == Adam(lr=2e-4, betas=(0.9, 0.99))
    assert found.train.scheduler == MultiStepLR(milestones=(25, 40), gamma=0.5)
    assert found.train.pixel_opt == L1Loss()
    assert found.val is not None
    assert (found.val.val_freq, found.val.save_img) == (5000, False)
    assert found.val.metrics == {"psnr": PSNR(crop_border=2, test_y_channel=True)}
    assert found.logger == LoggerOptions(print_freq=10, use_tb_logger=True)
    assert found.train_dataset.name == "T"
    assert list(found.val_datasets) == ["val_10", "val_2"]
    assert found.notes == ()


def test_a_test_file_is_read(tmp_path: Path) -> None:
    found = config.read(write(tmp_path, TEST), mode="test")
    assert list(found.datasets) == ["test_10", "test_2"]
    assert 1 <= found.manual_seed <= 10000
    assert found.path.param_key_g == "params_ema"
    assert found.val is not None
    assert found.val.suffix is None


def test_options_are_frozen(tmp_path: Path) -> None:
    found = config.read(write(tmp_path, TEST), mode="test")
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "other"  # type: ignore[misc]


def test_a_missing_seed_is_drawn_anew_each_time(tmp_path: Path) -> None:
    path = write(tmp_path, TEST)
    seeds = {config.read(path, mode="test").manual_seed for _ in range(20)}
    assert len(seeds) > 1
    assert config.read(path, ["manual_seed=~"], mode="test").manual_seed in range(1, 10001)
    assert config.read(path, ["manual_seed=0"], mode="test").manual_seed == 0


@pytest.mark.parametrize(("number", "expected"), [("auto", 3), ("~", 3), ("0", 0), ("2", 2)])
def test_num_gpu_auto_counts_the_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, expected: int
) -> None:
    monkeypatch.setattr(devices, "present", lambda: devices.Present("xpu", 3))
    assert config.read(write(tmp_path, TEST), [f"num_gpu={number}"], mode="test").num_gpu == expected


@pytest.mark.parametrize(("name", "debug", "expected"), [("exp", True, "debug_exp"), ("debug_1", True, "debug_1")])
def test_debug_makes_a_short_run(tmp_path: Path, name: str, debug: bool, expected: str) -> None:
    found = config.read(write(tmp_path, TRAIN), [f"name={name}"], mode="train", debug=debug)
    assert found.name == expected
    assert found.val is not None
    assert found.val.val_freq == 8
    assert found.logger == LoggerOptions(print_freq=1, save_checkpoint_freq=8, use_tb_logger=False)


def test_a_name_that_holds_debug_makes_a_short_run(tmp_path: Path) -> None:
    assert config.read(write(tmp_path, TRAIN), ["name=my_debug"], mode="train").logger.print_freq == 1
    assert config.read(write(tmp_path, TEST), mode="test", debug=True).name == "debug_tst"


def test_sections_that_are_null_are_empty(tmp_path: Path) -> None:
    found = config.read(write(tmp_path, TRAIN), ["logger=~", "path=~", "val:metrics=~", "tile=~"], mode="train")
    assert found.logger == LoggerOptions()
    assert found.val is not None
    assert found.val.metrics == {}


def test_sections_may_share_text_through_anchors(tmp_path: Path) -> None:
    text = TEST.replace("test_2: {", "test_2: &set {").replace(
        "test_10: {name: A, type: SingleImageDataset, dataroot_lq: a/lq}", "test_10: {<<: *set, name: A}"
    )
    datasets = config.read(write(tmp_path, text), mode="test").datasets
    assert dataclasses.replace(datasets["test_10"], name="B") == datasets["test_2"]


# What is changed in TRAIN -> the line and the beginning of the message. One entry for each kind of mistake.
MISTAKES: list[tuple[tuple[str, str], str, str]] = [
    (("name: exp", "name: .."), "name: ..", "name: expected a text that can be part of a file's name, got '..'"),
    (("name: T", "name: a/b"), "a/b", "datasets.train.name: expected a text that can be part of a file's name, got "),
    (("name: exp", "nme: exp"), "nme", 'nme: unknown key (did you mean "name"?)'),
    (("model_type: SRModel", "model_type: SRMdel"), "SRMdel", 'model_type: unknown model "SRMdel" (did you mean "SR'),
    (
        ("model_type: SRModel", "model_type: VideoBaseModel"),
        "Video",
        "model_type: VideoBaseModel is not supported: ",
    ),
    (
        ("model_type: SRModel", "model_type: DRCTModel"),
        "DRCT",
        'model_type: unknown model "DRCTModel"; known: SRModel, ',
    ),
    (("type: L1Loss", "type: SSIMLoss"), "SSIM", 'train.pixel_opt.type: unknown loss "SSIMLoss"; known: L1Loss, '),
    (
        ("type: PlainUSR_ultra", "type: DRCT"),
        "DRCT",
        'network_g.type: unknown network type "DRCT"; known: PlainUSR_',
    ),
    (
        ("type: PlainUSR_ultra", "type: EDSR"),
        "EDSR",
        'network_g.type: unknown network type "EDSR"; BasicSR has',
    ),
    (("~/gt", "~nobody-here/gt"), "nobody", "datasets.train.dataroot_gt: expected a path or a list, each a path, go"),
    (("manual_seed: 3", "manual_seed: -" + "9" * 400), "seed", "manual_seed: expected at least 0, got -999"),
    (("lr: 2e-4", "lr: !!int " + "9" * 400), "optim_g", "train.optim_g.lr: expected a number, got 999"),
    (
        ("scale: 2\nnum", "scale: two\nnum"),
        "two",
        "scale: expected a whole number or a number or a list of 2 values, each",
    ),
    (("scale: 2\nnum", "scale: 0\nnum"), "scale: 0", "scale: expected at least 1, got 0"),
    (("num_gpu: auto", "num_gpu: -1"), "num_gpu", "num_gpu: expected at least 0, got -1"),
    (("manual_seed: 3", "manual_seed: yes"), "seed", 'manual_seed: expected a whole number, got "yes"'),
    (("manual_seed: 3", "manual_seed: 3\nmanual_seed: 4"), "seed: 4", "manual_seed: given twice (first in line 5); "),
    (("manual_seed: 3", "use_ema: true"), "use_ema", 'use_ema: choose the EMA weights by "path: param_key_g: p'),
    (("    gt_size: 64", "    gt_size: 65"), "65", "datasets.train.gt_size: expected a multiple of scale 2, such as"),
    (("    gt_size: 64\n", ""), "train:\n    name", 'datasets.train: the key "gt_size" is missing; expected side of'),
    (("    batch_size_per_gpu: 4\n", ""), "train:\n    name", 'datasets.train: the key "batch_size_per_gpu" is miss'),
    (("    gt_size: 64", "    gt_sise: 64"), "sise", "datasets.train.gt_sise: unknown key of PairedImageDataset (di"),
    (("type: disk", "type: disc"), "disc", "datasets.train.io_backend.type: expected one of disk, memory, lmdb, pac"),
    (("  train:\n    name", "  trian:\n    name"), "trian", "datasets.trian: a training file has the data sets trai"),
    (("  train:\n    name", "  trian:\n    name"), "datasets:", 'datasets: the key "train" is missing; expected the'),
    (("  val_2:", "  test:"), "test:", "datasets.test: a training file has the data sets train, val, val_2, ..., no"),
    (("    dataroot_gt: b/gt", "    dataroot_qt: b/gt"), "_qt", "datasets.val_2.dataroot_qt: unknown key of PairedI"),
    (("type: PlainUSR_ultra", "type: PlainUSR_ulta"), "ulta", 'network_g.type: unknown network type "PlainUSR_ulta"'),
    (("  type: PlainUSR_ultra\n", ""), "network_g", 'network_g: the key "type" is missing; expected the name of a n'),
    (("  scale: 2\npath", "  scale: 4\npath"), "  scale: 4", 'network_g.scale: expected the "scale" of the file, 2,'),
    (("  scale: 2\npath", "  scael: 2\npath"), "scael", "network_g.scael: unknown key of PlainUSR_ultra (did you me"),
    (("  scale: 2\npath", "  scale: x\npath"), "scale: x", 'network_g.scale: expected a whole number, got "x"'),
    (("resume_state: ~", "resume_sate: ~"), "sate", 'path.resume_sate: unknown key (did you mean "resume_state"?)'),
    (("type: Adam", "type: Addam"), "Addam", 'train.optim_g.type: unknown optimizer "Addam" (did you mean "Adam"?)'),
    (("lr: 2e-4, ", ""), "Adam", 'train.optim_g: the key "lr" of Adam is missing; expected a number'),
    (("lr: 2e-4", "lr: fast"), "fast", 'train.optim_g.lr: expected a number, got "fast"'),
    (("lr: 2e-4", "lr: '2e-4'"), "lr", 'train.optim_g.lr: expected a number, got "2e-4"'),
    (("[0.9, 0.99]", "[0.9]"), "[0.9]", "train.optim_g.betas: expected a list of 2 values, each a number, got the l"),
    (("[0.9, 0.99]", "[0.9, 1]"), "optim_g", "train.optim_g.betas: expected a number below 1, got 1"),
    (
        ("type: Adam, lr: 2e-4, betas: [0.9, 0.99]", "type: SGD, lr: 2e-4, nesterov: yes"),
        "optim_g",
        "train.optim_g: nesterov: true needs a momentum above 0, and dampening 0",
    ),
    (
        ("type: Adam, lr: 2e-4, betas: [0.9, 0.99]", "type: Rprop, lr: 2e-4, etas: [1.2, 0.5]"),
        "optim_g",
        "train.optim_g: etas: expected one between 0 and 1 and one above 1, got [1.2, 0.5]",
    ),
    (("[25, 40]", "[25, x]"), "[25", 'train.scheduler.milestones[1]: expected a whole number, got "x"'),
    (("[25, 40]", "25"), "milestones", 'train.scheduler.milestones: expected a list, each a whole number, got "25"'),
    (("gamma: 0.5", "restarts: [0, 9]"), "restarts", "train.scheduler.restarts: expected as many restart_weights as"),
    (("gamma: 0.5", "restart_weights: [1, 2]"), "restart_w", "train.scheduler.restart_weights: expected as many res"),
    (("  total_iter: 5e3\n", ""), "train:\n  optim", 'train: the key "total_iter" is missing; expected a whole numb'),
    (("total_iter: 5e3", "total_iter: 0"), "total_iter", "train.total_iter: expected at least 1, got 0"),
    (("total_iter: 5e3", "total_iter: 5.5"), "total_iter", 'train.total_iter: expected a whole number, got "5.5"'),
    (("  pixel_opt:\n    type: L1Loss\n", ""), "train:\n  optim", 'train: the key "pixel_opt" is missing, and there'),
    (("type: L1Loss", "type: L1loss"), "L1loss", 'train.pixel_opt.type: unknown loss "L1loss" (did you mean "L1Lo'),
    (("type: L1Loss", "type: L1Loss\n    reduction: none"), "reduction", "train.pixel_opt.reduction: expected mean "),
    (("  val_freq: !!float 5e3\n", ""), "\nval:", 'val: the key "val_freq" is missing; expected the iterations betw'),
    (("crop_border: 2, ", ""), "psnr", 'val.metrics.psnr: the key "crop_border" of calculate_psnr is missing; expec'),
    (("test_y_channel", "test_y_chanel"), "chanel", "val.metrics.psnr.test_y_chanel: unknown key of calculate_psnr "),
    (("calculate_psnr", "calculate_psn"), "psn,", 'val.metrics.psnr.type: unknown metric "calculate_psn" (did you m'),
    (("save_img: no", "save_img: non"), "non", 'val.save_img: expected true or false, got "non"'),
    (("print_freq: 10", "print_freq: 0"), "print", "logger.print_freq: expected at least 1, got 0"),
    (("print_freq: 10", "print_fraq: 10"), "fraq", 'logger.print_fraq: unknown key (did you mean "print_freq"?)'),
]


@pytest.mark.parametrize(("change", "place", "message"), MISTAKES, ids=[case[2][:50] for case in MISTAKES])
def test_every_mistake_is_reported_with_line_key_and_advice(
    tmp_path: Path, change: tuple[str, str], place: str, message: str
) -> None:
    assert TRAIN.count(change[0]) == 1
    text = TRAIN.replace(*change)
    line = text[: text.index(place)].count("\n") + 1 + place.startswith("\n")
    assert any(found.startswith(f"options.yml:{line}: {message}") for found in mistakes(write(tmp_path, text)))


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_lines(tmp_path: Path) -> None:
    text = TRAIN
    changes = [case[0] for case in MISTAKES if case[0][0] in ("name: exp", "type: disk", "lr: 2e-4", "print_freq: 10")]
    for old, new in dict(changes).items():
        text = text.replace(old, new)
    found = mistakes(write(tmp_path, text))
    lines = [int(line.split(":")[1]) for line in found]
    assert lines == sorted(lines)
    expected = {line_of(text, new) for new in dict(changes).values()}
    assert expected <= set(lines)


def test_cosine_cycles_shorter_than_the_training_are_refused(tmp_path: Path) -> None:
    change = "train:scheduler={type: CosineAnnealingRestartLR, periods: [100, 200], restart_weights: [1, 1]}"
    (found,) = mistakes(write(tmp_path, TRAIN), [change])
    assert found.endswith("expected cycles that last until total_iter 5000, got 300 iterations in all")


def test_a_network_whose_default_scale_is_not_that_of_the_file_is_refused(tmp_path: Path) -> None:
    (found,) = mistakes(
        write(tmp_path, TRAIN.replace("scale: 2\nnum_gpu", "num_gpu").replace("gt_size: 64", "gt_size: 63"))
    )
    assert 'expected the "scale" of the file, 1 (the key "scale" is absent), got 2' in found


def test_training_files_in_testing_and_test_files_in_training_are_refused(tmp_path: Path) -> None:
    train, test = write(tmp_path, TRAIN, "train.yml"), write(tmp_path, TEST, "test.yml")
    assert mistakes(train, mode="test") == [
        f"train.yml:{line_of(TRAIN, '  optim_g') - 1}: train: this is a training file; run train.py with it, or "
        "test.py with a file that has test sets (datasets: test_1: ...)"
    ]
    assert mistakes(test, mode="train") == [
        "test.yml:5: datasets: this is a test file; run test.py with it, or train.py with a file that has "
        '"datasets: train:" and "train:"'
    ]


@pytest.mark.parametrize("mode", ["train", "test"])
def test_a_recipe_is_no_option_file(tmp_path: Path, mode: Mode) -> None:
    path = write(tmp_path, "name: chain\nstages:\n  first: {opt: train.yml}\n", "recipe.yml")
    (message,) = mistakes(path, mode=mode)
    assert message.startswith(
        "recipe.yml:2: stages: this is a recipe, a chain of trainings; run it by python scripts/run_r"
    )


def test_files_without_data_sets_are_refused(tmp_path: Path) -> None:
    assert mistakes(write(tmp_path, TRAIN), ["datasets={}"]) == [
        '--force_yml datasets: the key "train" is missing; expected the data to train on'
    ]
    assert mistakes(write(tmp_path, TEST), ["datasets={}"], mode="test") == [
        "--force_yml datasets: expected at least one data set, as in 'test_1: ...'"
    ]


def test_keys_without_effect_are_noted_once_with_their_line(tmp_path: Path) -> None:
    text = TRAIN.replace("manual_seed: 3", "find_unused_parameters: true").replace(
        "gt_size: 64", "gt_size: 64\n    task: SR"
    )
    found = config.read(write(tmp_path, text), ["train:optim_d={type: Adam}", "train:gan_opt=~"], mode="train")
    assert [note.removeprefix(f"{tmp_path}/").split(": has no effect here: ")[0] for note in found.notes] == [
        f"options.yml:{line_of(text, 'find_unused')}: find_unused_parameters",
        f"options.yml:{line_of(text, 'task')}: datasets.train.task",
        "--force_yml train:optim_d",
    ]


def test_validation_that_cannot_happen_is_noted(tmp_path: Path) -> None:
    path = write(tmp_path, TRAIN)
    (note,) = config.read(path, ["val=~"], mode="train").notes
    assert 'there is no section "val": nothing will be validated' in note
    only_train = write(tmp_path, TRAIN[: TRAIN.index("  val_2:")] + TRAIN[TRAIN.index("network_g:") :])
    (note,) = config.read(only_train, mode="train").notes
    assert "val: has no effect here: there is no data set to validate on" in note


@pytest.mark.shared
def test_options_equal_the_recorded_ones_of_basicsr(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The values of the recorded files, whose network, schedule and loss are made ones that exist."""
    monkeypatch.setenv("HOME", "HOME")
    for case in json.loads((shared / "golden/formats/options.json").read_text())["cases"]:
        expected = case["resolved"]
        arguments = [item for item in case["arguments"] if not item.startswith("--") and "new_key" not in item]
        found = _read_recorded(case, tmp_path, arguments)
        assert _different(expected, config.to_dict(found)) <= DIFFERENT, case["case"]


@pytest.mark.shared
def test_files_that_basicsr_has_completed_say_the_same(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "HOME")
    for case in json.loads((shared / "golden/formats/options.json").read_text())["cases"]:
        if "new_key" in str(case["resolved"]):
            continue
        found = _read_recorded({**case, "yaml": case["resolved"], "arguments": []}, tmp_path, [])
        assert _different(case["resolved"], config.to_dict(found)) <= DIFFERENT, case["case"]
        root = found.path.experiments_root if case["is_train"] else found.path.results_root
        assert root == Path("/ROOT/experiments" if case["is_train"] else "/ROOT/results")


# Folders and launch state are not options here; the drawn seed is random; TensorBoard is switched off in the options.
DIFFERENT = {
    *(
        ("path", key)
        for key in ("experiments_root", "results_root", "models", "training_states", "log", "visualization")
    ),
    *((key,) for key in ("dist", "rank", "world_size", "auto_resume", "is_train")),
    ("network_g", "type"),
    ("network_g", "upscale"),
    ("train", "new_key"),
    *(("datasets", name, key) for name in ("train", "val_1", "val_2", "test_1") for key in ("phase", "scale")),
}


def _read_recorded(case: dict[str, Any], folder: Path, arguments: list[str]) -> config.Options:
    text = case["yaml"]
    text["network_g"] = {"type": "PlainUSR_ultra", "scale": text["scale"]}
    if "train" in text:
        text["train"] |= {"scheduler": {"type": "MultiStepLR", "milestones": [50]}, "pixel_opt": {"type": "L1Loss"}}
    path = write(folder, yaml.safe_dump(text, sort_keys=False))
    debug = "--debug" in case["arguments"]
    if case["is_train"]:
        return config.read(path, arguments, mode="train", debug=debug)
    return config.read(path, [f"manual_seed={case['resolved']['manual_seed']}"], mode="test", debug=debug)


def _different(expected: Any, found: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """The paths at which something expected is absent or another."""
    if isinstance(expected, dict) and isinstance(found, dict):
        parts = (_different(item, found.get(key, ...), (*path, key)) for key, item in expected.items())
        return set().union(*parts)
    if path == ("logger", "use_tb_logger"):
        return set()
    return set() if expected == found else {path}


@pytest.mark.shared
def test_recorded_schedules_can_be_read(shared: Path, tmp_path: Path) -> None:
    for case in json.loads((shared / "golden/formats/learning_rate.json").read_text())["cases"]:
        section = {**case["train"], "pixel_opt": {"type": "L1Loss"}}
        path = write(tmp_path, TRAIN[: TRAIN.index("\ntrain:") + 1] + yaml.safe_dump({"train": section}))
        found = config.read(path, mode="train")
        assert found.train.optim_g.lr == case["train"]["optim_g"]["lr"]
        assert found.train.total_iter == case["train"]["total_iter"]


LINES = st.sampled_from([*TRAIN.splitlines(), *TEST.splitlines(), "  - x", "? [a]", "<<: *a", "a: &a {b: *a}", "\tx"])
WORDS = st.text(alphabet="abn_:{}[]-~&*!<>'\"0123456789.e, \n", max_size=15)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES | WORDS, max_size=40), st.sampled_from(["train", "test"]), st.lists(WORDS, max_size=2))
def test_any_text_ends_in_options_or_one_message(
    tmp_path: Path, lines: list[str], mode: str, overrides: list[str]
) -> None:
    path = write(tmp_path, "\n".join(lines))
    try:
        config.read(path, overrides, mode="train" if mode == "train" else "test")
    except InputError as error:
        assert all(line.startswith((str(path), "--force_yml ")) for line in str(error).splitlines())


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(TRAIN) - 1), WORDS, st.integers(0, 3))
def test_a_damaged_file_ends_in_options_or_one_message(tmp_path: Path, at: int, words: str, gone: int) -> None:
    path = write(tmp_path, TRAIN[:at] + words + TRAIN[at + gone :])
    try:
        config.read(path, mode="train")
    except InputError as error:
        assert str(error).startswith(str(path))


def test_mistakes_without_end_are_counted(tmp_path: Path) -> None:
    text = TRAIN + "".join(f"key_of_mine_{i}: 1\n" for i in range(5_000)) + "scale: 2\n" * 200
    found = mistakes(write(tmp_path, text))
    assert len(found) == 101
    assert found[-1].startswith("and ")
    assert sum("unknown key; known" in line for line in found) == 30
    assert any(line.endswith("4,970 more unknown keys") for line in found)
    assert len(mistakes(write(tmp_path, TRAIN.replace("SRModel", "S" * 50_000)))[0]) < 2_100


def test_optimisers_of_both_players_may_be_one_mapping(tmp_path: Path) -> None:
    discriminator = "model_type: SRGANModel\nnetwork_d: {type: UNetDiscriminatorSN, num_in_ch: 3}"
    text = TRAIN.replace("model_type: SRModel", discriminator).replace("optim_g: {", "optim_g: &adam {")
    more = "  optim_d: *adam\n  gan_opt: {type: GANLoss, gan_type: vanilla}\n  scheduler:\n"
    path = write(tmp_path, text.replace("  scheduler:\n", more))
    train = config.read(path, mode="train").train
    assert train.optim_d == train.optim_g == Adam(lr=2e-4, betas=(0.9, 0.99))
    changed = config.read(path, ["train:optim_d:lr=1e-5"], mode="train").train
    assert changed.optim_d == Adam(lr=1e-5, betas=(0.9, 0.99))
    assert changed.optim_g == train.optim_g
