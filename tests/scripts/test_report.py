"""``scripts/report.py``: from folders to a page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from analysis.report.refresh import PageOfRun
from data import write_image
from models.training.sinks import TrainRecord, ValidationRecord
from scripts.faults.workplace import picture
from scripts.report import main
from tests.analysis.report.run_folders import of_test, of_training, write_images
from utils.errors import InputError, StopRequested


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_images(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_runs_tests_and_analyses_become_one_page(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of_training(place)
    of_training(place, "slow", "1e-3")
    of_test(place)
    write_image(place / "results/tiny_test/maps/lam.png", picture(0, 32, 64))
    record = {"focalsr_analysis": "lam", "text": "DI 12.3", "networks": []}
    (place / "results/tiny_test/maps/lam.json").write_text(json.dumps(record))
    main(["experiments/tiny", "results/tiny_test", "--compare", "experiments/slow", "-o", "my report", "--full"])
    text = (place / "my report/index.html").read_text()
    for part in ("l_pix", "held_out_1", "DI 12.3", "--force_yml name=tiny", "train.optim_g.lr", "1e-3", "Some CPU"):
        assert part in text, part
    command = (
        "python scripts/report.py experiments/tiny results/tiny_test --compare experiments/slow -o 'my report' --full"
    )
    assert command in text.replace("&#39;", "'").replace("\\u0027", "'")
    assert len(list((place / "my report/pictures").glob("*/*.png"))) == 12
    printed = capsys.readouterr().out
    assert re.search(r"^wrote my report/index\.html \(0\.\d MB\)$", printed, re.MULTILINE)
    assert "tiny_test: weights: net_g.pth, entry params_ema; whole images" in printed


def test_a_page_of_our_own_is_replaced_and_nothing_else(place: Path) -> None:
    of_training(place)
    page = place / "page.html"
    page.write_text("<html>mine</html>")
    with pytest.raises(InputError, match=r"page\.html exists and is no report that was made here; .*--overwrite"):
        main(["experiments/tiny", "-o", "page.html"])
    assert page.read_text() == "<html>mine</html>"
    main(["experiments/tiny", "-o", "page.html", "--overwrite", "--images", "0"])
    before = page.read_text()
    main(["experiments/tiny", "-o", "page.html"])
    assert page.read_text() != before
    (place / "other/pictures").mkdir(parents=True)
    with pytest.raises(InputError, match="full pictures would go there"):
        main(["experiments/tiny", "-o", "other", "--full"])
    (place / "file").write_text("")
    with pytest.raises(InputError, match="-o file: is a file; name a folder, or a file that ends in"):
        main(["experiments/tiny", "-o", "file"])


def test_bad_input_is_refused_before_anything_is_written(place: Path) -> None:
    (place / "empty").mkdir()
    for folders, message in (
        (["absent"], "absent does not exist; name the folder of a run"),
        (["empty"], r"empty holds none of these: metrics\.jsonl of a training run, scores\.json of a test"),
        (["held_out", "--images", "-1"], "--images -1: expected 0 or more"),
    ):
        with pytest.raises(InputError, match=message):
            main([*folders, "-o", "report"])
    assert not (place / "report").exists()


def end_by_an_exception(sink: PageOfRun) -> None:
    try:
        raise StopRequested("stopped", 143)
    finally:
        sink.close()


VALIDATION: Any = ValidationRecord(4, "HeldOut", {}, {}, {})
ITERATION: Any = TrainRecord(5, 0, {}, {}, {}, 1.0, 1.0, 0.0, 0.0)


def test_while_a_page_is_made_the_next_one_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, program, gate = tmp_path / "a run", tmp_path / "program.py", tmp_path / "gate"
    folder.mkdir()
    wait = f"import time\nwhile not Path({str(gate)!r}).exists(): time.sleep(0.01)\n"
    add = "with Path(sys.argv[3]).open('a') as file: file.write('page ')\n"
    program.write_text(f"import sys\nfrom pathlib import Path\n{wait}{add}")
    monkeypatch.setattr("analysis.report.refresh._PROGRAM", program)
    sink = PageOfRun(folder)
    for _ in range(3):
        sink.validation(VALIDATION)
    sink.training(ITERATION)
    with pytest.raises(StopRequested):
        end_by_an_exception(sink)  # which waits for nothing
    assert not (folder / "report.html").exists()
    gate.touch()
    with caplog.at_level("INFO"):
        sink.close()
    assert (folder / "report.html").read_text() == "page page "  # the first, and one for the two that had to wait
    assert [record.getMessage() for record in caplog.records] == [f"the page of the run is {folder / 'report.html'}"]


def test_a_page_that_cannot_be_made_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "program.py"
    program.write_text("import sys\nprint('error: the disk is full', file=sys.stderr)\nsys.exit(1)\n")
    monkeypatch.setattr("analysis.report.refresh._PROGRAM", program)
    sink = PageOfRun(tmp_path)
    sink.validation(VALIDATION)
    sink.close()
    monkeypatch.setattr("sys.executable", str(tmp_path / "no python"))
    sink.validation(VALIDATION)
    sink.close()
    first, second = (record.getMessage() for record in caplog.records)
    assert first == f"{tmp_path / 'report.html'} was not made anew, and the run goes on: the disk is full"
    assert second.endswith("and the run goes on: No such file or directory")
