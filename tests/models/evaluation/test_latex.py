"""Scores as a LaTeX table: its form, marks of the best, published rows, what cannot stand in one table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config import read
from config.published import tables
from models.evaluation.evaluate import EvalReport, EvalRow
from models.evaluation.latex import ScoredTest, escaped, latex_table, scored_test
from tests.config.files import write
from tests.models.evaluation.test_summary import FILE
from utils.errors import InputError

LTE = (
    "ESCLTE, upscaling_factor: 4, dim: 16, pdim: 4, kernel_size: 3, n_blocks: 1, conv_blocks: 1, window_size: 4, "
    "num_heads: 2"
)


def report(name: str, images: int = 2, **scores: float) -> EvalReport:
    rows = tuple(EvalRow(str(i), 8, 8, scores, {"psnr": 28.425, "ssim": 0.8104}, 0.25) for i in range(images))
    return EvalReport(name, rows, 0)


def scored(folder: Path, *reports: EvalReport, text: str = FILE, name: str = "mine") -> ScoredTest:
    folder.mkdir(exist_ok=True)
    return scored_test(read(write(folder, text), [f"name={name}"], mode="test"), reports)


def rows_of(text: str) -> dict[str, list[str]]:
    """Method -> cells of its row, without comments."""
    lines = [line.split(" % ")[0].removesuffix(r" \\") for line in text.splitlines() if line[0] not in "%\\&"]
    return {cells[0]: cells[1:] for cells in (line.split(" & ") for line in lines)}


def test_the_table_is_one_that_latex_can_set(tmp_path: Path) -> None:
    text = latex_table(
        [scored(tmp_path, report("My_set", psnr=31.0), report("Set5", psnr=32.913, rgb=30, ssim=0.9001))]
    )
    body = [line.split(" % ")[0] for line in text.splitlines() if not line.startswith("%")]
    assert body[0] == r"\begin{tabular}{lccccccc}"
    assert (body[1], *body[-2:]) == (r"\toprule", r"\bottomrule", r"\end{tabular}")
    assert body[2] == r"& & \multicolumn{3}{c}{Set5} & \multicolumn{3}{c}{My\_set} \\"
    assert body[3] == r"\cmidrule(lr){3-5} \cmidrule(lr){6-8}"
    assert body[4] == r"Method & Scale & PSNR & rgb & SSIM & PSNR & rgb & SSIM \\"
    for line in body[6:-2]:
        assert line.endswith(r"\\")
        assert line.count(" & ") == 7
        assert line.count("{") == line.count("}")
    assert r"\usepackage{booktabs}" in text.splitlines()[0]
    assert "% x4, psnr: calculate_psnr, crop_border: 4, test_y_channel: true" in text.splitlines()


def test_ours_stands_below_bicubic_and_all_that_is_published(tmp_path: Path) -> None:
    text = latex_table([scored(tmp_path, report("Set5", psnr=33.117, rgb=31, ssim=0.9066))])
    rows = rows_of(text)
    published = {variant for table in tables() for (variant, scale), own in table.rows.items()
                 if scale == 4 and "Set5" in own and not table.unrounded}  # fmt: skip
    assert set(rows) == {"Method", "Bicubic", "mine", *published}
    assert len(published) > 9
    assert list(rows)[1] == "Bicubic"
    assert list(rows)[-1] == "mine"
    assert rows["HAT-S"] == [r"$\times$4", "32.92", "--", "--"]
    # 33.117 is printed as RGT's 33.12; RGT+ has 33.16 and 0.9066, PFT 33.15 and 0.9065.
    assert rows["RGT+"] == [r"$\times$4", r"\textbf{33.16}", "--", r"\textbf{0.9066}"]
    assert rows["PFT"] == [r"$\times$4", r"\underline{33.15}", "--", r"\underline{0.9065}"]
    assert rows["mine"] == [r"$\times$4", "33.12", "31.00", r"\textbf{0.9066}"]
    assert re.search(r"^RGT & .* % Table in RGT's repository", text, re.MULTILINE)
    assert re.search(r"^mine & .* % ours, whole images$", text, re.MULTILINE)


def test_published_scores_that_are_taken_otherwise_are_left_out(tmp_path: Path) -> None:
    other = FILE.replace("crop_border: 4, test_y_channel: true", "crop_border: 2, test_y_channel: true")
    rows = rows_of(latex_table([scored(tmp_path, report("Set5", psnr=33.1, ssim=0.9), text=other)]))
    assert list(rows) == ["Method", "Bicubic", "mine"]


def test_equal_figures_are_marked_alike_and_what_is_undefined_is_not(tmp_path: Path) -> None:
    tests = [
        scored(tmp_path / name, report("Mine", psnr=psnr, ssim=0.5), name=name)
        for name, psnr in (("a", 30.004), ("b_1", 30.001), ("c", float("nan")), ("d", 29.0), ("e", float("inf")))
    ]
    rows = rows_of(latex_table(tests))
    assert [rows[name][1] for name in ("a", r"b\_1", "c", "d", "e")] == [
        r"\textbf{30.00}", r"\textbf{30.00}", "--", r"\underline{29.00}", "--"
    ]  # fmt: skip
    assert rows["Bicubic"][1:] == ["28.43" if round(28.425, 2) == 28.43 else "28.42", "--", r"\textbf{0.8104}"]


def test_the_second_of_two_is_not_marked(tmp_path: Path) -> None:
    rows = rows_of(latex_table([scored(tmp_path, report("Mine", ssim=0.5), name="a")]))
    assert [rows[name][-1] for name in ("Bicubic", "a")] == [r"\textbf{0.8104}", "0.5000"]


def test_a_metric_may_be_better_lower(tmp_path: Path) -> None:
    file = FILE.replace("type: calculate_ssim", "better: lower, type: calculate_ssim")
    tests = [
        scored(tmp_path / str(i), report("Mine", ssim=value), text=file, name=f"n{i}")
        for i, value in enumerate((0.5, 0.4, 0.6))
    ]
    rows = rows_of(latex_table(tests))
    assert [rows[f"n{i}"][-1] for i in range(3)] == [r"\underline{0.5000}", r"\textbf{0.4000}", "0.6000"]


def test_scales_stand_below_each_other(tmp_path: Path) -> None:
    file = re.sub(r"crop_border: 4, ", "", FILE).replace("val:\n", "val:\n  scales: [2, 3.5]\n")
    file = re.sub(
        r"  metrics:\n(.*\n)*", "  metrics:\n    psnr: {type: calculate_psnr_any_scale, protocol: benchmark}\n", file
    )
    file = file.replace("PlainUSR_ultra, scale: 4", LTE).replace("HAT-S", "ESC+LTE")
    text = latex_table([scored(tmp_path, report("Set5 x2", psnr=38.0), report("Set5 x3.5", psnr=33.0), text=file)])
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert body.count(r"\midrule") == 2
    own = [line.split(" % ")[0] for line in body if line.startswith("mine")]
    assert own == [r"mine & $\times$2 & \underline{38.00} \\", r"mine & $\times$3.5 & \textbf{33.00} \\"]
    theirs = [line for line in body if line.startswith("ESC+LTE")]
    assert len(theirs) == 1
    assert r"\textbf{38.29}" in theirs[0]


def test_tests_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    one = scored(tmp_path / "one", report("Set5", psnr=33.0), name="one")
    other = FILE.replace("crop_border: 4, test_y_channel: true", "crop_border: 2, test_y_channel: true")
    with pytest.raises(InputError, match=r"one and two: psnr is taken otherwise .*crop_border: 4.*crop_border: 2"):
        latex_table([one, scored(tmp_path / "two", report("Set5", psnr=33.0), text=other, name="two")])
    with pytest.raises(InputError, match="one and more: Set5 has other images"):
        latex_table([one, scored(tmp_path / "more", report("Set5", images=3, psnr=33.0), name="more")])
    with pytest.raises(InputError, match="mine: no data set has scores"):
        latex_table([scored(tmp_path / "none", EvalReport("Set5", (), 0))])


def test_special_characters_are_characters() -> None:
    assert escaped(r"50% of A_b & #1 {x} ~ \ ^ $") == (
        r"50\% of A\_b \& \#1 \{x\} \textasciitilde{} \textbackslash{} \textasciicircum{} \$"
    )
