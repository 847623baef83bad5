"""What an exported program says of itself."""

from __future__ import annotations

import dataclasses
import json

import pytest

from models.export.facts import FORMAT, ExportFacts
from utils.errors import InputError

FACTS = ExportFacts(
    network_g={"type": "HAT", "upscale": 4, "depths": [2, 2]},
    weights_sha256="0" * 64,
    scale=4,
    static=(48, 64),
    precision="fp16",
    receptive_radius=9,
)


@pytest.mark.parametrize("changes", [{}, {"scale": None, "scale_input": "scale"}, {"static": None, "most": 1023}])
def test_facts_survive_as_text(changes: dict[str, object]) -> None:
    facts = dataclasses.replace(FACTS, **changes)  # type: ignore[arg-type]
    strings = facts.to_strings()
    assert all(isinstance(value, str) for value in strings.values())
    assert ExportFacts.from_strings({"author": "someone", **strings}, "net.onnx") == facts


def test_later_versions_may_say_more() -> None:
    strings = {**FACTS.to_strings(), "focalsr.colour_of_the_sky": '"blue"'}
    assert ExportFacts.from_strings(strings, "net.onnx") == FACTS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"focalsr.format": json.dumps(FORMAT + 1)}, "later version"),
        ({"focalsr.format": "one"}, "damaged"),
        ({"focalsr.scale": "0"}, "scale cannot be used"),
        ({"focalsr.scale": '"4"'}, "damaged"),
        ({"focalsr.precision": '"int8"'}, "precision cannot be used"),
        ({"focalsr.static": "[0, 3]"}, "a size cannot be used"),
        ({"focalsr.network_g": "{"}, "damaged"),
        ({"focalsr.input": "[" * 100_000}, "damaged"),
    ],
)
def test_damaged_metadata_is_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ExportFacts.from_strings({**FACTS.to_strings(), **changes}, "folder/net.onnx")
    assert "folder/net.onnx" in str(caught.value)


def test_a_file_of_another_program_is_named() -> None:
    with pytest.raises(InputError, match=r"net\.onnx: does not say .* scripts/export\.py"):
        ExportFacts.from_strings({"producer": "another"}, "net.onnx")
