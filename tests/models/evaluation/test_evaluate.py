"""Scores: rows, means, tables, what happens without ground truth, and the published table of PlainUSR."""

from __future__ import annotations

import io
import json
import math
import re
import signal
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from archs import build_network
from archs.plainusr import PlainUSR, fold
from config.schema import TileOptions, ValOptions
from data import EvalDataset, PairedImageOptions, Sample, SingleImageOptions, build_dataset, to_uint8, write_image
from metrics import METRICS, PSNR, LevelMetric, UndefinedScoreError
from models.distributed import T, World
from models.evaluation.evaluate import EvalReport, EvalRow, evaluate, format_table, of_equal_size
from models.weights.files import load_weights
from tests.runs import picture, workplace
from utils.errors import InputError, StopRequested
from utils.files import json_text
from utils.signals import StopFlag

CPU = torch.device("cpu")


class Nearest(nn.Module):
    """Repeats each pixel; dropout shows whether it runs in evaluation mode."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept: torch.Tensor = self.dropout(x)
        return kept.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)


def val_options(scale: int = 2, **changes: object) -> ValOptions:
    """PSNR and SSIM on Y."""
    metrics = {
        name: METRICS[f"calculate_{name}"](crop_border=scale, test_y_channel=True)  # type: ignore[call-arg]
        for name in ("psnr", "ssim")
    }
    return ValOptions(metrics=metrics, **changes)  # type: ignore[arg-type]


@pytest.fixture
def pairs(tmp_path: Path) -> EvalDataset:
    """Two pictures of different sizes."""
    workplace(tmp_path)
    options = PairedImageOptions(name="HeldOut", dataroot_gt=tmp_path / "held_out/HR")
    return build_dataset(options, scale=2, phase="val")


def test_an_evaluation_has_a_row_for_each_image_and_their_means(pairs: EvalDataset) -> None:
    network = Nearest(2).train()
    kept: list[str] = []
    report = evaluate(
        network, pairs, val_options(bicubic=True), device=CPU, keep=lambda sample, image: kept.append(sample.name)
    )
    assert network.training
    assert kept == [row.name for row in report.rows] == ["held_out_0", "held_out_1"]
    assert [(row.height, row.width) for row in report.rows] == [(40, 48), (44, 48)]
    for i, row in enumerate(report.rows):
        sample = pairs.read(i)
        assert sample.gt is not None
        expected = PSNR(crop_border=2, test_y_channel=True)(to_uint8(Nearest(2).eval()(sample.lq)), to_uint8(sample.gt))
        assert row.scores["psnr"] == expected
    assert report.scores["psnr"] == pytest.approx(np.mean([row.scores["psnr"] for row in report.rows]))
    assert report.bicubic["psnr"] > report.scores["psnr"]
    assert "mean of 2" in report.table()
    assert "psnr bicubic" in report.table()


def test_evaluation_leaves_the_random_generators_alone(pairs: EvalDataset) -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    evaluate(Nearest(2), pairs, val_options(), device=CPU)
    assert torch.equal(torch.rand(2), expected)


def test_evaluation_in_tiles_gives_the_same_scores(pairs: EvalDataset) -> None:
    whole = evaluate(Nearest(2), pairs, val_options(), device=CPU)
    tiled = evaluate(Nearest(2), pairs, val_options(), device=CPU, tile=TileOptions(tile_size=16, tile_pad=4))
    assert whole.scores == tiled.scores


class Blurred(Nearest):
    """A convolution before the pixels are repeated; remembers how many images it was given."""

    def __init__(self) -> None:
        super().__init__(2)
        self.mean = nn.Conv2d(3, 3, 3, padding=1)
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        return super().forward(self.mean(x))


@pytest.fixture
def seven(tmp_path: Path) -> EvalDataset:
    """Seven pictures, of them four of one size and two of another."""
    (tmp_path / "seven").mkdir()
    for i, height in enumerate((40, 44, 40, 40, 48, 44, 40)):
        write_image(tmp_path / f"seven/{i}.png", picture(i, height, 36))
    options = PairedImageOptions(name="Seven", dataroot_gt=tmp_path / "seven")
    return build_dataset(options, scale=2, phase="val")


def test_images_of_one_size_are_evaluated_in_one_batch(seven: EvalDataset) -> None:
    torch.manual_seed(0)
    network = Blurred()
    alone = evaluate(network, seven, val_options(bicubic=True), device=CPU)
    assert network.batches == [1] * 7
    network.batches.clear()
    names: list[str] = []
    together = evaluate(
        network, seven, val_options(bicubic=True, batch_size=3), device=CPU,
        keep=lambda sample, image: names.append(sample.name),
    )  # fmt: skip
    assert sorted(network.batches) == [1, 1, 2, 3]
    assert sorted(names) == [row.name for row in together.rows] == [row.name for row in alone.rows]
    for one, other in zip(alone.rows, together.rows, strict=True):
        assert (one.height, one.width, one.bicubic) == (other.height, other.width, other.bicubic)
        # Rounding of the convolution may move a pixel to the next of 256 levels.
        assert other.scores == pytest.approx(one.scores, rel=1e-4)


def test_images_waiting_for_others_of_their_size_are_bounded(seven: EvalDataset) -> None:
    blank = Sample(torch.zeros(3, 4, 4), None, "blank", "", None)
    sizes = [4, 5, 6, 7, 8, 9, 10, 11, 12, 4]
    samples = [(i, blank._replace(lq=torch.zeros(3, 4, size))) for i, size in enumerate(sizes)]
    groups = [[number for number, _ in group] for group in of_equal_size(samples, 2)]
    assert groups == [[0], [1], [2], [3], [4], [5], [6], [7], [8], [9]]  # the ninth sends the first away
    groups = [[number for number, _ in group] for group in of_equal_size([*samples[:3], samples[-1]], 2)]
    assert groups == [[0, 9], [1], [2]]


class Alone(World):
    """One of several processes, without the others: what it gathers is the list that all of them share."""

    shared: ClassVar[list[Any]] = []

    def gather(self, value: T) -> list[T]:
        self.shared.append(value)
        return self.shared


def test_shared_validation_scores_as_one_process(seven: EvalDataset) -> None:
    torch.manual_seed(0)
    network, options = Blurred(), val_options(batch_size=2)
    whole = evaluate(network, seven, options, device=CPU)
    Alone.shared.clear()
    first = evaluate(network, seven, options, device=CPU, world=Alone(0, 2))
    assert [row.name for row in first.rows] == ["0", "2", "4", "6"]
    both = evaluate(network, seven, options, device=CPU, world=Alone(1, 2))
    assert [row.name for row in both.rows] == [row.name for row in whole.rows]
    assert both.scores == pytest.approx(whole.scores, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_scores_on_a_gpu(seven: EvalDataset) -> None:
    device = torch.device("cuda")
    found: list[torch.Tensor] = []
    report = evaluate(
        Nearest(2).to(device), seven, val_options(bicubic=True, batch_size=2), device=device,
        keep=lambda sample, image: found.append(image),
    )  # fmt: skip
    assert all(image.is_cuda for image in found)
    expected = evaluate(Nearest(2), seven, val_options(bicubic=True), device=CPU)
    assert report.scores == pytest.approx(expected.scores, rel=1e-9)
    assert report.bicubic == pytest.approx(expected.bicubic, rel=1e-9)


class Sized(Nearest):
    """Remembers the sizes that it was given."""

    window_size = 16

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes = [*getattr(self, "sizes", []), tuple(x.shape[2:])]
        return super().forward(x)


def test_images_can_be_extended_to_whole_windows(pairs: EvalDataset) -> None:
    network, plain = Sized(2), Sized(2)
    extended = evaluate(network, pairs, val_options(pad_to_window=True), device=CPU)
    assert network.sizes == [(32, 32), (32, 32)]
    assert extended.scores == evaluate(plain, pairs, val_options(), device=CPU).scores
    assert plain.sizes == [(20, 24), (22, 24)]
    with pytest.raises(InputError, match=r"val.pad_to_window: Nearest has no window_size"):
        evaluate(Nearest(2), pairs, val_options(pad_to_window=True), device=CPU)


def test_any_scale_is_scored_beside_bicubic(tmp_path: Path) -> None:
    workplace(tmp_path)
    options = PairedImageOptions(name="HeldOut", dataroot_gt=tmp_path / "held_out/HR")
    dataset = build_dataset(options, scale=2.3, phase="test")
    small = {"dim": 8, "pdim": 2, "kernel_size": 3, "n_blocks": 1, "conv_blocks": 1, "window_size": 4, "num_heads": 2}
    network = build_network({"type": "ESCLTE", **small, "hidden_dim": 4, "hidden_list": [], "upscaling_factor": 2.3})
    report = evaluate(network, dataset, val_options(bicubic=True), device=CPU)
    assert [(row.height, row.width) for row in report.rows] == [(39, 46), (44, 46)]
    assert report.bicubic["psnr"] > 10
    assert report.bicubic.keys() == report.scores.keys()


def test_without_ground_truth_images_are_made_and_nothing_is_scored(tmp_path: Path) -> None:
    workplace(tmp_path)
    options = SingleImageOptions(name="Mine", dataroot_lq=tmp_path / "photos/HR")
    dataset = build_dataset(options, scale=2, phase="test")
    sizes: list[tuple[int, ...]] = []
    report = evaluate(
        Nearest(2), dataset, val_options(), device=CPU, keep=lambda sample, image: sizes.append(image.shape)
    )
    assert report.scores == {}
    assert len(sizes) == 3
    assert "mean of 3" in report.table()


def test_a_train_form_network_is_folded_once(pairs: EvalDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network({"type": "PlainUSR_ultra", "n_feat": 8, "im_feat": [8, 4], "scale": 2}).train()
    folds: list[nn.Module] = []

    def counted(self: PlainUSR) -> PlainUSR:
        folds.append(fold(self))
        return fold(self)

    monkeypatch.setattr(PlainUSR, "for_inference", counted)
    folded = evaluate(network, pairs, val_options(), device=CPU)
    assert len(folds) == 1
    monkeypatch.setattr(PlainUSR, "for_inference", lambda self: self)
    branches = evaluate(network, pairs, val_options(), device=CPU)
    assert folded.scores["psnr"] == pytest.approx(branches.scores["psnr"], abs=1e-3)
    assert network.training


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def terminal_of(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """What stands for the standard error; every advance of a bar is drawn. No fixture: pytest puts its own back."""
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr("time.monotonic", map(float, range(1000)).__next__)
    monkeypatch.setenv("TERM", "xterm")
    return stream


def test_the_progress_of_ranks_ends_at_the_number_of_images(
    seven: EvalDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = terminal_of(monkeypatch)
    Alone.shared.clear()
    evaluate(Nearest(2), seven, val_options(pbar=True), device=CPU, world=Alone(0, 2))
    assert re.findall(r"(\d)/7", terminal.getvalue()) == ["2", "4", "6", "7", "7"]
    Alone.shared.clear()
    evaluate(Nearest(2), seven, val_options(pbar=True), device=CPU, world=Alone(1, 2))
    assert terminal.getvalue().count("\n") == 1  # the main rank's


def test_a_bar_of_an_evaluation_that_was_stopped_does_not_stay(
    seven: EvalDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal, flag = terminal_of(monkeypatch), StopFlag()

    def keep(sample: Sample, image: torch.Tensor) -> None:
        flag.signal = signal.SIGINT

    with pytest.raises(StopRequested):
        evaluate(Nearest(2), seven, val_options(pbar=True), device=CPU, keep=keep, stop=flag)
    assert "1/7" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[2K")


def test_a_signal_stops_the_evaluation(pairs: EvalDataset) -> None:
    flag = StopFlag()
    flag.signal = signal.SIGTERM
    with pytest.raises(StopRequested):
        evaluate(Nearest(2), pairs, val_options(), device=CPU, stop=flag)


def test_equal_images_have_no_finite_psnr_and_json_says_null() -> None:
    report = EvalReport("x", (EvalRow("a", 2, 2, {"psnr": math.inf}, {}, 0.1),))
    assert json.loads(json_text(report.as_json()))["mean"]["scores"]["psnr"] is None
    assert not report.faults


class Broken(Nearest):
    """Gives a value that is no number, somewhere in its outputs for bright pictures."""

    def __init__(self, value: float, above: float) -> None:
        super().__init__(2)
        self.value, self.above = value, above

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        for image, output in zip(x, y, strict=True):
            if image.mean() > self.above:
                output[1, 3, 4] = self.value
        return y


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_output_that_is_not_finite_is_no_score(seven: EvalDataset, value: float, batch_size: int) -> None:
    brightness = sorted(float(seven.read(i).lq.mean()) for i in range(7))
    above = (brightness[4] + brightness[5]) / 2
    kept: list[str] = []
    report = evaluate(
        Broken(value, above), seven, val_options(batch_size=batch_size, bicubic=True), device=CPU,
        keep=lambda sample, image: kept.append(sample.name),
    )  # fmt: skip
    bad = [row.name for i, row in enumerate(report.rows) if float(seven.read(i).lq.mean()) > above]
    assert len(bad) == 2
    assert sorted(kept) == sorted({row.name for row in report.rows} - set(bad))
    for row in report.rows:
        assert all(math.isnan(score) == (row.name in bad) for score in row.scores.values())
        assert all(math.isfinite(score) for score in row.bicubic.values())
    assert all(math.isnan(mean) for mean in report.scores.values())  # not the mean of the others
    assert report.faults == (
        f"2 of 7 images of Seven have no score ({bad[0]}, {bad[1]}): the output of Broken is not finite "
        "(NaN or infinity)"
    )
    assert report.table().splitlines()[-1].count("no score") == 2
    written = json.loads(json_text(report.as_json()))
    assert written["mean"]["scores"] == {"psnr": None, "ssim": None}
    assert [image["name"] for image in written["images"] if "fault" in image] == bad


class Picky(LevelMetric):
    """Has no value for some images."""

    def __call__(self, image: Any, reference: Any = None) -> float:
        if image.shape[0] == 40:
            raise UndefinedScoreError("pictures of 40 rows have no charm")
        return math.nan if image.shape[0] == 48 else 1.0


def test_an_image_that_a_metric_has_no_value_for_stops_nothing(seven: EvalDataset) -> None:
    options = ValOptions(metrics={**val_options().metrics, "charm": Picky()})
    report = evaluate(Nearest(2), seven, options, device=CPU)
    assert math.isnan(report.scores["charm"])
    assert math.isfinite(report.scores["psnr"])
    assert [row.scores["charm"] for row in report.rows if row.height == 44] == [1.0, 1.0]
    assert "5 of 7 images of Seven have no score (0, 2, 3, ...)" in report.faults
    assert "pictures of 40 rows have no charm; charm is no number" in report.faults


def test_columns_of_tables_are_aligned() -> None:
    lines = format_table(["set", "psnr"], [["a", "1.0"], ["longer", "10.0"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0] == "set     psnr"


VARIANTS = {
    "PlainUSRU": ("ultra", 16, [16, 8]),
    "PlainUSRT": ("ultra", 32, [32, 16]),
    "PlainUSRS": ("general", 32, [32, 16, 8]),
    "PlainUSRM": ("general", 48, [48, 32, 16]),
    "PlainUSR": ("general", 64, [64, 48, 32]),
    "PlainUSRL": ("large", 80, [80, 64, 48]),
}
ATTENTION = {"PlainUSRS": 4, "PlainUSRM": 8}
# spec/plainusr.md section 13, PSNR / SSIM with Y not rounded: (scale, variant) -> Set5, Set14.
MEASURED = {
    (2, "PlainUSRU"): (37.102, 0.9569, 32.754, 0.9101),
    (2, "PlainUSRT"): (37.467, 0.9584, 32.981, 0.9122),
    (2, "PlainUSRS"): (37.637, 0.9592, 33.168, 0.9147),
    (2, "PlainUSRM"): (37.787, 0.9597, 33.378, 0.9166),
    (2, "PlainUSR"): (37.946, 0.9603, 33.560, 0.9179),
    (2, "PlainUSRL"): (38.067, 0.9608, 33.820, 0.9202),
    (4, "PlainUSRU"): (30.772, 0.8698, 27.724, 0.7602),
    (4, "PlainUSRT"): (31.204, 0.8786, 28.024, 0.7670),
    (4, "PlainUSRS"): (31.565, 0.8855, 28.172, 0.7714),
    (4, "PlainUSRM"): (31.794, 0.8889, 28.380, 0.7760),
    (4, "PlainUSR"): (32.017, 0.8922, 28.543, 0.7800),
    (4, "PlainUSRL"): (32.257, 0.8956, 28.714, 0.7837),
}
# The larger networks take seconds per set: Set5 for all, Set14 where it is cheap.
X4 = [(scale, name) for scale, name in MEASURED if scale == 4]
WHOLE = [(scale, name) for scale, name in MEASURED if name in ("PlainUSRU", "PlainUSRT", "PlainUSRS")]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("scale", "name"),
    [
        # The variants differ in their widths, the scales in the last layer: the largest images once, by the smallest.
        pytest.param(*one, marks=() if one in ((2, "PlainUSRU"), *X4) else pytest.mark.published)
        for one in MEASURED
    ],
)
def test_published_weights_reach_the_measured_table(shared: Path, scale: int, name: str) -> None:
    family, n_feat, im_feat = VARIANTS[name]
    network = build_network({
        "type": f"PlainUSR_{family}_inference", "n_feat": n_feat, "im_feat": im_feat,
        "attn_feat": ATTENTION.get(name, 16), "scale": scale,
    })  # fmt: skip
    load_weights(network, shared / f"weights/{name}_Rep_x{scale}.pth")
    expected = MEASURED[scale, name]
    for i, set_name in enumerate(("Set5", "Set14") if (scale, name) in WHOLE else ("Set5",)):
        root = shared / f"data/{set_name}/x{scale}"
        options = PairedImageOptions(name=set_name, dataroot_gt=root / "HR", dataroot_lq=root / "LR")
        dataset = build_dataset(options, scale=scale, phase="test")
        report = evaluate(network, dataset, val_options(scale), device=CPU)
        assert report.scores["psnr"] == pytest.approx(expected[2 * i], abs=0.002)
        assert report.scores["ssim"] == pytest.approx(expected[2 * i + 1], abs=0.0001)
