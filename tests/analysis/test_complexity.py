"""Counts equal those recorded from the published networks; figures of papers stand beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from analysis.complexity import latency
from analysis.complexity.counting import Counts, count
from analysis.complexity.latency import Protocol, Timing, measure, protocol_of
from analysis.complexity.papers import lr_size, papers, printed_of, table_with_latency
from analysis.complexity.table import Beside, Row, formatted, main_table, paper_table, sentence
from archs import build_network
from config.variants import LABELS, VARIANTS, configuration
from models.weights.layout import for_inference
from ops.focused.arguments import FocusArguments
from ops.focused.reference import reference_focus
from utils.devices import Abilities

CHEAP = {
    ("ESC-light x3", "1280x720"), ("ESC-FP x4", "1280x720"), ("PlainUSR-S x4", "256x256"),
    ("PFT-light x4", "1280x720"),
}  # fmt: skip
"""Recorded cases of every rule that take a second; the others take a minute together."""


def variant(recorded: str) -> tuple[str, int]:
    """Name and scale of ours for a recorded name such as ``PlainUSR-base x4``."""
    name, _, scale = recorded.rpartition(" x")
    return name.lower().replace("-", "_").removesuffix("_base"), int(scale)


def without_values(name: str, scale: float) -> nn.Module:
    with torch.device("meta"):
        return build_network(configuration(name, scale))


def recorded(shared: Path) -> dict[str, dict[str, Any]]:
    networks: dict[str, dict[str, Any]] = json.loads((shared / "golden/analysis/complexity.json").read_text())[
        "networks"
    ]
    return networks


def check(found: Counts, parameters: int, expected: dict[str, Any]) -> None:
    assert found.parameters == parameters
    ours = {
        "multiply_adds": found.multiply_adds, "fvcore_rules": found.fvcore, "fvcore_measured": found.fvcore,
        "own_counter": found.own, "input": list(found.size),
        "challenge_counter": {"flops": found.challenge, "acts": found.activations, "conv": found.convolutions},
    }  # fmt: skip
    assert {key: ours[key] for key in expected} == expected


@pytest.mark.shared
def test_counts_equal_the_recorded_ones(shared: Path) -> None:
    networks = recorded(shared)
    for name, size in CHEAP:
        expected = networks[name]
        found = count(without_values(*variant(name)), *expected[size]["input"])
        check(found, expected["parameters"], expected[size])


@pytest.mark.shared
@pytest.mark.published
def test_all_counts_equal_the_recorded_ones(shared: Path) -> None:
    networks, cases = recorded(shared), 0
    for name, expected in networks.items():
        network = without_values(*variant(name))
        for size, figures in expected.items():
            if size != "parameters":
                check(count(network, *figures["input"]), expected["parameters"], figures)
                cases += 1
    assert cases == 65


HAT = {
    "type": "HAT", "upscale": 2, "img_size": 16, "window_size": 8, "embed_dim": 12, "depths": [2], "num_heads": [2],
    "compress_ratio": 3, "squeeze_factor": 4, "mlp_ratio": 2, "upsampler": "pixelshuffle",
}  # fmt: skip
RGT = {"type": "RGT", "upscale": 2, "embed_dim": 32, "depth": [2], "num_heads": [2], "split_size": [4, 8]}


def test_small_networks_are_counted_by_the_published_formulas() -> None:
    """RGT by hand: neither joined convolutions nor folded projections."""
    network = build_network(RGT)
    H, W, C, P, T = 32, 48, 32, 1, 32
    N, tables = H * W, 2 * 7 * 15
    found = count(network, H, W)
    conv = 27 * C * N
    qkv, proj, lepe = 3 * C * C * N, C * C * N, 9 * C * N
    attention = 2 * C * T * N
    position = tables * (2 * P + 2 * P * P + P)
    mlp = 4 * C * C * N + 2 * C * 9 * N + 2 * C * C * N
    local = qkv + proj + lepe + attention + position
    k = (H // 16) * (W // 16)
    shrunk = N // 16 * 16 * C + N // 256 * 16 * C
    r = C // 2
    keys = k * (9 * C + C * r + r * r + r * C + 9 * C)
    whole = shrunk + keys + C * r * N + (r + C) * k * N + C * C * N
    tail = 9 * C * 64 * N + 9 * 64 * 256 * N + 27 * 64 * 4 * N
    assert found.multiply_adds == conv + local + whole + 2 * mlp + 2 * 9 * C * C * N + tail
    assert (found.computed, found.windows) == ((32, 48), (32, 48))
    assert found.flops == 2 * found.multiply_adds
    other = count(network, 29, 48)
    assert (other.computed, other.windows) == ((29, 48), (32, 48))
    assert found.multiply_adds > other.multiply_adds


def test_what_is_counted_is_given_padded_and_left_as_it_was() -> None:
    network = build_network(HAT).train()
    found = count(network, 10, 16)
    assert (found.size, found.computed, found.windows) == ((10, 16), (16, 16), (16, 16))
    assert found.multiply_adds == count(network, 16, 16).multiply_adds
    assert network.training
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in network.parameters())
    assert found.challenge is None


def test_a_network_is_counted_in_the_form_in_which_it_runs() -> None:
    folded = count(without_values("plainusr_u", 4), 24, 24)
    trained = {**configuration("plainusr_u", 4), "type": "PlainUSR_ultra"}
    with torch.device("meta"):
        network = for_inference(build_network(trained))
    assert count(network, 24, 24) == folded


class _Other(nn.Module):
    """A network of somebody else."""

    scale = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.group = nn.GroupNorm(2, 4)
        self.act = nn.PReLU()
        self.up = nn.ConvTranspose2d(4, 3, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.group(self.act(self.norm(self.conv(x))))
        tokens = x.flatten(2).mT[:, None]
        x = x + nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].mT.view_as(x)
        x = x * nn.functional.adaptive_avg_pool2d(x, 1)
        up = nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")
        return torch.as_tensor(self.up(x)) + up[:, :3]


class _Deciding(_Other):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if float(x.max()) > 0 else x


def test_networks_of_others_by_fvcores_rules() -> None:
    found = count(_Other(), 6, 5)
    n = 30
    products = n * (108 + 48) + 2 * n * n * 4
    assert found.multiply_adds == products
    assert found.fvcore == products + 4 * n * (2 + 5 + 1) + 4 * 4 * 4 * n
    assert (found.activations, found.convolutions) == (4 * n + 12 * n, 2)
    assert found.challenge == n * (108 + 48) + 4 * n * (2 + 1)


def test_a_network_that_decides_by_values_gets_one_sentence() -> None:
    with pytest.raises(Exception, match="_Deciding cannot be counted: it needs values where only shapes are known"):
        count(_Deciding(), 6, 5)


def test_shapes_of_focused_attention_without_values_are_those_with_them() -> None:
    def arguments(device: str) -> FocusArguments:
        q, k, v = (torch.rand(2, 2, 16, 3, device=device) for _ in range(3))
        return FocusArguments(q, k, v, torch.rand(49, 1, device=device), None, 4, 5, 1.0, None)

    for device in ("cpu", "meta"):
        first, state = reference_focus(arguments(device))
        second, after = reference_focus(arguments(device)._replace(state=state, topk=3))
        assert state.index is not None
        assert after.index is not None
        assert (first.shape, state.index.shape) == ((2, 2, 16, 3), (2, 2, 16, 5))
        assert (second.shape, after.index.shape) == ((2, 2, 16, 3), (2, 2, 16, 3))


def test_papers_name_networks_sizes_and_rules() -> None:
    assert lr_size((720, 1280), 3) == (240, 426)
    assert lr_size((720, 1280), 2) == (360, 640)
    (paper, printed), *_ = printed_of("RGT-S", 4)
    assert (paper.lr_size(4), paper.rule, printed.multiply_adds) == ((128, 128), "fvcore", 193.08)
    assert len(printed_of("HAT", 4)) == 2
    assert not printed_of("HAT-L", 4)
    names = {row.network for paper in papers() for row in paper.rows}
    assert {LABELS[name] for name in VARIANTS if "plainusr" not in name} - {"HAT-L", "ESC-XL"} <= names
    assert sum(row.scale == 4 and row.latency is not None for row in table_with_latency().rows) == 14


def test_tables_and_sentences() -> None:
    counts = Counts(1_234_567, (10, 16), (16, 16), (16, 32), 2_000_000_000, 2_010_000_000, None, 3_000_000, 7, None)
    row = Row("A_B", 4, counts)
    assert sentence(row) == (
        "A_B x4 has 1.235 M parameters and needs 2.00 G multiply-adds (4.00 GFLOPs) for an input of 16x10, computed at "
        "16x16 (32x16 in windows)."
    )
    text = main_table([row], "text", activations=True)
    assert "FLOPs (2 x multiply-adds), G" in text.splitlines()[0]
    assert text.splitlines()[2].split()[:4] == ["A_B", "x4", "1,234,567", "16x10"]
    assert r"A\_B & x4 &" in main_table([row], "latex")
    assert main_table([row], "csv").splitlines()[1].startswith('A_B,x4,"1,234,567",16x10,')
    paper, printed = printed_of("PFT-light", 4)[0]
    light = Counts(792_416, (180, 320), (192, 320), (192, 320), 1, 1, 69_509_606_400, 0, 0, None)
    beside = Beside(paper, printed, light)
    assert paper_table([beside], "markdown").splitlines()[2].split(" | ")[8:10] == ["69.51", "-0.1 %"]
    assert formatted(["a", "b"], [["1", "2"]], "text") == "a  b\n----\n1  2\n"


@pytest.fixture
def arithmetic_as_before() -> Iterator[None]:
    """What measuring sets for its process is put back in this one."""
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = before[:2]
    torch.set_float32_matmul_precision(before[2])


@pytest.mark.usefixtures("arithmetic_as_before")
def test_passes_are_repeated_as_the_protocol_says() -> None:
    found = measure(lambda: build_network(HAT).eval(), (16, 16), torch.device("cpu"), Protocol(2, 4))
    assert len(found.timing.passes) == 4
    assert found.tf32 is None
    assert found.threads == torch.get_num_threads()
    assert found.memory is None or found.memory >= 0
    hurried = measure(lambda: build_network(HAT).eval(), (16, 16), torch.device("cpu"), Protocol(1, 50, 0.0, least=2))
    assert len(hurried.timing.passes) == 2


class _Event:
    """An event of a device, as PyTorch's modules for devices have them."""

    clock = 0.0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        _Event.clock += 2.5
        self.at = _Event.clock

    def elapsed_time(self, later: _Event) -> float:
        return later.at - self.at


@pytest.mark.usefixtures("arithmetic_as_before")
def test_accelerators_are_timed_by_their_events_with_and_without_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    arithmetic: list[bool] = []
    released: list[object] = []
    monkeypatch.setattr(latency, "module_of", lambda kind: SimpleNamespace(Event=_Event))
    monkeypatch.setattr(latency, "abilities", lambda device: Abilities("other", "A card", peak=True))
    monkeypatch.setattr(latency, "set_tf32", lambda *, on: arithmetic.append(on))
    monkeypatch.setattr(latency, "release_kept_memory", released.append)
    monkeypatch.setattr(latency, "peak_device_memory", lambda device: 3 * 2**20)
    found = measure(lambda: build_network(HAT).eval(), (16, 16), torch.device("cpu"), Protocol(2, 3))
    assert arithmetic == [False, True]
    assert len(released) == 2
    assert found.tf32 is not None
    assert found.timing.passes == found.tf32.passes == (2.5, 2.5, 2.5)
    assert (found.memory, found.device, found.threads) == (3 * 2**20, "A card", None)
    counts = count(build_network(HAT), 16, 16)
    lines = main_table([Row("HAT", 2, counts, found)], "text").splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["HAT", "HAT, TF32"]
    assert protocol_of(torch.device("cpu")) == Protocol(100, 100)


def test_percentiles() -> None:
    timing = Timing((3.0, 1.0, 2.0, 4.0, 10.0), 20.0)
    assert (timing.median, timing.mean, timing.first) == (3.0, 4.0, 20.0)
    assert timing.percentile(10) == pytest.approx(1.4)
