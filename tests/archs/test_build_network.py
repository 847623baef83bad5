"""Names and arguments of option files, good and bad."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from archs import NETWORKS, build_network, identify, network_class
from archs.plainusr import PlainUSRGeneral, PlainUSRUltra
from utils.errors import InputError
from utils.typed import fields_of

# What has no published default; and PFT's lists and ATD's groups, which their weights do not tell, are known for
# published sizes only.
ESC = {
    "dim": 32, "pdim": 8, "kernel_size": 13, "n_blocks": 2, "conv_blocks": 2, "window_size": 8, "num_heads": 2,
}  # fmt: skip
NEEDED: dict[str, dict[str, object]] = {
    **{name: {**ESC, "upscaling_factor": 2} for name in ("ESC", "ESCFP", "ESCRealM")},
    "ESCReal": {**ESC, "upscaling_factor": 4},
    "ESCLTE": {**ESC},
    "ATD": {"upscale": 2, "embed_dim": 48, "depths": [6] * 4, "num_heads": 4},
    "PFT": {
        "embed_dim": 52, "depths": [2, 4, 6, 6, 6], "num_heads": 4, "window_size": 32, "convffn_kernel_size": 7,
        "num_topk": [1024] * 2 + [256] * 4 + [128] * 6 + [64] * 6 + [32] * 6, "mlp_ratio": 1, "upscale": 2,
        "upsampler": "pixelshuffledirect",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in NETWORKS if not name.startswith("ESC")])
def test_every_name_builds_with_its_defaults_only(name: str) -> None:
    network = build_network({"type": name})
    assert type(network) is network_class(name)
    fields = fields_of(network_class(name))
    assert network.scale == fields["scale" if "scale" in fields else "upscale"].default


def test_arguments_arrive() -> None:
    network = build_network({"type": "PlainUSR_general", "n_feat": 6, "im_feat": [6, 5, 4], "attn_feat": 2, "scale": 3})
    assert isinstance(network, PlainUSRGeneral)
    assert (network.n_feat, network.im_feat, network.attn_feat, network.scale) == (6, (6, 5, 4), 2, 3)


def test_defaults_are_not_shared() -> None:
    widths = PlainUSRUltra().im_feat
    assert isinstance(widths, tuple)
    assert PlainUSRUltra().im_feat == widths


@pytest.mark.parametrize(
    ("opt", "parts"),
    [
        ({}, ["type", "PlainUSR_ultra"]),
        ({"type": 3}, ["type"]),
        ({"type": "PlainUSR_ulta"}, ['"PlainUSR_ulta"', 'did you mean "PlainUSR_ultra"']),
        ({"type": "DRCT"}, ['unknown network type "DRCT"; known: PlainUSR_ultra', "basicsr:"]),
        ({"type": "edsr"}, ['"edsr"; BasicSR has it: "basicsr:EDSR"', "requirements-basicsr.txt"]),
        ({"type": "EDSR"}, ['BasicSR has it: "basicsr:EDSR"']),
        ({"type": "RIDNett"}, ['(did you mean "basicsr:RIDNet"?)']),
        ({"type": "RRDBNett"}, ['(did you mean "RRDBNet"?)']),
        ({"type": "rrdbnet"}, ['(did you mean "RRDBNet"?)']),
        ({"type": "RRDBNet", "scale": 3}, ["RRDBNet: scale must be 4, 2 or 1, got 3"]),
        ({"type": "RRDBNet", "num_in_ch": 3, "num_out_ch": 1}, ["num_out_ch must be num_in_ch, 3, got 1"]),
        ({"type": "RRDBNet", "num_block": 0}, ["num_block: expected at least 1, got 0"]),
        ({"type": "MSRResNet", "upscale": 8}, ["MSRResNet: upscale must be 2, 3 or 4, got 8"]),
        ({"type": "PlainUSR_ultra", "upscale": 4}, ["upscale", 'did you mean "scale"']),
        ({"type": "PlainUSR_ultra", "n_feat": "wide", "depth": 3}, ["n_feat", '"wide"', "depth", "known: n_feat"]),
        ({"type": "PlainUSR_ultra_inference", "se_init": "live"}, ["se_init"]),
        ({"type": "PlainUSR_ultra", "se_init": "lively"}, ["se_init", '"live"']),
        ({"type": "PlainUSR_ultra", "im_feat": 8}, ["im_feat", "a list"]),
        ({"type": "PlainUSR_ultra", "im_feat": [8, 8, 8]}, ["im_feat must hold 2 widths", "[8, 8, 8]"]),
        ({"type": "PlainUSR_general", "im_feat": [8, 8]}, ["im_feat must hold 3 widths"]),
        ({"type": "PlainUSR_general", "im_feat": [32, 16, 0]}, ["at least 1"]),
        ({"type": "PlainUSR_ultra", "n_feat": 8, "im_feat": [8, 9]}, ["must not grow inwards", "n_feat 8"]),
        ({"type": "PlainUSR_ultra", "n_feat": 8, "im_feat": [9, 8]}, ["must not grow inwards"]),
        ({"type": "PlainUSR_ultra", "n_feat": 0, "scale": 0}, ["n_feat", "scale", "at least 1"]),
        ({"type": "PlainUSR_large", "attn_feat": -1}, ["attn_feat", "got -1"]),
    ],
)
def test_bad_options_name_the_mistake(opt: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        build_network(opt)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_identify_reads_the_configuration_from_the_weights(name: str) -> None:
    scale = "scale" if "scale" in fields_of(network_class(name)) else "upscale"
    network = build_network({"type": name, **NEEDED.get(name, {scale: 2})})
    found = identify(network.state_dict())
    assert found is not None
    assert found["type"] == name
    build_network(found).load_state_dict(network.state_dict())


def test_identify_does_not_know_other_weights() -> None:
    assert identify({}) is None


def test_networks_are_imported_on_demand() -> None:
    code = "import sys, archs; sys.exit(any(name.startswith('archs.plainusr') for name in sys.modules))"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
