"""Files of an analysis, and finding them again; colours and sheets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from analysis.drawing import SEISMIC, Panel, coloured, colours, named_colours, new_figure, scaled_to_unit, sheet
from analysis.results import Results, check_output, find, write
from analysis.subjects import open_subjects
from data.images.files import read_image
from tests.models.export.networks import TINY, weights_of
from utils.errors import InputError


def test_results_are_written_and_found_again(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    figure = new_figure()
    figure.add_subplot().plot([0, 1], [2, 3])
    subjects = open_subjects([f"ours={weights_of(TINY, tmp_path / 'a.pth')}"])
    results = Results(
        "lam", "the text", {"di": 5.0, "none": float("nan")}, {"map": np.ones((2, 3))},
        {"": picture, "curve": figure}, {"table.csv": "a,b\n"},
    )  # fmt: skip
    folder = tmp_path / "out put" / "lam"
    written = write(folder, results, subjects)
    names = ["lam.png", "lam_curve.png", "lam_curve.pdf", "lam.npz", "table.csv", "lam.json"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert np.array_equal(read_image(folder / "lam.png"), picture)
    assert np.array_equal(np.load(folder / "lam.npz")["map"], np.ones((2, 3)))
    record = json.loads((folder / "lam.json").read_text())
    assert record["di"] == 5.0
    assert record["none"] is None
    assert record["networks"][0]["name"] == "ours"
    assert {"versions", "hardware"} <= record.keys()
    [found] = find(folder.parent)
    assert (found.kind, found.text, found.file) == ("lam", "the text", folder / "lam.json")
    assert [path.name for path in found.pictures] == ["lam.png", "lam_curve.png"]


def test_other_json_files_are_no_results(tmp_path: Path) -> None:
    for name, text in {"scores.json": "{}", "broken.json": "{", "list.json": "[1]", "deep.json": "[" * 100000}.items():
        (tmp_path / name).write_text(text)
    assert find(tmp_path) == []


def test_results_are_not_replaced_unasked(tmp_path: Path) -> None:
    check_output(tmp_path / "new", "lam", overwrite=False)
    write(tmp_path, Results("lam", "", {}))
    check_output(tmp_path, "erf", overwrite=False)
    check_output(tmp_path, "lam", overwrite=True)
    with pytest.raises(InputError, match=r"lam\.json exists; choose another folder with -o, or add --overwrite"):
        check_output(tmp_path, "lam", overwrite=False)
    with pytest.raises(InputError, match="is a file; name a folder"):
        check_output(tmp_path / "lam.json", "lam", overwrite=False)


def test_seismic_is_blue_white_red() -> None:
    table = colours(SEISMIC)
    assert table.shape == (256, 3)
    assert table[0].tolist() == [0, 0, 76]
    assert table[255].tolist() == [127, 0, 0]
    assert coloured(np.array([[0.0, 1.0, -3.0, 7.0]]), table).tolist() == [
        [[0, 0, 76], [127, 0, 0], [0, 0, 76], [127, 0, 0]]
    ]


def test_colour_maps_go_from_dark_to_light() -> None:
    for name in ("magma", "viridis", "inferno"):
        table = named_colours(name).astype(int)
        assert table[0].sum() < 200 < 400 < table[255].sum()
    assert named_colours("magma")[255, 0] > named_colours("magma")[255, 2]  # R G B: its light end is yellowish


def test_ranges_become_those_from_0_to_1() -> None:
    assert scaled_to_unit(np.array([2.0, 4.0, 3.0])).tolist() == [0.0, 1.0, 0.5]
    assert scaled_to_unit(np.array([2.0, 2.0])).tolist() == [0.0, 0.0]
    assert scaled_to_unit(np.array([2.0]), 0.0, 8.0).tolist() == [0.25]


def test_sheets_have_panels_in_rows() -> None:
    red = np.full((4, 5, 3), (255, 0, 0), np.uint8)
    blue = np.full((6, 300, 3), (0, 0, 255), np.uint8)
    drawn = sheet([[Panel(red, "first"), Panel(blue)], [Panel(red)]])
    enlarged = (drawn == (255, 0, 0)).all(-1)
    assert enlarged.sum() == 2 * 4 * 5 * 40**2  # to 200 columns
    assert (drawn == (0, 0, 255)).all(-1).sum() == blue.shape[0] * blue.shape[1]
    assert (drawn[:26, :200] < 128).any()  # the caption


def test_a_missing_matplotlib_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    said = "a chart needs the package matplotlib: pip install -r requirements-analysis.txt"
    with pytest.raises(InputError, match=re.escape(said)):
        new_figure()
