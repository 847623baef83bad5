"""Find which layers overflow in float16: ``python scripts/range_report.py -w NET.pth -i PICTURES -o NET.pth``.

Runs pictures through the network and says, layer by layer, how near its activations come to the limits of float16,
which layers have to stay in float32, what that costs and what the images lose. ``-o`` writes the weights with that list
in their metadata, where ``precision: fp16`` and the export find it. Details: docs/precision.md.

Exit codes: 0 done, 2 bad input.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from archs.contract import contract_of
from config.command import device_help, number
from data.images.files import list_images, read_image, to_tensor
from models.evaluation.evaluate import format_table
from models.inference.upscale import upscale
from models.precision.compare import Loss, loss_of, timed_images
from models.precision.network import in_precision
from models.precision.ranges import LIMIT, MARGIN, NORMAL, LayerRange, Ranges, ranges_of
from models.runtimes.onnx_file import is_onnx
from models.weights.keep import check_form, write_with_keep
from models.weights.recognise import network_from_weights, weights_of_options
from ops.registry import ENVIRONMENT, REFERENCE
from utils import devices
from utils.command import run_command
from utils.errors import InputError
from utils.files import check_writable, write_json
from utils.log import configure_logging


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="range_report.py", description="Find the layers that have to stay in float32.", allow_abbrev=False
    )
    parser.add_argument(
        "-w",
        "--weights",
        type=Path,
        metavar="FILE",
        help=".pth or .safetensors file (default: that of the option file)",
    )
    parser.add_argument(
        "-i", "--input", nargs="+", type=Path, required=True, metavar="PATH", help="pictures, or folders of them"
    )
    parser.add_argument("-opt", type=Path, metavar="FILE", help="option file whose network_g describes the network")
    parser.add_argument("--key", help="entry of the weight file (default: the EMA weights where it has some)")
    parser.add_argument("--scale", type=number, metavar="S", help="factor such as 3.7, for networks of arbitrary scale")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="copy of the weights, with the list of layers in its metadata"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument(
        "--margin", type=float, default=MARGIN, metavar="F",
        help=f"what exceeds 65504 / F counts as too large: other pictures reach further (default: {MARGIN:g})",
    )  # fmt: skip
    parser.add_argument(
        "--tile", type=int, default=192, metavar="N", help="larger pictures are seen in tiles of N x N (default: 192)"
    )
    parser.add_argument("--rows", type=int, default=20, metavar="N", help="layers in the table (default: 20); 0: all")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--device", metavar="NAME", help=device_help("auto"))
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Measure, print, and write what was asked for."""
    typed = parse(argv)
    typed.weights = typed.weights or weights_for(typed.opt)
    check(typed)
    configure_logging()
    pictures = [path for given in typed.input for path in (list_images(given) if given.is_dir() else [given])]
    device = devices.choose(typed.device or "auto")
    network = network_from_weights(typed.weights, typed.opt, typed.key, typed.scale).eval()
    images = [as_channels(to_tensor(read_image(path)), contract_of(network).channels) for path in pictures]

    def run(prepared: nn.Module) -> list[Tensor]:
        prepared.to(device)
        return [upscale(prepared, image, tile=tile_for(prepared, image, typed.tile)) for image in images]

    with every_step_visible():
        ranges = ranges_of(network, run, typed.margin)
    losses = compared(network, run, ranges, device)
    print(table(ranges, typed.rows))
    print(verdict(ranges, losses, len(pictures), typed.margin))
    record = {"float32": list(ranges.keep), "margin": typed.margin, "pictures": len(pictures)}
    if typed.json is not None:
        write_json(typed.json, {**record, **figures(ranges, losses)})
        print(f"{typed.json}: all figures")
    if typed.output is not None:
        write_with_keep(typed.weights, typed.output, record)
        print(f"{typed.output}: the weights, and the list that precision: fp16 uses")


def weights_for(option_file: Path | None) -> Path:
    """The weights that the option file names, where ``-w`` names none."""
    if option_file is None:
        raise InputError("-w, a file of weights, or -opt, an option file that names one, is required")
    return weights_of_options(option_file)[0]


def check(typed: argparse.Namespace) -> None:
    """Raise InputError where an argument makes no sense, or a file would be lost."""
    if not (typed.margin >= 1 and math.isfinite(typed.margin)):
        raise InputError(f"--margin must be a number of at least 1, got {typed.margin:g}")
    if is_onnx(typed.weights):
        raise InputError(
            f"{typed.weights}: the layers of an ONNX file are not seen; give the weights that it is made from"
        )
    if typed.tile < 64 or typed.rows < 0:
        raise InputError(f"--tile must be at least 64 and --rows at least 0, got {typed.tile} and {typed.rows}")
    for path in (typed.json, typed.output):
        if path is None:
            continue
        if path == typed.output:
            check_form(typed.weights, path)
        if path.exists() and not typed.overwrite:
            raise InputError(f"{path} exists; choose another name or add --overwrite")
        check_writable(path)


def as_channels(image: Tensor, channels: int) -> Tensor:
    """[3, h, w] -> [channels, h, w]: grey for networks of one channel."""
    return image if channels == image.shape[0] else image.mean(0, keepdim=True).expand(channels, -1, -1)


def tile_for(network: nn.Module, image: Tensor, tile: int) -> int | None:
    """Side of tiles; None for pictures that are small, and factors that are not whole."""
    whole = isinstance(contract_of(network).scale, int)
    return tile if whole and max(image.shape[-2:]) > tile else None


@contextlib.contextmanager
def every_step_visible() -> Iterator[None]:
    """Operators step by step: the logits of an attention are tensors then, and not inside of a kernel."""
    before = os.environ.get(ENVIRONMENT)
    os.environ[ENVIRONMENT] = REFERENCE
    try:
        yield
    finally:
        if before is None:
            del os.environ[ENVIRONMENT]
        else:
            os.environ[ENVIRONMENT] = before


def compared(network: nn.Module, run: Any, ranges: Ranges, device: torch.device) -> Mapping[str, Loss]:
    """float16 with and without the layers in float32, and bfloat16, against float32; times where float16 is native."""
    native = devices.native_precisions(device)
    full, seconds = timed_images(network, run, repeat="fp16" in native)
    losses = {"float32": loss_of(full, full, seconds)}
    variants: dict[str, tuple[Any, tuple[str, ...]]] = {"float16": ("fp16", ()), "bfloat16": ("bf16", ())}
    if ranges.keep:
        variants = {"float16 with float32 layers": ("fp16", ranges.keep), **variants}
    for name, (precision, keep) in variants.items():
        timed = precision in native
        images, seconds = timed_images(in_precision(network, precision, keep), run, repeat=timed)
        losses[name] = loss_of(images, full, seconds if timed else 0.0)
    return losses


def table(ranges: Ranges, rows: int) -> str:
    """The layers that come nearest to the limit, with a star where they stay in float32."""
    kept = ranges.reasons
    ordered = sorted(ranges.layers, key=lambda layer: -layer.largest)
    shown = ordered[:rows] if rows else ordered
    heads = ["layer", "given", "result", "weight", "of 65504", "inside, float32", "square", "small"]
    lines = [
        [
            f"{'* ' if layer.name in kept else '  '}{layer.name or '(between the layers)'}",
            size(layer.given), size(layer.result), size(layer.weight), f"{layer.largest / LIMIT:.2%}",
            f"{size(layer.inside)} {layer.inside_of}".strip(), size(layer.square), f"{layer.small:.2%}",
        ]
        for layer in shown
    ]  # fmt: skip
    left = len(ordered) - len(shown)
    more = f"\n({left} more layers are further away; --rows 0 shows all)" if left else ""
    return format_table(heads, lines, means=False) + more


def size(value: float) -> str:
    """A magnitude with three digits; empty where there was none."""
    return f"{value:.3g}" if value else ""


def verdict(ranges: Ranges, losses: Mapping[str, Loss], pictures: int, margin: float) -> str:
    """What has to stay in float32, what that costs, and what the images lose."""
    seen = f"{pictures} picture{'' if pictures == 1 else 's'}, margin {margin:g}"
    if ranges.reasons:
        lines = [f"to stay in float32 ({seen}):"]
        lines += [f"  {name or '(between the layers)'}: {why}" for name, why in ranges.reasons.items()]
        lines.append(
            f"they cost: {ranges.multiplications:.1%} of the multiply-adds and {ranges.weights:.1%} of the weights"
        )
    else:
        lines = [f"no layer has to stay in float32 ({seen})"]
    square = max(ranges.layers, key=lambda layer: layer.square, default=LayerRange(""))
    if square.square > LIMIT / margin:
        lines.append(
            f"squares in norms reach {size(square.square)} ({square.name}): they are float32 here, and have to be in "
            "other programs too"
        )
    small = max(ranges.layers, key=lambda layer: layer.small * layer.values, default=LayerRange(""))
    if small.small > 0.01:
        lines.append(f"below {NORMAL:.2g}, with fewer digits: {small.small:.1%} of what {small.name} makes")
    base = losses["float32"].seconds
    for name, loss in losses.items():
        if name == "float32":
            continue
        took = f", {loss.seconds / base:.2f} of the time of float32" if loss.seconds and base else ""
        said = (
            f"{loss.psnr:.1f} dB from float32, at most {loss.levels} of 255 levels, {loss.changed:.1%} of values differ"
            if loss.finite
            else "not finite"
        )
        lines.append(f"{name}: {said}{took}")
    return "\n".join(lines)


def figures(ranges: Ranges, losses: Mapping[str, Loss]) -> dict[str, object]:
    """For the JSON file."""
    return {
        "reasons": ranges.reasons,
        "share_of_multiply_adds": ranges.multiplications,
        "share_of_weights": ranges.weights,
        "losses": {name: dataclasses.asdict(loss) for name, loss in losses.items()},
        "layers": [dataclasses.asdict(layer) for layer in ranges.layers],
    }


if __name__ == "__main__":
    sys.exit(run_command(main))
