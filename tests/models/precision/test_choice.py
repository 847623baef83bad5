from __future__ import annotations

import pytest
import torch

from config.values import Precision
from models.precision.choice import Choice, choose_precision
from utils.errors import InputError

CPU = torch.device("cpu")


def test_float32_asks_for_nothing() -> None:
    assert choose_precision("fp32", CPU, ()) == Choice("fp32")


@pytest.mark.parametrize(
    ("precision", "device"), [("bf16", "cpu"), ("bf16", "cuda"), ("fp16", "cuda"), ("fp16", "mps")]
)
def test_what_the_device_has_is_taken(precision: Precision, device: str) -> None:
    assert choose_precision(precision, torch.device(device), {precision}) == Choice(precision)


def test_float16_on_a_cpu_that_has_it_is_slower() -> None:
    precision, note = choose_precision("fp16", CPU, {"fp16", "bf16"}, option="precision:")
    assert precision == "fp16"
    taken = "precision: fp16: on CPUs PyTorch takes 1.0 to 1.3 times as long as with float32"
    assert note == f"{taken}; bf16 is faster on this one"
    assert choose_precision("fp16", CPU, {"fp16"}, option="precision:").note == f"{taken}; float32 is faster"


def test_float16_on_a_cpu_that_has_none_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^--precision fp16: this CPU has no float16 arithmetic.*; what is fast here: float32, and"
    ):
        choose_precision("fp16", CPU, ())
    with pytest.raises(InputError, match=r"^--half: this CPU.*what is fast here: --precision bf16; what saves memory"):
        choose_precision("fp16", CPU, {"bf16"}, called="--half")


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_bfloat16_where_there_is_none_stays_float32_and_says_so(device: str) -> None:
    precision, note = choose_precision("bf16", torch.device(device), {"fp16"})
    assert precision == "fp32"
    called = "this CPU" if device == "cpu" else "the device cuda:1"
    assert note == (
        f"--precision bf16: {called} has no bfloat16 arithmetic and would only be slower; it computes in float32"
    )


def test_the_abilities_of_the_device_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def native(device: torch.device) -> set[str]:
        asked.append(device)
        return {"bf16"}

    monkeypatch.setattr("models.precision.choice.native_precisions", native)
    assert choose_precision("bf16", CPU) == Choice("bf16")
    assert asked == [CPU]
