"""The published networks by name, as their option files describe them: ``options/test_NAME_xS.yml``."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from config.reader import read

OPTIONS = Path(__file__).resolve().parents[1] / "options"
PLAINUSR = tuple(f"plainusr{size}" for size in ("_u", "_t", "_s", "_m", "_l", ""))
VARIANTS = (
    *PLAINUSR, "hat_s", "hat", "hat_l", "rgt_s", "rgt", "esc_light", "esc", "esc_fp", "esc_xl", "pft_light", "pft",
    "swinir_light", "swinir", "atd_light", "atd",
    "hit_srf", "hit_sir", "hit_sng",
)  # fmt: skip
LABELS: Mapping[str, str] = {
    "plainusr_u": "PlainUSR-U", "plainusr_t": "PlainUSR-T", "plainusr_s": "PlainUSR-S", "plainusr_m": "PlainUSR-M",
    "plainusr_l": "PlainUSR-L", "plainusr": "PlainUSR", "hat_s": "HAT-S", "hat": "HAT", "hat_l": "HAT-L",
    "rgt_s": "RGT-S", "rgt": "RGT", "esc_light": "ESC-light", "esc": "ESC", "esc_fp": "ESC-FP", "esc_xl": "ESC-XL",
    "pft_light": "PFT-light", "pft": "PFT", "swinir_light": "SwinIR-light", "swinir": "SwinIR",
    "atd_light": "ATD-light", "atd": "ATD",
    "hit_srf": "HiT-SRF", "hit_sir": "HiT-SIR", "hit_sng": "HiT-SNG",
}  # fmt: skip
"""How papers write the names."""
# ESC-Real with other heads: changes of its configuration. There are no option files of these, and no weights.
HEADS: Mapping[str, Mapping[str, object]] = {
    "esc_real_dysample": {"use_dysample": True},
    **{
        f"esc_realm_{upsampler.replace('+', '_')}": {"type": "ESCRealM", "upsampler": upsampler}
        for upsampler in ("nearest+conv", "pixelshuffle", "pixelshuffledirect", "dysample")
    },
}
# BasicSR's networks of its GAN files; the files of the second are the user's.
GENERATORS: Mapping[str, Mapping[str, object]] = {"msrresnet": {"type": "MSRResNet"}}


@functools.cache
def configuration(name: str, scale: float) -> Mapping[str, object]:
    """``network_g`` of a variant for evaluation, as its test file has it.

    PlainUSR x3 and other scales of the decoder LTE have no file: they are those of x4 with another scale.
    """
    if name in HEADS:
        return {**configuration("esc_real", 4), "upscaling_factor": int(scale), **HEADS[name]}
    if name in GENERATORS:
        return {**GENERATORS[name], "upscale": int(scale)}
    if name == "esc_lte":
        return {**network_in("test_esc_lte", "test"), "upscaling_factor": float(scale)}
    if name in PLAINUSR and scale == 3:
        return {**network_in(f"test_{name}_x4", "test"), "scale": 3}
    return network_in(f"test_{name}_x{scale:g}{'_mse' if name == 'esc_real' else ''}", "test")


def has_configuration(name: str, scale: float) -> bool:
    """Whether :func:`configuration` knows a variant at a scale."""
    if name in HEADS or name in GENERATORS or name == "esc_lte":
        return name == "esc_lte" or scale == 4
    if name in PLAINUSR and scale == 3:
        return True
    return option_file(f"test_{name}_x{scale:g}{'_mse' if name == 'esc_real' else ''}").is_file()


def network_in(stem: str, mode: Literal["train", "test"]) -> Mapping[str, object]:
    """``network_g`` of an option file."""
    network = read(option_file(stem), mode=mode).network_g
    return {"type": network.type, **network.arguments}


def option_file(stem: str) -> Path:
    """An option file, which need not exist."""
    return OPTIONS / f"{stem}.yml"
