"""What the folders of runs tell, and what they cannot tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analysis.report.runs import Notes, RunFiles, differences, flattened, read_run, with_own_names
from analysis.report.scores import scored_sets
from tests.analysis.report.run_folders import of_set, of_test, of_training, scores
from utils.errors import InputError


def test_a_training_run_tells_what_it_was_made_with(tmp_path: Path) -> None:
    root = of_training(tmp_path / "a place")
    files = read_run(root)
    run = files.run
    assert (run.name, run.kind, run.iteration, run.total_iter) == ("tiny", "train", 12, 12)
    assert run.command == "python train.py -opt 'a file.yml' --force_yml name=tiny"
    assert run.options["train.optim_g.lr"] == "2e-3"
    assert run.options["datasets.train.use_rot"] == "true"
    assert run.versions == {"python": "3.11.7", "torch": "2.13.0"}
    assert run.hardware == {"cpu": "Some CPU", "gpus": "none"}
    assert run.notes == ()
    assert files.options is not None
    assert files.curves is not None


def test_a_test_tells_its_weights_and_its_faults(tmp_path: Path) -> None:
    root = of_test(tmp_path)
    content = json.loads((root / "scores.json").read_text())
    content["complete"] = False
    broken = {**scores("held_out_1", None), "fault": "the output is not finite"}
    content["datasets"]["HeldOut"] = of_set([scores("held_out_0", 27.0, 24.0), broken, "no image"])  # type: ignore[list-item]
    (root / "scores.json").write_text(json.dumps(content))
    run = read_run(root).run
    assert run.versions == {"torch": "2.13.0"}
    assert run.notes == (
        "the test was ended early: data sets or pictures are missing",
        "weights: net_g.pth, entry params_ema; whole images",
        "1 of 2 images of HeldOut have no score (held_out_1): the output is not finite",
    )


def test_what_is_damaged_is_noted(tmp_path: Path) -> None:
    root = of_training(tmp_path)
    with (root / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\n{"kind": "train", "step": 13, "lr": [0.1], "l_pix": null}\n')
    (root / "options_as_read.yml").write_text("a: [1, 2\n")
    (root / "validation.json").write_text("[1]")
    (root / "train_tiny_1.log").write_text("2026-11-27 12:00:00,123 ERROR: the loss is not finite\nTraceback\n")
    run = read_run(root).run
    damaged, *others = run.notes
    assert damaged.startswith("options_as_read.yml: ")
    assert others == [
        "metrics.jsonl: 1 damaged line is left out: line 14",
        "l_pix: 1 values are missing or not finite",
        "validation.json is damaged: there are no scores of images to show",
        "train_tiny_1.log: error: the loss is not finite",
    ]
    assert run.options == {}
    assert run.iteration == 13


def test_scores_that_are_damaged_leave_the_rest(tmp_path: Path) -> None:
    root = of_test(tmp_path)
    for content in ("", "3", '{"datasets": 5}', "[" * 10_000):
        (root / "scores.json").write_text(content)
        assert read_run(root).run.notes == ("scores.json is damaged: there are no scores of images to show",)
    (root / "options_as_read.yml").write_text("name: x\nscale: 2\nunknown_key: 1\n")
    notes = read_run(root).run.notes
    assert notes[0].startswith("the options are not accepted any more, so that HR and LR are not found: ")


def test_folders_of_no_run_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; name the folder of a run"):
        read_run(tmp_path / "absent")
    of_test(tmp_path, "PFT")
    with pytest.raises(InputError, match=r"its sub-folders do \(PFT\): name one of them"):
        read_run(tmp_path / "results")
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "options_as_read.yml").write_text("name: begun\n")
    with pytest.raises(InputError, match="has not logged or scored anything yet"):
        read_run(begun)


def test_options_become_lines_of_text() -> None:
    nested = {"a": {"b": [1, "x", {"c": None}], "d": True}, "e": 0.5, "f": {}}
    assert flattened(nested) == {"a.b": "[1, x, {c: null}]", "a.d": "true", "e": "0.5"}


def test_only_runs_of_a_kind_differ_and_names_do_not_count(tmp_path: Path) -> None:
    files = [
        read_run(folder)
        for folder in (
            of_training(tmp_path),
            of_training(tmp_path, "slow", "1e-3"),
            of_test(tmp_path),
            of_test(tmp_path, "other"),
        )
    ]
    found = differences([own.run for own in files])
    assert [(own.key, own.values) for own in found] == [("train.optim_g.lr", ("2e-3", "1e-3", None, None))]


def test_runs_of_one_name_can_be_told_apart(tmp_path: Path) -> None:
    folders = [
        of_training(tmp_path, "x"),
        of_test(tmp_path, "x"),
        of_training(tmp_path / "more", "x"),
        of_test(tmp_path / "more", "x"),
    ]
    names = [files.run.name for files in with_own_names([read_run(folder) for folder in folders])]
    assert names == ["x", "x (test)", "x (2)", "x (test) (2)"]


def test_networks_share_the_table_of_a_set(tmp_path: Path) -> None:
    notes, runs = table_of(tmp_path, {"suffix: ~": "suffix: ~\n  use_chop: true"})
    tables = scored_sets(runs, notes)
    [table] = tables.values()
    assert (table.name, table.scale) == ("HeldOut", 2)
    assert table.methods == ("bicubic", "tiny_test", "other", "tiny at 12")
    assert [(metric.name, metric.better, metric.places) for metric in table.metrics] == [
        ("psnr", "higher", 2), ("ssim", "higher", 4),
    ]  # fmt: skip
    row = table.images[1]
    assert {method: own["psnr"] for method, own in row.scores.items()} == {
        "bicubic": 23.0, "tiny_test": 28.0, "other": 29.0, "tiny at 12": 26.0,
    }  # fmt: skip
    assert table.mean["bicubic"] == {"psnr": 24.0, "ssim": 0.6}
    assert notes.found == {}


def test_metrics_that_were_taken_otherwise_are_noted(tmp_path: Path) -> None:
    notes, runs = table_of(tmp_path, {"calculate_psnr, crop_border: 2": "calculate_psnr, crop_border: 4"})
    scored_sets(runs, notes)
    note = "psnr of HeldOut was taken otherwise than in the first run (crop_border 4 and not 2): not comparable"
    assert notes.found == {"other": {note: None}}


def table_of(folder: Path, edit: dict[str, str]) -> tuple[Notes, list[RunFiles]]:
    """Two tests and a training; the options of the second test are edited."""
    folders = [of_test(folder), of_test(folder, "other", 28.0, edit), of_training(folder)]
    return Notes(), [read_run(own) for own in folders]
