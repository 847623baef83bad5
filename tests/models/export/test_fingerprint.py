"""Fingerprints of weights follow their values, not the file that holds them."""

from __future__ import annotations

from pathlib import Path

import torch

from models.export.fingerprint import fingerprint

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2, dtype=torch.int64), "c": torch.zeros(0)}


def test_file_form_order_and_layout_do_not_matter(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    expected = fingerprint(STATE)
    torch.save(STATE, tmp_path / "net.pth")
    save_file(STATE, tmp_path / "net.safetensors")
    assert fingerprint(torch.load(tmp_path / "net.pth", weights_only=True)) == expected
    assert fingerprint(load_file(tmp_path / "net.safetensors")) == expected
    assert fingerprint(dict(reversed(STATE.items()))) == expected
    assert fingerprint({**STATE, "a.weight": STATE["a.weight"].t().contiguous().t()}) == expected


def test_names_types_shapes_and_values_matter() -> None:
    weight = STATE["a.weight"]
    others = [weight + 1, weight.reshape(3, 2), weight.half(), weight.bfloat16(), weight.double()]
    found = {fingerprint({**STATE, "a.weight": other}) for other in [weight, *others]}
    found.add(fingerprint({"x.weight" if name == "a.weight" else name: value for name, value in STATE.items()}))
    assert len(found) == 7
